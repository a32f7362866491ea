"""Soft actor-critic: losses and the temperature by hand, and problems whose answers are known."""

import math

import numpy as np
import pytest
import torch
from continuous import LinearQuadratic, make
from gymnasium import spaces

from malib_lite.algorithms.sac import ALGORITHM, actor_loss, critic_loss, soft_value, temperature_loss
from malib_lite.config import ConfigError
from malib_lite.contracts.data import Transitions
from malib_lite.runner import run
from malib_lite.runtime.console import Console
from malib_lite.train import TrainConfig, build, make_scenario

T = torch.tensor
BOX = spaces.Box(np.float32([-1, -3]), np.float32([1, 1]))


# -- by hand -----------------------------------------------------------------------------------------------------


def test_losses_by_hand():
    q = T([[1.0, 5.0], [3.0, 2.0]], requires_grad=True)  # two critics, two rows
    log_prob = T([-1.0, 2.0], requires_grad=True)
    assert soft_value(q, log_prob, alpha=0.5).tolist() == [1.0 + 0.5, 2.0 - 1.0]
    assert critic_loss(q, T([1.0, 3.0])).item() == pytest.approx(((0 + 4) / 2 + (4 + 1) / 2) / 2)
    loss = actor_loss(q, log_prob, alpha=0.5)
    assert loss.item() == pytest.approx(((-0.5 - 1.0) + (1.0 - 2.0)) / 2)
    by_q, by_log_prob = torch.autograd.grad(loss, [q, log_prob])
    assert by_q.tolist() == [[-0.5, 0.0], [0.0, -0.5]]  # through the lesser critic alone
    assert by_log_prob.tolist() == [0.25, 0.25]


def test_temperature_loss_by_hand():
    log_alpha, log_prob = T(0.7, requires_grad=True), T([1.0, 3.0], requires_grad=True)
    loss = temperature_loss(log_alpha, log_prob, target_entropy=-1.0)
    (slope,) = torch.autograd.grad(loss, log_alpha)
    assert slope.item() == -1.0  # entropy -2 where -1 is wanted: alpha rises
    assert not temperature_loss(T(0.7), log_prob, -1.0).requires_grad  # the policy follows its own loss


# -- policy and temperature --------------------------------------------------------------------------------------


def test_actions_stay_in_the_box_and_begin_wide():
    policy, _ = make(ALGORITHM, spaces.Discrete(1), BOX, {})
    observation = torch.zeros(20_000, dtype=torch.int64)
    with torch.no_grad():
        output = policy.compute_action(observation)
    action = output.action.numpy()
    assert (action >= BOX.low).all() and (action <= BOX.high).all()
    assert action.mean(0) == pytest.approx([0.0, -1.0], abs=0.05)
    assert (np.ptp(action, 0) > 0.95 * (BOX.high - BOX.low)).all()
    # log_prob is a density in the action's own units: its exponential, inverted, averages to the box's volume
    assert (-output.log_prob).exp().mean().item() == pytest.approx(2.0 * 4.0, rel=0.05)


@pytest.mark.parametrize("scale", [pytest.param(1.0, marks=pytest.mark.slow), 100.0])
def test_the_temperature_brings_the_entropy_to_its_aim(scale):
    """Whatever the units of actions: -1 per entry where the box is [-1, 1]."""
    box = spaces.Box(-scale, scale, (2,))
    training = {"discount": 0.0, "learning_rate": 0.01, "learning_rate_final": 0.1, "temperature": 0.05}
    _, trainer = make(ALGORITHM, spaces.Discrete(1), box, training, {"hidden_sizes": (32,)}, horizon=600)
    rng, zeros = np.random.default_rng(0), np.zeros(128, np.int64)
    for _ in range(600):
        action = rng.uniform(-scale, scale, (128, 2)).astype(np.float32)
        reward = -np.square(action / scale - 0.3).sum(-1)
        trainer.advance(1)
        metrics = trainer.train(Transitions(zeros, action, reward, zeros, zeros == 0, np.ones(128, np.float32)))
    entropy = metrics["entropy"] - 2 * math.log(scale)
    assert entropy == pytest.approx(-2.0, abs=0.2)
    assert metrics["temperature"] < 0.03


def test_a_fixed_temperature_stays():
    policy, trainer = make(
        ALGORITHM, LinearQuadratic.observation_space, LinearQuadratic.action_space,
        {"temperature": 0.3, "learn_temperature": False},
    )  # fmt: skip
    assert len(trainer.parameters()) == len(list(policy.parameters())) - 1
    before = policy.export_state()
    metrics = trainer.train(LinearQuadratic.transitions(32, np.random.default_rng(0)))
    after = policy.export_state()
    assert metrics["temperature"] == pytest.approx(0.3)
    assert [name for name in after if np.array_equal(after[name], before[name])] == ["log_alpha"]


def test_target_critics_follow():
    policy, trainer = make(
        ALGORITHM, LinearQuadratic.observation_space, LinearQuadratic.action_space, {"tau": 0.25, "learning_rate": 0.1}
    )
    start = [p.clone() for p in trainer.target_critics.parameters()]
    trainer.train(LinearQuadratic.transitions(32, np.random.default_rng(0)))
    for old, new, leader in zip(start, trainer.target_critics.parameters(), policy.critics.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.25 * (leader - old))


def test_spaces_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"sac needs Box actions.*Discrete\(3\)"):
        make(ALGORITHM, spaces.Discrete(1), spaces.Discrete(3), {})
    with pytest.raises(ConfigError, match=r"sac needs.*finite bounds.*inf"):
        make(ALGORITHM, spaces.Discrete(1), spaces.Box(-np.inf, np.inf, (2,)), {})
    with pytest.raises(ConfigError, match="capacity"):
        make(ALGORITHM, spaces.Discrete(1), BOX, {"capacity": 100})


# -- exact answers and scores ------------------------------------------------------------------------------------


@pytest.mark.parametrize("learns", [True, False])
def test_the_gain_of_the_linear_quadratic_problem(learns):
    """The optimal policy with entropy is a Gaussian around the action that is best without."""
    problem, rng = LinearQuadratic, np.random.default_rng(0)
    training = {
        "discount": problem.discount,
        "learning_rate": 0.1 if learns else 0.0,
        "tau": 0.1,
        "temperature": 0.01,
        "learn_temperature": False,
    }
    updates = 600 if learns else 5  # with a learning rate of zero more of the same changes nothing
    policy, trainer = make(
        ALGORITHM, problem.observation_space, problem.action_space, training, problem.model, horizon=updates
    )
    for _ in range(updates):
        trainer.advance(1)
        metrics = trainer.train(problem.transitions(64, rng))
    error = problem.error(policy)
    assert (error < 0.05) == (metrics["critic_loss"] < 1e-3) == learns, (error, metrics)


def train(folder, **settings):
    return run(
        make_scenario(build(TrainConfig, {"scenario": "marl", "workers": 0, **settings, "logdir": str(folder)})),
        Console(quiet=True),
    )


@pytest.mark.parametrize("learns", [True, False])
def test_identity(tmp_path, learns):
    """A hundred decisions are worth 90 and more after 400; 50 where the action is always 0."""
    trainer = {"discount": 0.95, "learning_starts": 100, "learning_rate": 1e-3 if learns else 0.0}
    summary = train(
        tmp_path, env="continuous:IdentityBox", algorithm="sac", steps=400, trainer=trainer,
        rollout={"fragment_length": 8, "eval_interval": 1000},
    )  # fmt: skip
    assert (summary["return_mean"] >= 90) == learns, summary["return_mean"]


@pytest.mark.parametrize("learns", [True, False])
def test_pendulum(tmp_path, learns):
    """Random play earns -1230, the best about -150. Seconds, for networks are small, and updates few and bold."""
    trainer = {"updates_per_step": 0.2, "learning_rate": 5e-3, "discount": 0.95, "tau": 0.05, "batch_size": 64}
    summary = train(
        tmp_path, env="gym/Pendulum-v1", algorithm="sac", steps=6000 if learns else 600,
        trainer=trainer if learns else {**trainer, "learning_rate": 0.0}, model={"hidden_sizes": [64, 64]},
        rollout={"eval_interval": 1000},
    )  # fmt: skip
    assert (summary["return_mean"] >= -700) == learns, summary["return_mean"]
