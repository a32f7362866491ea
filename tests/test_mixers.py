"""Mixers: by hand, and what makes the agents' own best actions the team's."""

import itertools
import math

import pytest
import torch

from malib_lite.models.mixers import MonotonicMixer, SumMixer

T = torch.tensor


def filled(layer, weight, bias):
    with torch.no_grad():
        layer.weight.copy_(T(weight))
        layer.bias.copy_(T(bias))


@pytest.fixture
def mixers():
    """Of four agents in states of six numbers; with large weights, so that all that is nonlinear comes into play."""
    torch.manual_seed(0)
    made = [MonotonicMixer(4, 6, num_units) for num_units in (1, 8, 32)]
    for mixer in made:
        for parameter in mixer.parameters():
            torch.nn.init.normal_(parameter)
    return made


def test_the_mixing_network_by_hand():
    """Two agents, two hidden units, of which the second sees the second agent alone; in state 1."""
    mixer = MonotonicMixer(num_agents=2, state_size=1, num_units=2)
    filled(mixer.weight_1, [[1.0], [0.0], [-2.0], [0.5]], [0.0, 0.0, -1.0, 0.0])  # 1 and 0, |-3| and 0.5
    filled(mixer.bias_1, [[-5.0], [0.0]], [1.0, 0.0])  # -4 and 0
    filled(mixer.weight_2, [[-0.5], [4.0]], [0.0, 0.0])  # |-0.5| and 4
    filled(mixer.bias_2[0], [[1.0], [-1.0]], [1.0, 0.0])
    filled(mixer.bias_2[2], [[-3.0, 1.0]], [0.5])  # -3 relu(2) + relu(-1) + 0.5
    q_tot = mixer(T([[1.0, 2.0], [1.0, 0.0]]), T([[1.0], [1.0]]))
    assert q_tot[0].item() == pytest.approx((0.5 * (1 + 6 - 4) + 4 * 1) / 2 - 5.5)
    assert q_tot[1].item() == pytest.approx((0.5 * (math.exp(-3) - 1) + 0) / 2 - 5.5)  # elu of 1 + 0 - 4


def test_a_sum_is_a_sum():
    assert SumMixer()(T([[1.0, 2.0, 4.0], [0.0, -1.0, 0.5]]), torch.zeros(2, 0)).tolist() == [7.0, -0.5]


def test_no_agents_value_lowers_the_teams(mixers):
    """dQ_tot/dQ_n >= 0 everywhere, and mostly more."""
    for mixer in mixers:
        q, state = 10 * torch.randn(2000, 4, requires_grad=True), torch.randn(2000, 6)
        (slope,) = torch.autograd.grad(mixer(q, state).sum(), q)
        assert (slope >= 0).all() and (slope > 0).float().mean() > 0.5


def test_the_state_counts_either_way(mixers):
    """Weights are not negative, what the state adds can be: Q_tot rises with it here and falls there."""
    for mixer in mixers:
        state = torch.randn(500, 6, requires_grad=True)
        (slope,) = torch.autograd.grad(mixer(torch.randn(500, 4), state).sum(), state)
        assert (slope > 0).any() and (slope < 0).any()


@pytest.mark.parametrize("signed", [False, True])
def test_the_agents_best_actions_are_the_teams(mixers, signed, monkeypatch):
    """Over all 3^4 joint actions; not so of a mixture whose weights may be negative."""
    if signed:
        monkeypatch.setattr(torch.Tensor, "abs", lambda tensor: tensor)
    joint = T(list(itertools.product(range(3), repeat=4)))  # (81, N)
    short = []
    for mixer in mixers:
        q, state = torch.randn(200, 4, 3), torch.randn(200, 6)
        taken = q.unsqueeze(1).expand(-1, 81, -1, -1).gather(-1, joint.expand(200, -1, -1).unsqueeze(-1)).squeeze(-1)
        q_tot = mixer(taken.flatten(0, 1), state.repeat_interleave(81, 0)).view(200, 81)
        own_best = mixer(q.max(-1).values, state)
        short.append(((q_tot.max(-1).values - own_best) / q_tot.abs().max()).max())
    assert (max(short) < 1e-5) == (not signed)


def test_a_state_of_zeros_can_be_learnt_in():
    mixer = MonotonicMixer(2, 3)
    q = torch.randn(8, 2, requires_grad=True)
    gradients = torch.autograd.grad(mixer(q, torch.zeros(8, 3)).sum(), [q, mixer.weight_1.bias, mixer.weight_2.bias])
    assert all(gradient.abs().min() > 0 for gradient in gradients[:1])
    assert all(gradient.abs().max() > 0 for gradient in gradients)
