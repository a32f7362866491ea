"""The policy that A2C and PPO share: an actor, and a critic of the same observations, behind the same memory.

It notes how likely its actions were when it played them: what is learnt from may be older than the policy that learns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from malib_lite.algorithms.sequences import whole_round
from malib_lite.config import build
from malib_lite.contracts.data import Field, Trajectories
from malib_lite.contracts.devices import to_tensor
from malib_lite.contracts.policy import Policy, PolicyOutput
from malib_lite.models.actors import ActorCriticConfig, make_actor, make_normaliser, restart_noise
from malib_lite.models.distributions import MaskedCategorical, ProbaDistribution
from malib_lite.models.nets import check_actor_spaces, make_net
from malib_lite.models.normaliser import RunningNormaliser
from malib_lite.models.recurrent import Memory


class ActorCriticPolicy(Policy):
    """A categorical (Discrete, MultiDiscrete) or Gaussian (Box) policy, and the critic that trains it."""

    algorithm: ClassVar[str]
    stochastic = True
    model_class = ActorCriticConfig

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        model_config: Mapping[str, Any] | None = None,
        custom_config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(observation_space, action_space, model_config, custom_config)
        self.check_spaces(observation_space, action_space)
        settings = build(ActorCriticConfig, self.model_config, "model_config")
        self.normaliser = make_normaliser(observation_space, settings)
        self.memory = Memory(observation_space, settings)
        self.actor = make_actor(self.memory.space, action_space, self.memory.settings)
        self.critic = make_net(self.memory.space, 1, self.memory.settings, output_gain=1.0)
        self.reward_normaliser = RunningNormaliser(()) if settings.normalise_rewards else None

    @classmethod
    def check_spaces(cls, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        check_actor_spaces(cls.algorithm, observation_space, action_space)

    @property
    def extra_fields(self) -> dict[str, Field]:
        return {"log_prob": Field((), np.dtype(np.float32))}

    @property
    def memory_size(self) -> int:
        return self.memory.size

    def seed(self, seed: int) -> None:
        super().seed(seed)
        restart_noise(self.actor)

    def recall(self, observation: torch.Tensor, memory: torch.Tensor, begins: torch.Tensor) -> torch.Tensor:
        """Features (L, B, ...) of B sequences of L observations (L, B, *obs): what actor and critic are shown.

        Without a memory these are the normalised observations. ``memory`` (B, H) float32 was there before the first
        row; ``begins`` (L, B) bool says where episodes begin.
        """
        features: torch.Tensor = self.memory(self.normaliser(observation), memory, begins)
        return features

    def distribution(self, features: torch.Tensor, act_mask: torch.Tensor | None) -> ProbaDistribution:
        """Of actions, for features (B, ...)."""
        distribution: ProbaDistribution = self.actor(features, act_mask)
        return distribution

    def value(self, features: torch.Tensor) -> torch.Tensor:
        """The critic's V (B,) float32 of features (B, ...)."""
        value: torch.Tensor = self.critic(features).squeeze(-1)
        return value

    def estimates(
        self, batch: Trajectories, needed: np.ndarray, with_log_prob: bool, device: torch.device
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """What the networks, which are on ``device``, say now of a round.

        Returns:
            V (T + 1, S) float32 where ``needed`` (T + 1, S), zeros elsewhere; and log pi(a|s) of the actions that were
            played (T, S) float32, zeros where not valid, if it is asked for.
        """
        value, log_prob = np.zeros(needed.shape, np.float32), np.zeros(batch.valid.shape, np.float32)
        valid, mask = batch.valid, batch.action_mask
        with torch.no_grad():
            features = self.recall(*whole_round(batch, device))
            value[needed] = self.value(features[to_tensor(needed, device)]).cpu().numpy()
            if not with_log_prob:
                return value, None
            distribution = self.distribution(
                features[:-1][to_tensor(valid, device)],
                None if mask is None else to_tensor(mask[:-1][valid], device),
            )
            action = to_tensor(batch.action[valid], device)
            log_prob[valid] = distribution.log_prob(action).cpu().numpy()
        return value, log_prob

    def compute_action(
        self,
        observation: torch.Tensor,
        act_mask: torch.Tensor | None = None,
        evaluate: bool = False,
        hidden_state: Any = None,
    ) -> PolicyOutput:
        features, hidden_state = self.memory.step(self.normaliser(observation), hidden_state)
        distribution = self.distribution(features, act_mask)
        action = distribution.mode if evaluate else distribution.draw(self.generator)
        log_prob = distribution.log_prob(action)
        return PolicyOutput(action, log_prob, {"log_prob": log_prob}, hidden_state)

    def action_probs(
        self, observation: torch.Tensor, act_mask: torch.Tensor | None = None, evaluate: bool = False
    ) -> torch.Tensor:
        if not isinstance(self.action_space, spaces.Discrete) or self.memory_size:
            return super().action_probs(observation, act_mask, evaluate)
        distribution = self.distribution(self.normaliser(observation), act_mask)
        assert isinstance(distribution, MaskedCategorical)
        return (
            nn.functional.one_hot(distribution.mode, int(self.action_space.n)).float()
            if evaluate
            else distribution.probs
        )
