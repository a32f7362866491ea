"""Extensive-form double oracle (McAleer et al. 2021, https://arxiv.org/abs/2103.06426) on games that can be solved.

    allowed = the actions of one policy per player: best responses to uniformly random play
    repeat
        policies = an equilibrium of the game with the allowed actions alone
        for every player: allow what a best response to the others' policies does

PSRO mixes whole policies, drawn before the game; this mixes actions at every information set, and needs far fewer
rounds. Deviations: see :mod:`malib_lite.population.restricted_game`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from malib_lite.config import ConfigError, NonNegativeFloat, PositiveInt, build, config, option, to_dict
from malib_lite.contracts.environment import AgentID
from malib_lite.population.restricted_game import RestrictedGame
from malib_lite.scenarios.population_scenario import ROUNDING, PopulationConfig, PopulationScenario
from malib_lite.scenarios.run import Run


@config
class XDOConfig:
    """The outer loop."""

    max_iteration: PositiveInt = option(100, "best responses whose actions are allowed")
    target: NonNegativeFloat = option(ROUNDING, "NashConv at which the run is over")


class XDOScenario(PopulationScenario):
    """A game whose actions are allowed bit by bit."""

    outer_config = XDOConfig

    def __init__(self, *args: Any, xdo_config: Mapping[str, Any] | XDOConfig | None = None, **kwargs: Any) -> None:
        """
        Args:
            xdo_config: see :class:`XDOConfig`.

        The other arguments are those of :class:`~malib_lite.scenarios.scenario.Scenario`.
        """
        self.xdo = build(XDOConfig, xdo_config, "xdo")
        super().__init__(build(PopulationConfig, {"oracle": "exact"}), "xdo", *args, **kwargs)
        if len(self.players) != 2:
            raise ConfigError(
                f"xdo is for two-player zero-sum games, this one has {len(self.players)} players; try psro with "
                "--psro.oracle exact"
            )
        game = self._exact_game()
        assert game is not None
        try:
            game.check_restricted()
        except ConfigError as error:
            raise ConfigError(f"xdo: {error}; try psro with --psro.oracle exact") from None

    def resolved_config(self) -> dict[str, Any]:
        return {**super().resolved_config(), "xdo": to_dict(self.xdo)}

    def execute(self, run: Run) -> dict[str, Any]:
        self._begin(run)
        exact = self.population.exact
        assert exact is not None
        game = exact.game
        run.expect("iterations", self.xdo.max_iteration)
        uniform = {agent: legal / legal.sum(axis=1, keepdims=True) for agent, legal in self._legal().items()}
        restricted = RestrictedGame(game, self._responses(uniform)[1])
        best: tuple[int, float, dict[AgentID, np.ndarray]] | None = None
        for iteration in range(self.xdo.max_iteration + 1):
            policies = restricted.equilibrium()
            nash_conv, responses = self._responses(policies)
            new = sum(restricted.allow(agent, response) for agent, response in responses.items())
            allowed = sum(int(actions.sum()) for actions in restricted.allowed.values())
            if best is None or nash_conv < best[1]:
                best = iteration, nash_conv, policies
            values = {"iteration": iteration, "nash_conv": nash_conv, "exploitability": nash_conv / len(self.players)}
            values["nash_conv_best"] = best[1]
            run.report(iteration, {**values, "allowed_actions": allowed, "information_sets_with_new_actions": new})
            run.console.say(f"iteration {iteration:>3}   NashConv {max(0.0, nash_conv):.6f}   new actions in {new:>4}")
            if nash_conv <= self.xdo.target or not new:
                break
        assert best is not None
        if best[0] < iteration:
            self._add_policies(run, best[2], best[0])
        self._add_policies(run, policies, iteration)
        self._fill_in_payoffs(run)
        self._save(run, iteration)
        return self._result(values, ("iteration", "nash_conv", "exploitability"))

    def plot(self, run: Run) -> None:
        from malib_lite.scenarios.population_report import report_population

        mixtures = {player: self.population.mixture(player) for player in self.players}
        title, curves = self.title, {"nash_conv": "NashConv"}
        report_population(run, title, self.population, "iteration", curves, {"The equilibrium": mixtures})

    # -- inside -------------------------------------------------------------------------------------------------

    def _exact_demand(self) -> str:
        return "xdo"

    def _legal(self) -> dict[AgentID, np.ndarray]:
        assert self.population.exact is not None
        game = self.population.exact.game
        return {agent: game.information_sets(agent)[1] for agent in game.agents}

    def _responses(self, policies: Mapping[AgentID, np.ndarray]) -> tuple[float, dict[AgentID, np.ndarray]]:
        """NashConv of policies (I, A), and best responses to them."""
        assert self.population.exact is not None
        game = self.population.exact.game
        plans = [game.plans(agent, policies[agent][None])[0] for agent in game.agents]
        values = game.plan_payoffs([plan[None] for plan in plans]).reshape(len(plans))
        found = [game.respond(agent, plans) for agent in game.agents]
        gains = np.array([value for value, _ in found]) - values
        return float(gains.sum()), {agent: policy for agent, (_, policy) in zip(game.agents, found, strict=True)}

    def _add_policies(self, run: Run, policies: Mapping[AgentID, np.ndarray], iteration: int) -> None:
        """An equilibrium becomes a member of every pool, and the only one that is played."""
        for player, (agent,) in self.groups.items():
            self.population.add(player, run.members.save(player, {"table": policies[agent]}))
            self.population.mix(player, np.eye(len(self.population.members[player]))[-1])
        self.population.judge(iteration, "nash_conv")
