"""Policy-space response oracles (Lanctot et al., 2017, https://arxiv.org/abs/1711.00832, algorithm 1).

    populations = one policy per player
    repeat
        for every player: a new policy, best response to the others' mixtures
        fill in the payoff table's missing entries
        mixtures = meta-solver(payoff table)

With exact best responses and Nash mixtures this is the double oracle algorithm (McMahan et al., 2003), with uniform
ones fictitious play (Brown 1951): there a best response that is a member already counts once more in the mixture.

Some meta-solvers ask for several best responses of a player, one for each of its members that are played, in place of
the one to the others' mixtures; they are found one after the other, before any of them enters the population:

    rectified_nash   PSRO_rN (Balduzzi et al., 2019, https://arxiv.org/abs/1901.08106, algorithm 4): learning goes on
                     from the member, against whom it beats or ties; see :mod:`malib_lite.population.rectified`
    max_welfare_ce,  joint PSRO (Marris et al., 2021, https://arxiv.org/abs/2106.09435) with correlated equilibria:
    max_entropy_ce   against what the others do when this player is told to play the member

Where the game can be solved, the mixtures of the meta-solver anytime are safe against all of it, not only against the
population (:mod:`malib_lite.population.anytime`).

Several policies of each player may learn at the same time (:mod:`malib_lite.scenarios.pipeline`).

Deviations: the best responses of all players are trained at the same time, each in environments of its own; the first
policies are untrained networks, not uniformly random ones (with exact best responses they are uniformly random);
payoffs are exact where the game can be solved. Exact best responses that gain nothing are not added (in fictitious play
those of all players count, as long as one gains), and when there is no other, the run is over. What one gains is
counted from what the player, or the member, earned against the same opponents.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from malib_lite import registry
from malib_lite.agent.means import Means
from malib_lite.backend.members import Member
from malib_lite.config import ConfigError, build, to_dict
from malib_lite.population.anytime import AnytimeSolver
from malib_lite.population.correlated import JOINT_SOLVERS, JointSolver, ce_opponents, get_joint_solver
from malib_lite.population.exploitability import exact_game
from malib_lite.population.meta_solvers import META_SOLVERS, MetaSolver, checked, is_constant_sum, nash, prd
from malib_lite.population.normal_form import marginals
from malib_lite.population.population import Objective
from malib_lite.population.rectified import rectified_opponents
from malib_lite.rollout.manager import Pools
from malib_lite.scenarios.oracles import EquilibriumOracle, Oracle, Responses
from malib_lite.scenarios.pipeline import PipelineOracle
from malib_lite.scenarios.population_scenario import ROUNDING, PopulationScenario, random_payoffs
from malib_lite.scenarios.psro_config import ASK_FOR_SEVERAL, PSROConfig, check_size, most_joint_choices
from malib_lite.scenarios.run import Run


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
        self._anytime: AnytimeSolver | None = None  # made when there is somebody to mix
        if self.psro.meta_solver == "auto":
            self.psro = self._settings = dataclasses.replace(self.psro, meta_solver=self._automatic())
        solver = self.psro.meta_solver
        self._rectified = solver == "rectified_nash"
        self._averages = solver == "uniform"  # over all best responses so far, however often each of them came
        self._recommends = solver in ASK_FOR_SEVERAL and not self._rectified
        if isinstance(solver, str) and solver in JOINT_SOLVERS:
            self._check_joint(solver)
            self._joint_solver = get_joint_solver(solver)
        elif solver == "anytime":
            self._check_exact("'psro.meta_solver' = 'anytime'")
        else:
            self._meta_solver = _find(solver, len(self.players))
        if solver in ("nash", "rectified_nash", "anytime"):
            self._check_constant_sum(f"'psro.meta_solver' = '{solver}'")
        check_size(self.psro, [self._num_policies(player) for player in self.players])
        rounds = self.stopping.rollout.max_iteration
        if rounds is not None and rounds < self.psro.pipeline:
            raise ConfigError(
                f"'stopping.rollout.max_iteration' = {rounds}: with 'psro.pipeline' = {self.psro.pipeline} a best "
                "response learns in as many parts, of a round at least"
            )
        if self.psro.pipeline > 1 and self.stopping.training.max_iteration is not None:
            raise ConfigError(
                "'stopping.training.max_iteration': with 'psro.pipeline' learners are of different ages; limit a best "
                "response by trainer.total_timesteps or stopping.rollout.max_iteration"
            )

    def make_seats(self) -> dict[str, str]:
        seats = super().make_seats()
        if self.psro.pipeline == 1:
            return seats
        return {f"{name}.{level}": player for name, player in seats.items() for level in range(self.psro.pipeline)}

    def execute(self, run: Run) -> dict[str, Any]:
        oracle = self._begin(run)
        run.expect("iterations", self.psro.max_iteration)
        self._admit(oracle.first())
        if self.psro.meta_solver == "anytime":
            oracle = self._begin_anytime(run, oracle)
        self._fill_in_payoffs(run)
        values = self._solve(run, 0)
        for iteration in range(1, self.psro.max_iteration + 1):
            if self.psro.target is not None and values.get("nash_conv", np.inf) <= self.psro.target:
                run.console.say(f"NashConv is at most {self.psro.target}")
                break
            added, learnt = self._respond(run, oracle)
            if not any(added.values()):
                run.console.say("no best response gains anything any more")
                break
            most, sizes = most_joint_choices(self.psro.meta_solver), self._sizes_with(added)
            if math.prod(sizes) > most:
                run.console.say(
                    f"the next best responses would make {math.prod(sizes):,} joint choices, and the meta-solver "
                    f"'{self.psro.meta_solver}' takes {most:,}: the run ends here; with 'psro.max_responses' "
                    "populations grow more slowly"
                )
                break
            for player, members in added.items():
                for member in members:
                    self._take_in(player, member)
            self._fill_in_payoffs(run)
            values = self._solve(run, iteration, learnt)
        names = ("iteration", "nash_conv", "exploitability", "cce_gap", "ce_gap")
        return self._result(values, names) | self._lower_bound(run, values["iteration"])

    def plot(self, run: Run) -> None:
        from malib_lite.scenarios.population_report import report_population

        mixtures = {player: self.population.mixture(player) for player in self.players}
        title, curves = self.title, {"nash_conv": "NashConv"}
        report_population(run, title, self.population, "iteration", curves, {"The final mixture": mixtures})

    def _learnt_oracle(self, run: Run) -> Oracle:
        if self.psro.pipeline == 1:
            return super()._learnt_oracle(run)
        levels: dict[str, list[str]] = {}
        for runtime_id, player in self.seats.items():
            levels.setdefault(player, []).append(runtime_id)
        return PipelineOracle(run, levels, self._budget(self.total_steps), functools.partial(self._above, run))

    def _above(self, run: Run, snapshots: Sequence[Mapping[str, Member]]) -> list[dict[str, Pools]]:
        """Whom the levels of a pipeline meet that stand above others, of which there are snapshots: by player."""
        population = self.population.copy()
        for level in snapshots:
            self._admit(level, population)
        self._fill_in_payoffs(run, population)
        table, pools = population.payoffs.table(), list[dict[str, Pools]]()
        for above in range(1 - len(snapshots), 1):  # minus the number of levels that are not met
            sizes = [size + above for size in population.payoffs.sizes]
            mixtures = [
                np.pad(mixture, (0, -above))
                for mixture in self._mix(table[(slice(None), *(slice(size) for size in sizes))])
            ]
            everybody = population.pools(dict(zip(self.players, mixtures, strict=True)))
            pools.append({p: {other: everybody[other] for other in self.players if other != p} for p in self.learners})
        return pools

    def _begin_anytime(self, run: Run, oracle: Oracle) -> Oracle:
        """Have the mixtures made by a solver that knows the game; and what is exact come from it, too."""
        exact = self.population.exact
        assert exact is not None
        self._meta_solver = self._anytime = solver = AnytimeSolver(exact)
        if self.psro.oracle == "learnt":
            return oracle
        return EquilibriumOracle(solver, exact, self._only_agents(), run.members)

    # -- the steps of an iteration ------------------------------------------------------------------------------

    def _respond(self, run: Run, oracle: Oracle) -> tuple[dict[str, list[Member]], dict[str, Any]]:
        """Best responses that are worth a place, by player, and the means of what is to be reported of them."""
        least = self.psro.min_gain
        if least is None and self.psro.oracle == "exact":
            assert self.population.exact is not None
            least = ROUNDING * self.population.exact.game.largest_return()
        waiting, means = self._wanted(run), Means()
        added: dict[str, list[Member]] = {player: [] for player in waiting}
        while due := {player: objectives.popleft() for player, objectives in waiting.items() if objectives}:
            responses = oracle.respond(self.population, due)
            if least is not None:
                responses, gains = self._judge(run, oracle, responses, due, least)
                means.add({f"{player}/gain": gain for player, gain in gains.items()})
            means.add(responses.metrics)
            for player, member in responses.members.items():
                # What is better than one member may be another one that is there already.
                known = [*self.population.members[player], *added[player]]
                if least is None or (
                    max(gains.values()) > least if self._averages else gains[player] > least and member not in known
                ):
                    added[player].append(member)
                if len(added[player]) == self.psro.max_responses:
                    waiting[player].clear()
        return added, means.take()

    def _sizes_with(self, added: Mapping[str, Sequence[Member]]) -> list[int]:
        """How many members every player would have."""
        more = {player: len(added[self.players[0] if self.psro.symmetric else player]) for player in self.players}
        return [size + more[player] for player, size in zip(self.players, self.population.payoffs.sizes, strict=True)]

    def _num_policies(self, player: str) -> float:
        """How many members a player can have at most: of exact best responses the deterministic policies, and the first
        one; infinity of others."""
        if self.psro.oracle == "learnt" or self.psro.meta_solver == "anytime":
            return math.inf
        game = self._exact_game()
        assert game is not None
        legal = game.information_sets(self.groups[player][0])[1]
        return 1.0 + math.exp(min(float(np.log(legal.sum(axis=1)).sum()), 700.0))

    def _take_in(self, player: str, member: Member) -> None:
        """Make a best response a member; or count it again, where it is one and that matters."""
        if not self._averages or member not in self.population.members[player]:
            self._admit({player: member})
            return
        for each in self.players if self.psro.symmetric else [player]:
            self.population.count_again(each, member)

    def _judge(
        self, run: Run, oracle: Oracle, responses: Responses, objectives: Mapping[str, Objective], least: float
    ) -> tuple[Responses, dict[str, float]]:
        """What best responses gain, after their second chances."""
        gains = self._gains(run, responses, objectives)
        for _ in range(self.psro.second_chances if self.psro.oracle == "learnt" else 0):
            if min(gains.values()) > least:
                break
            responses = oracle.improve(self.population, objectives)
            gains = self._gains(run, responses, objectives)
        return responses, gains

    def _wanted(self, run: Run) -> dict[str, deque[Objective]]:
        """What best responses are wanted for, by player who learns; what matters most comes first."""
        if self._rectified:
            payoffs = self.population.payoffs.table()
            mixtures = [self.population.mixture(player) for player in self.players]
            wanted = {
                player: self._by_member(player, rectified_opponents(payoffs, mixtures, number))
                for number, player in enumerate(self.players)
            }
        elif self._anytime is not None and self.psro.oracle == "exact":
            # A response that earns no more than the mixture does may all the same make the pool safer.
            guarantees = self._anytime.guarantees
            wanted = {
                player: [objective._replace(value=guarantees[self.groups[player][0]])]
                for player, objective in self._objectives().items()
            }
        else:
            wanted = {
                player: [it._replace(start=self._start(player, it.opponents)) for it in objectives]
                for player, objectives in self._deviations(run).items()
            }
        return {player: deque(wanted[player]) for player in self.learners}

    def _deviations(self, run: Run) -> dict[str, list[Objective]]:
        """What a player could gain by, in no equilibrium: answers to the others, or to them after a recommendation."""
        if self._recommends:
            assert self._joint is not None
            return {p: self._by_member(p, ce_opponents(self._joint, number)) for number, p in enumerate(self.players)}
        return {player: [objective] for player, objective in self._objectives(self._values(run)).items()}

    def _by_member(self, player: str, opponents: Mapping[int, np.ndarray]) -> list[Objective]:
        """To do better than own members do against ``opponents``: by member's index, what the other player plays."""
        number, (other,) = self.players.index(player), [it for it in self.players if it != player]
        members, mixture = self.population.members[player], self.population.mixture(player)
        table = np.moveaxis(self.population.payoffs.table()[number], number, 0)  # [own, other]
        return [
            Objective({other: opponents[i]}, members[i], float(table[i] @ opponents[i]), float(mixture[i]))
            for i in sorted(opponents, key=lambda i: -mixture[i])
        ]

    def _start(self, player: str, opponents: Mapping[str, np.ndarray]) -> Member | None:
        """What a best response starts from."""
        members = self.population.members[player]
        if self.psro.warm_start == "none":
            return None
        if self.psro.warm_start == "latest":
            return members[-1]
        number = self.players.index(player)
        values = self.population.payoffs.table()[number]  # (P_1, ..., P_N)
        for axis, other in reversed(list(enumerate(self.players))):
            if other != player:
                values = np.tensordot(values, opponents[other], axes=([axis], [0]))
        return members[int(values.argmax())]

    def _judge_mixtures(self, run: Run, iteration: int) -> tuple[dict[str, float], str]:
        """How far the mixtures are from an equilibrium, where the game can be solved: for the metrics, and in words."""
        if self.population.exact is None:
            return {}, ""
        if self._joint is not None:
            name, label = ("ce_gap", "CE gap") if self._recommends else ("cce_gap", "CCE gap")
            gap = sum(max(0.0, gain) for gain in self._exact_gains(run))
            return {name: gap}, f"   {label} {gap:.4f}"
        judged = self.population.judge(iteration, "nash_conv")
        nash_conv = judged["nash_conv"]
        judged |= {"exploitability": nash_conv / len(self.players), **self._best()}
        return judged, f"   NashConv {max(0.0, nash_conv):.4f}"

    def _exact_gains(self, run: Run) -> list[float]:
        """What each player could gain by deviating from a joint distribution: 0 in an equilibrium."""
        return [
            sum(it.share * (self.population.best_response(player, it.opponents)[0] - it.value) for it in objectives)
            for player, objectives in self._deviations(run).items()
        ]

    def _mix(self, payoffs: np.ndarray) -> list[np.ndarray]:
        """Mixtures, one per player, of the payoff table; of a joint distribution its marginals."""
        if self._joint_solver is not None:
            self._joint = self._joint_solver(payoffs)
            return marginals(self._joint)
        if self._averages and payoffs.shape[1:] == self.population.payoffs.sizes:
            return [self.population.frequencies(player) for player in self.players]
        mixtures = self._meta_solver(payoffs)
        return [mixtures[0]] * len(mixtures) if self.psro.symmetric else mixtures

    def _values(self, run: Run) -> list[float]:
        if self._joint is not None and self._joint.shape == self.population.payoffs.sizes:
            return [float((payoff * self._joint).sum()) for payoff in self.population.payoffs.table()]
        return super()._values(run)

    def _automatic(self) -> str:
        """The meta-solver that "auto" means; "auto" where only the payoffs of the run will tell."""
        if len(self.players) > 2:
            return "prd"
        game = exact_game(self.env_description, self.groups, [])
        if game is None:
            return "auto"
        return "nash" if is_constant_sum(random_payoffs(game)) else "prd"

    def _check_joint(self, solver: str) -> None:
        if len(self.players) != 2 or self.psro.symmetric:
            raise ConfigError(
                f"'psro.meta_solver' = '{solver}': joint distributions are for two players with a population each; "
                "choose prd, fictitious_play or alpha_rank"
            )

    def _solve(self, run: Run, iteration: int, learnt: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Mix the populations anew, see how good the mixtures are, and report."""
        population = self.population
        values: dict[str, Any] = {"iteration": iteration}
        if self.psro.meta_solver == "auto":
            values["meta_solver"] = "nash" if is_constant_sum(population.payoffs.table()) else "prd"
        for player, mixture in zip(self.players, self._mix(population.payoffs.table()), strict=True):
            population.mix(player, mixture)
            values[f"{player}/mixture"] = mixture.round(6).tolist()
        for player, value in zip(self.players, self._values(run), strict=True):
            values[f"{player}/value"] = float(value)
        judged, quality = self._judge_mixtures(run, iteration)
        values.update(judged)
        values.update(learnt or {})
        self._save(run, iteration)
        run.report(iteration, values)  # what is reported is saved
        supports = " x ".join(str(int((population.mixture(player) > 1e-6).sum())) for player in self.players)
        sizes = population.payoffs.sizes
        of_sizes = str(sizes[0]) if len(set(sizes)) == 1 else " x ".join(map(str, sizes))
        run.console.say(
            f"iteration {iteration:>3}{quality}   value {values[f'{self.players[0]}/value']:+.4f}   "
            f"support {supports} of {of_sizes}   steps {run.env_steps:>9,}"
        )
        return values


def _find(solver: str | MetaSolver, num_players: int) -> MetaSolver:
    """The meta-solver that the option means. Somebody else's is tried out, and its mistakes are told."""
    if isinstance(solver, str) and ":" not in solver:
        return {"auto": _nash_or_prd, "rectified_nash": nash}.get(solver) or META_SOLVERS[solver]
    own = checked(registry.find(solver, "psro.meta_solver") if isinstance(solver, str) else solver)
    own(np.zeros((num_players, *[1] * num_players)))
    return own


def _nash_or_prd(payoffs: np.ndarray) -> list[np.ndarray]:
    """Nash mixtures of two players whose payoffs add up to a constant; projected replicator dynamics of all others."""
    return nash(payoffs) if is_constant_sum(payoffs) else prd(payoffs)
