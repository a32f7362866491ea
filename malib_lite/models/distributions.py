"""Action distributions that honour masks and draw from a random stream that is handed to them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.distributions import Categorical, Distribution, Independent, Normal

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


class MultiCategorical(Distribution):
    """Independent categorical distributions, one for each part of a MultiDiscrete action.

    Args:
        logits: (B, A) float32, the parts' logits one after another.
        num_values: how many values each part has; their sum is A.
        mask: (B, A) bool, True where legal, at least one True for each part in every row; None: everything is legal.
    """

    def __init__(self, logits: torch.Tensor, num_values: Sequence[int], mask: torch.Tensor | None = None) -> None:
        sizes = list(num_values)
        masks = [None] * len(sizes) if mask is None else mask.split(sizes, -1)
        self.parts = [MaskedCategorical(part, m) for part, m in zip(logits.split(sizes, -1), masks, strict=True)]
        super().__init__(logits.shape[:-1], torch.Size([len(sizes)]), validate_args=False)

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """One action for each row, (B, parts) int64."""
        return torch.stack([part.draw(generator) for part in self.parts], -1)

    @property
    def mode(self) -> torch.Tensor:
        """The likeliest action of each row, (B, parts) int64."""
        return torch.stack([part.mode for part in self.parts], -1)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log-probability (B,) of actions (B, parts) int64."""
        values = value.unbind(-1)
        return torch.stack([part.log_prob(v) for part, v in zip(self.parts, values, strict=True)], -1).sum(-1)

    def entropy(self) -> torch.Tensor:
        """(B,) float32."""
        return torch.stack([part.entropy() for part in self.parts], -1).sum(-1)


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
