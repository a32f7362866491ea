"""Self-play: every player goes on learning, against frozen snapshots of what the others were.

    history = the players' first policies
    repeat
        for every player: learn on, against a distribution over the others' histories
        freeze a snapshot of every player, and add it to its history

The distributions are in :mod:`malib_lite.population.matchmaking`: the latest snapshot alone (naive), all alike
(fictitious), the latest share of the history (delta-uniform), or those that are hard to beat (prioritised).

Opponents are snapshots throughout: the two sides do not learn in the same games, and a generation is what both learn
against what the other was when it began. With exact best responses nothing goes on: each generation is a best response
to the distribution. "fictitious" is then fictitious play over whole strategies (Brown, 1951), whose *average* converges
in two-player zero-sum games; "naive" goes in circles.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from malib_lite.config import ConfigError, Fraction, PositiveInt, build, config, option
from malib_lite.population.matchmaking import delta_uniform, fictitious, naive, pfsp
from malib_lite.population.win_table import WinTable
from malib_lite.rollout.rolloutworker import PolicySpec
from malib_lite.scenarios.oracles import LearntOracle, Responses
from malib_lite.scenarios.population_scenario import PopulationConfig, PopulationScenario
from malib_lite.scenarios.run import Run
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


@config
class SelfPlayConfig(PopulationConfig):
    """Whom the players meet."""

    max_iteration: PositiveInt = option(30, "generations: snapshots added to every player's history")
    opponents: Literal["naive", "fictitious", "delta_uniform", "pfsp"] = option(
        "delta_uniform", "which snapshots: the latest, all, the latest share, or by how hard they are to beat"
    )
    delta: Fraction = option(0.5, "delta_uniform: the share of the history that is too old")
    weighting: Literal["hard", "capped", "variance"] = option(
        "hard", "pfsp: weight of a win probability p: (1-p)^2, min(1/2, 1-p) or p(1-p)"
    )
    rating_episodes: PositiveInt = option(
        200,
        "of games that cannot be solved: episodes of each player against the untrained, the previous and random ones",
    )


class SelfPlayScenario(PopulationScenario):
    """Players that learn against each other's snapshots."""

    outer_config = SelfPlayConfig
    trains_best_responses = False
    default_steps = 20_000  # of each player in a generation

    def __init__(
        self, *args: Any, self_play_config: Mapping[str, Any] | SelfPlayConfig | None = None, **kwargs: Any
    ) -> None:
        """
        Args:
            self_play_config: see :class:`SelfPlayConfig`.

        The other arguments are those of :class:`~malib_lite.scenarios.scenario.Scenario`.
        """
        self.self_play = build(SelfPlayConfig, self_play_config, "self_play")
        super().__init__(self.self_play, "self_play", *args, **kwargs)
        if self.self_play.oracle == "exact" and self.self_play.opponents == "pfsp":
            raise ConfigError(
                "'self_play.opponents' = 'pfsp' goes by the games that learners play, and 'self_play.oracle' = 'exact' "
                "plays none: choose naive, fictitious or delta_uniform"
            )

    @functools.cached_property
    def scripted(self) -> Mapping[str, PolicySpec]:
        return scripted_policies(self) if self._exact_game() is None else {}

    def execute(self, run: Run) -> dict[str, Any]:
        oracle = self._begin(run)
        self._wins = WinTable(decay=0.99, prior_games=2.0)
        run.expect("iterations", self.self_play.max_iteration)
        self._admit(oracle.first())
        values = self._report(run, 0)
        for iteration in range(1, self.self_play.max_iteration + 1):
            for player in self.players:
                self.population.mix(player, self._distribution(player))
            responses = oracle.improve(self.population, self._objectives())
            self._count(responses)
            self._admit(responses.members)
            values = self._report(run, iteration, responses)
        names = ("iteration", "nash_conv", "exploitability", "nash_conv_average")
        return self._result(values, names) | overall(values) | self._lower_bound(run, values["iteration"])

    def plot(self, run: Run) -> None:
        from malib_lite.scenarios.population_report import report_population

        plot_strength(run, self.title, "generation")
        sizes = {player: len(members) for player, members in self.population.members.items()}
        curves = {"nash_conv": "latest", "nash_conv_average": "average of all"}
        mixtures = {
            "The latest snapshots": {player: naive(size) for player, size in sizes.items()},
            "The average of all snapshots": {player: fictitious(size) for player, size in sizes.items()},
        }
        report_population(run, self.title, self.population, "generation", curves, mixtures)

    # -- inside -------------------------------------------------------------------------------------------------

    def _learnt_oracle(self, run: Run) -> LearntOracle:
        horizon = self.total_steps * self.self_play.max_iteration  # one long training
        return LearntOracle(run, self._budget(self.total_steps), horizon)

    def _distribution(self, player: str) -> np.ndarray:
        """How probably the others meet each snapshot (P,) of a player."""
        members = self.population.members[player]
        if self.self_play.opponents == "naive":
            return naive(len(members))
        if self.self_play.opponents == "fictitious":
            return fictitious(len(members))
        if self.self_play.opponents == "delta_uniform":
            return delta_uniform(len(members), delta=self.self_play.delta)
        others = [other for other in self.players if other != player]
        wins = [self._wins.win_probabilities(other, [str(member) for member in members]) for other in others]
        return pfsp(np.mean(wins, axis=0), self.self_play.weighting)

    def _count(self, responses: Responses) -> None:
        """Note the games of a generation."""
        for player, scores in responses.scores.items():
            for member, (won, drawn, lost) in scores.items():
                self._wins.record(player, member, wins=won, draws=drawn, losses=lost)

    def _strength(self, run: Run) -> dict[str, float]:
        """What the latest snapshots win against others; of untrained ones it is only how they compare to chance."""
        pools = self.population.members
        old = len(pools[self.players[0]]) > 1
        opponents = {
            UNTRAINED: {player: members[0] for player, members in pools.items()} if old else None,
            PREVIOUS: {player: members[-2] for player, members in pools.items()} if old else None,
            RANDOM: random_players(self.scripted, self.players, run.members),
        }
        current = {player: members[-1] for player, members in pools.items()}
        return measure_strength(run, self.groups, current, opponents, self.self_play.rating_episodes)

    def _report(self, run: Run, iteration: int, responses: Responses | None = None) -> dict[str, Any]:
        """Say how good the latest snapshots are, and the average of all; the mixtures are those of the latest after."""
        population = self.population
        values: dict[str, Any] = {"iteration": iteration}
        for mix, name in ((fictitious, "nash_conv_average"), (naive, "nash_conv")):
            for player, members in population.members.items():
                population.mix(player, mix(len(members)))
            values |= population.judge(iteration, name)
        quality = ""
        if "nash_conv" in values:
            values["exploitability"] = values["nash_conv"] / len(self.players)
            values |= self._best()
            quality = f"   NashConv of the latest {values['nash_conv']:.4f}, average {values['nash_conv_average']:.4f}"
        else:
            values |= self._strength(run)
            quality = in_words(values)
        rates = []
        if responses is not None:
            values.update(responses.metrics)
            for player, scores in responses.scores.items():
                won, drawn, lost = np.sum(list(scores.values()), axis=0)
                values[f"{player}/win_rate"] = float((won + drawn / 2) / max(1, won + drawn + lost))
                rates.append(f"{values[f'{player}/win_rate']:.2f}")
        self._save(run, iteration)
        run.report(iteration, values)
        won = f"   win rates {' / '.join(rates)}" if rates else ""
        run.console.say(f"generation {iteration:>3}{quality}{won}   steps {run.env_steps:>9,}")
        return values
