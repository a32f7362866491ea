"""A policy that is a table: what exact best responses are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from malib_lite.config import config
from malib_lite.contracts.policy import Policy, PolicyOutput


@config
class TabularConfig:
    """Nothing can be chosen."""


class TabularPolicy(Policy):
    """Looks an observation up among those of the information sets, and draws from the row that stands there.

    ``custom_config["observations"]`` (I, *obs) are the information sets' observations, each different from the others.
    """

    stochastic = True
    model_class = TabularConfig

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        model_config: Mapping[str, Any] | None = None,
        custom_config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(observation_space, action_space, model_config, custom_config)
        assert isinstance(action_space, spaces.Discrete)
        observations = self.custom_config["observations"]
        self._row_of = {_key(observation): row for row, observation in enumerate(observations)}
        if len(self._row_of) < len(observations):
            raise ValueError("several information sets look alike: a table cannot tell them apart")
        self.table: torch.Tensor
        self.register_buffer("table", torch.zeros(len(observations), int(action_space.n), dtype=torch.float64))

    def compute_action(
        self,
        observation: torch.Tensor,
        act_mask: torch.Tensor | None = None,
        evaluate: bool = False,
        hidden_state: Any = None,
    ) -> PolicyOutput:
        if self._rows(observation).min() < 0:
            raise KeyError("a table was asked about an observation that is that of no information set")
        probs = self.action_probs(observation, act_mask, evaluate)
        action = torch.multinomial(probs, 1, generator=self.generator).squeeze(-1)
        return PolicyOutput(action, probs.gather(-1, action[:, None]).squeeze(-1).log().float(), {}, hidden_state)

    def action_probs(
        self, observation: torch.Tensor, act_mask: torch.Tensor | None = None, evaluate: bool = False
    ) -> torch.Tensor:
        """(B, A) float64; all actions alike for what is seen in no information set, as after the end of an episode."""
        rows = self._rows(observation)
        probs = torch.where(rows[:, None] < 0, 1.0 / self.table.shape[1], self.table[rows])
        return torch.nn.functional.one_hot(probs.argmax(-1), probs.shape[-1]).double() if evaluate else probs

    def _rows(self, observation: torch.Tensor) -> torch.Tensor:
        """The information set (B,) int64 of each observation; -1: none."""
        return torch.tensor([self._row_of.get(_key(seen), -1) for seen in observation.numpy()], dtype=torch.int64)


def _key(observation: np.ndarray) -> bytes:
    return np.asarray(observation, np.float32).tobytes()
