"""What off-policy methods share: targets, networks that follow slowly, Q of continuous actions."""

from __future__ import annotations

import dataclasses
from math import prod

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from malib_lite.config import ConfigError
from malib_lite.models.distributions import ILLEGAL_LOGIT
from malib_lite.models.nets import NetConfig, check_observation_space, make_encoder, make_net


def td_target(
    reward_t: torch.Tensor, value_tp1: torch.Tensor, terminated_t: torch.Tensor, discount: torch.Tensor
) -> torch.Tensor:
    """r + gamma * V(s'), and just r where the episode terminated; all (B,).

    ``value_tp1`` may hold anything, NaN included, where ``terminated_t`` is True. A truncated episode did not
    terminate: what would have followed counts by its value.
    """
    return torch.where(terminated_t, reward_t, reward_t + discount * value_tp1)


def greedy_actions(q: torch.Tensor, act_mask: torch.Tensor | None) -> torch.Tensor:
    """argmax_a Q(s, a) over legal a, (B,) int64; q (B, A) float32, act_mask (B, A) bool."""
    return (q if act_mask is None else q.masked_fill(~act_mask, ILLEGAL_LOGIT)).argmax(-1)


def explore(
    action: torch.Tensor, epsilon: float, num_actions: int, act_mask: torch.Tensor | None, generator: torch.Generator
) -> torch.Tensor:
    """Actions (B,) int64, each replaced by one of the legal ones at random with probability ``epsilon``."""
    explores = torch.rand(len(action), generator=generator).to(action.device) < epsilon
    lottery = torch.rand((len(action), num_actions), generator=generator).to(action.device)
    if act_mask is not None:
        lottery.masked_fill_(~act_mask, -1.0)  # tickets are at least 0: an illegal one never wins
    return torch.where(explores, lottery.argmax(-1), action)


def explored_probs(probs: torch.Tensor, epsilon: torch.Tensor, act_mask: torch.Tensor | None) -> torch.Tensor:
    """The distribution that :func:`explore` makes of ``probs`` (B, A)."""
    legal = torch.ones_like(probs) if act_mask is None else act_mask.float()
    return (1 - epsilon) * probs + epsilon * legal / legal.sum(-1, keepdim=True)


class Follower:
    """The parameters of a network that follow those of another; both are looked up once, for it takes long."""

    def __init__(self, follower: nn.Module, leader: nn.Module) -> None:
        self._parameters = list(zip(follower.parameters(), leader.parameters(), strict=True))
        self._buffers = list(zip(follower.buffers(), leader.buffers(), strict=True))

    @torch.no_grad()
    def follow(self, share: float) -> None:
        """Move the parameters a ``share`` of the way to those of the leader and copy its buffers.

        The soft update of Lillicrap et al. 2016, algorithm 1 (https://arxiv.org/abs/1509.02971), tau being ``share``.
        """
        for slow, fast in self._parameters:
            slow.lerp_(fast, share)
        for kept, new in self._buffers:
            kept.copy_(new)


def check_discrete_spaces(algorithm: str, observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """Raise ConfigError where ``algorithm``, which compares single choices, cannot act in these spaces."""
    check_observation_space(observation_space)
    if not isinstance(action_space, spaces.Discrete) or action_space.start != 0:
        raise ConfigError(f"{algorithm} needs Discrete actions from 0, this environment has {action_space}")


def check_box_spaces(algorithm: str, observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """Raise ConfigError where ``algorithm``, whose actions fill a bounded Box, cannot act in these spaces."""
    check_observation_space(observation_space)
    if not isinstance(action_space, spaces.Box):
        raise ConfigError(f"{algorithm} needs Box actions, this environment has {action_space}")
    if not np.issubdtype(action_space.dtype, np.floating):
        raise ConfigError(
            f"{algorithm} needs Box actions of floating-point numbers, this environment has {action_space}"
        )
    if not (np.isfinite(action_space.low).all() and np.isfinite(action_space.high).all()):
        raise ConfigError(f"{algorithm} needs Box actions with finite bounds, this environment has {action_space}")
    if not (action_space.low < action_space.high).all():
        raise ConfigError(f"{algorithm} needs bounds that differ, this environment has {action_space}")


def check_replay(capacity: int, batch_size: int, learning_starts: int) -> None:
    """Raise ValueError where a store of ``capacity`` transitions would never give a batch."""
    if batch_size > capacity or learning_starts > capacity:
        raise ValueError(
            f"capacity ({capacity}) must hold batch_size ({batch_size}) and learning_starts ({learning_starts}) "
            "transitions"
        )


class Bounds(nn.Module):
    """A Box's middle and half width, constants of the space: they need not travel with the parameters."""

    middle: torch.Tensor  # (*action) float32
    half_width: torch.Tensor

    def __init__(self, space: spaces.Box) -> None:
        super().__init__()
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        self.register_buffer("middle", torch.tensor((high + low) / 2, dtype=torch.float32), persistent=False)
        self.register_buffer("half_width", torch.tensor((high - low) / 2, dtype=torch.float32), persistent=False)

    def normalise(self, action: torch.Tensor) -> torch.Tensor:
        """Actions (B, *action) of any floating dtype in units of half the box from its middle, float32."""
        return (action.float() - self.middle) / self.half_width


class QNet(nn.Module):
    """Q(s, a) of Box actions: a perceptron of the encoded observation and the action side by side."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Box, settings: NetConfig) -> None:
        super().__init__()
        self.encoder = make_encoder(observation_space, settings)
        self.bounds = Bounds(action_space)
        joint_space = spaces.Box(-np.inf, np.inf, (self.encoder.num_features + prod(action_space.shape),))
        # the encoder has dealt with images
        self.net = make_net(joint_space, 1, dataclasses.replace(settings, images="auto"), output_gain=1.0)

    def forward(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """(B, *obs), (B, *action) -> (B,) float32."""
        action = self.bounds.normalise(action).flatten(1)
        return self.net(torch.cat([self.encoder(observation), action], -1)).squeeze(-1)
