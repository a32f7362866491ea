"""Uniformly random play: the baseline of every table, the first opponent of every population.

Draws uniformly over the legal actions (Discrete, MultiDiscrete), or over the box (Box with bounds). Nothing is learnt.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from malib_lite.config import ConfigError, PositiveInt, config, defaults, option
from malib_lite.contracts.data import OnPolicySpec, Trajectories
from malib_lite.contracts.policy import Policy, PolicyOutput
from malib_lite.contracts.trainer import Algorithm, Metrics, Trainer
from malib_lite.models.actions import array_action_space, num_choices
from malib_lite.models.distributions import MaskedCategorical, MultiCategorical
from malib_lite.models.nets import NetConfig


@config
class RandomConfig:
    """There is nothing to set; the field is there so that any algorithm can be put in this one's place."""

    total_timesteps: PositiveInt | None = option(None, "environment steps that schedules span; None: the run's own")


class RandomPolicy(Policy):
    """Uniform over legal actions, with and without ``evaluate``: a uniform distribution has no better mode."""

    stochastic = True
    model_class = NetConfig
    low: torch.Tensor  # (*action) float32, for Box actions
    high: torch.Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        model_config: Mapping[str, Any] | None = None,
        custom_config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(observation_space, action_space, model_config, custom_config)
        self.check_spaces(observation_space, action_space)
        if isinstance(action_space, spaces.Box):
            self.register_buffer("low", torch.tensor(action_space.low, dtype=torch.float32), persistent=False)
            self.register_buffer("high", torch.tensor(action_space.high, dtype=torch.float32), persistent=False)

    @classmethod
    def check_spaces(cls, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        own = array_action_space(action_space) is action_space
        if isinstance(action_space, spaces.Box):
            own = action_space.is_bounded() and np.issubdtype(action_space.dtype, np.floating)
        if not own:
            raise ConfigError(
                "random needs Discrete or MultiDiscrete actions that count from 0, or real Box actions with finite "
                f"bounds, this environment has {action_space}"
            )

    def compute_action(
        self,
        observation: torch.Tensor,
        act_mask: torch.Tensor | None = None,
        evaluate: bool = False,
        hidden_state: Any = None,
    ) -> PolicyOutput:
        size, device = len(observation), observation.device
        if isinstance(self.action_space, spaces.Discrete) and act_mask is None:  # as below, ten times as fast
            n = int(self.action_space.n)
            action = torch.randint(n, (size,), generator=self.generator).to(device)
            return PolicyOutput(action, torch.full((size,), -math.log(n), device=device), {}, hidden_state)
        if not isinstance(self.action_space, spaces.Box):
            distribution = self._distribution(observation, act_mask)
            action = distribution.draw(self.generator)
            return PolicyOutput(action, distribution.log_prob(action), {}, hidden_state)
        width = self.high - self.low
        uniform = torch.rand((size, *self.low.shape), generator=self.generator).to(device)
        log_prob = -width.log().sum().expand(size)
        return PolicyOutput(self.low + width * uniform, log_prob, {}, hidden_state)

    def action_probs(
        self, observation: torch.Tensor, act_mask: torch.Tensor | None = None, evaluate: bool = False
    ) -> torch.Tensor:
        if not isinstance(self.action_space, spaces.Discrete):
            return super().action_probs(observation, act_mask, evaluate)
        return MaskedCategorical(
            torch.zeros(len(observation), int(self.action_space.n), device=observation.device), act_mask
        ).probs

    def _distribution(
        self, observation: torch.Tensor, act_mask: torch.Tensor | None
    ) -> MaskedCategorical | MultiCategorical:
        logits = torch.zeros(len(observation), num_choices(self.action_space) or 0, device=observation.device)
        if isinstance(self.action_space, spaces.MultiDiscrete):
            return MultiCategorical(logits, self.action_space.nvec.tolist(), act_mask)
        return MaskedCategorical(logits, act_mask)


class RandomTrainer(Trainer[Trajectories, Trajectories]):
    """Takes data and changes nothing."""

    config_class = RandomConfig

    def setup(self) -> None:
        pass

    def data_spec(self) -> OnPolicySpec:
        return OnPolicySpec()

    def minibatches(self, batch: Trajectories) -> Iterator[Trajectories]:
        return iter(())

    def compute_gradients(self, minibatch: Trajectories) -> tuple[Sequence[torch.Tensor], Metrics]:
        return [], {}

    def apply_gradients(self, gradients: Sequence[torch.Tensor]) -> Metrics:
        self.num_updates += 1
        return {}


DEFAULT_CONFIG = {"training_config": defaults(RandomConfig), "model_config": defaults(NetConfig), "custom_config": {}}
ALGORITHM = Algorithm(RandomPolicy, RandomTrainer)
