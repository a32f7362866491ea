"""Convolutional encoders: images as rows of numbers."""

from __future__ import annotations

from math import sqrt
from typing import Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from malib_lite.config import ConfigError

Images = Literal["auto", "channels_last", "channels_first", "flat"]

_LEAST_SIDE = 8  # pixels; in smaller boxes there is little to convolve
_MOST_CHANNELS = 16  # of what is taken for an image unasked: four frames of four channels
_LARGE_SIDE = 36  # pixels, the least that the large network can take

# (filters, kernel, stride, padding) of each layer. The large network is that of Mnih et al. 2015, made for 84 x 84.
_LARGE = ((32, 8, 4, 0), (64, 4, 2, 0), (64, 3, 1, 0))
_SMALL = ((32, 3, 1, 1), (64, 3, 2, 1), (64, 3, 2, 1))


def channel_order(space: spaces.Space, images: Images = "auto") -> Literal["channels_last", "channels_first"] | None:
    """Where the channels of image observations stand; None where ``space`` is to be flattened.

    Images are Boxes of shape (H, W, C) or (C, H, W), or stacks of those, (K, H, W, C) or (K, C, H, W), whose frames
    become channels. ``auto`` takes for an image what has sides of at least 8 and at most 16 channels in all. Its
    channels are last if the first two sizes are equal, first if the last two are, and otherwise at the smaller end. A
    uint8 Box (H, W) is an image of one channel.

    Raises:
        ConfigError: ``images`` names an order, and ``space`` has no such.
    """
    if images == "flat":
        return None
    shape = space.shape if isinstance(space, spaces.Box) else ()
    if images != "auto":
        if len(shape) not in (3, 4):
            raise ConfigError(f"'images' = '{images}' needs Box observations of 3 or 4 dimensions, these are {space}")
        return images
    if len(shape) == 2:
        return "channels_first" if space.dtype == np.uint8 and min(shape) >= _LEAST_SIDE else None
    if len(shape) not in (3, 4):
        return None
    first, middle, last = shape[-3:]
    channels_last = first == middle or (middle != last and last <= first)
    channels, sides = (last, (first, middle)) if channels_last else (first, (middle, last))
    if min(sides) < _LEAST_SIDE or channels * int(np.prod(shape[:-3])) > _MOST_CHANNELS:
        return None
    return "channels_last" if channels_last else "channels_first"


class ImageEncoder(nn.Module):
    """Images (B, *obs) as rows of numbers (B, F) float32: three convolutions, each followed by a rectifier.

    The network is that of Mnih et al. 2015 (https://doi.org/10.1038/nature14236) for sides of 36 and more. Smaller
    images pass through kernels of 3 x 3 with strides 1, 2 and 2, which suit any size.

    Pixels are mapped on [0, 1] where the space has one lower and one upper bound, as 0 and 255 of bytes, unless it
    lies within [-1, 1] already. Observations without such bounds are taken as they are.
    """

    def __init__(self, space: spaces.Box, order: Literal["channels_last", "channels_first"]) -> None:
        super().__init__()
        self.channels_last = order == "channels_last"
        low, high = float(space.low.min()), float(space.high.max())
        uniform = bool((space.low == low).all() and (space.high == high).all()) and np.isfinite([low, high]).all()
        # a bound of more than 16 bits is none: some environments write the largest float for "unbounded"
        scaled = uniform and low < high and (low < -1.0 or high > 1.0) and high - low < 2**16
        self.offset, self.scale = (low, 1 / (high - low)) if scaled else (0.0, 1.0)

        channels, height, width = self._arrange(torch.zeros(1, *space.shape)).shape[1:]
        layers: list[nn.Module] = []
        for filters, kernel, stride, padding in _LARGE if min(height, width) >= _LARGE_SIDE else _SMALL:
            layer = nn.Conv2d(channels, filters, kernel, stride, padding)
            nn.init.orthogonal_(layer.weight, sqrt(2))
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            layers += [layer, nn.ReLU()]
            channels = filters
        self.layers = nn.Sequential(*layers, nn.Flatten())
        with torch.no_grad():
            self.num_features = self(torch.zeros(1, *space.shape)).shape[1]

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return self.layers((self._arrange(observation).float() - self.offset) * self.scale)

    def _arrange(self, observation: torch.Tensor) -> torch.Tensor:
        """(B, *obs) as (B, channels, height, width)."""
        if observation.dim() == 3:
            return observation.unsqueeze(1)
        if self.channels_last:
            observation = observation.movedim(-1, -3)
        return observation.flatten(1, -3)
