"""Action distributions that honour masks and draw from a random stream that is handed to them.

:func:`make_proba_distribution` chooses one for a space, and what a network must give for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import nn
from torch.distributions import Distribution, Independent, Normal
from torch.nn.functional import softplus

from malib_lite.config import ConfigError, suggest

# An illegal action's logit. Finite, so that no gradient or entropy becomes 0 * inf; its probability is exactly zero.
ILLEGAL_LOGIT = -1e9


class MaskedCategorical(Distribution):
    """A categorical distribution over the legal actions only.

    torch's own takes log-sum-exp of the logits from them as they are, which costs float32's digits where all of them
    are large; here the largest is taken off first.

    Args:
        logits: (B, A) float32. Kept untouched as ``pristine_logits``: masking must never reach the network's output.
        mask: (B, A) bool, True where legal, at least one True in every row; None: everything is legal.

    Attributes:
        logits: (B, A) float32, log-probabilities.
    """

    def __init__(self, logits: torch.Tensor, mask: torch.Tensor | None = None) -> None:
        self.pristine_logits = logits
        masked = logits if mask is None else logits.masked_fill(~mask, ILLEGAL_LOGIT)
        self.logits = masked.log_softmax(-1)
        super().__init__(logits.shape[:-1], validate_args=False)  # validation costs more than a small network

    @cached_property
    def probs(self) -> torch.Tensor:
        """(B, A) float32."""
        return self.logits.softmax(-1)

    @property
    def mode(self) -> torch.Tensor:
        """The likeliest action of each row, (B,) int64."""
        return self.logits.argmax(-1)

    def entropy(self) -> torch.Tensor:
        """(B,) float32."""
        return -(self.probs * self.logits).sum(-1)

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """One action for each row, (B,) int64, by inversion of the cumulative distribution.

        Comparing with ``<=`` skips actions of probability zero, and scaling the uniform number by the rounded total
        keeps it below the total: an illegal action cannot be drawn.
        """
        cumulative = self.probs.cumsum(-1)  # (B, A)
        uniform = torch.rand((len(cumulative), 1), generator=generator).to(cumulative.device)  # in [0, 1)
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


class MultiBernoulli(MultiCategorical):
    """Independent yes-or-no choices, one for each entry of a MultiBinary, from half the logits of a categorical.

    Args:
        logits: (B, n) float32, log-odds of 1 in each entry.
        mask: (B, 2 n) bool, for each entry whether 0 and whether 1 is legal: the mask of MultiDiscrete([2] * n), which
            is what the rollout makes of a MultiBinary.
    """

    def __init__(self, logits: torch.Tensor, mask: torch.Tensor | None = None) -> None:
        pairs = torch.stack([torch.zeros_like(logits), logits], -1).flatten(1)  # (B, 2 n)
        super().__init__(pairs, [2] * logits.shape[-1], mask)


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
        return mean + std * torch.randn(mean.shape, generator=generator).to(mean.device)


class SquashedGaussian(Distribution):
    """A Gaussian pressed into a box by tanh, Haarnoja et al. 2018, appendix C (https://arxiv.org/abs/1801.01290).

    The action is ``middle + half_width * tanh(u)`` with normal u; it never leaves the box. Densities are those of the
    action in its own units: against actions in [-1, 1] the log-probability is less by the sum of log ``half_width``.

    Args:
        mean: (B, *action) float32, of u.
        std: float32, of u, broadcast against ``mean``.
        middle, half_width: (*action) float32 tensors, or numbers; as :class:`~malib_lite.models.nets.Actor` has them.
    """

    def __init__(
        self,
        mean: torch.Tensor,
        std: torch.Tensor,
        middle: torch.Tensor | float = 0.0,
        half_width: torch.Tensor | float = 1.0,
    ) -> None:
        self.gaussian = DiagGaussian(mean, std)
        self.middle, self.half_width = middle, torch.as_tensor(half_width, dtype=mean.dtype)
        super().__init__(mean.shape[:1], mean.shape[1:], validate_args=False)

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """One action for each row, (B, *action) float32."""
        return self.draw_with_log_prob(generator)[0]

    def draw_with_log_prob(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """:meth:`rsample_with_log_prob` of standard normal noise from ``generator``."""
        mean = self.gaussian.mean
        return self.rsample_with_log_prob(torch.randn(mean.shape, generator=generator).to(mean.device))

    def rsample_with_log_prob(self, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Actions (B, *action) as a function of noise (B, *action), and their log-probability (B,).

        Gradients flow through both to ``mean`` and ``std``. Exact where tanh is 1 in float32, for u is known here.
        """
        u = self.gaussian.mean + self.gaussian.stddev * noise
        return self.middle + self.half_width * u.tanh(), self._log_prob(u)

    @property
    def mode(self) -> torch.Tensor:
        """The action of the Gaussian's own mean, (B, *action): the median, what is played without noise."""
        return self.middle + self.half_width * self.gaussian.mean.tanh()

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log-probability (B,) of actions (B, *action); at the box's edge that of a number just before it."""
        edge = 1 - torch.finfo(value.dtype).eps
        return self._log_prob(torch.atanh(((value - self.middle) / self.half_width).clamp(-edge, edge)))

    def _log_prob(self, u: torch.Tensor) -> torch.Tensor:
        """Equation 21 with log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2 u)), which neither over- nor underflows."""
        log_slope = 2 * (math.log(2) - u - softplus(-2 * u)) + self.half_width.log()
        return self.gaussian.log_prob(u) - log_slope.flatten(1).sum(-1)


class StateDependentGaussian(DiagGaussian):
    """A Gaussian whose noise is a function of the observation; made by :class:`StateDependentHead`, which keeps it."""

    def __init__(self, mean: torch.Tensor, std: torch.Tensor, noise: Callable[[torch.Generator], torch.Tensor]) -> None:
        super().__init__(mean, std)
        self._noise = noise

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """One action for each row, (B, *action) float32; not differentiable."""
        return self.base_dist.loc + self._noise(generator)


# -- from a network's output to a distribution -------------------------------------------------------------------

ProbaDistribution = MaskedCategorical | MultiCategorical | DiagGaussian
Kind = Literal["plain", "squashed", "state_dependent"]


class Head(nn.Module):
    """The last piece of a stochastic policy: a network's output to a distribution of actions.

    ``num_inputs`` is how many numbers the network must give. ``forward(output, act_mask)`` takes them, (B, num_inputs)
    float32, and a mask (B, A) bool where there are choices.
    """

    num_inputs: int

    def restart(self) -> None:
        """Forget noise that was drawn: the policy's random stream begins anew."""


class CategoricalHead(Head):
    """Discrete, from logits."""

    def __init__(self, space: spaces.Discrete) -> None:
        super().__init__()
        self.num_inputs = int(space.n)

    def forward(self, output: torch.Tensor, act_mask: torch.Tensor | None = None) -> MaskedCategorical:
        return MaskedCategorical(output, act_mask)


class MultiCategoricalHead(Head):
    """MultiDiscrete, from the parts' logits one after another."""

    def __init__(self, space: spaces.MultiDiscrete) -> None:
        super().__init__()
        self.num_values: list[int] = space.nvec.tolist()
        self.num_inputs = sum(self.num_values)

    def forward(self, output: torch.Tensor, act_mask: torch.Tensor | None = None) -> MultiCategorical:
        return MultiCategorical(output, self.num_values, act_mask)


class BernoulliHead(Head):
    """MultiBinary of one dimension, from the log-odds of 1."""

    def __init__(self, space: spaces.MultiBinary) -> None:
        super().__init__()
        self.num_inputs = math.prod(space.shape)

    def forward(self, output: torch.Tensor, act_mask: torch.Tensor | None = None) -> MultiBernoulli:
        return MultiBernoulli(output, act_mask)


class _BoxHead(Head):
    """Keeps the middle and the half width of a Box, 0 and 1 where it has no bounds."""

    middle: torch.Tensor  # (*action) float32
    half_width: torch.Tensor

    def __init__(self, space: spaces.Box) -> None:
        super().__init__()
        bounded = np.isfinite(space.low) & np.isfinite(space.high)
        low, high = np.where(bounded, space.low, -1.0), np.where(bounded, space.high, 1.0)
        self.num_inputs = self.num_entries = math.prod(space.shape)
        # constants of the space: they need not travel with the parameters
        self.register_buffer("middle", torch.tensor((high + low) / 2, dtype=torch.float32), persistent=False)
        self.register_buffer("half_width", torch.tensor((high - low) / 2, dtype=torch.float32), persistent=False)

    def scaled(self, mean: torch.Tensor) -> torch.Tensor:
        """Means (B, entries) in units of the box as (B, *action) of the action's own."""
        return self.middle + self.half_width * mean.view(-1, *self.middle.shape)


class GaussianHead(_BoxHead):
    """Box, from means in units of half the box; the deviation is a parameter that no observation changes."""

    def __init__(self, space: spaces.Box) -> None:
        super().__init__(space)
        self.log_std = nn.Parameter(torch.zeros(space.shape))

    def forward(self, output: torch.Tensor, act_mask: torch.Tensor | None = None) -> DiagGaussian:
        return DiagGaussian(self.scaled(output), self.half_width * self.log_std.exp())


class SquashedGaussianHead(_BoxHead):
    """Box, from means and log-deviations one after another; the latter are held in a range that neither blows up."""

    log_std_range = (-20.0, 2.0)

    def __init__(self, space: spaces.Box) -> None:
        super().__init__(space)
        if not (np.isfinite(space.low) & np.isfinite(space.high)).all():
            raise ConfigError(f"a squashed Gaussian needs actions with finite bounds, this environment has {space}")
        self.num_inputs = 2 * self.num_entries

    def forward(self, output: torch.Tensor, act_mask: torch.Tensor | None = None) -> SquashedGaussian:
        mean, log_std = (part.view(-1, *self.middle.shape) for part in output.chunk(2, -1))
        return SquashedGaussian(mean, log_std.clamp(*self.log_std_range).exp(), self.middle, self.half_width)


class StateDependentHead(_BoxHead):
    """Box, by generalised state-dependent exploration, Raffin et al. 2021 (https://arxiv.org/abs/2005.05719).

    The noise of an action is a linear function of the F features in front of the last layer, eps(s) = z(s) Theta
    (section 3.1). Theta (F + 1, entries), for each row its own, is drawn from N(0, sigma^2) every ``noise_interval``
    draws, in between noise changes with the observation only, so motion is smooth. Over all Theta the action is normal
    with variance z(s)^2 sigma^2 (equation 6), which is what log-probability and entropy are of.

    Deviations: sigma's gradient does not reach the features; a constant feature keeps the variance above zero where
    all others are zero; sigma begins where the deviation of an action is at most half the box.

    Args:
        space: of actions.
        num_features: F, of the network's output, which is taken to lie in about [-1, 1].
        noise_interval: draws with the same Theta.
    """

    def __init__(self, space: spaces.Box, num_features: int, noise_interval: int) -> None:
        super().__init__(space)
        self.num_inputs, self.noise_interval = num_features, noise_interval
        self.mean = nn.Linear(num_features, self.num_entries)
        nn.init.orthogonal_(self.mean.weight, 0.01)
        nn.init.zeros_(self.mean.bias)
        shape = (num_features + 1, self.num_entries)
        self.log_std = nn.Parameter(torch.full(shape, -0.5 * math.log(num_features + 1)))
        self.restart()

    def restart(self) -> None:
        """Draw a new Theta the next time."""
        self._theta = torch.zeros(0)  # (B, F + 1, entries) float32, standard normal: sigma may change in between
        self._draws = 0

    def forward(self, output: torch.Tensor, act_mask: torch.Tensor | None = None) -> StateDependentGaussian:
        z = nn.functional.pad(output.detach(), (0, 1), value=1.0)  # (B, F + 1)
        sigma = self.log_std.exp()
        std = self.half_width * (z.square() @ sigma.square()).sqrt().view(-1, *self.middle.shape)
        return StateDependentGaussian(self.scaled(self.mean(output)), std, lambda generator: self._noise(z, generator))

    @torch.no_grad()
    def _noise(self, z: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """eps(s), (B, *action) in the action's own units."""
        if len(self._theta) != len(z) or self._draws == self.noise_interval:
            self._theta = torch.randn((len(z), *self.log_std.shape), generator=generator).to(z.device)
            self._draws = 0
        self._draws += 1
        noise = torch.einsum("bf,bfe->be", z, self._theta * self.log_std.exp())
        return self.half_width * noise.view(-1, *self.middle.shape)


def make_proba_distribution(
    space: spaces.Space, kind: Kind = "plain", num_features: int | None = None, noise_interval: int = 4
) -> Head:
    """The head that turns a network's output into a distribution over ``space``.

    Discrete gives a categorical distribution, MultiDiscrete independent ones, MultiBinary Bernoulli. Box gives a
    diagonal Gaussian, ``"squashed"`` one that tanh keeps in the box, ``"state_dependent"`` one whose noise is a
    function of the ``num_features`` that the network must give then; ``kind`` is of no consequence to the others.

    Raises:
        ConfigError: no such kind, or no distribution over this space.
    """
    if kind not in ("plain", "squashed", "state_dependent"):
        raise ConfigError(f"'kind' = {kind!r}: {suggest(str(kind), ['plain', 'squashed', 'state_dependent'])}")
    if isinstance(space, spaces.Discrete) and space.start == 0:
        return CategoricalHead(space)
    if isinstance(space, spaces.MultiDiscrete) and len(space.shape) == 1 and not space.start.any():
        return MultiCategoricalHead(space)
    if isinstance(space, spaces.MultiBinary) and len(space.shape) == 1:
        return BernoulliHead(space)
    if isinstance(space, spaces.Box):
        if kind == "state_dependent":
            if num_features is None:
                raise ConfigError("'num_features' must be set: state-dependent noise is a function of features")
            return StateDependentHead(space, num_features, noise_interval)
        return SquashedGaussianHead(space) if kind == "squashed" else GaussianHead(space)
    raise ConfigError(
        f"no distribution over {space}: it takes Box, Discrete and one-dimensional MultiDiscrete that count from 0, "
        "and one-dimensional MultiBinary"
    )
