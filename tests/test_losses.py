"""Losses and targets: numbers worked out by hand, identities, and masks."""

import functools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from malib_lite.algorithms.dqn import q_loss, q_target
from malib_lite.algorithms.optimiser import Adam, RMSprop, finite, step
from malib_lite.algorithms.pg import policy_gradient_loss
from malib_lite.algorithms.ppo import clipped_surrogate_loss, kl_estimate, value_loss
from malib_lite.algorithms.qpg import policy_gradient_loss as all_actions_loss
from malib_lite.models.distributions import DiagGaussian, MaskedCategorical

T = torch.tensor


# -- deep Q-learning ---------------------------------------------------------------------------------------------


def test_single_and_double_targets_by_hand():
    reward, ended = T([1.0, 1.0, 1.0]), T([False, False, True])
    q_online = T([[1.0, 2.0, 3.0], [5.0, 0.0, 0.0], [math.nan] * 3])
    q_slow = T([[10.0, 40.0, 20.0], [30.0, 0.0, 50.0], [math.nan] * 3])
    double = q_target(reward, q_online, q_slow, None, ended, discount=0.5)
    single = q_target(reward, q_slow, q_slow, None, ended, discount=0.5)
    assert double.tolist() == [1 + 0.5 * 20, 1 + 0.5 * 30, 1.0]
    assert single.tolist() == [1 + 0.5 * 40, 1 + 0.5 * 50, 1.0]


def test_the_target_looks_at_legal_actions_only():
    mask = T([[True, True, False], [False, False, True]])
    q_online, q_slow = T([[1.0, 2.0, 3.0], [9.0, 9.0, -9.0]]), T([[10.0, 20.0, 99.0], [99.0, 99.0, -3.0]])
    ended = T([False, False])
    assert q_target(T([0.0, 0.0]), q_online, q_slow, mask, ended, 1.0).tolist() == [20.0, -3.0]
    assert q_target(T([0.0, 0.0]), q_slow, q_slow, mask, ended, 1.0).tolist() == [20.0, -3.0]


def test_huber_loss_by_hand():
    q = T([[0.5, 7.0], [7.0, 3.0]], requires_grad=True)
    loss = q_loss(q, T([0, 1]), T([0.0, 0.0]), huber=True)
    assert loss.item() == pytest.approx((0.5 * 0.25 + (3.0 - 0.5)) / 2)
    loss.backward()
    assert q.grad.tolist() == [[0.25, 0.0], [0.0, 0.5]]  # the error, clipped to 1, over B; other actions untouched


# -- policy gradients --------------------------------------------------------------------------------------------


def test_reinforce_loss_by_hand():
    assert policy_gradient_loss(T([-1.0, -2.0]), T([3.0, -1.0])).item() == pytest.approx(-(-3.0 + 2.0) / 2)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.1, 2.0, -2.2, -2.0),  # within the clip: the plain surrogate
        (1.5, 2.0, -2.4, 0.0),  # good and already likelier: no further push
        (0.5, 2.0, -1.0, -2.0),  # good but less likely: pushed back
        (0.5, -2.0, 1.6, 0.0),  # bad and already less likely: no further push
        (1.5, -2.0, 3.0, 2.0),  # bad but likelier: pushed back
    ],
)
def test_clipping_by_hand(ratio, advantage, loss, slope):
    log_prob = T([math.log(ratio)], requires_grad=True)
    value = clipped_surrogate_loss(log_prob, T([0.0]), T([advantage]), clip_ratio=0.2)
    value.backward()
    assert value.item() == pytest.approx(loss, abs=1e-6)
    assert log_prob.grad.item() == pytest.approx(slope * ratio, abs=1e-6)


def test_ppo_gradient_at_ratio_1_is_the_policy_gradient():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 5, generator=generator, requires_grad=True)
    mask = torch.rand(64, 5, generator=generator) < 0.7
    mask[:, 2] = True
    distribution = MaskedCategorical(logits, mask)
    action, advantage = distribution.draw(generator), torch.randn(64, generator=generator)
    log_prob = distribution.log_prob(action)
    (ours,) = torch.autograd.grad(
        clipped_surrogate_loss(log_prob, log_prob.detach(), advantage, 0.2), logits, retain_graph=True
    )
    (reference,) = torch.autograd.grad(policy_gradient_loss(log_prob, advantage), logits)
    torch.testing.assert_close(ours, reference, atol=1e-6, rtol=0)
    assert ours.abs().max() > 1e-3


def test_value_loss_and_kl_by_hand():
    assert value_loss(T([1.0, 2.0]), T([0.0, 4.0])).item() == pytest.approx(2.5)
    assert kl_estimate(T([0.0, math.log(2.0)]), T([0.0, 0.0])).item() == pytest.approx((2 - 1 - math.log(2)) / 2)


@pytest.mark.parametrize(
    ("gradient", "ascent", "loss"),
    [
        ("qpg", [-0.75, 0.125, 0.625], 0.0),  # pi_k A_k
        ("rpg", [-1.5, 0.25, 1.25], 3.0),  # as many times that as there are actions better than v: 2
        ("rmpg", [-0.375, -0.0625, 0.4375], -0.75),  # pi_k (A_k^+ - sum_a pi_a A_a^+)
    ],
)
def test_gradients_over_all_actions_by_hand(gradient, ascent, loss):
    """q = 1, 3, 5 and pi = 1/2, 1/4, 1/4: v = 2.5 and A = -1.5, 0.5, 2.5. Gradients are those of logits."""
    logits, q = T([[math.log(0.5), math.log(0.25), math.log(0.25)]], requires_grad=True), T([[1.0, 3.0, 5.0]])
    found = all_actions_loss(q.requires_grad_(), logits.softmax(-1), None, gradient)
    of_logits, of_q = torch.autograd.grad(found, [logits, q], allow_unused=True)
    assert (-of_logits[0]).tolist() == pytest.approx(ascent, abs=1e-6)
    assert found.item() == pytest.approx(loss, abs=1e-6)
    assert of_q is None  # the critic follows its own loss


@pytest.mark.parametrize("gradient", ["qpg", "rpg", "rmpg"])
def test_gradients_over_all_actions_are_the_papers(gradient):
    """Against the sums as they are written, over the legal actions alone, each term differentiated by itself."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(20, 4, generator=generator) < 0.6
    mask[:, 1] = True
    q = torch.randn(20, 4, generator=generator, dtype=torch.float64).masked_fill(~mask, 1e6)
    loss = all_actions_loss(q, MaskedCategorical(logits, mask).probs, mask, gradient)
    (ours,) = torch.autograd.grad(-loss, logits)
    for row, legal in enumerate(mask):
        values = q[row, legal]

        def regrets(of_legal, values=values):
            return values - (of_legal.softmax(-1) * values).sum()

        of_legal = logits[row, legal].detach()
        slopes = torch.autograd.functional.jacobian(lambda x: x.softmax(-1), of_legal)  # of pi(a), a row for each a
        regret = regrets(of_legal)
        if gradient == "rpg":
            paper = -torch.autograd.functional.jacobian(lambda x: regrets(x).clamp_min(0.0), of_legal).sum(0)
        else:
            paper = (slopes * (regret.clamp_min(0.0) if gradient == "rmpg" else regret)[:, None]).sum(0)
        torch.testing.assert_close(ours[row, legal], paper / 20)
        assert (ours[row, ~legal] == 0).all()
    assert ours.abs().max() > 1e-3


# -- distributions -----------------------------------------------------------------------------------------------


def test_masked_entropy_and_log_probabilities():
    logits = T([[1.0, 2.0, 3.0], [0.5, -0.5, 100.0]], requires_grad=True)
    mask = T([[True, True, True], [True, True, False]])
    before = logits.detach().clone()
    distribution = MaskedCategorical(logits, mask)
    inner = torch.distributions.Categorical(logits=T([0.5, -0.5]))
    assert distribution.entropy()[1].item() == pytest.approx(inner.entropy().item(), abs=1e-6)
    assert distribution.log_prob(T([0, 1]))[1].item() == pytest.approx(inner.log_prob(T(1)).item(), abs=1e-6)
    assert distribution.probs[1, 2] == 0 and distribution.mode.tolist() == [2, 0]
    assert torch.equal(distribution.pristine_logits, before)
    (gradient,) = torch.autograd.grad(distribution.entropy().sum(), logits)
    assert gradient.isfinite().all() and gradient[1, 2] == 0


def test_drawing_is_exact_in_distribution_and_never_illegal():
    generator = torch.Generator().manual_seed(1)
    logits, mask = T([[2.0, 0.0, 1.0, 5.0, 5.0]]), T([[False, True, True, True, False]])
    distribution = MaskedCategorical(logits.expand(100_000, -1), mask.expand(100_000, -1))
    counts = np.bincount(distribution.draw(generator).numpy(), minlength=5)
    assert counts[0] == counts[4] == 0
    np.testing.assert_allclose(counts / 100_000, distribution.probs[0].numpy(), atol=5e-3)


def test_gaussian_against_torch():
    generator = torch.Generator().manual_seed(2)
    mean, std = torch.randn(7, 2, 3), torch.rand(3) + 0.5
    distribution = DiagGaussian(mean, std)
    action = distribution.draw(generator)
    reference = torch.distributions.Normal(mean, std)
    torch.testing.assert_close(distribution.log_prob(action), reference.log_prob(action).sum((1, 2)))
    torch.testing.assert_close(distribution.entropy(), reference.entropy().sum((1, 2)))
    draws = DiagGaussian(torch.full((50_000, 1), 3.0), T(2.0)).draw(generator)
    assert draws.mean().item() == pytest.approx(3.0, abs=0.05) and draws.std().item() == pytest.approx(2.0, abs=0.05)


# -- the step ----------------------------------------------------------------------------------------------------


def test_gradients_are_clipped_as_torch_clips_them():
    ours, theirs = (torch.nn.Parameter(T([1.0, 2.0])) for _ in range(2))
    gradient = T([30.0, 40.0])
    assert step(torch.optim.SGD([ours], lr=1.0), [ours], [gradient], max_norm=5.0, name="x") == pytest.approx(50.0)
    assert gradient.tolist() == [30.0, 40.0] and ours.grad is None
    theirs.grad = gradient.clone()
    torch.nn.utils.clip_grad_norm_([theirs], 5.0)
    torch.optim.SGD([theirs], lr=1.0).step()
    torch.testing.assert_close(ours.data, theirs.data)


OPTIMISERS = {
    "adam": (Adam, lambda parameters: torch.optim.Adam(parameters, lr=0.1, fused=True)),
    "rmsprop": (
        functools.partial(RMSprop, alpha=0.9, eps=1e-3),
        lambda parameters: torch.optim.RMSprop(parameters, lr=0.1, alpha=0.9, eps=1e-3),
    ),
}


@pytest.mark.parametrize(("make", "reference"), OPTIMISERS.values(), ids=OPTIMISERS)
def test_optimisers_are_torchs_to_the_bit_and_continue_from_what_they_saved(make, reference):
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.linspace(-1.0, 1.0, 7)) for _ in range(2))
    unused = torch.nn.Parameter(torch.ones(1))
    optimiser, reference = make([ours, unused], 0.1), reference([theirs])
    for number in range(20):
        if number == 10:
            saved, optimiser = optimiser.state_dict(), make([ours, unused], 0.5)
            optimiser.load_state_dict(saved)
        ours.grad = torch.randn(7)
        theirs.grad = ours.grad.clone()
        optimiser.step()
        reference.step()
    assert torch.equal(ours, theirs) and unused.item() == 1.0


def test_optimisers_do_not_import_torchs_compiler():
    program = """
import sys, torch
from malib_lite.algorithms.optimiser import Adam, RMSprop
parameter = torch.nn.Parameter(torch.ones(3))
parameter.grad = torch.ones(3)
for optimiser in (Adam([parameter], 0.1), RMSprop([parameter], 0.1, alpha=0.9, eps=1e-3)):
    optimiser.step()
    optimiser.load_state_dict(optimiser.state_dict())
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_numbers_that_are_not_finite_stop_before_anything_changes():
    parameter = torch.nn.Parameter(T([1.0]))
    for bad in (math.nan, math.inf):
        with pytest.raises(FloatingPointError, match=r"dqn.*loss"):
            finite(T(bad), "dqn")
        with pytest.raises(FloatingPointError, match=r"dqn.*gradient"):
            step(Adam([parameter], 0.1), [parameter], [T([bad])], 1.0, "dqn")
    assert parameter.item() == 1.0
