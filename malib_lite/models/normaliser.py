"""Running means and deviations that travel with a policy's parameters."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from malib_lite.contracts.devices import to_tensor


class RunningNormaliser(nn.Module):
    """Values (B, *shape) to mean 0 and deviation 1, by the statistics of all values that it was updated with.

    The statistics are buffers, so whoever gets the policy's parameters gets them, too, and they move in
    :meth:`update` alone. Before the first update values pass unchanged, but for the clip.

    Args:
        shape: of one value, each entry of which has its own mean and deviation.
        clip: what comes out is at most so far from 0.
    """

    mean: torch.Tensor  # (*shape) float64
    var: torch.Tensor  # (*shape) float64, of the whole population, not estimated for a larger one
    count: torch.Tensor  # () float64, values seen

    def __init__(self, shape: tuple[int, ...], clip: float = 10.0) -> None:
        super().__init__()
        self.clip = clip
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("var", torch.ones(shape, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def update(self, values: np.ndarray) -> None:
        """Merge the statistics of values (B, *shape), Chan et al. 1983 (https://doi.org/10.2307/2683386).

        Raises:
            FloatingPointError: a value is not finite; nothing has changed then.
        """
        if not len(values):
            return
        new = to_tensor(values, self.mean.device).double()
        if not new.isfinite().all():
            raise FloatingPointError(
                "the values to be normalised are not finite: look for NaN or infinity in observations and rewards"
            )
        count, mean, var = len(values), new.mean(0), new.var(0, correction=0)
        share = count / (self.count + count)  # of all values, how many are new
        distance = mean - self.mean
        self.var.copy_((1 - share) * self.var + share * var + share * (1 - share) * distance.square())
        self.mean += share * distance
        self.count += count

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """(B, *shape) float32; the mean is taken off in float64, or large offsets would swallow small differences."""
        return ((values.double() - self.mean) / self._deviation()).clamp(-self.clip, self.clip).float()

    def rescale(self, values: np.ndarray) -> np.ndarray:
        """Values of any shape that fits in units of the deviation, float32; their mean and sign stay."""
        return (values / self._deviation().cpu().numpy()).astype(np.float32)

    def _deviation(self) -> torch.Tensor:
        return (self.var + 1e-8).sqrt()  # constant entries are not divided by zero
