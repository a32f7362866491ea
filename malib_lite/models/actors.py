"""What the actor and the critic of an on-policy method may be made of, beside a plain perceptron."""

from __future__ import annotations

import dataclasses
from math import sqrt
from typing import Literal

import torch
from gymnasium import spaces
from torch import nn

from malib_lite.config import ConfigError, PositiveInt, config, option
from malib_lite.models.distributions import Head, ProbaDistribution, make_proba_distribution
from malib_lite.models.images import channel_order
from malib_lite.models.nets import ACTIVATIONS, Actor, make_net
from malib_lite.models.normaliser import RunningNormaliser
from malib_lite.models.recurrent import MemoryConfig


@config
class ActorCriticConfig(MemoryConfig):
    """Two perceptrons, an actor and a critic, and what stands in front of them and behind."""

    normalise_observations: bool = option(
        False, "to mean 0 and deviation 1 of all that was seen; neither images nor what becomes one-hot"
    )
    normalise_rewards: bool = option(False, "the critic counts in deviations of the discounted sum of rewards")
    exploration: Literal["plain", "state_dependent"] = option(
        "plain", "of Box actions: fresh noise at every decision, or gSDE's, which is a function of what is seen"
    )
    noise_interval: PositiveInt = option(4, "decisions that state-dependent noise is the same function for")


def make_normaliser(observation_space: spaces.Space, settings: ActorCriticConfig) -> RunningNormaliser | nn.Identity:
    """A normaliser of observations, where it is wanted; not of images and Discrete ones, whose range is known."""
    if not settings.normalise_observations or not isinstance(observation_space, spaces.Box):
        return nn.Identity()
    is_image = channel_order(observation_space, settings.images) is not None
    return nn.Identity() if is_image else RunningNormaliser(observation_space.shape)


class StateDependentActor(nn.Module):
    """Observations to Gaussian Box actions whose noise is a function of the last hidden layer (gSDE)."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Box, settings: ActorCriticConfig) -> None:
        super().__init__()
        if not settings.hidden_sizes:
            raise ConfigError("'hidden_sizes' = (): state-dependent exploration needs a hidden layer")
        *before, num_features = settings.hidden_sizes
        shallower = dataclasses.replace(settings, hidden_sizes=tuple(before))
        features = make_net(observation_space, num_features, shallower, output_gain=sqrt(2))
        self.net = nn.Sequential(features, ACTIVATIONS[settings.activation]())
        self.head = make_proba_distribution(action_space, "state_dependent", num_features, settings.noise_interval)

    def forward(self, observation: torch.Tensor, act_mask: torch.Tensor | None = None) -> ProbaDistribution:
        """The distribution of actions for observations (B, *obs)."""
        return self.head(self.net(observation))


def make_actor(
    observation_space: spaces.Space, action_space: spaces.Space, settings: ActorCriticConfig
) -> Actor | StateDependentActor:
    """The actor that ``settings`` describe; ``exploration`` is of no consequence where actions are choices."""
    if settings.exploration == "state_dependent" and isinstance(action_space, spaces.Box):
        return StateDependentActor(observation_space, action_space, settings)
    return Actor(observation_space, action_space, settings)


def restart_noise(module: nn.Module) -> None:
    """Let every head inside ``module`` forget noise that was drawn: the policy's random stream begins anew."""
    for part in module.modules():
        if isinstance(part, Head):
            part.restart()
