"""A policy that is a table: what exact best responses are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from malib_lite.config import ConfigError, config
from malib_lite.contracts.environment import AgentID
from malib_lite.contracts.policy import Policy, PolicyOutput
from malib_lite.contracts.vector import VectorEnvironment
from malib_lite.rollout.rolloutworker import PolicySpec

_NOWHERE, _ALIKE = -1, -2  # an observation of no information set, and of several


@config
class TabularConfig:
    """Nothing can be chosen."""


class TabularPolicy(Policy):
    """Has a row of action probabilities for each information set of a game's exact form, and draws from it.

    ``custom_config["observations"]`` (I, *obs) are what is seen there. An observation that is that of one information
    set alone leads to its row. Information sets that look alike are told apart by their numbers only, where the
    environments have a table of all observations: see :meth:`tabulate`
    and :func:`check_playable`.
    """

    stochastic = True
    tells_alike_apart = True
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
        self._row_of: dict[bytes, int] = {}
        for row, observation in enumerate(observations):
            key = _key(observation)
            self._row_of[key] = _ALIKE if key in self._row_of else row
        self.table: torch.Tensor
        self.register_buffer("table", torch.zeros(len(observations), int(action_space.n), dtype=torch.float64))

    def import_state(self, state: Mapping[str, np.ndarray]) -> None:
        super().import_state(state)
        sums = self.table.sum(-1)
        if not ((self.table >= 0.0).all() and ((sums - 1.0).abs() < 1e-4).all()):  # as games allow; NaN fails, too
            raise ValueError("'table' has rows that are no distribution")

    def compute_action(
        self,
        observation: torch.Tensor,
        act_mask: torch.Tensor | None = None,
        evaluate: bool = False,
        hidden_state: Any = None,
    ) -> PolicyOutput:
        least = int(self._rows(observation).min())
        if least < 0:
            kind = "several information sets" if least == _ALIKE else "no information set"
            raise KeyError(f"a table was asked about an observation that is that of {kind}")
        probs = self.action_probs(observation, act_mask, evaluate)
        action = torch.multinomial(probs, 1, generator=self.generator).squeeze(-1)
        return PolicyOutput(action, probs.gather(-1, action[:, None]).squeeze(-1).log().float(), {}, hidden_state)

    def action_probs(
        self, observation: torch.Tensor, act_mask: torch.Tensor | None = None, evaluate: bool = False
    ) -> torch.Tensor:
        """(B, A) float64; all actions alike for what is seen in no information set, as after the end of an episode.

        Raises:
            KeyError: the observation is that of several information sets.
        """
        rows = self._rows(observation)
        if len(rows) and int(rows.min()) == _ALIKE:
            raise KeyError("a table was asked about an observation that is that of several information sets")
        return self._probs(rows, evaluate)

    def tabulate(
        self, observations: torch.Tensor, act_mask: torch.Tensor | None = None, evaluate: bool = False
    ) -> torch.Tensor:
        """(B, A) float64: by their numbers where the information sets come first, by what is seen where not."""
        own = self.custom_config["observations"]
        if not np.array_equal(observations[: len(own)].numpy(), own):
            return self.action_probs(observations, act_mask, evaluate)
        # What follows them is seen where no choice is asked.
        rows = torch.full((len(observations),), _NOWHERE)
        rows[: len(own)] = torch.arange(len(own))
        return self._probs(rows, evaluate)

    def _probs(self, rows: torch.Tensor, evaluate: bool) -> torch.Tensor:
        probs = torch.where(rows[:, None] < 0, 1.0 / self.table.shape[1], self.table[rows])
        return torch.nn.functional.one_hot(probs.argmax(-1), probs.shape[-1]).double() if evaluate else probs

    def _rows(self, observation: torch.Tensor) -> torch.Tensor:
        """The information set (B,) int64 of each observation, _NOWHERE or _ALIKE."""
        return torch.tensor([self._row_of.get(_key(seen), _NOWHERE) for seen in observation.numpy()], dtype=torch.int64)


def check_playable(
    policies: Mapping[AgentID, Policy | PolicySpec], environments: VectorEnvironment | None = None
) -> None:
    """See that the tables among the agents' policies can be played.

    Args:
        environments: where; None: in some that have no table of observations.

    Raises:
        ConfigError: information sets look alike, and the environments do not say in which one an agent is.
    """
    for agent, policy in policies.items():
        observations = policy.custom_config.get("observations")
        if observations is None or len(set(map(_key, observations))) == len(observations):
            continue
        if environments is None or environments.observation_table(agent) is None:
            raise ConfigError(
                f"computed best responses of {agent} cannot be played here: some of its information sets look alike, "
                "and only compiled games in the worker's own process tell them apart; leave out payoffs 'sampled', "
                "rollout.use_subproc_env and env_config.compiled, or let it see the information state"
            )


def _key(observation: np.ndarray) -> bytes:
    return np.asarray(observation, np.float32).tobytes()
