"""Soft actor-critic for Discrete actions: losses by hand, masks, and soft Q* of a small decision process."""

import math

import numpy as np
import pytest
import torch
from continuous import make
from gymnasium import spaces

from malib_lite.algorithms.discrete_sac import ALGORITHM, actor_loss, critic_loss, soft_value, temperature_loss
from malib_lite.config import ConfigError
from malib_lite.contracts.data import Transitions
from malib_lite.models.distributions import MaskedCategorical
from malib_lite.runner import run
from malib_lite.runtime.console import Console
from malib_lite.train import TrainConfig, build, make_scenario

T = torch.tensor


# -- by hand -----------------------------------------------------------------------------------------------------


def test_values_and_losses_by_hand():
    q = T([[[1.0, 5.0], [4.0, 4.0]], [[3.0, 2.0], [4.0, 4.0]]], requires_grad=True)  # two critics, two rows
    logits = T([[math.log(0.25), math.log(0.75)], [0.0, 0.0]], requires_grad=True)
    policy = MaskedCategorical(logits)
    entropy = [-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)), math.log(2)]
    value = soft_value(q, policy, alpha=0.5)
    assert value.tolist() == pytest.approx([0.25 * 1 + 0.75 * 2 + 0.5 * entropy[0], 4 + 0.5 * entropy[1]])
    loss = actor_loss(q, policy, alpha=0.5)
    assert loss.item() == pytest.approx(-value.mean().item())
    # minus p_a (Q_a - alpha log p_a - V) over B
    (slope,) = torch.autograd.grad(loss, logits)
    advantage = 1 - 0.5 * math.log(0.25) - value[0].item()
    assert slope[0, 0].item() == pytest.approx(-0.25 * advantage / 2)
    assert not actor_loss(q, MaskedCategorical(logits.detach()), 0.5).requires_grad  # critics follow their own loss
    loss = critic_loss(q, T([1, 0]), T([4.0, 4.0]))
    assert loss.item() == pytest.approx((1 / 2 + 4 / 2) / 2)
    (slope,) = torch.autograd.grad(loss, q)
    assert slope.tolist() == [[[0.0, 0.5], [0.0, 0.0]], [[0.0, -1.0], [0.0, 0.0]]]


def test_illegal_actions_take_no_part():
    q = T([[[1.0, 2.0, 1e6]], [[1.0, 2.0, 1e6]]])
    logits = T([[0.3, -0.2, 50.0]], requires_grad=True)
    masked = MaskedCategorical(logits, T([[True, True, False]]))
    inner = MaskedCategorical(T([[0.3, -0.2]]))
    torch.testing.assert_close(soft_value(q, masked, 0.7), soft_value(q[..., :2], inner, 0.7))
    (slope,) = torch.autograd.grad(actor_loss(q, masked, 0.7), logits)
    assert slope.isfinite().all() and slope[0, 2] == 0 and slope[0, 0] != 0


def test_temperature_loss_by_hand():
    log_alpha = T(0.0, requires_grad=True)
    loss = temperature_loss(log_alpha, T([0.5, 0.1]), T([0.2, 0.2]))
    assert torch.autograd.grad(loss, log_alpha)[0].item() == pytest.approx(0.1)  # too wide: alpha falls


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_the_temperature_brings_the_entropy_to_its_aim(share):
    """A share of what the legal actions allow: of log 2 in one state and log 3 in the other, 0 in the third."""
    training = {"discount": 0.0, "learning_rate": 0.02, "target_entropy": share, "tau": 1.0}
    states, actions = spaces.Discrete(3), spaces.Discrete(3)
    _, trainer = make(ALGORITHM, states, actions, training, {"hidden_sizes": ()}, horizon=800)
    mask = np.array([[True, True, False], [True, True, True], [False, True, False]])
    state, action = np.nonzero(mask)
    never = np.ones(len(state), bool)
    reward = np.float32([1.0, 0.0, 0.5, 0.0, 1.0, 7.0])
    batch = Transitions(state, action, reward, state, never, np.zeros(6, np.float32), mask[state], mask[state])
    for _ in range(800):
        trainer.advance(1)
        metrics = trainer.train(batch)
    aim = share * np.mean(np.log(mask[state].sum(1)))
    assert metrics["entropy"] == pytest.approx(aim, abs=0.03)


def test_spaces_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"discrete_sac needs Discrete actions from 0.*Box\("):
        make(ALGORITHM, spaces.Discrete(2), spaces.Box(-1, 1, (2,)), {})
    with pytest.raises(ConfigError, match=r"discrete_sac needs Discrete actions from 0.*MultiDiscrete"):
        make(ALGORITHM, spaces.Discrete(2), spaces.MultiDiscrete([2, 2]), {})


# -- exact answers and scores ------------------------------------------------------------------------------------


class Maze:
    """Six states, three actions, of which some are illegal, chosen at random once; some end the episode."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.legal = rng.random((6, 3)) < 0.7
        self.legal[np.arange(6), rng.integers(3, size=6)] = True
        self.following = rng.integers(6, size=(6, 3))
        self.reward = rng.normal(size=(6, 3)).astype(np.float32)
        self.over = rng.random((6, 3)) < 0.15

    def soft_q(self, alpha, discount):
        """Soft value iteration: V = alpha log sum over legal a of exp(Q / alpha). -inf where illegal."""
        q = np.where(self.legal, 0.0, -np.inf)
        for _ in range(500):
            value = alpha * np.log(np.exp(q / alpha).sum(1))
            q = self.reward + discount * np.where(self.over, 0.0, value[self.following])
            q = np.where(self.legal, q, -np.inf)
        return q

    def batch(self, discount):
        """Every legal decision once."""
        state, action = np.nonzero(self.legal)
        here = (state, action)
        next_mask = self.legal[self.following[here]] | self.over[here][:, None]
        return Transitions(
            state, action, self.reward[here], self.following[here], self.over[here],
            np.full(len(state), discount, np.float32), self.legal[state], next_mask,
        )  # fmt: skip


@pytest.mark.parametrize("learns", [True, False])
def test_soft_q_star_and_its_policy(learns):
    """Tabular features, alpha fixed: both critics are soft Q*, the policy is exp(Q* / alpha), to 2e-2."""
    alpha, discount, updates = 0.5, 0.8, 1000 if learns else 5
    training = {
        "discount": discount, "temperature": alpha, "learn_temperature": False, "tau": 0.1,
        "learning_rate": 0.05 if learns else 0.0, "learning_rate_final": 0.01,
    }  # fmt: skip
    maze = Maze()
    policy, trainer = make(
        ALGORITHM, spaces.Discrete(6), spaces.Discrete(3), training, {"hidden_sizes": ()}, horizon=updates
    )
    batch = maze.batch(discount)
    for _ in range(updates):
        trainer.advance(1)
        trainer.train(batch)
    soft_q = maze.soft_q(alpha, discount)
    with torch.no_grad():
        q = np.stack([critic(torch.arange(6)).numpy() for critic in policy.critics])
        probs = policy.action_probs(torch.arange(6), torch.from_numpy(maze.legal)).numpy()
    error = np.abs(q - soft_q)[:, maze.legal].max()
    best = np.exp(soft_q / alpha)
    policy_error = np.abs(probs - best / best.sum(1, keepdims=True)).max()
    assert (error < 2e-2) == (policy_error < 2e-2) == learns, (error, policy_error)
    plain = maze.soft_q(0.02, discount)  # nearly Q* without entropy: another answer
    assert np.abs(plain[maze.legal] - soft_q[maze.legal]).max() > 0.5


def train(folder, **settings):
    return run(
        make_scenario(build(TrainConfig, {"scenario": "marl", "workers": 0, **settings, "logdir": str(folder)})),
        Console(quiet=True),
    )


@pytest.mark.slow
@pytest.mark.parametrize("learns", [True, False])
def test_cartpole(tmp_path, learns):
    """Random play lasts 22.7 steps."""
    trainer = {} if learns else {"learning_rate": 0.0, "updates_per_step": 0.01}  # more such updates change nothing
    summary = train(tmp_path, env="gym/CartPole-v1", algorithm="discrete_sac", steps=20_000, trainer=trainer)
    assert (summary["return_mean"] >= 170) == learns, summary["return_mean"]
