"""Neural fictitious self-play (Heinrich and Silver, 2016, https://arxiv.org/abs/1603.01121, algorithm 1).

    for every player: a best response Q, an average policy Pi, a replay memory M_RL, a reservoir M_SL
    repeat
        for every player and episode: play Q with probability eta, else Pi
        store every transition in M_RL; store the action in M_SL where Q played
        train Q by reinforcement learning on M_RL, train Pi to imitate M_SL

The average policies approach a Nash equilibrium of two-player zero-sum games.

Deviations: what Q and Pi learn by is given to the scenario, with deviations of its own (DQN's are in algorithms/dqn.py,
the average policy's in algorithms/average_policy.py). Many environments are played at once and updates come in bursts
between the rounds: as many of Q as its trainer asks for, each with one of Pi. Schedules span the run, where the paper's
exploration falls with the square root of the iterations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from malib_lite import registry
from malib_lite.backend.members import Member
from malib_lite.config import ConfigError, Fraction, build, config, option, to_dict
from malib_lite.contracts.data import ReplaySpec, ReservoirSpec
from malib_lite.population.exploitability import ExactEvaluator, exact_game
from malib_lite.population.nfsp import NFSPPolicy, NFSPTrainer, NFSPTrainerConfig, TrainerSpec
from malib_lite.rollout.rolloutworker import PolicySpec
from malib_lite.scenarios.run import Leg, Run
from malib_lite.scenarios.scenario import Scenario
from malib_lite.scenarios.training import Budget, train

if TYPE_CHECKING:
    from malib_lite.contracts.policy import Policy
    from malib_lite.contracts.trainer import Trainer

_NUM_REPORTS = 50


@config
class NFSPConfig:
    """What neural fictitious self-play has beside its best responses, which the trainer section is about."""

    anticipatory: Fraction = option(0.1, "eta, the probability that a player plays an episode by its best response")
    trainer: dict[str, Any] = option({}, "training of the average policies")
    model: dict[str, Any] = option({}, "networks of the average policies")


class NFSPScenario(Scenario):
    """All players learn in the same environments, each a best response to the others and its own average."""

    rollout_defaults = {"fragment_length": 2048, "num_env_per_thread": 256}
    default_steps = 200_000
    outer_config = NFSPConfig

    def __init__(
        self, *args: Any, average: tuple[type[Policy], type[Trainer[Any, Any]]],
        nfsp_config: Mapping[str, Any] | NFSPConfig | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        """
        Args:
            average: policy and trainer class of the average policies; the trainer learns from a reservoir.
            nfsp_config: see :class:`NFSPConfig`.

        The other arguments are those of :class:`~malib_lite.scenarios.scenario.Scenario`; ``algorithms`` are those of
        the best responses, whose trainers learn from replay.
        """
        super().__init__(*args, **kwargs)
        if len(self.groups) < 2:
            raise ConfigError(
                f"nfsp needs at least two players; this environment's agents make up {len(self.groups)} "
                f"({', '.join(self.groups)}); try the marl scenario"
            )
        if self.stopping.rollout.minimum_reward_improvement is not None:
            raise ConfigError(
                "'stopping.rollout.minimum_reward_improvement' is for the marl scenario: returns of players who learn "
                "against each other need not improve; limit them by trainer.total_timesteps"
            )
        settings = build(NFSPConfig, nfsp_config, "nfsp")
        policy_class, trainer_class = average
        of_trainer: Any = build(trainer_class.config_class, settings.trainer, "nfsp.trainer")
        of_model = to_dict(build(policy_class.model_class, settings.model, "nfsp.model"))
        self.nfsp = NFSPConfig(anticipatory=settings.anticipatory, trainer=to_dict(of_trainer), model=of_model)
        self._config = super().resolved_config()  # trainer and model are those of the best responses
        for player, best_response in self.policies.items():
            seen, done = best_response.observation_space, best_response.action_space
            registry.check_spaces(policy_class, seen, done)
            average_policy = PolicySpec(policy_class, seen, done, of_model, {})
            parts = NFSPTrainerConfig(
                best_response=TrainerSpec(*self.trainers[player]), average=TrainerSpec(trainer_class, of_trainer)
            )
            _check("best response", parts.best_response, best_response, ReplaySpec, "replayed transitions")
            _check("average policy", parts.average, average_policy, ReservoirSpec, "a reservoir")
            custom_config = {
                "best_response": best_response, "average": average_policy, "anticipatory": self.nfsp.anticipatory
            }  # fmt: skip
            self.policies[player] = PolicySpec(NFSPPolicy, seen, done, {}, custom_config)
            self.trainers[player] = NFSPTrainer, parts
        self._game = exact_game(self.env_description, self.groups, self.policies.values())

    def algorithm_defaults(self, trainer_class: type[Trainer[Any, Any]]) -> Mapping[str, Mapping[str, Any]]:
        return trainer_class.fictitious_play_defaults

    def arenas(self) -> list[list[str]]:
        return [list(self.groups)]

    def resolved_config(self) -> dict[str, Any]:
        return {**self._config, **self.names, "nfsp": to_dict(self.nfsp)}

    def execute(self, run: Run) -> dict[str, Any]:
        learners = run.training.add_policies(horizon=self.total_steps)
        budget = Budget(self.total_steps, self.stopping.rollout.max_iteration, self.stopping.training.max_iteration)
        run.expect("steps", budget.env_steps)
        policies = {player: spec.make(0) for player, spec in self.policies.items()}
        best: dict[str, Any] = {}  # average policies of least NashConv
        for leg in train(run, learners, budget, _NUM_REPORTS):
            members = run.training.save(learners)
            digests = {player: member.digest for player, member in members.items()}
            for player, policy in policies.items():
                policy.import_state(run.members.load(digests[player]))
            quality = self._quality(policies)
            if quality and (not best or quality["nash_conv"] < best["nash_conv"]):
                best = {"env_steps": leg.env_steps, "nash_conv": quality["nash_conv"], "policies": digests}
            if best:
                quality["nash_conv_best"] = best["nash_conv"]
            state = {"env_steps": leg.env_steps, "policies": digests, "best": best}
            run.checkpoint(state)
            result = self._returns(run, members) if leg.is_last and not quality else quality
            run.report(leg.env_steps, {**_values(leg), **result})
            run.console.say(_line(leg, quality))
        names = ("nash_conv", "exploitability")
        if not best:
            return result
        return {
            **{name: quality[name] for name in names},
            "best": {key: best[key] for key in ("env_steps", "nash_conv")},
        }

    def plot(self, run: Run) -> None:
        from malib_lite.runtime.plots import plot_nash_conv

        if any("nash_conv" in report for report in run.reports):
            path, title = run.folder.path / "plots" / "nash_conv.png", self.title
            plot_nash_conv(path, title, "environment steps", run.reports, {"nash_conv": "average policies"})

    # -- inside -------------------------------------------------------------------------------------------------

    def _quality(self, policies: Mapping[str, Policy]) -> dict[str, float]:
        """How far the average policies are from an equilibrium, where the game can be solved."""
        if self._game is None:
            return {}
        exact = ExactEvaluator(self._game)
        for player, (agent,) in self.groups.items():
            exact.add(agent, policies[player])
        nash_conv = exact.nash_conv(dict.fromkeys(exact.agents, np.ones(1)))
        return {"nash_conv": nash_conv, "exploitability": nash_conv / len(self.groups)}

    def _returns(self, run: Run, members: Mapping[str, Member]) -> dict[str, float]:
        """What the average policies earn from each other."""
        match = {player: {member: 1.0} for player, member in members.items()}
        books = run.rollout.simulate([match], self.rollout.num_eval_episodes)[0]
        run.count_crashes(books)
        return books.summary("eval/")


def _check(who: str, trainer: TrainerSpec, policy: PolicySpec, data_spec: type, source: str) -> None:
    """Raise ConfigError where a learner cannot be one of the two."""
    name, made = trainer.trainer_class.__name__, policy.outline()
    if trainer.trainer_class.joint or not isinstance(trainer.make(made, 0, None).data_spec(), data_spec):
        raise ConfigError(f"nfsp: the {who} of one agent is to learn from {source}, which {name} does not")
    if made.recorded_fields:
        raise ConfigError(
            f"nfsp: the {who}'s policy has {', '.join(made.recorded_fields)} recorded, but decisions are not its alone;"
            " try the model's memory 'none', or another algorithm"
        )


def _values(leg: Leg) -> dict[str, Any]:
    values: dict[str, Any] = {"episodes": leg.books.length.count, **leg.books.summary()}
    for player, report in leg.reports.items():
        values[f"{player}/updates"] = report["updates"]
        values.update({f"{player}/{name}": value for name, value in report["metrics"].items()})
    return values


def _line(leg: Leg, quality: Mapping[str, float]) -> str:
    played = f"steps {leg.env_steps:>10,}   episodes {leg.books.length.count:>7,}"
    if quality:
        return f"{played}   NashConv {quality['nash_conv']:.4f}   exploitability {quality['exploitability']:.4f}"
    return f"{played}   return " + " / ".join(f"{tally.mean:.2f}" for tally in leg.books.returns.values())
