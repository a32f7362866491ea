"""Layers whose parameters are noisy: exploration that the network learns to do without."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import sqrt

import torch
from torch import nn


class NoisyLinear(nn.Module):
    """A linear layer with factorised Gaussian noise, Fortunato et al. 2018 (https://arxiv.org/abs/1706.10295).

    Equation 9, y = (mu_w + sigma_w * eps_w) x + mu_b + sigma_b * eps_b, within :func:`parameter_noise`; the means alone
    outside, as in evaluation. Initial values are those of section 3.2.
    """

    def __init__(self, inputs: int, outputs: int, sigma: float = 0.5) -> None:
        """
        Args:
            sigma: sigma_0, the noise's initial deviation in units of 1 / sqrt(inputs).
        """
        super().__init__()
        bound = 1 / sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))
        self.weight_sigma = nn.Parameter(torch.full((outputs, inputs), sigma * bound))
        self.bias_sigma = nn.Parameter(torch.full((outputs,), sigma * bound))
        self.noise: tuple[torch.Tensor, torch.Tensor] | None = None  # of inputs and outputs, see draw

    def draw(self, generator: torch.Generator, rows: int) -> None:
        """Take new noise: ``rows`` times one number for each input and output, equations 10 and 11."""
        outputs, inputs = self.weight.shape
        noise_in, noise_out = (torch.randn((rows, size), generator=generator) for size in (inputs, outputs))
        device = self.weight.device
        self.noise = _squeeze(noise_in).to(device), _squeeze(noise_out).to(device)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, inputs) -> (B, outputs) float32."""
        output = nn.functional.linear(features, self.weight, self.bias)
        if self.noise is None:
            return output
        noise_in, noise_out = self.noise  # (B or 1, inputs), (B or 1, outputs)
        # the noise of weight (i, j) is noise_out_i noise_in_j: its factors can be multiplied before and after
        return output + noise_out * nn.functional.linear(features * noise_in, self.weight_sigma, self.bias_sigma)


@contextmanager
def parameter_noise(net: nn.Module, generator: torch.Generator, rows: int = 1) -> Iterator[None]:
    """Within, the noisy layers of ``net`` have new noise; networks without such layers draw nothing.

    Args:
        rows: 1, all that the network computes has the same noise; B: each row of batches of B has its own.
    """
    layers = [module for module in net.modules() if isinstance(module, NoisyLinear)]
    for layer in layers:
        layer.draw(generator, rows)
    try:
        yield
    finally:
        for layer in layers:
            layer.noise = None


def _squeeze(noise: torch.Tensor) -> torch.Tensor:
    """f(x) = sign(x) sqrt(|x|) of equation 10."""
    return noise.sign() * noise.abs().sqrt()
