"""Imitation of all that somebody has done: what neural fictitious self-play calls the average policy.

Paper:
    Heinrich and Silver 2016, Deep reinforcement learning from self-play in imperfect-information games
    (https://arxiv.org/abs/1603.01121), algorithm 1: the network Pi, its loss and its memory M_SL.

Deviations:
    Adam for SGD. Illegal actions have probability zero, in playing and in the loss.
    The learning rate falls linearly over the horizon.

Expected:
    The empirical frequencies of the actions at every observation (tests/test_nfsp.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from gymnasium import spaces

from malib_lite.algorithms.optimiser import Adam, finite, step
from malib_lite.algorithms.stochastic_policy import StochasticPolicy
from malib_lite.algorithms.targets import check_discrete_spaces
from malib_lite.config import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, config, defaults, option
from malib_lite.contracts.data import Decisions, ReservoirSpec
from malib_lite.contracts.trainer import Algorithm, Metrics, Trainer
from malib_lite.models.distributions import MaskedCategorical
from malib_lite.models.nets import NetConfig, make_net


@config
class AveragePolicyConfig:
    """One gradient step for each batch."""

    total_timesteps: PositiveInt | None = option(None, "environment steps that schedules span; None: the run's own")
    learning_rate: NonNegativeFloat = option(5e-3, "Adam's step size at the beginning")
    learning_rate_final: Fraction = option(0.02, "share of learning_rate left at the end of the horizon; 1 holds it")
    batch_size: PositiveInt = option(256, "decisions in one update")
    capacity: PositiveInt = option(1_000_000, "decisions kept, a uniform sample of all there have been")
    max_grad_norm: PositiveFloat = option(10.0, "gradients are scaled down to this norm")


def imitation_loss(logits: torch.Tensor, action: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """-mean log pi(a|s), least where pi is the frequency with which each action was taken.

    Args:
        logits: (B, A) float32.
        action: (B,) int64.
        mask: (B, A) bool, the legal actions; None: all.

    Returns:
        () float32.
    """
    return -MaskedCategorical(logits, mask).log_prob(action).mean()


class AveragePolicy(StochasticPolicy):
    """A categorical policy over the legal actions."""

    model_class = NetConfig

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        model_config: Mapping[str, Any] | None = None,
        custom_config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(observation_space, action_space, model_config, custom_config)
        self.check_spaces(observation_space, action_space)
        assert isinstance(action_space, spaces.Discrete)
        self.num_actions = int(action_space.n)
        self.net = make_net(observation_space, self.num_actions, self.model_config, output_gain=0.01)

    @classmethod
    def check_spaces(cls, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        check_discrete_spaces("the average policy", observation_space, action_space)

    def distribution(self, observation: torch.Tensor, act_mask: torch.Tensor | None) -> MaskedCategorical:
        return MaskedCategorical(self.net(observation), act_mask)


class AveragePolicyTrainer(Trainer[Decisions, Decisions]):
    """Classifies observations by the actions that were taken there."""

    config_class = AveragePolicyConfig
    config: AveragePolicyConfig
    policy: AveragePolicy

    def setup(self) -> None:
        self.trained = self.parameters()
        self.optimiser = Adam(self.trained, self.config.learning_rate)

    def data_spec(self) -> ReservoirSpec:
        return ReservoirSpec(self.config.capacity, self.config.batch_size)

    def minibatches(self, batch: Decisions) -> Iterator[Decisions]:
        yield batch

    def compute_gradients(self, minibatch: Decisions) -> tuple[Sequence[torch.Tensor], Metrics]:
        mask = None if minibatch.action_mask is None else self.tensor(minibatch.action_mask)
        logits = self.policy.net(self.tensor(minibatch.observation))
        loss = imitation_loss(logits, self.tensor(minibatch.action), mask)
        return torch.autograd.grad(loss, self.trained), {"loss": finite(loss, "the average policy")}

    def apply_gradients(self, gradients: Sequence[torch.Tensor]) -> Metrics:
        norm = step(self.optimiser, self.trained, gradients, self.config.max_grad_norm, "the average policy")
        self.num_updates += 1
        return {"grad_norm": norm}


DEFAULT_CONFIG = {
    "training_config": defaults(AveragePolicyConfig),
    "model_config": defaults(NetConfig),
    "custom_config": {},
}
ALGORITHM = Algorithm(AveragePolicy, AveragePolicyTrainer)
