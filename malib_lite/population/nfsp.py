"""Neural fictitious self-play for one player: a best response and the average of all its past, side by side.

Heinrich and Silver 2016, Deep reinforcement learning from self-play in imperfect-information games
(https://arxiv.org/abs/1603.01121), algorithm 1. What the two learners are is no matter of this file: a best response is
any policy whose trainer learns from replay, an average policy any whose trainer learns from a reservoir.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from malib_lite.config import config
from malib_lite.contracts.data import Field, Pair, PairSpec, ReplaySpec, ReservoirSpec
from malib_lite.contracts.policy import Policy, PolicyOutput
from malib_lite.contracts.trainer import Metrics, Trainer
from malib_lite.rollout.rolloutworker import PolicySpec

IS_BEST_RESPONSE = "is_best_response"  # among the extras: who chose the action, (T, S) bool
_NOT_DRAWN, _BEST_RESPONSE, _AVERAGE = 0.0, 1.0, 2.0  # what is remembered through an episode


@config
class Nothing:
    """The parts have models of their own."""


class NFSPPolicy(Policy):
    """Plays an episode by its best response with probability eta (``anticipatory``), else by its average policy.

    Who plays is drawn at the first decision of an episode, remembered to its end, and recorded. ``custom_config`` has
    the PolicySpecs ``best_response`` and ``average``, and ``anticipatory``.

    Evaluation draws from the average policy: that, and neither the mixture nor the average policy's mode, is what is
    learnt.
    """

    stochastic = False  # a member of a population acts as in evaluation
    model_class = Nothing

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        model_config: Mapping[str, Any] | None = None,
        custom_config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(observation_space, action_space, model_config, custom_config)
        self.best_response = _make(self.custom_config["best_response"])
        self.average = _make(self.custom_config["average"])
        self.anticipatory = float(self.custom_config["anticipatory"])

    @property
    def memory_size(self) -> int:
        return 1

    @property
    def remembers(self) -> bool:
        return self.average.remembers  # who plays the episode is remembered, and there it is always the average policy

    @property
    def extra_fields(self) -> dict[str, Field]:
        return {IS_BEST_RESPONSE: Field((), np.dtype(bool))}

    def compute_action(
        self,
        observation: torch.Tensor,
        act_mask: torch.Tensor | None = None,
        evaluate: bool = False,
        hidden_state: Any = None,
    ) -> PolicyOutput:
        count, device = len(observation), observation.device
        memory = torch.zeros(count, 1, device=device) if hidden_state is None else hidden_state
        # One random stream for all three, and draws for all rows, whoever is to play there: so a row's draws depend
        # neither on the other rows nor on who else's rows are in the batch.
        self.best_response.generator = self.average.generator = self.generator
        if evaluate:
            action = self.average.compute_action(observation, act_mask).action
            nobody = torch.zeros(count, dtype=torch.bool, device=device)
            return PolicyOutput(action, None, {IS_BEST_RESPONSE: nobody}, memory)
        chance = torch.rand((count, 1), generator=self.generator).to(device)
        drawn = torch.where(chance < self.anticipatory, _BEST_RESPONSE, _AVERAGE)
        memory = torch.where(memory == _NOT_DRAWN, drawn, memory)
        best = memory[:, 0] == _BEST_RESPONSE
        of_best_response = self.best_response.compute_action(observation, act_mask).action
        of_average = self.average.compute_action(observation, act_mask).action
        return PolicyOutput(torch.where(best, of_best_response, of_average), None, {IS_BEST_RESPONSE: best}, memory)

    def action_probs(
        self, observation: torch.Tensor, act_mask: torch.Tensor | None = None, evaluate: bool = False
    ) -> torch.Tensor:
        """The average policy's (B, A), with ``evaluate`` or without: the mixture remembers, and has none."""
        return self.average.action_probs(observation, act_mask)


@dataclass(frozen=True)
class TrainerSpec:
    """How the trainer of one of the parts is made."""

    trainer_class: type[Trainer[Any, Any]]
    settings: Any  # an object of its config_class

    def make(self, policy: Policy, seed: int, horizon: int | None) -> Trainer[Any, Any]:
        return self.trainer_class(self.settings, policy, seed, horizon)


@config
class NFSPTrainerConfig:
    """The trainers of both parts."""

    best_response: TrainerSpec
    average: TrainerSpec

    @property
    def total_timesteps(self) -> int | None:
        """The best response's: as long as the training is."""
        steps: int | None = getattr(self.best_response.settings, "total_timesteps", None)
        return steps


@dataclass
class PairOfMinibatches:
    """What the gradients of both parts are computed from."""

    best_response: Any
    average: Any

    @property
    def num_samples(self) -> int:
        """Of the best response."""
        return int(self.best_response.num_samples)


class NFSPTrainer(Trainer[Pair, PairOfMinibatches]):
    """An update is one of the best response, from all that was played, and one of the average policy, from what the
    best response has played."""

    config_class = NFSPTrainerConfig
    config: NFSPTrainerConfig
    policy: NFSPPolicy

    def setup(self) -> None:
        first, second = torch.randint(2**62, (2,), generator=self.generator).tolist()
        self.best_response = self.config.best_response.make(self.policy.best_response, first, self.horizon)
        self.average = self.config.average.make(self.policy.average, second, self.horizon)

    def data_spec(self) -> PairSpec:
        replay, reservoir = self.best_response.data_spec(), self.average.data_spec()
        assert isinstance(replay, ReplaySpec) and isinstance(reservoir, ReservoirSpec)
        return PairSpec(replay, reservoir._replace(flag=IS_BEST_RESPONSE))

    def parameters(self) -> list[torch.nn.Parameter]:
        return [*self.best_response.parameters(), *self.average.parameters()]

    def networks(self) -> dict[str, torch.nn.Module]:
        return {
            f"{name}.{key}": network for name, part in self._parts().items() for key, network in part.networks().items()
        }

    def follow_schedules(self) -> None:
        for part in self._parts().values():
            part.num_steps, part.num_updates = self.num_steps, self.num_updates
            part.follow_schedules()

    def minibatches(self, batch: Pair) -> Iterator[PairOfMinibatches]:
        pairs = zip(
            self.best_response.minibatches(batch.replay), self.average.minibatches(batch.reservoir), strict=True
        )
        for best_response, average in pairs:
            yield PairOfMinibatches(best_response, average)

    def compute_gradients(self, minibatch: PairOfMinibatches) -> tuple[Sequence[torch.Tensor], Metrics]:
        of_best_response, metrics = self.best_response.compute_gradients(minibatch.best_response)
        of_average, metrics_of_average = self.average.compute_gradients(minibatch.average)
        return [*of_best_response, *of_average], _named(metrics, metrics_of_average)

    def apply_gradients(self, gradients: Sequence[torch.Tensor]) -> Metrics:
        count = len(self.best_response.parameters())
        metrics = self.best_response.apply_gradients(gradients[:count])
        metrics_of_average = self.average.apply_gradients(gradients[count:])
        self.num_updates += 1
        return _named(metrics, metrics_of_average)

    def _parts(self) -> dict[str, Trainer[Any, Any]]:
        return {"best_response": self.best_response, "average": self.average}


def _make(spec: PolicySpec) -> Policy:
    """A policy whose parameters come from torch's global stream, as those of any part of a network do."""
    return spec.policy_class(**spec.arguments)


def _named(of_best_response: Metrics, of_average: Metrics) -> Metrics:
    return {
        **{f"best_response/{name}": value for name, value in of_best_response.items()},
        **{f"average/{name}": value for name, value in of_average.items()},
    }
