"""Draws from a categorical distribution that gradients flow through."""

from __future__ import annotations

import torch
from torch import nn

from malib_lite.models.distributions import ILLEGAL_LOGIT


def gumbel_softmax(
    logits: torch.Tensor, mask: torch.Tensor | None, generator: torch.Generator, temperature: float = 1.0
) -> torch.Tensor:
    """One action for each row as a one-hot vector, by the straight-through Gumbel softmax.

    Jang et al. 2017, section 2.2 (https://arxiv.org/abs/1611.01144), and Maddison et al. 2017
    (https://arxiv.org/abs/1611.00712). The value is an exact draw from softmax(logits), whatever the temperature. The
    gradient is that of softmax((logits + g) / temperature), g being the Gumbel noise of the draw: the lower the
    temperature, the smaller its bias and the larger its variance.

    Args:
        logits: (B, A) float32.
        mask: (B, A) bool, True where legal, at least one True in every row; None: everything is legal. What is illegal
            is never drawn and has no gradient.
        generator: where the noise comes from.
        temperature: above 0.

    Returns:
        (B, A) float32.
    """
    noise = -torch.empty_like(logits, device="cpu").exponential_(generator=generator).log().to(logits.device)
    noisy = logits + noise
    if mask is not None:
        noisy = noisy.masked_fill(~mask, ILLEGAL_LOGIT)
    soft = (noisy / temperature).softmax(-1)
    hard = nn.functional.one_hot(noisy.argmax(-1), logits.shape[-1]).to(logits.dtype)
    return hard + (soft - soft.detach())  # the bracket is zero, its gradient is not
