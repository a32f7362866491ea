"""Policy-space response oracles (Lanctot et al., 2017, https://arxiv.org/abs/1711.00832, algorithm 1).

    populations = one policy per player
    repeat
        for every player: a new policy, best response to the others' mixtures
        fill in the payoff table's missing entries
        mixtures = meta-solver(payoff table)

With exact best responses and Nash mixtures this is the double oracle algorithm (McMahan et al., 2003).

Deviations: the best responses of all players are trained at the same time, each in environments of its own; the first
policies are untrained networks, not uniformly random ones (with exact best responses they are uniformly random);
payoffs are exact where the game can be solved. Exact best responses that gain nothing are not added, and when there is
no other, the run is over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from malib_lite.backend.members import Member
from malib_lite.config import ConfigError, NonNegativeFloat, NonNegativeInt, PositiveInt, build, config, option, to_dict
from malib_lite.population.correlated import JOINT_SOLVERS, JointSolver, get_joint_solver
from malib_lite.population.meta_solvers import get_meta_solver, is_constant_sum, nash, prd
from malib_lite.population.normal_form import marginals
from malib_lite.scenarios.oracles import Oracle
from malib_lite.scenarios.population_scenario import ROUNDING, PopulationConfig, PopulationScenario
from malib_lite.scenarios.run import Run


@config
class PSROConfig(PopulationConfig):
    """The outer loop; ``global_stopping_conditions`` of MALib's documents holds ``max_iteration`` alone."""

    max_iteration: PositiveInt = option(12, "best responses added for every player")
    meta_solver: str | Callable[[np.ndarray], list[np.ndarray]] = option(
        "auto",
        "nash (two-player zero-sum), fictitious_play, regret_matching, prd, replicator_dynamics, alpha_rank, uniform, "
        "max_welfare_cce or max_entropy_cce (two players, joint); auto: nash where it can be, prd elsewhere",
    )
    warm_start: Literal["none", "latest", "best"] = option(
        "none", "what a best response starts from: a new network, the latest one, or the best against the mixtures"
    )
    min_gain: NonNegativeFloat | None = option(
        None,
        "best responses that gain no more are kept out; None: all are added, but for exact ones of no use",
    )
    second_chances: NonNegativeInt = option(0, "how often those that gain too little are trained on before")
    target: NonNegativeFloat | None = option(None, "NashConv at which the run is over")


class PSROScenario(PopulationScenario):
    """A population of best responses for every player."""

    outer_config = PSROConfig

    def __init__(
        self, *args: Any, global_stopping_conditions: Mapping[str, Any] | None = None,
        psro_config: Mapping[str, Any] | PSROConfig | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        """
        Args:
            global_stopping_conditions: ``{"max_iteration": N}``, as in MALib's documents.
            psro_config: see :class:`PSROConfig`.

        The other arguments are those of :class:`~malib_lite.scenarios.scenario.Scenario`.
        """
        settings = build(PSROConfig, psro_config, "psro")
        self.psro = build(PSROConfig, {**to_dict(settings), **(global_stopping_conditions or {})}, "psro")
        super().__init__(self.psro, "psro", *args, **kwargs)
        self._joint: np.ndarray | None = None  # distribution (P_1, P_2) of a joint meta-solver
        self._joint_solver: JointSolver | None = None
        solver = self.psro.meta_solver
        if isinstance(solver, str) and solver in JOINT_SOLVERS:
            self._check_joint(solver)
            self._joint_solver = get_joint_solver(solver)
        else:
            self._meta_solver = _nash_or_prd if solver == "auto" else get_meta_solver(solver)
        if self.psro.meta_solver == "nash" and len(self.players) != 2:
            raise ConfigError(
                f"psro.meta_solver = 'nash' is for two-player zero-sum games, this one has {len(self.players)} players;"
                " try prd, fictitious_play or alpha_rank"
            )

    def execute(self, run: Run) -> dict[str, Any]:
        oracle = self._begin(run)
        run.expect("iterations", self.psro.max_iteration)
        self._admit(oracle.first())
        self._fill_in_payoffs(run)
        values = self._solve(run, 0)
        for iteration in range(1, self.psro.max_iteration + 1):
            if self.psro.target is not None and values.get("nash_conv", np.inf) <= self.psro.target:
                run.console.say(f"NashConv is at most {self.psro.target}")
                break
            members, learnt = self._respond(run, oracle)
            if not members:
                run.console.say("no best response gains anything any more")
                break
            self._admit(members)
            self._fill_in_payoffs(run)
            values = self._solve(run, iteration, learnt)
        final = {
            name: values[name] for name in ("iteration", "nash_conv", "exploitability", "cce_gap") if name in values
        }
        return final | self._lower_bound(run)

    def plot(self, run: Run) -> None:
        from malib_lite.scenarios.population_report import report_population

        mixtures = {player: self.population.mixture(player) for player in self.players}
        title, curves = f"{self.name}, seed {self.seed}", {"nash_conv": "NashConv"}
        report_population(run, title, self.population, "iteration", curves, {"The final mixture": mixtures})

    # -- the steps of an iteration ------------------------------------------------------------------------------

    def _respond(self, run: Run, oracle: Oracle) -> tuple[dict[str, Member], dict[str, Any]]:
        """Best responses that are worth a place, by player, and what is to be reported."""
        responses = oracle.respond(self.population, self._parents())
        least = ROUNDING if self.psro.min_gain is None and self.psro.oracle == "exact" else self.psro.min_gain
        if least is None:
            return responses.members, responses.metrics
        gains = self._gains(run, responses)
        for _ in range(self.psro.second_chances if self.psro.oracle == "learnt" else 0):
            if min(gains.values()) > least:
                break
            responses = oracle.improve(self.population)
            gains = self._gains(run, responses)
        members = {player: member for player, member in responses.members.items() if gains[player] > least}
        return members, {**responses.metrics, **{f"{player}/gain": gain for player, gain in gains.items()}}

    def _parents(self) -> dict[str, Member]:
        """What best responses start from."""
        population = self.population
        if self.psro.warm_start == "none":
            return {}
        if self.psro.warm_start == "latest":
            return {player: members[-1] for player, members in population.members.items()}
        best = {}
        for number, player in enumerate(self.players):
            values = population.payoffs.table()[number]  # (P_1, ..., P_N)
            for other in reversed(range(len(self.players))):
                if other != number:
                    values = np.tensordot(values, population.mixture(self.players[other]), axes=([other], [0]))
            best[player] = population.members[player][int(values.argmax())]
        return best

    def _mix(self, payoffs: np.ndarray) -> list[np.ndarray]:
        """Mixtures, one per player, of the payoff table; of a joint distribution its marginals."""
        if self._joint_solver is not None:
            self._joint = self._joint_solver(payoffs)
            return marginals(self._joint)
        mixtures = self._meta_solver(payoffs)
        return [mixtures[0]] * len(mixtures) if self.psro.symmetric else mixtures

    def _values(self, run: Run) -> list[float]:
        if self._joint is not None and self._joint.shape == self.population.payoffs.sizes:
            return [float((payoff * self._joint).sum()) for payoff in self.population.payoffs.table()]
        return super()._values(run)

    def _check_joint(self, solver: str) -> None:
        if solver.endswith("_ce"):
            raise ConfigError(
                f"'psro.meta_solver' = '{solver}': correlated equilibria take a best response to every recommendation, "
                "which psro does not train; choose max_welfare_cce or max_entropy_cce"
            )
        if len(self.players) != 2 or self.psro.symmetric:
            raise ConfigError(
                f"'psro.meta_solver' = '{solver}': joint distributions are for two players with a population each; "
                "choose prd, fictitious_play or alpha_rank"
            )

    def _solve(self, run: Run, iteration: int, learnt: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Mix the populations anew, see how good the mixtures are, and report."""
        population = self.population
        values: dict[str, Any] = {"iteration": iteration}
        for player, mixture in zip(self.players, self._mix(population.payoffs.table()), strict=True):
            population.mix(player, mixture)
            values[f"{player}/mixture"] = mixture.round(6).tolist()
        for player, value in zip(self.players, self._values(run), strict=True):
            values[f"{player}/value"] = float(value)
        quality, gains = "", population.exact_gains([values[f"{player}/value"] for player in self.players])
        if gains is not None and self._joint is not None:
            values["cce_gap"] = float(np.maximum(gains, 0.0).sum())
            quality = f"   CCE gap {values['cce_gap']:.4f}"
        elif gains is not None:
            nash_conv = float(gains.sum())
            values["nash_conv"], values["exploitability"] = nash_conv, nash_conv / len(self.players)
            quality = f"   NashConv {max(0.0, nash_conv):.4f}"
        values.update(learnt or {})
        values["env_steps"] = run.env_steps
        self._save(run, iteration)
        run.report(iteration, values)  # what is reported is saved
        supports = " x ".join(str(int((population.mixture(player) > 1e-6).sum())) for player in self.players)
        run.console.say(
            f"iteration {iteration:>3}{quality}   value {values[f'{self.players[0]}/value']:+.4f}   "
            f"support {supports} of {population.payoffs.sizes[0]}   steps {run.env_steps:>9,}"
        )
        return values


def _nash_or_prd(payoffs: np.ndarray) -> list[np.ndarray]:
    """Nash mixtures of two players whose payoffs add up to a constant; projected replicator dynamics of all others."""
    return nash(payoffs) if is_constant_sum(payoffs) else prd(payoffs)
