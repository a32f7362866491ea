"""Policy-space response oracles (Lanctot et al., 2017, https://arxiv.org/abs/1711.00832, algorithm 1).

    populations = one policy per player
    repeat
        for every player: a new policy, trained as best response to the others' mixtures
        fill in the payoff table's missing entries
        mixtures = meta-solver(payoff table)

Deviations: the best responses of all players are trained at the same time, each in environments of its own; the first
policies are untrained networks, not uniformly random ones; payoffs are exact where the game can be solved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from malib_lite.config import ConfigError, PositiveInt, build, config, option, to_dict
from malib_lite.population.exploitability import ExactEvaluator
from malib_lite.population.meta_solvers import get_meta_solver
from malib_lite.population.payoff_manager import PayoffManager
from malib_lite.scenarios.run import Run
from malib_lite.scenarios.scenario import Scenario
from malib_lite.scenarios.training import Budget, train


@config
class PSROConfig:
    """The outer loop; ``global_stopping_conditions`` of MALib's documents holds ``max_iteration`` alone."""

    max_iteration: PositiveInt = option(12, "best responses added for every player")
    meta_solver: str | Callable[[np.ndarray], list[np.ndarray]] = option(
        "nash", "nash (two-player zero-sum), fictitious_play, prd, replicator_dynamics, alpha_rank or uniform"
    )
    payoff_episodes: PositiveInt = option(1000, "episodes per entry of the payoff table, where it is not exact")


class PSROScenario(Scenario):
    """A population of best responses for every player."""

    rollout_defaults = {"fragment_length": 4096, "num_env_per_thread": 256, "batch_mode": "episode"}
    trains_best_responses = True
    default_steps = 30_000

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
        super().__init__(*args, **kwargs)
        settings = build(PSROConfig, psro_config, "psro")
        self.psro = build(PSROConfig, {**to_dict(settings), **(global_stopping_conditions or {})}, "psro")
        self._meta_solver = get_meta_solver(self.psro.meta_solver)
        self.players = list(self.groups)
        if len(self.players) < 2:
            raise ConfigError(
                f"psro needs at least two players; this environment's agents make up {len(self.players)} "
                f"({', '.join(self.players)}); try the marl scenario"
            )
        if self.psro.meta_solver == "nash" and len(self.players) != 2:
            raise ConfigError(
                f"psro.meta_solver = 'nash' is for two-player zero-sum games, this one has {len(self.players)} players;"
                " try prd, fictitious_play or alpha_rank"
            )
        if self.stopping.rollout.minimum_reward_improvement is not None:
            raise ConfigError(
                "'stopping.rollout.minimum_reward_improvement' is for the marl scenario: best responses are not "
                "evaluated while they learn; limit them by trainer.total_timesteps or stopping.rollout.max_iteration"
            )
        self._exact: ExactEvaluator | None = None
        self._reset()

    def arenas(self) -> list[list[str]]:
        return [[player] for player in self.players]

    def resolved_config(self) -> dict[str, Any]:
        return {**super().resolved_config(), "psro": to_dict(self.psro)}

    def execute(self, run: Run) -> dict[str, Any]:
        self._reset()
        self._exact = self._make_exact(run)
        run.expect("iterations", self.psro.max_iteration)
        self._admit(run, run.training.add_policies(self.total_steps))
        self._fill_in_payoffs(run)
        values = self._solve(run, iteration=0)
        for iteration in range(1, self.psro.max_iteration + 1):
            best_responses = run.training.add_policies(self.total_steps)
            learnt = self._train(run, best_responses)
            self._admit(run, best_responses)
            self._fill_in_payoffs(run)
            values = self._solve(run, iteration, learnt)
        return {name: values[name] for name in ("iteration", "nash_conv", "exploitability") if name in values}

    def plot(self, run: Run) -> None:
        from malib_lite.runtime.plots import plot_curves, plot_table

        plots, title = run.folder.path / "plots", f"{self.name}, seed {self.seed}"
        points = [(report["step"], report["nash_conv"]) for report in run.reports if "nash_conv" in report]
        if points:
            plot_curves(plots / "nash_conv.png", title, "iteration", "NashConv", {"NashConv": points}, log_y=True)
        if len(self.players) == 2 and self.payoffs.sizes[0]:
            mixtures = [np.array(list(run.training.strategies[player].mixture.values())) for player in self.players]
            plot_table(plots / "payoffs.png", title, self.players, self.payoffs.table()[0], mixtures)

    # -- the three steps of an iteration ------------------------------------------------------------------------

    def _train(self, run: Run, best_responses: Mapping[str, str]) -> dict[str, Any]:
        """Every player learns against the others' mixtures."""
        pools = {player: run.training.strategies[player].mixture for player in self.players}
        budget = Budget(self.total_steps, self.stopping.rollout.max_iteration, self.stopping.training.max_iteration)
        learnt: dict[str, Any] = {}
        for leg in train(run, best_responses, budget, num_legs=4, pools=pools):
            for player, report in leg.reports.items():
                learnt[f"{player}/updates"] = report["updates"]
                learnt.update({f"{player}/{name}": value for name, value in report["metrics"].items()})
        return learnt

    def _fill_in_payoffs(self, run: Run) -> None:
        """Find out what every joint choice is worth that is not in the table yet."""
        strategies = run.training.strategies
        self.payoffs.expand([strategies[player].num_policy for player in self.players])
        missing = self.payoffs.missing()
        if self._exact is not None:
            table = self._exact.payoffs()
            for choice in missing:
                self.payoffs.record(choice, [float(payoffs[choice]) for payoffs in table])
            return
        matches = [
            {player: strategies[player].policy_ids[index] for player, index in zip(self.players, choice, strict=True)}
            for choice in missing
        ]
        evaluate = {player: not self.policies[player].policy_class.stochastic for player in self.players}
        for choice, books in zip(
            missing, run.rollout.simulate(matches, self.psro.payoff_episodes, evaluate), strict=True
        ):
            run.count_crashes(books)
            tallies = [[books.returns[agent] for agent in self.groups[player]] for player in self.players]
            self.payoffs.record(
                choice,
                [sum(tally.mean for tally in team) / len(team) for team in tallies],
                [max(tally.standard_error for tally in team) for team in tallies],
            )

    def _solve(self, run: Run, iteration: int, learnt: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Mix the populations anew, see how good the mixtures are, and report."""
        mixtures = self._meta_solver(self.payoffs.table())
        values: dict[str, Any] = {"iteration": iteration}
        for player, mixture in zip(self.players, mixtures, strict=True):
            strategy = run.training.strategies[player]
            strategy.update_prob_list(dict(zip(strategy.policy_ids, mixture.tolist(), strict=True)))
            values[f"{player}/mixture"] = mixture.round(6).tolist()
        for player, value in zip(self.players, self.payoffs.values(mixtures), strict=True):
            values[f"{player}/value"] = float(value)
        quality = ""
        if self._exact is not None:
            agents = {self.groups[player][0]: mixture for player, mixture in zip(self.players, mixtures, strict=True)}
            values["nash_conv"] = self._exact.nash_conv(agents)
            values["exploitability"] = values["nash_conv"] / len(self.players)
            quality = f"   NashConv {max(0.0, values['nash_conv']):.4f}"
        values.update(learnt or {})
        values["env_steps"] = run.env_steps
        run.folder.write_json("checkpoints/state.json", self.state_dict(run, iteration))
        run.report(iteration, values)  # what is reported is saved
        supports = " x ".join(str(int((mixture > 1e-6).sum())) for mixture in mixtures)
        run.console.say(
            f"iteration {iteration:>3}{quality}   value {values[f'{self.players[0]}/value']:+.4f}   "
            f"support {supports} of {self.payoffs.sizes[0]}   steps {run.env_steps:>9,}"
        )
        return values

    # -- inside -------------------------------------------------------------------------------------------------

    def _reset(self) -> None:
        """Empty populations."""
        self.payoffs = PayoffManager(self.players)
        self._digests: dict[str, dict[str, str]] = {}  # of every pool member, by player and policy id

    def _make_exact(self, run: Run) -> ExactEvaluator | None:
        """The game's exact evaluation, where it offers one, every player is one agent, and none of them remembers: what
        those do is a function of all that they have seen."""
        if any(strategy.gen_policy().memory_size for strategy in run.training.strategies.values()):
            return None
        creator = self.env_description["creator"]
        if any(len(agents) > 1 for agents in self.groups.values()) or not hasattr(creator, "make_exact"):
            return None
        game = creator.make_exact(**self.env_description["config"])
        if game is None:
            return None
        if game.agents != [agents[0] for agents in self.groups.values()]:
            raise ConfigError(f"the exact game's agents are {game.agents}, the environment's are {self.groups}")
        return ExactEvaluator(game)

    def _admit(self, run: Run, policies: Mapping[str, str]) -> None:
        """Freeze policies, save them, and hand them to the exact evaluation."""
        run.training.freeze(policies)
        for player, policy_id in policies.items():
            snapshot = run.training.snapshot(player, policy_id)
            self._digests.setdefault(player, {})[policy_id] = run.save_policy(snapshot)
            if self._exact is not None:
                policy = run.training.strategies[player].gen_policy()
                policy.import_state(snapshot.arrays)
                self._exact.add(self.groups[player][0], policy)

    def state_dict(self, run: Run, iteration: int) -> dict[str, Any]:
        """The population and its payoffs; the policies lie beside it under their digests."""
        return {
            "iteration": iteration,
            "strategies": {player: run.training.strategies[player].state_dict() for player in self.players},
            "policies": self._digests,
            "payoffs": self.payoffs.state_dict(),
        }
