"""Action distributions that honour masks and draw from a random stream that is handed to them."""

from __future__ import annotations

import torch
from torch.distributions import Categorical, Independent, Normal

# An illegal action's logit. Finite, so that no gradient or entropy becomes 0 * inf; its probability is exactly zero.
ILLEGAL_LOGIT = -1e9


class MaskedCategorical(Categorical):
    """A categorical distribution over the legal actions only.

    Args:
        logits: (B, A) float32. Kept untouched as ``pristine_logits``: masking must never reach the network's output.
        mask: (B, A) bool, True where legal, at least one True in every row; None: everything is legal.
    """

    def __init__(self, logits: torch.Tensor, mask: torch.Tensor | None = None) -> None:
        self.pristine_logits = logits
        masked = logits if mask is None else logits.masked_fill(~mask, ILLEGAL_LOGIT)
        super().__init__(logits=masked, validate_args=False)  # validation costs more than a small network

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """One action for each row, (B,) int64, by inversion of the cumulative distribution.

        Comparing with ``<=`` skips actions of probability zero, and scaling the uniform number by the rounded total
        keeps it below the total: an illegal action cannot be drawn.
        """
        cumulative = self.probs.cumsum(-1)  # (B, A)
        uniform = torch.rand((len(cumulative), 1), generator=generator)  # in [0, 1)
        return (cumulative <= uniform * cumulative[:, -1:]).sum(-1)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log-probability of actions (B,) int64; a plain gather, for none of torch's broadcasting is needed."""
        return self.logits.gather(-1, value.unsqueeze(-1)).squeeze(-1)


class DiagGaussian(Independent):
    """Independent normal distributions over the entries of an action (B, *action).

    Args:
        mean: (B, *action) float32.
        std: float32, broadcast against ``mean``.
    """

    def __init__(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        super().__init__(Normal(mean, std, validate_args=False), mean.dim() - 1, validate_args=False)

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """One action for each row, (B, *action) float32."""
        mean, std = self.base_dist.loc, self.base_dist.scale
        return mean + std * torch.randn(mean.shape, generator=generator)
