"""Networks from spaces: perceptrons, with convolutions before them where observations are images, or a user's own
network; the dueling head of action values; and the stochastic actor that policy-gradient methods share."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from math import prod, sqrt
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import MaxLen
from gymnasium import spaces
from torch import nn

from malib_lite.config import ConfigError, PositiveInt, build, config, option
from malib_lite.models.actions import array_action_space, num_choices
from malib_lite.models.distributions import DiagGaussian, MaskedCategorical, MultiCategorical
from malib_lite.models.images import ImageEncoder, Images, channel_order
from malib_lite.untrusted import check_import

HiddenSizes = Annotated[tuple[PositiveInt, ...], MaxLen(64)]  # thousands of layers would take minutes to be made
ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU}


@config
class NetConfig:
    """A perceptron, behind convolutions where observations are images; or a network of one's own."""

    hidden_sizes: HiddenSizes = option((64, 64), "units of each hidden layer; none makes a linear map")
    activation: Literal["tanh", "relu", "elu"] = option("tanh", "nonlinearity after each hidden layer")
    layer_norm: bool = option(False, "normalise each hidden layer before its nonlinearity")
    images: Images = option("auto", "where channels of images stand; auto: found by shape; flat: no convolutions")
    net: Any = option(None, "own torch.nn.Module class or 'package.module:Class', made instead of all of the above")
    net_config: dict[str, Any] = option({}, "keyword arguments of net, after observation_space and output_dim")

    def __post_init__(self) -> None:
        if self.net is None and self.net_config:
            raise ValueError(f"'net_config' = {self.net_config!r} without 'net', the class that it is for")
        if self.net is not None:
            _own_class(self.net)


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
    if isinstance(action_space, spaces.Box) and not np.issubdtype(action_space.dtype, np.floating):
        raise ConfigError(f"{algorithm} draws real numbers, but this environment takes whole ones: {action_space}")


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


def make_encoder(space: spaces.Space, settings: NetConfig) -> Encoder | ImageEncoder:
    """What turns observations (B, *obs) into rows of ``num_features`` numbers: convolutions for images."""
    order = channel_order(space, settings.images)
    if order is None:
        return Encoder(space)
    assert isinstance(space, spaces.Box)
    return ImageEncoder(space, order)


def linear(inputs: int, outputs: int, gain: float) -> nn.Linear:
    """A linear layer with orthogonal weights and no bias to begin with."""
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class DuelingHead(nn.Module):
    """Q = V + A - mean A over all actions, Wang et al. 2016, equation 9 (https://arxiv.org/abs/1511.06581).

    Args:
        value: (B, F) -> (B, 1).
        advantage: (B, F) -> (B, A).
    """

    def __init__(self, value: nn.Module, advantage: nn.Module) -> None:
        super().__init__()
        self.value = value
        self.advantage = advantage

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Action values (B, A)."""
        advantage = self.advantage(features)
        return self.value(features) + advantage - advantage.mean(-1, keepdim=True)


def make_net(
    observation_space: spaces.Space,
    output_dim: int,
    model_config: Mapping[str, Any] | NetConfig,
    output_gain: float,
    dueling: bool = False,
    linear: Callable[[int, int, float], nn.Module] = linear,
) -> nn.Sequential:
    """A network (B, *obs) -> (B, output_dim) float32: convolutions for images, then a perceptron; or the user's own.

    Weights are orthogonal with gain sqrt(2) in hidden layers and ``output_gain`` in the last, biases zero: the
    initialisation that Andrychowicz et al. 2021 (https://arxiv.org/abs/2006.05990) found to matter, above all a
    small last layer for policies. They come from torch's global stream: whoever builds a policy seeds that locally.

    Args:
        dueling: the last hidden layer is made twice, once below a state's value and once below the advantages.
        linear: makes every layer of the perceptron, from its numbers of inputs and outputs and its gain.

    Raises:
        ConfigError: the settings do not suit the space, or the user's own network is not of that form.
    """
    settings = build(NetConfig, model_config, "model_config")
    if settings.net is not None:
        return nn.Sequential(_make_own(settings, observation_space, output_dim))

    def perceptron(width: int, sizes: tuple[int, ...], outputs: int | None) -> tuple[list[nn.Module], int]:
        """Hidden layers, then a linear one where ``outputs`` is given; and the width of what comes out."""
        layers: list[nn.Module] = []
        for size in sizes:
            layers.append(linear(width, size, sqrt(2)))
            layers += [nn.LayerNorm(size)] * settings.layer_norm
            layers.append(ACTIVATIONS[settings.activation]())
            width = size
        if outputs is None:
            return layers, width
        return [*layers, linear(width, outputs, output_gain)], outputs

    encoder = make_encoder(observation_space, settings)
    sizes = settings.hidden_sizes
    if not dueling:
        layers, _ = perceptron(encoder.num_features, sizes, output_dim)
        return nn.Sequential(encoder, *layers)
    layers, width = perceptron(encoder.num_features, sizes[:-1], None)
    value, advantage = (nn.Sequential(*perceptron(width, sizes[-1:], outputs)[0]) for outputs in (1, output_dim))
    return nn.Sequential(encoder, *layers, DuelingHead(value, advantage))


def _own_class(net: Any) -> type[nn.Module]:
    """The class that the setting ``net`` names; ValueError where there is none."""
    found = net
    if isinstance(net, str):
        module, _, name = net.replace(":", ".").rpartition(".")
        check_import(net, module, "net")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(f"'net' = {net!r}: {error}; it takes 'package.module:Class'") from None
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(f"'net' = {net!r} is not a subclass of torch.nn.Module")
    return found


def _make_own(settings: NetConfig, observation_space: spaces.Space, output_dim: int) -> nn.Module:
    """The user's own network, tried once on two observations of zeros."""
    own = _own_class(settings.net)
    try:
        inspect.signature(own).bind(observation_space, output_dim, **settings.net_config)
    except TypeError as error:
        raise ConfigError(
            f"'net' = {settings.net!r} cannot be made from (observation_space, output_dim, **net_config): {error}"
        ) from None
    net = own(observation_space, output_dim, **settings.net_config)
    zeros = torch.from_numpy(np.zeros((2, *(observation_space.shape or ())), observation_space.dtype))
    with torch.no_grad():
        output = net.eval()(zeros)
    net.train()
    if not isinstance(output, torch.Tensor) or (output.shape, output.dtype) != ((2, output_dim), torch.float32):
        got = f"{tuple(output.shape)} {output.dtype}" if isinstance(output, torch.Tensor) else type(output).__name__
        raise ConfigError(
            f"'net' = {settings.net!r} makes {got} of observations {tuple(zeros.shape)}; it must make"
            f" {(2, output_dim)} torch.float32"
        )
    return net


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
        model_config: Mapping[str, Any] | NetConfig,
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
