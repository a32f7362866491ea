"""``python -m malib_lite.evaluate RUN [RUN ...]``: play saved populations of one environment against each other.

Prints what each earns against each, ratings, NashConv where the game can be solved, and each run's strongest members;
all of it goes to ``evaluation.json``, and a heat map to ``cross_play.png``.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from malib_lite.config import ConfigError, printable, sentence, suggest
from malib_lite.untrusted import only_registered

if TYPE_CHECKING:
    import numpy as np

    from malib_lite.contracts.exact import ExactGame
    from malib_lite.population.contest import Contestant, Played, Table
    from malib_lite.population.cross_play import CrossPlay, Lineup
    from malib_lite.population.saved import SavedPopulation
    from malib_lite.population.standing import Standing

EPILOG = """\
RUN is a run folder, which stands for the population as its run mixed it in the end, or FOLDER@CHOICE:
  @best     as it mixed it when its NashConv was least, where it knew it
  @latest   the newest member of every player      @average  all members alike
  @3        member 3 of every player, the oldest is 0

examples:
  python -m malib_lite.evaluate logs/psro logs/self_play@average logs/self_play@latest
"""


@dataclass(frozen=True)
class Evaluation:
    """What is known of populations after they have met."""

    env: str
    exact: bool
    episodes: int | None  # of each lineup; None where none were played
    largest: float  # absolute return of the game; of sampled episodes, of those that were played
    cross_play: CrossPlay
    nash_convs: list[float] | None  # of each population
    elo: np.ndarray | None  # (K, 3): rating and 95 % interval, of two players with opposite interests
    skills: np.ndarray | None  # (K, 3): the same by TrueSkill's model and the episodes, of all other games
    members: dict[str, dict[str, list[Standing]]]  # by run and player, the strongest first

    def to_json(self) -> dict[str, Any]:
        """Everything, in JSON's types."""
        table = self.cross_play
        populations = [
            {
                "name": name,
                "strength": float(table.strengths[number]),
                "nash_conv": None if self.nash_convs is None else self.nash_convs[number],
                "elo": None if self.elo is None else self.elo[number].tolist(),
                "skill": None if self.skills is None else self.skills[number].tolist(),
            }
            for number, name in enumerate(table.names)
        ]
        return {
            "env": self.env, "exact": self.exact, "episodes": self.episodes, "largest": self.largest,
            "populations": populations,
            "mean": table.mean.tolist(), "mean_errors": table.mean_errors.tolist(),
            "seats": {"values": table.values.tolist(), "errors": table.errors.tolist()},
            "members": {
                run: {player: [dataclasses.asdict(each) for each in standings] for player, standings in players.items()}
                for run, players in self.members.items()
            },
        }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0 done, 2 wrong input, 1 the result cannot be written."""
    parser = argparse.ArgumentParser(
        prog="python -m malib_lite.evaluate", description="Play saved populations against each other.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, of the same environment")
    parser.add_argument("--episodes", type=int, default=1000, help="of each lineup, where any are played")
    parser.add_argument("--sampled", action="store_true", help="play episodes even where payoffs could be exact")
    parser.add_argument("--seed", type=int, default=0, help="of these episodes")
    parser.add_argument("--out", type=Path, help="folder for evaluation.json and cross_play.png; None: the first run's")
    parser.add_argument("--trust", action="store_true", help="import modules that the runs' config.yaml name")
    options = parser.parse_args(arguments)
    try:
        if options.episodes < 2 or options.seed < 0:
            raise ConfigError("'episodes' must be at least 2, for a standard error, and 'seed' must not be negative")
        if options.out:
            _make(options.out)  # before what takes long
        evaluation = evaluate(options.runs, options.episodes, options.seed, options.sampled, options.trust)
    except ConfigError as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 2
    _show(evaluation)
    out = options.out or _split(options.runs[0])[0]
    try:
        _write(evaluation, out)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(printable(f"written: {out / 'evaluation.json'}, {out / 'cross_play.png'}"))
    return 0


def evaluate(
    runs: Sequence[str], episodes: int = 1000, seed: int = 0, sampled: bool = False, trust: bool = False
) -> Evaluation:
    """Let saved populations meet.

    Args:
        runs: run folders, each with ``@CHOICE`` if need be.
        episodes: of each lineup, where payoffs are not exact, or there is no Elo.
        seed: of these episodes.
        sampled: play episodes even where payoffs could be exact.
        trust: import modules that the runs' ``config.yaml`` name; without it, registered names are all that is used.

    Raises:
        ConfigError: a folder is no run's, or its policies are damaged or do not fit, or it names a module and is not
            trusted; nothing has been written.
    """
    places = [_split(run) for run in runs]
    with only_registered(None if trust else " or ".join(str(folder / "config.yaml") for folder, _ in places)):
        return _evaluate(places, episodes, seed, sampled)


# -- inside -----------------------------------------------------------------------------------------------------


def _evaluate(places: Sequence[tuple[Path, str]], episodes: int, seed: int, sampled: bool) -> Evaluation:
    from malib_lite.population.contest import exact_contest, sampled_contest
    from malib_lite.population.cross_play import cross_play, lineups
    from malib_lite.population.exploitability import exact_game
    from malib_lite.population.saved import SavedPopulation
    from malib_lite.population.standing import standings

    saved = {folder: SavedPopulation.read(folder) for folder, _ in places}
    scenarios = {folder: _scenario(population) for folder, population in saved.items()}
    table, num_envs = _table(scenarios)
    names = _names(places)
    contestants = [
        _contestant(name, saved[folder], choice, scenarios[folder])
        for name, (folder, choice) in zip(names, places, strict=True)
    ]
    specs = [spec for scenario in scenarios.values() for spec in scenario.policies.values()]
    game = None if sampled else exact_game(table.env_description, table.groups, specs)
    wanted = lineups(len(contestants), len(table.groups))

    def play() -> dict[Lineup, Played]:
        return sampled_contest(table, contestants, wanted, episodes, num_envs, seed)

    with _damage_explained(*saved):  # finite parameters can still lead to probabilities that are none
        if game is not None:
            played, stake = {}, 0.0
            returns, nash_convs = exact_contest(game, table, contestants, wanted)
            largest = game.largest_return()
        else:
            played, nash_convs = play(), None
            returns = {lineup: (result.means, result.errors) for lineup, result in played.items()}
            largest = stake = max(result.largest for result in played.values())
        met = cross_play(names, returns, len(table.groups))
        payoffs = _payoffs(saved, scenarios, game)
    stake = max([stake, *(float(abs(of_members).max()) for of_members, _ in payoffs.values())])
    elo = skills = None
    if len(names) > 1:  # one alone is as good as itself
        elo = _elo(met, stake)
    if len(names) > 1 and elo is None:
        played = played or play()
        skills = _skills(played, len(names))
    return Evaluation(
        env=str(next(iter(saved.values())).config["env"]),
        exact=game is not None,
        episodes=episodes if played else None,
        largest=largest,
        cross_play=met,
        nash_convs=nash_convs,
        elo=elo,
        skills=skills,
        members={str(path): standings(*tables, saved[path].mixtures) for path, tables in payoffs.items()},
    )


def _split(run: str) -> tuple[Path, str]:
    """Folder and choice; an "@" in a folder's own name is left alone."""
    folder, at, choice = run.rpartition("@")
    return (Path(folder), choice) if at and not Path(run).is_dir() else (Path(run), "final")


def _names(places: Sequence[tuple[Path, str]]) -> list[str]:
    """Short names that tell all of them apart."""
    ends = {folder: folder.resolve().name for folder, _ in places}
    # what a terminal would obey, and what no font and no JSON can show, is written as Python would
    ends = {folder: printable(end) for folder, end in ends.items()}
    short = {
        folder: end if list(ends.values()).count(end) == 1 else printable(str(folder)) for folder, end in ends.items()
    }
    names = [short[folder] + ("" if choice == "final" else f"@{choice}") for folder, choice in places]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"'{twice}' is named twice")
    return names


def _scenario(population: SavedPopulation) -> Any:
    """The scenario that a run had, as far as its policies and its environment go."""
    from malib_lite.config import build
    from malib_lite.train import SCENARIOS, TrainConfig, make_scenario

    config = dict(population.config)
    if config.get("scenario") not in list(SCENARIOS):  # it may be of any type
        raise ConfigError(
            f"'{population.path}' was made by a program in Python, whose classes its config.yaml only names: runs of "
            "`python -m malib_lite.train` can be evaluated"
        )
    # Where and how it was learnt plays no part, and need not be possible here; but for what made the policies what they
    # are.
    config["training"] = {}
    if isinstance(config.get("psro"), dict):
        kept = ("oracle", "symmetric", "pipeline")
        config["psro"] = {key: value for key, value in config["psro"].items() if key in kept}
    try:
        scenario = make_scenario(build(TrainConfig, config))
    except ConfigError as error:
        raise ConfigError(f"'{population.path / 'config.yaml'}': {error}") from None
    if list(population.members) != list(scenario.groups):
        raise ConfigError(
            f"'{population.path}' has policies of {', '.join(population.members)}, but the players are "
            f"{', '.join(scenario.groups)}"
        )
    for kind in {member.kind for members in population.members.values() for member in members}:
        if kind not in scenario.policies:
            raise ConfigError(f"'{population.path}' has a member of '{kind}': {suggest(kind, scenario.policies)}")
    return scenario


def _table(scenarios: dict[Path, Any]) -> tuple[Table, int]:
    """What all runs have in common, and how many environments are stepped together."""
    from malib_lite.population.contest import Table

    (first_path, first), *others = scenarios.items()
    for path, scenario in others:
        for what, ours, theirs in (
            ("environments", first.names["env"], scenario.names["env"]),
            ("configurations of the environment", first.names["env_config"], scenario.names["env_config"]),
            ("players", first.groups, scenario.groups),
            ("rollout.agent_ids", first.rollout.agent_ids, scenario.rollout.agent_ids),
            ("rollout.max_step", first.rollout.max_step, scenario.rollout.max_step),
        ):
            if ours != theirs:
                raise ConfigError(f"'{first_path}' and '{path}' differ in their {what}: {ours} and {theirs}")
    if len(first.groups) < 2:
        raise ConfigError(f"'{first_path}' has one player only, {next(iter(first.groups))}: nobody to play against")
    table = Table(first.env_description, first.groups, first.rollout.agent_ids, first.rollout.max_step)
    return table, first.rollout.num_env_per_thread


def _contestant(name: str, population: SavedPopulation, choice: str, scenario: Any) -> Contestant:
    from malib_lite.population.contest import Contestant

    contestant = Contestant(name, population.pools(choice), population.folder, scenario.policies)
    with _damage_explained(population.path):
        contestant.load()
    return contestant


def _elo(table: CrossPlay, stake: float) -> np.ndarray | None:
    """Ratings (K, 3) with intervals, for two players with opposite interests.

    To get as much more than the other as one can counts as a win, where ``stake`` is the largest absolute return: in a
    game of sum c that is between stake and c - stake, or c + stake where c is negative.
    """
    import numpy as np

    from malib_lite.population.meta_solvers import is_constant_sum
    from malib_lite.population.ratings import fit_elo, wins_from_payoffs

    if len(table.values) != 2 or not is_constant_sum(np.stack([table.values[0], table.values[1].T])):
        return None
    mean, size = table.mean, len(table.names)
    centre = float((table.values[0] + table.values[1].T).mean()) / 2.0
    stake = max(stake - abs(centre), float(np.abs(mean - centre).max())) or 1.0
    wins = wins_from_payoffs(mean, table.mean_errors, lowest=centre - stake, highest=centre + stake)[:size, size:]
    np.fill_diagonal(wins, 0.0)
    ratings = fit_elo(wins)
    return np.column_stack([ratings.values, ratings.intervals()])


def _skills(played: Mapping[Lineup, Played], size: int) -> np.ndarray:
    """Ratings (K, 3) with intervals, of any number of players with any interests, by who got more in each episode."""
    import numpy as np

    from malib_lite.population.cross_play import head_to_head
    from malib_lite.population.ratings import fit_skills

    ratings = fit_skills(*head_to_head({lineup: result.placings for lineup, result in played.items()}, size))
    return np.column_stack([ratings.values, ratings.intervals()])


def _payoffs(
    saved: Mapping[Path, SavedPopulation], scenarios: Mapping[Path, Any], game: ExactGame | None
) -> dict[Path, tuple[np.ndarray, np.ndarray]]:
    """Payoffs between each run's members, and their errors: its own table, or the game's where that was not filled."""
    import numpy as np

    from malib_lite.population.exploitability import ExactEvaluator

    result = {}
    for path, population in saved.items():
        if all(len(members) == 1 for members in population.members.values()):
            continue  # there is nobody to compare it with
        if population.payoffs is not None and population.errors is not None:
            result[path] = population.payoffs, population.errors
        elif game is not None:
            evaluator, all_of_them = ExactEvaluator(game), _contestant("", population, "average", scenarios[path])
            for agent, members in zip(game.agents, population.members.values(), strict=True):
                for member in members:
                    evaluator.add(agent, all_of_them.cache.get(member))
            payoffs = evaluator.payoffs()
            result[path] = payoffs, np.zeros_like(payoffs)
    return result


@contextlib.contextmanager
def _damage_explained(*paths: Path) -> Iterator[None]:
    """Turn into words what members of these runs raise that cannot be played."""
    try:
        yield
    except ConfigError:
        raise
    except (OSError, ValueError, LookupError, RuntimeError) as error:
        where = " or ".join(f"'{path}'" for path in paths)
        raise ConfigError(f"{where}: a member is missing or damaged, or config.yaml is not its own: {error}") from None


def _make(out: Path) -> None:
    """Make the folder for the result."""
    from malib_lite.runtime.files import make_folders

    try:
        make_folders(out)
    except OSError as error:
        raise ConfigError(f"'out' = '{out}': cannot be written ({error.strerror or error})") from None


def _write(evaluation: Evaluation, out: Path) -> None:
    """Write the result, each file at once: a link is replaced, not followed."""
    from malib_lite.runtime.files import write_text
    from malib_lite.runtime.metrics import finite
    from malib_lite.runtime.plots import plot_cross_play

    table, picture = evaluation.cross_play, out / "cross_play.png"
    write_text(out / "evaluation.json", json.dumps(finite(evaluation.to_json()), indent=1) + "\n")
    plot_cross_play(picture, evaluation.env, table.names, table.mean, table.mean_errors, evaluation.largest)


def _show(evaluation: Evaluation) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable

    from malib_lite.population.tables import signed, standing_table
    from malib_lite.runtime.console import Output

    output: Any = Output()
    console, met = Console(file=output, highlight=False), evaluation.cross_play
    how = "exact" if evaluation.exact else f"{evaluation.episodes:,} episodes for each lineup"

    def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        table = RichTable()
        for number, column in enumerate(columns):
            table.add_column(column, justify="right" if number else "left", no_wrap=number == 0)
        for row in rows:
            table.add_row(*row)
        console.print(title, table, sep="\n", soft_wrap=True, markup=False)

    cells = [
        [signed(value, 4) + ("" if evaluation.exact else f" ± {error:.4f}") for value, error in zip(*row, strict=True)]
        for row in zip(met.mean, met.mean_errors, strict=True)
    ]
    rows = [[name, *row] for name, row in zip(met.names, cells, strict=True)]
    show(f"{evaluation.env}: mean return over all seats, {how}", ["of \\ against", *met.names], rows)
    title = "populations"
    columns = {"population": list(met.names), "against all others": [signed(value, 4) for value in met.strengths]}
    if evaluation.elo is not None:
        columns["Elo"] = [signed(value) for value in evaluation.elo[:, 0]]
        columns["95 % interval"] = [f"{signed(low)} to {signed(high)}" for _, low, high in evaluation.elo]
    if evaluation.skills is not None:
        title += f"; TrueSkill by who got more, {evaluation.episodes:,} episodes for each lineup"
        columns["TrueSkill"] = [f"{value:.2f}" for value in evaluation.skills[:, 0]]
        columns["95 % interval"] = [f"{low:.2f} to {high:.2f}" for _, low, high in evaluation.skills]
    if evaluation.nash_convs is not None:
        columns["NashConv"] = [f"{abs(value):.4f}" for value in evaluation.nash_convs]
    show(title, list(columns), [list(row) for row in zip(*columns.values(), strict=True)])
    for run, players in evaluation.members.items():
        for player, standings in players.items():
            show(f"{printable(run)}: strongest members of {player}", *standing_table(standings, most=5))


if __name__ == "__main__":
    sys.exit(main())
