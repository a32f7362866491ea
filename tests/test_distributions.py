"""Distributions: against integrals, against torch's own, and where numbers become extreme."""

import itertools
import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

from malib_lite.config import ConfigError
from malib_lite.models.distributions import (
    DiagGaussian,
    MaskedCategorical,
    MultiBernoulli,
    MultiCategorical,
    SquashedGaussian,
    make_proba_distribution,
)

T = torch.tensor


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# -- choices -----------------------------------------------------------------------------------------------------


def test_bernoulli_is_a_pair_of_choices_for_each_bit():
    logits = T([[0.3, -2.0, 5.0]])
    distribution = MultiBernoulli(logits)
    reference = torch.distributions.Bernoulli(logits=logits)
    every = T(list(itertools.product([0, 1], repeat=3)))
    log_prob = MultiBernoulli(logits.expand(8, -1)).log_prob(every)
    torch.testing.assert_close(log_prob, reference.log_prob(every.float()).sum(-1))
    assert log_prob.exp().sum().item() == pytest.approx(1.0, abs=1e-6)
    torch.testing.assert_close(distribution.entropy(), reference.entropy().sum(-1))
    assert distribution.mode.tolist() == [[1, 0, 1]]
    draws = MultiBernoulli(logits.expand(100_000, -1)).draw(generator()).float()
    torch.testing.assert_close(draws.mean(0), reference.probs[0], atol=5e-3, rtol=0)


def test_bernoulli_takes_the_mask_of_its_multi_discrete_form():
    mask = T([[True, False, True, True, False, True]])  # the first bit must be 0, the last 1
    distribution = MultiBernoulli(T([[9.0, 0.0, -9.0]]).expand(100_000, -1), mask.expand(100_000, -1))
    draws = distribution.draw(generator())
    assert (draws[:, 0] == 0).all() and (draws[:, 2] == 1).all()
    assert draws[:, 1].float().mean().item() == pytest.approx(0.5, abs=0.01)
    assert distribution.entropy()[0].item() == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("size", [1e2, 1e6])
def test_masked_choices_at_extreme_logits(size):
    """Never an illegal action in 1e5 draws, though it has by far the largest logit; every gradient is finite."""
    logits = T([[size, -size, 0.0, -size], [-size, -size, -size, size]], requires_grad=True)
    mask = T([[False, True, True, False], [True, True, True, False]])
    distribution = MaskedCategorical(logits, mask)
    rows = MaskedCategorical(logits.detach().repeat(50_000, 1), mask.repeat(50_000, 1))
    actions = rows.draw(generator())
    assert mask.repeat(50_000, 1).gather(1, actions[:, None]).all()
    assert mask.gather(1, distribution.mode[:, None]).all()
    assert distribution.entropy().tolist() == pytest.approx([0.0, math.log(3)], abs=1e-6)
    assert distribution.log_prob(T([2, 0])).tolist() == pytest.approx([0.0, -math.log(3)], abs=1e-6)
    assert distribution.log_prob(T([1, 0])).tolist() == pytest.approx([-size, -math.log(3)], rel=1e-6)
    terms = distribution.log_prob(T([1, 0])).sum() + distribution.entropy().sum()
    (gradient,) = torch.autograd.grad(terms, logits)
    assert gradient.isfinite().all() and (gradient[~mask] == 0).all()


def test_entropy_of_masked_combinations_is_that_of_what_is_legal():
    logits = torch.randn(1, 5, generator=generator())
    mask = T([[True, False, True, True, True]])
    distribution = MultiCategorical(logits, [3, 2], mask)
    legal = [
        MultiCategorical(logits, [3, 2], mask).log_prob(T([[first, second]]))
        for first in (0, 2)
        for second in (0, 1)
    ]  # fmt: skip
    log_prob = torch.cat(legal)
    assert log_prob.exp().sum().item() == pytest.approx(1.0, abs=1e-6)
    assert distribution.entropy().item() == pytest.approx(-(log_prob.exp() * log_prob).sum().item(), abs=1e-6)
    assert distribution.log_prob(T([[1, 0]])).exp().item() == 0.0


# -- squashed Gaussian -------------------------------------------------------------------------------------------

MIDDLE, HALF_WIDTH = T([1.0, -2.0]), T([2.0, 0.5])


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 0.4), (-1.5, 0.8), (0.0, 2.5)])
def test_squashed_densities_integrate_to_one(mean, std):
    """Over the action's own box, in its own units; the midpoints of u's images, for at the edge density is steep."""
    u = torch.linspace(mean - 9 * std, mean + 9 * std, 20_001, dtype=torch.float64).clamp(-9, 9).unique()
    action = 1.0 + 2.0 * u.tanh()
    distribution = SquashedGaussian(T([[mean]]).double(), T(std).double(), 1.0, 2.0)
    density = SquashedGaussian(T([[mean]]).double().expand(len(u), 1), T(std).double(), 1.0, 2.0).log_prob(
        action[:, None]
    )
    assert torch.trapezoid(density.exp(), action).item() == pytest.approx(1.0, abs=2e-3)
    assert distribution.mode.item() == pytest.approx(1 + 2 * math.tanh(mean))


def test_squashed_log_prob_against_torch():
    mean, std = torch.randn(6, 2, generator=generator()), T([0.5, 1.2])
    distribution = SquashedGaussian(mean, std, MIDDLE, HALF_WIDTH)
    action, log_prob = distribution.draw_with_log_prob(generator(1))
    reference = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(mean, std),
        [torch.distributions.TanhTransform(), torch.distributions.AffineTransform(MIDDLE, HALF_WIDTH)],
    )
    torch.testing.assert_close(log_prob, reference.log_prob(action).sum(-1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(distribution.log_prob(action), log_prob, atol=1e-4, rtol=1e-4)
    assert torch.equal(distribution.draw(generator(1)), action)
    draws = SquashedGaussian(mean[:1].expand(50_000, -1), std, MIDDLE, HALF_WIDTH).draw(generator(2))
    assert ((draws >= MIDDLE - HALF_WIDTH) & (draws <= MIDDLE + HALF_WIDTH)).all()
    torch.testing.assert_close(draws.median(0).values, distribution.mode[0], atol=0.03, rtol=0)


def test_squashed_gradients_flow_through_samples():
    """By the noise held and the mean moved: d action / d mean = half_width (1 - tanh^2), against differences."""
    noise, std = T([[0.3, -1.0]], dtype=torch.float64), T([0.5, 1.2], dtype=torch.float64)

    def sample(mean):
        distribution = SquashedGaussian(mean, std, MIDDLE.double(), HALF_WIDTH.double())
        return distribution.rsample_with_log_prob(noise)

    mean = T([[0.2, 0.4]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(sample, (mean,))
    action, _ = sample(mean)
    (gradient,) = torch.autograd.grad(action.sum(), mean)
    u = mean.detach() + std * noise
    torch.testing.assert_close(gradient, HALF_WIDTH.double() * (1 - u.tanh() ** 2))


@pytest.mark.parametrize("mean", [30.0, -30.0, 1e4])
def test_squashed_numbers_stay_finite_far_out(mean):
    """tanh is exactly 1 there: log(1 - tanh^2) would be minus infinity."""
    parameters = T([[mean]], requires_grad=True)
    distribution = SquashedGaussian(parameters, T(1.0))
    action, log_prob = distribution.rsample_with_log_prob(T([[0.5]]))
    exact = -0.125 - 0.5 * math.log(2 * math.pi) - 2 * (math.log(2) - abs(mean + 0.5))
    assert abs(action.item()) == 1.0 and log_prob.item() == pytest.approx(exact, rel=1e-4)
    (gradient,) = torch.autograd.grad(log_prob.sum(), parameters)
    assert gradient.item() == pytest.approx(2 * np.sign(mean), rel=1e-4)
    at_the_edge = distribution.log_prob(T([[1.0]]))
    assert at_the_edge.isfinite().all() and torch.autograd.grad(at_the_edge.sum(), parameters)[0].isfinite().all()


# -- state-dependent exploration ---------------------------------------------------------------------------------


def gsde(interval=3, features=4):
    space = spaces.Box(np.float32([-1, -3]), np.float32([1, 1]))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = make_proba_distribution(space, "state_dependent", features, interval)
        torch.nn.init.normal_(head.log_std, -1.0, 0.3)
        torch.nn.init.normal_(head.mean.weight)
    return head


def test_gsde_draws_have_the_variance_of_the_log_probability():
    head, output = gsde(), T([[0.5, -1.0, 0.2, 0.9]])
    distribution = head(output.expand(100_000, -1))
    draws = distribution.draw(generator())  # each row has a Theta of its own
    sigma = head.log_std.detach().exp()
    z = torch.cat([output[0], T([1.0])])
    std = T([1.0, 2.0]) * (z.square() @ sigma.square()).sqrt()
    mean = T([0.0, -1.0]) + T([1.0, 2.0]) * head.mean(output).detach()[0]
    torch.testing.assert_close(distribution.stddev[0].detach(), std)
    torch.testing.assert_close(draws.mean(0), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(draws.std(0), std, rtol=0.02, atol=0)
    reference = torch.distributions.Normal(mean, std)
    torch.testing.assert_close(distribution.log_prob(draws)[:9], reference.log_prob(draws[:9]).sum(-1))
    torch.testing.assert_close(distribution.entropy()[0], reference.entropy().sum())


def test_gsde_noise_is_a_function_of_the_state_until_it_is_drawn_anew():
    head, random = gsde(interval=3), generator()
    output = torch.randn(5, 4, generator=generator(1))

    def noise(output):
        distribution = head(output)
        return (distribution.draw(random) - distribution.mean).detach()

    first, second, third, fourth = noise(output), noise(output), noise(2 * output), noise(output)
    assert torch.equal(first, second)  # the same state, the same noise
    assert not torch.allclose(first, third)  # another state
    assert not torch.allclose(first, fourth)  # the fourth draw has a new function
    assert not torch.allclose(noise(output[:4]), fourth[:4])  # so have other rows
    head.restart()
    random.manual_seed(0)
    assert torch.equal(noise(output), first)


def test_gsde_trains_the_deviation_and_spares_the_features():
    head, output = gsde(), torch.randn(6, 4, generator=generator(), requires_grad=True)
    distribution = head(output)
    (gradient,) = torch.autograd.grad(distribution.entropy().sum(), head.log_std, retain_graph=True)
    assert (gradient > 0).all()
    assert torch.autograd.grad(distribution.entropy().sum(), output, allow_unused=True)[0] is None
    zeros = head(torch.zeros(2, 4))
    assert (zeros.stddev > 0).all() and zeros.log_prob(zeros.mean).isfinite().all()


# -- the choice --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "kind", "num_inputs", "distribution"),
    [
        (spaces.Discrete(4), "plain", 4, MaskedCategorical),
        (spaces.MultiDiscrete([3, 2]), "plain", 5, MultiCategorical),
        (spaces.MultiBinary(3), "plain", 3, MultiBernoulli),
        (spaces.Box(-1.0, 1.0, (2, 3)), "plain", 6, DiagGaussian),
        (spaces.Box(-np.inf, np.inf, (2,)), "plain", 2, DiagGaussian),
        (spaces.Box(-1.0, 1.0, (2, 3)), "squashed", 12, SquashedGaussian),
        (spaces.Box(-1.0, 1.0, (2, 3)), "state_dependent", 7, DiagGaussian),
    ],
)
def test_a_distribution_for_every_space(space, kind, num_inputs, distribution):
    head = make_proba_distribution(space, kind, num_features=7)
    assert head.num_inputs == num_inputs
    made = head(torch.zeros(5, num_inputs))
    assert isinstance(made, distribution)
    action = made.draw(generator())
    assert action.shape == made.mode.shape == (5, *space.shape)
    assert made.log_prob(action).shape == (5,)
    unlimited = isinstance(space, spaces.Box) and kind != "squashed"  # the environment's side clips
    assert unlimited or all(space.contains(row.detach().numpy().astype(space.dtype)) for row in action)


def test_gaussians_are_in_units_of_half_the_box():
    made = make_proba_distribution(spaces.Box(np.float32([-1, -3]), np.float32([1, 1])))(T([[0.5, -0.5]]))
    torch.testing.assert_close(made.mean, T([[0.5, -2.0]]))
    torch.testing.assert_close(made.stddev, T([[1.0, 2.0]]))
    unbounded = make_proba_distribution(spaces.Box(-np.inf, np.inf, (2,)))(T([[5.0, -0.5]]))
    torch.testing.assert_close(unbounded.mean, T([[5.0, -0.5]]))


@pytest.mark.parametrize("log_std", [1e6, -1e6])
def test_squashed_deviations_are_held_in_a_range(log_std):
    output = T([[0.0, log_std]], requires_grad=True)
    action, log_prob = make_proba_distribution(spaces.Box(-1.0, 1.0, (1,)), "squashed")(output).draw_with_log_prob(
        generator()
    )
    assert action.isfinite().all() and log_prob.isfinite().all()
    assert torch.autograd.grad(log_prob.sum(), output)[0].isfinite().all()


@pytest.mark.parametrize(
    ("space", "kind", "message"),
    [
        (spaces.Discrete(3), "beta", "did you mean|known: plain, squashed, state_dependent"),
        (spaces.Box(-np.inf, np.inf, (2,)), "squashed", "finite bounds"),
        (spaces.Box(-1.0, 1.0, (2,)), "state_dependent", "num_features"),
        (spaces.Discrete(3, start=1), "plain", "count from 0"),
        (spaces.MultiBinary((2, 2)), "plain", "one-dimensional"),
        (spaces.Text(3), "plain", "no distribution over Text"),
    ],
)
def test_what_has_no_distribution_is_refused(space, kind, message):
    with pytest.raises(ConfigError, match=message):
        make_proba_distribution(space, kind)
