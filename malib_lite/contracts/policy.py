"""The policy contract: how an agent acts."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from malib_lite.contracts.data import MEMORY, Field


class PolicyOutput(NamedTuple):
    """One action for each row of a batch."""

    action: torch.Tensor  # (B,) int64 for Discrete, (B, parts) int64 for MultiDiscrete, (B, *action) float32 for Box
    log_prob: torch.Tensor | None  # (B,) float32, where the policy has one
    extras: Mapping[str, torch.Tensor]  # (B, ...): exactly the policy's declared extra_fields
    hidden_state: Any


class Policy(nn.Module):
    """A network with a way of acting; what is learnt and everything that travels with it is in its ``state_dict``.

    The sampler's loop::

        policy.seed(7)                                   # its own random stream on the CPU, never torch's global one
        policy.load_state_dict(parameters)               # normalisers and exploration rates come along as buffers
        output = policy.compute_action(observation, act_mask, evaluate=False)
        record(output.action, **output.extras)

    ``evaluate=True`` turns exploration off and, for a distribution, takes its mode. A member of a population plays
    its policy proper: ``evaluate = not policy.stochastic``.
    """

    stochastic: ClassVar[bool] = False  # the policy proper is a distribution; its mode would be another policy
    tells_alike_apart: ClassVar[bool] = False  # knows information sets by their numbers, see :meth:`tabulate`
    model_class: ClassVar[type]  # made with malib_lite.config.config: what ``model_config`` may say

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        model_config: Mapping[str, Any] | None = None,
        custom_config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.observation_space = observation_space
        self.action_space = action_space
        self.model_config = dict(model_config or {})
        self.custom_config = dict(custom_config or {})
        self.generator = torch.Generator()

    @property
    def device(self) -> torch.device:
        """Where the parameters are, and with them what is computed."""
        return next(itertools.chain(self.parameters(), self.buffers()), torch.empty(0)).device

    @classmethod
    def check_spaces(cls, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        """Raise ConfigError, with what would fit, where the policy cannot act in these spaces."""

    @property
    def extra_fields(self) -> dict[str, Field]:
        """What this policy's trainer needs recorded beside observation, mask, action and reward."""
        return {}

    @property
    def memory_size(self) -> int:
        """H: how many numbers the policy remembers from one decision of an episode to the next; 0: none.

        A policy that remembers gets them as ``hidden_state`` (B, H) float32, zeros where an episode begins, and returns
        the new ones. They are recorded with every decision, as they were before it.
        """
        return 0

    @property
    def remembers(self) -> bool:
        """Whether the policy proper, which is what a member of a population plays, depends on what is remembered.

        Where it does not, :meth:`action_probs` of all information sets say everything about it.
        """
        return self.memory_size > 0

    @property
    def recorded_fields(self) -> dict[str, Field]:
        """All that is recorded beside observation, mask, action and reward: the memory and :attr:`extra_fields`."""
        remembered = {MEMORY: Field((self.memory_size,), np.dtype(np.float32))} if self.memory_size else {}
        return {**remembered, **self.extra_fields}

    def seed(self, seed: int) -> None:
        """Restart the policy's random stream."""
        self.generator.manual_seed(seed)

    @abstractmethod
    def compute_action(
        self,
        observation: torch.Tensor,
        act_mask: torch.Tensor | None = None,
        evaluate: bool = False,
        hidden_state: Any = None,
    ) -> PolicyOutput:
        """Choose actions for a batch of observations (B, *obs); ``act_mask`` (B, A) bool marks the legal ones.

        For MultiDiscrete actions A is the sum of the parts' numbers of values, and their masks stand side by side.
        """

    def action_probs(
        self, observation: torch.Tensor, act_mask: torch.Tensor | None = None, evaluate: bool = False
    ) -> torch.Tensor:
        """The distribution that :meth:`compute_action` draws from, (B, A), for Discrete actions."""
        raise NotImplementedError(f"{type(self).__name__} has no finite action distribution")

    def tabulate(
        self, observations: torch.Tensor, act_mask: torch.Tensor | None = None, evaluate: bool = False
    ) -> torch.Tensor:
        """:meth:`action_probs` of all that an agent can see, (I, A): its information sets in the order of the game's
        exact form, and whatever is seen beside.

        A policy that knows information sets by their numbers says by this what it does in those that look alike.
        """
        return self.action_probs(observations, act_mask, evaluate)

    def export_state(self) -> dict[str, np.ndarray]:
        """A copy of the ``state_dict`` as arrays: what is published, pooled and saved. Never a reference."""
        return {name: tensor.detach().cpu().numpy().copy() for name, tensor in self.state_dict().items()}

    def import_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Copy arrays that :meth:`export_state` gave into this policy, in place."""
        own = self.state_dict(keep_vars=True)
        check_parameters(own, {name: array.shape for name, array in state.items()})
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(torch.from_numpy(np.array(state[name])))


def check_parameters(own: Mapping[str, torch.Tensor], shapes: Mapping[str, Sequence[int]]) -> None:
    """Raise ValueError unless parameters of these ``shapes`` are those of a policy whose ``state_dict`` is ``own``."""
    if own.keys() != shapes.keys():
        raise ValueError(f"parameters do not fit: {sorted(own.keys() ^ shapes.keys())} on one side only")
    for name, tensor in own.items():
        if tuple(tensor.shape) != tuple(shapes[name]):
            raise ValueError(
                f"parameters do not fit: '{name}' has the shape {tuple(shapes[name])} where it should have "
                f"{tuple(tensor.shape)}"
            )
