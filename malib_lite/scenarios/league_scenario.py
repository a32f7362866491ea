"""League training (Vinyals et al. 2019, https://doi.org/10.1038/s41586-019-1724-z, "AlphaStar").

    league = main agents, main exploiters and league exploiters
    repeat
        for every learner: learn on, against the members of the league that the rules of its role choose
        note who won how often
        for every learner that beats its targets, or has learnt for long: freeze a snapshot of it,
            and if it is an exploiter, have it start anew, always or now and then

The rules are in :mod:`malib_lite.population.league_rules`, the bookkeeping is in :mod:`malib_lite.population.league`.

A learner plays every seat of the game with one policy for each player, each learning in environments of its own. So
games need not be symmetric, and players may see and do different things. In games of more than two players each of the
others' seats is drawn for itself.

Deviations: opponents are frozen throughout: of a learner one meets what it was when the generation began, so a main
agent's "self-play" is against that, too, and a run can be repeated to the bit. Learners begin with, and start anew
from, untrained networks, each its own, where the paper has a policy trained on human games; so there are no snapshots
at first, nobody learns from playing untrained networks. The distribution of opponents is worked out once in a
generation, not for every game. Ratings come from exhibition games between snapshots, every main agent's against
everybody's, not from the games of training: learners change, snapshots do not.

A league leaves a population as other scenarios do: all that its main agents were, a member for each generation and main
agent. Exploiters are no part of it: they are there to be overcome. It is mixed by its Nash mixtures where two players
have opposite interests; elsewhere these would promise nothing, and it plays the main agents as they are.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from malib_lite.backend.members import Member, MemberCache
from malib_lite.config import ConfigError, NonNegativeFew, PositiveFew, PositiveInt, build, config, option, to_dict
from malib_lite.contracts.exact import ExactGame
from malib_lite.population.exhibition import Exhibition, Meeting
from malib_lite.population.exploitability import ExactEvaluator, exact_game
from malib_lite.population.league import League
from malib_lite.population.league_rules import LeagueRules, Role
from malib_lite.population.league_rules import Member as LeagueMember
from malib_lite.population.matchmaking import fictitious, naive
from malib_lite.population.meta_solvers import is_constant_sum, nash
from malib_lite.population.population import Population
from malib_lite.rollout.books import Books, Tally
from malib_lite.rollout.rolloutworker import PolicySpec
from malib_lite.runtime.seeds import generator
from malib_lite.scenarios.run import Run
from malib_lite.scenarios.scenario import Scenario
from malib_lite.scenarios.strength import (
    PREVIOUS,
    RANDOM,
    UNTRAINED,
    in_words,
    measure_strength,
    overall,
    plot_strength,
    random_players,
    scripted_policies,
)
from malib_lite.scenarios.training import Budget, train


@config
class LeagueConfig(LeagueRules):
    """Who is in the league, and the rules that they play by."""

    max_iteration: PositiveInt = option(30, "generations; every learner trains --steps in each of its seats in each")
    main: PositiveFew = option(1, "main agents: they are to become robust")
    main_exploiters: NonNegativeFew = option(1, "learners that look for the main agents' weaknesses")
    league_exploiters: NonNegativeFew = option(1, "learners that look for what the whole league cannot do")
    min_steps: PositiveInt = option(20_000, "steps that a learner trains at least, per seat, before it is frozen again")
    max_steps: PositiveInt = option(40_000, "steps after which it is frozen whatever it wins")
    rating_episodes: PositiveInt = option(
        200,
        "exhibition games between two snapshots, in each seat; every main agent's plays against everybody's; of an "
        "unsolved game also those of main agents against the untrained, the previous and random ones",
    )


class LeagueScenario(Scenario):
    """Learners of three roles, and their frozen snapshots."""

    outer_config = LeagueConfig
    rollout_defaults = {"fragment_length": 4096, "num_env_per_thread": 256, "batch_mode": "episode"}
    default_steps = 20_000  # of each learner, in each of its seats, in a generation

    def __init__(
        self, *args: Any, league_config: Mapping[str, Any] | LeagueConfig | None = None, **kwargs: Any
    ) -> None:
        """
        Args:
            league_config: see :class:`LeagueConfig`.

        The other arguments are those of :class:`~malib_lite.scenarios.scenario.Scenario`.
        """
        self.settings = build(LeagueConfig, league_config, "league")
        counts: dict[Role, int] = {
            "main": self.settings.main,
            "main_exploiter": self.settings.main_exploiters,
            "league_exploiter": self.settings.league_exploiters,
        }
        self.learners = [LeagueMember(f"{role}-{i}", role) for role, count in counts.items() for i in range(count)]
        self.mains = [learner.id for learner in self.learners if learner.role == "main"]
        super().__init__(*args, **kwargs)
        self.players = list(self.groups)
        if len(self.players) < 2:
            raise ConfigError(
                f"league needs at least two players; this environment's agents make up {len(self.players)} "
                f"({', '.join(self.players)}); try the marl scenario"
            )
        if self.stopping.rollout.minimum_reward_improvement is not None:
            raise ConfigError("'stopping.rollout.minimum_reward_improvement' is for the marl scenario")
        if self.stopping.training.max_iteration is not None:
            raise ConfigError(
                "'stopping.training.max_iteration': exploiters start anew, so updates do not tell how far a league is; "
                "limit a generation by trainer.total_timesteps or stopping.rollout.max_iteration"
            )

    def make_seats(self) -> dict[str, str]:
        return {_runtime_id(learner.id, player): player for learner in self.learners for player in self.groups}

    def arenas(self) -> list[list[str]]:
        return [[runtime_id] for runtime_id in self.seats]

    def resolved_config(self) -> dict[str, Any]:
        return {**super().resolved_config(), "league": to_dict(self.settings)}

    @functools.cached_property
    def scripted(self) -> Mapping[str, PolicySpec]:
        return scripted_policies(self) if self._exact_game() is None else {}

    def execute(self, run: Run) -> dict[str, Any]:
        self._begin(run)
        league, resets = self.league, generator(self.seed, "league", "resets")
        run.expect("iterations", self.settings.max_iteration)
        self._meet(run)
        values = self._report(run, 0, {}, [], [])
        for generation in range(1, self.settings.max_iteration + 1):
            last = generation == self.settings.max_iteration
            values = self._train(run)
            ready = league.ready()
            if last:  # the main agents are what the league was for: their final forms are rated, too
                ready += [main for main in self.mains if main not in ready]
            frozen = [league.freeze(learner, generation) for learner in ready]
            anew = [] if last else [learner for learner in ready if league.draw_reset(learner, resets)]
            self._start_anew(run, anew, generation)
            self._meet(run)
            values = self._report(run, generation, values, frozen, anew)
        names = ("iteration", "nash_conv", "nash_conv_average", "nash_conv_nash")
        final, best = {main: league.snapshots(main)[-1] for main in self.mains}, self.population.best
        return {
            **{name: values[name] for name in names if name in values},
            **({} if best is None else {"best": best.summary()}),
            **overall(values),
            "ratings": {main: self.ratings[snapshot]._asdict() for main, snapshot in final.items()},
        }

    def plot(self, run: Run) -> None:
        from malib_lite.runtime.plots import plot_events, plot_intervals, plot_matrix, plot_nash_conv

        plots, title, league = run.folder.path / "plots", self.title, self.league
        plot_strength(run, self.title, "generation")
        if any("nash_conv" in report for report in run.reports):
            curves = {
                "nash_conv": "main agents now", "nash_conv_average": "average of all generations",
                "nash_conv_nash": "Nash mixture of all generations",
            }  # fmt: skip
            plot_nash_conv(plots / "nash_conv.png", title, "generation", run.reports, curves)
        snapshots = {learner.id: league.snapshots(learner.id) for learner in self.learners}
        frozen = [(name, league.frozen_in[one]) for name, of_learner in snapshots.items() for one in of_learner]
        events = {"frozen": frozen, "starts anew": [(name, generation) for generation, name in league.resets]}
        plot_events(plots / "league.png", title, "generation", list(snapshots), events)
        rated = {
            name: [(float(league.frozen_in[one]), *self.ratings[one]) for one in of_learner]
            for name, of_learner in snapshots.items()
            if of_learner
        }
        plot_intervals(plots / "ratings.png", title, "frozen in generation", "Elo above the untrained agent", rated)
        rows, columns = league.snapshots(role="main"), [UNTRAINED, *league.snapshots()]
        payoffs = self.exhibition.payoffs(rows, columns)
        plot_matrix(
            plots / "payoffs.png", title, rows, columns, payoffs, "mean return of the row's", self.exhibition.largest
        )

    # -- the steps of a generation --------------------------------------------------------------------------------

    def _begin(self, run: Run) -> None:
        """Untrained learners, and what judges them."""
        self._horizon = self.total_steps * self.settings.max_iteration
        self._learning = run.training.add_policies(self._horizon)
        self.league = League(self.learners, self._by_learner(run.training.save(self._learning)), self.settings)
        self.exhibition = Exhibition()
        cache = MemberCache(run.members, lambda kind: self.policies[kind].make(0))
        game = self._exact_game()
        self.population = Population(self.groups, cache.get, None if game is None else ExactEvaluator(game))

    def _train(self, run: Run) -> dict[str, Any]:
        """Everybody learns against whom the rules choose; returns what is to be reported."""
        league = self.league
        opponents = {learner.id: league.opponents(learner.id) for learner in self.learners}
        seats = [(learner.id, player) for learner in self.learners for player in self.players]
        pools = {_runtime_id(name, player): league.pools(opponents[name], player) for name, player in seats}
        budget, books, values, num_steps = self._budget(), Books(), {}, 0
        for leg in train(run, self._learning, budget, num_legs=1, opponents=pools):
            books.merge(leg.books)
            num_steps = leg.env_steps
            for runtime_id, report in leg.reports.items():
                values[f"{runtime_id}/updates"] = report["updates"]
                values.update({f"{runtime_id}/{name}": value for name, value in report["metrics"].items()})
        scores = [(name, books.scores.get(_runtime_id(name, player), {})) for name, player in seats]
        league.count(opponents, scores)
        for name, policies in self._by_learner(run.training.save(self._learning)).items():
            league.advance(name, policies, num_steps)
            counts = [count for learner, of_seat in scores if learner == name for count in of_seat.values()]
            wins, draws, losses = np.sum([[0, 0, 0], *counts], axis=0).tolist()
            games = wins + draws + losses  # none, where episodes are longer than what is played in a generation
            values[f"{name}/win_rate"] = (wins + draws / 2) / games if games else math.nan
        return values

    def _start_anew(self, run: Run, learners: Iterable[str], generation: int) -> None:
        """Give learners new policies that begin as they themselves began; the others go on learning."""
        parents = {
            _runtime_id(name, player): member
            for name in learners
            for player, member in self.league.reset(name, generation).items()
        }
        if parents:
            run.training.retire({runtime_id: self._learning[runtime_id] for runtime_id in parents})
            self._learning |= run.training.add_policies(self._horizon, parents, list(parents))

    def _meet(self, run: Run) -> None:
        """Have every main agent's snapshot play everybody's that it has not met, once for good, and rate them all."""
        names = [UNTRAINED, *self.league.snapshots()]
        pairs = self.exhibition.missing(self.league.snapshots(role="main"), names)
        policies = {**self.league.policies, UNTRAINED: self.league.first[self.mains[0]]}
        matches = [
            {player: {policies[first if player == seat else second][player]: 1.0} for player in self.players}
            for first, second in pairs
            for seat in self.players
        ]
        books = run.rollout.simulate(matches, self.settings.rating_episodes) if matches else []
        for number, (first, second) in enumerate(pairs):
            of_pair = books[number * len(self.players) : (number + 1) * len(self.players)]
            for book in of_pair:
                run.count_crashes(book)
            self.exhibition.record(first, second, self._meeting(of_pair))
        self.ratings = self.exhibition.ratings(names)

    def _meeting(self, books: Iterable[Books]) -> Meeting:
        """The games of a pair, from the books of each seat that the first one took; a team counts as its mean agent."""
        first, second, games, lead = Tally(), Tally(), 0, 0.0
        for seat, book in zip(self.players, books, strict=True):
            games += book.length.count
            lead = max(lead, book.leads[seat])
            for player, agents in self.groups.items():
                for agent in agents:
                    (first if player == seat else second).merge(book.returns[agent])
        payoffs, errors = (first.mean, second.mean), (first.standard_error, second.standard_error)
        largest = max(abs(bound) for tally in (first, second) for bound in (tally.low, tally.high))
        return Meeting(games, payoffs, errors, largest, lead)

    def _report(
        self, run: Run, generation: int, learnt: Mapping[str, Any], frozen: list[str], anew: list[str]
    ) -> dict[str, Any]:
        """Say how good the main agents are, and what became of everybody."""
        for main in self.mains:
            for player, member in self.league.policies[main].items():
                self.population.add(player, member)
        values: dict[str, Any] = {"iteration": generation, **learnt, **self._judge(generation)}
        values |= self._strength(run) if self.population.exact is None else {}
        for learner in self.learners:
            snapshots = self.league.snapshots(learner.id)
            values[f"{learner.id}/snapshots"] = len(snapshots)
            if snapshots:
                values[f"{learner.id}/rating"] = self.ratings[snapshots[-1]].elo
        state = {"generation": generation, **self.population.state_dict(), "league": self.league.state_dict()}
        ratings = {name: rating._asdict() for name, rating in self.ratings.items()}
        state |= {"exhibition": self.exhibition.state_dict(), "ratings": ratings}
        run.checkpoint(state)
        run.report(generation, values)
        quality = in_words(values)
        if "nash_conv" in values:
            quality = f"   NashConv {values['nash_conv']:.4f}, average {values['nash_conv_average']:.4f}"
        rates = [f"{values[f'{learner.id}/win_rate']:.2f}" for learner in self.learners] if learnt else []
        won = f"   win rates {' / '.join(rates)}" if rates else ""
        news = f"   frozen: {', '.join(name.partition('@')[0] for name in frozen)}" if frozen else ""
        news += f"   anew: {', '.join(anew)}" if anew else ""
        run.console.say(f"generation {generation:>3}{quality}{won}   steps {run.env_steps:>9,}{news}")
        return values

    # -- how good the main agents are -------------------------------------------------------------------------------

    def _judge(self, generation: int) -> dict[str, float]:
        """NashConv, where the game is solved, of the main agents as they are, of the average of what they were in all
        generations, and of the Nash mixtures over that.

        Several main agents count alike. The population is left with the last of these mixtures.
        """
        population, mixtures = self.population, dict[str, list[np.ndarray]]()
        size = len(population.members[self.players[0]])
        for name, mix in (("nash_conv_average", fictitious), ("nash_conv", naive)):
            per_main = mix(size // len(self.mains))
            each = {main: np.zeros(size) for main in self.mains}
            for number, mixture in enumerate(each.values()):
                mixture[number :: len(self.mains)] = per_main
            if len(self.mains) > 1:
                mixtures |= {f"{main}/{name}": [mixture] * len(self.players) for main, mixture in each.items()}
            mixtures[name] = [np.mean(list(each.values()), axis=0)] * len(self.players)
        if (best := self._nash_mixtures()) is not None:
            mixtures["nash_conv_nash"] = best
        values: dict[str, float] = {}
        for name, of_players in mixtures.items():
            for player, mixture in zip(self.players, of_players, strict=True):
                population.mix(player, mixture)
            values |= population.judge(generation, name)
        return values if population.best is None else {**values, "nash_conv_best": population.best.nash_conv}

    def _strength(self, run: Run) -> dict[str, float]:
        """What the main agents win against others: each of them, and all on average."""
        members, count = self.population.members, len(self.mains)
        trained = len(members[self.players[0]]) > count  # or they are what they began as
        each = {}
        for number, main in enumerate(self.mains):
            of_main = {player: pool[number::count] for player, pool in members.items()}
            opponents = {
                UNTRAINED: {player: pool[0] for player, pool in of_main.items()} if trained else None,
                PREVIOUS: {player: pool[-2] for player, pool in of_main.items()} if trained else None,
                RANDOM: random_players(self.scripted, self.players, run.members),
            }
            current = {player: pool[-1] for player, pool in of_main.items()}
            each[main] = measure_strength(run, self.groups, current, opponents, self.settings.rating_episodes)
        means = {name: sum(of_main[name] for of_main in each.values()) / count for name in each[self.mains[0]]}
        by_main = {
            f"{main}/{name}": value for main, of_main in each.items() for name, value in overall(of_main).items()
        }
        return means if count == 1 else {**means, **by_main}

    def _nash_mixtures(self) -> list[np.ndarray] | None:
        """Each player's Nash mixture (P,) over all that the main agents were; None but for two players with opposite
        interests.

        Where the game is not solved it goes by the exhibition games, and is one over snapshots.
        """
        if len(self.players) != 2:
            return None
        if self.population.exact is not None:
            payoffs = self.population.exact.payoffs()
            return nash(payoffs) if is_constant_sum(payoffs) else None
        names = [UNTRAINED, *self.league.snapshots(role="main")]
        forms = [self.league.first[self.mains[0]], *(self.league.policies[name] for name in names[1:])]
        if not self.exhibition.shows_opposite_interests():
            return None
        mixtures = []
        for player, probabilities in zip(self.players, nash(self.exhibition.game(names)), strict=True):
            members = self.population.members[player]
            mixture = np.zeros(len(members))
            for form, probability in zip(forms, probabilities.tolist(), strict=True):
                mixture[members.index(form[player])] += probability
            mixtures.append(mixture)
        return mixtures

    # -- inside -----------------------------------------------------------------------------------------------------

    def _budget(self) -> Budget:
        return Budget(self.total_steps, self.stopping.rollout.max_iteration)

    def _exact_game(self) -> ExactGame | None:
        return exact_game(self.env_description, self.groups, self.policies.values())

    def _by_learner(self, members: Mapping[str, Member]) -> dict[str, dict[str, Member]]:
        """Pool members, from those by runtime id."""
        return {
            learner.id: {player: members[_runtime_id(learner.id, player)] for player in self.players}
            for learner in self.learners
        }


def _runtime_id(learner: str, player: str) -> str:
    """A file is named after it, so there is no slash."""
    return f"{learner}.{player}"
