"""Networks from spaces: multi-layer perceptrons, and the stochastic actor that policy-gradient methods share."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod, sqrt
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from malib_lite.config import ConfigError, PositiveInt, build, config, option
from malib_lite.models.actions import array_action_space, num_choices
from malib_lite.models.distributions import DiagGaussian, MaskedCategorical, MultiCategorical

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU}


@config
class MLPConfig:
    """A multi-layer perceptron."""

    hidden_sizes: tuple[PositiveInt, ...] = option((64, 64), "units of each hidden layer; none makes a linear map")
    activation: Literal["tanh", "relu", "elu"] = option("tanh", "nonlinearity after each hidden layer")


def check_observation_space(space: spaces.Space) -> None:
    """Raise ConfigError where :func:`make_net` cannot read observations of ``space``."""
    if isinstance(space, spaces.Box) or (isinstance(space, spaces.Discrete) and space.start == 0):
        return
    raise ConfigError(f"networks read Box and Discrete observations that start at 0, this environment has {space}")


def check_actor_spaces(algorithm: str, observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """Raise ConfigError where an :class:`Actor` of ``algorithm`` cannot act in these spaces."""
    check_observation_space(observation_space)
    if array_action_space(action_space) is not action_space:
        raise ConfigError(
            f"{algorithm} needs Box, Discrete or MultiDiscrete actions that count from 0, this environment has "
            f"{action_space}"
        )


class Encoder(nn.Module):
    """Observations (B, *obs) as rows of numbers (B, F) float32: Box flattened, Discrete as one-hot."""

    def __init__(self, space: spaces.Space) -> None:
        super().__init__()
        check_observation_space(space)
        self.num_values = int(space.n) if isinstance(space, spaces.Discrete) else 0
        self.num_features = self.num_values or prod(space.shape or ())

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        if self.num_values:
            return nn.functional.one_hot(observation.long(), self.num_values).float()
        return observation.flatten(1).float()


def make_net(
    observation_space: spaces.Space, output_dim: int, model_config: Mapping[str, Any] | MLPConfig, output_gain: float
) -> nn.Sequential:
    """A perceptron (B, *obs) -> (B, output_dim) float32.

    Weights are orthogonal with gain sqrt(2) in hidden layers and ``output_gain`` in the last, biases zero: the
    initialisation that Andrychowicz et al. 2021 (https://arxiv.org/abs/2006.05990) found to matter, above all a
    small last layer for policies. They come from torch's global stream: whoever builds a policy seeds that locally.
    """
    settings = build(MLPConfig, model_config, "model_config")
    encoder = Encoder(observation_space)
    layers: list[nn.Module] = [encoder]
    width = encoder.num_features
    for size in settings.hidden_sizes:
        layers += [_linear(width, size, sqrt(2)), ACTIVATIONS[settings.activation]()]
        width = size
    return nn.Sequential(*layers, _linear(width, output_dim, output_gain))


def _linear(inputs: int, outputs: int, gain: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class Actor(nn.Module):
    """A stochastic policy: observations to a distribution over Discrete, MultiDiscrete or Box actions.

    Box actions are Gaussian with a deviation that does not depend on the observation. Mean and deviation are in units
    of half the box, from its middle, where the box has bounds; draws can leave it, and whoever steps the environment
    clips them *after* recording, for the recorded action is the one that has this log-probability.
    """

    middle: torch.Tensor  # (*action) float32, for Box actions
    half_width: torch.Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        model_config: Mapping[str, Any] | MLPConfig,
        output_gain: float = 0.01,
    ) -> None:
        super().__init__()
        self.num_values = action_space.nvec.tolist() if isinstance(action_space, spaces.MultiDiscrete) else None
        choices = num_choices(action_space)
        if choices is not None:
            self.register_parameter("log_std", None)
            self.net = make_net(observation_space, choices, model_config, output_gain)
            return
        assert isinstance(action_space, spaces.Box)
        self.net = make_net(observation_space, prod(action_space.shape), model_config, output_gain)
        self.log_std = nn.Parameter(torch.zeros(action_space.shape))
        bounded = np.isfinite(action_space.low) & np.isfinite(action_space.high)
        low, high = np.where(bounded, action_space.low, -1.0), np.where(bounded, action_space.high, 1.0)
        # constants of the space: they need not travel with the parameters
        self.register_buffer("middle", torch.tensor((high + low) / 2, dtype=torch.float32), persistent=False)
        self.register_buffer("half_width", torch.tensor((high - low) / 2, dtype=torch.float32), persistent=False)

    def forward(
        self, observation: torch.Tensor, act_mask: torch.Tensor | None = None
    ) -> MaskedCategorical | MultiCategorical | DiagGaussian:
        """The distribution of actions for observations (B, *obs); ``act_mask`` (B, A) bool where there are choices."""
        output = self.net(observation)  # (B, A), or (B, entries of the action)
        if self.num_values is not None:
            return MultiCategorical(output, self.num_values, act_mask)
        if self.log_std is None:
            return MaskedCategorical(output, act_mask)
        mean = self.middle + self.half_width * output.view(-1, *self.middle.shape)
        return DiagGaussian(mean, self.half_width * self.log_std.exp())
