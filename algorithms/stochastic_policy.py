"""Policies that draw their actions from a distribution over what the observation allows, and remember nothing."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import nn

from malib_lite.contracts.policy import Policy, PolicyOutput
from malib_lite.models.distributions import MaskedCategorical, ProbaDistribution


class StochasticPolicy(Policy):
    """Draws while it explores, and takes the mode else; who inherits says what the distribution is."""

    stochastic = True

    @abstractmethod
    def distribution(self, observation: torch.Tensor, act_mask: torch.Tensor | None) -> ProbaDistribution:
        """What is drawn from, for observations (B, *obs) and legal actions (B, A) bool; None: all are."""

    def compute_action(
        self,
        observation: torch.Tensor,
        act_mask: torch.Tensor | None = None,
        evaluate: bool = False,
        hidden_state: Any = None,
    ) -> PolicyOutput:
        distribution = self.distribution(observation, act_mask)
        action = distribution.mode if evaluate else distribution.draw(self.generator)
        return PolicyOutput(action, distribution.log_prob(action), {}, hidden_state)

    def action_probs(
        self, observation: torch.Tensor, act_mask: torch.Tensor | None = None, evaluate: bool = False
    ) -> torch.Tensor:
        distribution = self.distribution(observation, act_mask)
        if not isinstance(distribution, MaskedCategorical):
            return super().action_probs(observation, act_mask, evaluate)
        probs = distribution.probs
        return nn.functional.one_hot(distribution.mode, probs.shape[-1]).float() if evaluate else probs
