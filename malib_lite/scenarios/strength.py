"""How strong players are where the game cannot be solved: what they win against those who are known.

Each player's policy plays in its own seat while all other seats are taken by one of

    untrained   what the players began with
    previous    what they were one generation ago
    random      uniformly random play
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from malib_lite import registry
from malib_lite.backend.members import Member, MemberFolder
from malib_lite.config import ConfigError
from malib_lite.rollout.rolloutworker import PolicySpec
from malib_lite.scenarios.run import Run

if TYPE_CHECKING:
    from malib_lite.scenarios.scenario import Scenario

Policies = Mapping[str, Member]  # a member for every player
UNTRAINED, PREVIOUS, RANDOM = "untrained", "previous", "random"
OPPONENTS = (UNTRAINED, PREVIOUS, RANDOM)


def scripted_policies(scenario: Scenario) -> dict[str, PolicySpec]:
    """Uniformly random play for every player, by the kind of the members that play so; none where it does not fit."""
    policy_class, _ = registry.load(registry.ALGORITHMS, RANDOM, "algorithm")
    specs = {}
    for player, agents in scenario.groups.items():
        observation_space, action_space = scenario.spaces(agents[0])
        try:
            registry.check_spaces(policy_class, observation_space, action_space)
        except ConfigError:  # actions without bounds
            return {}
        specs[_kind(player)] = PolicySpec(policy_class, observation_space, action_space, {}, {})
    return specs


def random_players(specs: Mapping[str, PolicySpec], players: Sequence[str], folder: MemberFolder) -> Policies | None:
    """Members that play at random, for every player; None where :func:`scripted_policies` has none."""
    if not specs:
        return None
    return {player: folder.save(_kind(player), specs[_kind(player)].make(0).export_state()) for player in players}


def measure_strength(
    run: Run,
    groups: Mapping[str, Sequence[str]],
    current: Policies,
    opponents: Mapping[str, Policies | None],
    num_episodes: int,
) -> dict[str, float]:
    """Win rates and mean returns of players against others.

    Args:
        groups: the agents of every player.
        current: who is measured.
        opponents: by name; those that are None are left out.
        num_episodes: of each player against each of the opponents.

    Returns:
        ``PLAYER/win_rate_NAME`` and ``PLAYER/return_NAME`` for each player and opponent, and the means over players,
        in which the advantage of a seat cancels, without ``PLAYER/``. A win rate is the share of the others who got
        less than the player in an episode; who got the same counts half.
    """
    met = {name: policies for name, policies in opponents.items() if policies is not None}
    matches = [
        {player: {(current if player == seat else others)[player]: 1.0} for player in groups}
        for others in met.values()
        for seat in groups
    ]
    books = iter(run.rollout.simulate(matches, num_episodes) if matches else [])
    values: dict[str, float] = {}
    for name in met:
        rates, returns = [], []
        for number, player in enumerate(groups):
            book = next(books)
            run.count_crashes(book)
            ahead, level, behind = book.placings[player]
            rates.append((ahead + level / 2) / (ahead + level + behind))
            returns.append(book.player_returns(groups)[0][number])
            values |= {f"{player}/win_rate_{name}": rates[-1], f"{player}/return_{name}": returns[-1]}
        values |= {f"win_rate_{name}": sum(rates) / len(rates), f"return_{name}": sum(returns) / len(returns)}
    return values


def overall(values: Mapping[str, float]) -> dict[str, float]:
    """The means over players of what :func:`measure_strength` gave, for ``summary.json``."""
    names = [f"{what}_{name}" for name in OPPONENTS for what in ("win_rate", "return")]
    return {name: values[name] for name in names if name in values}


def plot_strength(run: Run, title: str, unit: str) -> None:
    """Draw the win rates, ``unit`` by ``unit``, into ``plots/strength.png``, where there are any."""
    from malib_lite.runtime.plots import plot_curves

    curves = {
        f"against {name}": [(r["step"], r[f"win_rate_{name}"]) for r in run.reports if f"win_rate_{name}" in r]
        for name in OPPONENTS
    }
    if curves := {name: points for name, points in curves.items() if points}:
        path = run.folder.path / "plots" / "strength.png"
        plot_curves(path, title, unit, "win rate, mean over seats", curves, y_range=(0.0, 1.0))


def in_words(values: Mapping[str, float]) -> str:
    """The win rates, for the console; empty where there are none."""
    rates = [f"{name} {values[f'win_rate_{name}']:.2f}" for name in OPPONENTS if f"win_rate_{name}" in values]
    return f"   wins against {', '.join(rates)}" if rates else ""


def _kind(player: str) -> str:
    return f"{RANDOM}:{player}"
