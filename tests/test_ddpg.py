"""Deep deterministic policy gradient: losses and noise by hand, and problems whose answers are known."""

import continuous
import numpy as np
import pytest
import torch
from continuous import LinearQuadratic, make
from gymnasium import spaces

from malib_lite.algorithms.ddpg import ALGORITHM, actor_loss, critic_loss
from malib_lite.algorithms.targets import Follower, QNet, td_target
from malib_lite.config import ConfigError
from malib_lite.models.nets import NetConfig
from malib_lite.runner import run
from malib_lite.runtime.console import Console
from malib_lite.train import TrainConfig, build, make_scenario

T = torch.tensor
BOX = spaces.Box(np.float32([-1, -3]), np.float32([1, 1]))


# -- by hand -----------------------------------------------------------------------------------------------------


def test_targets_by_hand():
    """Nothing follows where an episode terminated, whatever the network says of it."""
    target = td_target(T([1.0, 1.0, 2.0]), T([10.0, -4.0, np.nan]), T([False, False, True]), T([0.5, 0.25, 0.5]))
    assert target.tolist() == [6.0, 0.0, 2.0]


def test_losses_by_hand():
    q = T([1.0, 2.0], requires_grad=True)
    assert critic_loss(q, T([0.0, 4.0])).item() == pytest.approx((1 + 4) / 2 / 2)
    assert torch.autograd.grad(critic_loss(q, T([0.0, 4.0])), q)[0].tolist() == [0.5, -1.0]  # the error, over B
    assert actor_loss(q).item() == -1.5


def test_followers_go_their_share():
    slow, fast = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    with torch.no_grad():
        fast.weight.copy_(T([3.0, 5.0]))
        fast.running_mean.copy_(T([1.0, 2.0]))
    Follower(slow, fast).follow(0.25)
    assert slow.weight.tolist() == [1.5, 2.0]
    assert slow.running_mean.tolist() == [1.0, 2.0]  # statistics are no parameters: copied


def test_critics_see_actions_in_halves_of_the_box():
    q_net = QNet(spaces.Discrete(2), BOX, NetConfig(hidden_sizes=()))
    action = T([[1.0, 1.0], [-1.0, -3.0], [0.0, 0.0]])
    assert q_net.bounds.normalise(action).tolist() == [[1.0, 1.0], [-1.0, -1.0], [0.0, 0.5]]
    value = q_net(T([1, 1, 0]), action.double())
    by_state, by_action = q_net.net[-1].weight[0].split(2)
    torch.testing.assert_close(value, by_state[[1, 1, 0]] + q_net.bounds.normalise(action) @ by_action)


def test_the_actor_climbs_the_critic():
    """At a critic that is linear in the action, the policy gradient is its slope: actions go to the box's corner."""
    training = {"learning_rate": 0.05, "learning_rate_final": 1.0}
    policy, trainer = make(ALGORITHM, spaces.Discrete(1), BOX, training, {"hidden_sizes": ()})
    with torch.no_grad():
        policy.critic.net[-1].weight[0, 1:] = T([1.0, -1.0])
    critic = [p.clone() for p in policy.critic.parameters()]
    zeros, ones = np.zeros(4, np.int64), np.ones(4, bool)
    batch = continuous.Transitions(
        zeros, np.zeros((4, 2), np.float32), np.zeros(4, np.float32), zeros, ones, np.ones(4, np.float32)
    )
    for _ in range(200):
        gradients, _ = trainer.compute_gradients(batch)
        num_actor = len(list(policy.actor.parameters()))
        trainer.apply_gradients([*gradients[:num_actor], *(torch.zeros_like(p) for p in critic)])
    assert all(torch.equal(p, kept) for p, kept in zip(policy.critic.parameters(), critic, strict=True))
    action = policy.compute_action(torch.zeros(1, dtype=torch.int64), evaluate=True).action
    torch.testing.assert_close(action, T([[1.0, -3.0]]), atol=0.02, rtol=0)


# -- exploration -------------------------------------------------------------------------------------------------


def test_noise_is_as_wide_as_announced_and_stays_in_the_box():
    policy, _ = make(ALGORITHM, spaces.Discrete(1), BOX, {"noise_final": 0.2})
    observation = torch.zeros(20_000, dtype=torch.int64)
    with torch.no_grad():
        plain = policy.compute_action(observation, evaluate=True).action
        noise = policy.compute_action(observation).action - plain
    assert noise.std(0).numpy() == pytest.approx([0.2, 0.4], rel=0.05)  # halves of the box are 1 and 2
    assert noise.mean(0).numpy() == pytest.approx([0.0, 0.0], abs=0.02)
    policy.noise.fill_(3.0)
    with torch.no_grad():
        wild = policy.compute_action(observation).action
    assert (wild >= T(BOX.low)).all() and (wild <= T(BOX.high)).all()
    assert (wild[:, 0] == 1.0).any() and (wild[:, 0] == -1.0).any()


def test_noise_travels_with_the_parameters():
    settings = {"noise_initial": 1.0, "noise_final": 0.2, "exploration_fraction": 0.5}
    policy, trainer = make(ALGORITHM, spaces.Discrete(1), BOX, settings, horizon=100)
    seen = []
    for _ in range(4):
        seen.append(float(policy.export_state()["noise"]))
        trainer.advance(25)
    assert seen == pytest.approx([1.0, 0.6, 0.2, 0.2])
    assert float(make(ALGORITHM, spaces.Discrete(1), BOX, settings)[0].noise) == pytest.approx(0.2)


# -- what does not fit -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Discrete(3), r"ddpg needs Box actions.*Discrete\(3\)"),
        (spaces.MultiDiscrete([2, 2]), r"ddpg needs Box actions.*MultiDiscrete"),
        (spaces.Box(-np.inf, 1.0, (2,)), r"ddpg needs.*finite bounds.*inf"),
        (spaces.Box(0, 255, (2,), np.uint8), r"ddpg needs.*floating-point"),
        (spaces.Box(np.float32([0, 1]), np.float32([1, 1])), r"ddpg needs bounds that differ"),
    ],
)
def test_spaces_that_do_not_fit_are_refused(space, message):
    with pytest.raises(ConfigError, match=message):
        make(ALGORITHM, spaces.Discrete(1), space, {})


def test_a_store_too_small_is_refused():
    with pytest.raises(ConfigError, match="capacity"):
        make(ALGORITHM, spaces.Discrete(1), BOX, {"capacity": 100})


# -- exact answers and scores ------------------------------------------------------------------------------------


@pytest.mark.parametrize("learns", [True, False])
def test_the_gain_of_the_linear_quadratic_problem(learns):
    problem, rng = LinearQuadratic, np.random.default_rng(0)
    training = {"discount": problem.discount, "learning_rate": 0.1 if learns else 0.0, "tau": 0.1}
    updates = 600 if learns else 5  # with a learning rate of zero more of the same changes nothing
    policy, trainer = make(
        ALGORITHM, problem.observation_space, problem.action_space, training, problem.model, horizon=updates
    )
    for _ in range(updates):
        trainer.advance(1)
        metrics = trainer.train(problem.transitions(64, rng))
    error = problem.error(policy)
    assert (error < 0.05) == (metrics["critic_loss"] < 1e-3) == learns, (error, metrics)


@pytest.mark.parametrize(("cut", "value"), [(True, 10.0), (False, 1 / (1 - 0.81))])
def test_a_time_limit_is_no_end(cut, value):
    """Q = 10 at discount 0.9 where the limit truncates; 1 / (1 - 0.81) from one-step errors where it terminates."""
    training = {"discount": 0.9, "learning_rate": 0.3, "learning_rate_final": 0.001, "tau": 0.3}
    one, box = spaces.Discrete(1), spaces.Box(-1.0, 1.0, (1,))
    policy, trainer = make(ALGORITHM, one, box, training, {"hidden_sizes": ()}, horizon=600)
    with torch.no_grad():
        policy.critic.net[-1].weight[0, 1] = (
            0.0  # all actions are worth the same, and the one that is seen tells no more
        )
    batch = continuous.time_limited_loop(cut).transitions(1, 0.9)
    for _ in range(600):
        trainer.advance(1)
        trainer.train(batch)
    assert policy.critic(T([0]), T([[0.0]])).item() == pytest.approx(value, abs=0.05)


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
        tmp_path, env="continuous:IdentityBox", algorithm="ddpg", steps=400, trainer=trainer,
        rollout={"fragment_length": 8, "eval_interval": 1000},
    )  # fmt: skip
    assert (summary["return_mean"] >= 90) == learns, summary["return_mean"]


@pytest.mark.slow
@pytest.mark.parametrize("learns", [True, False])
def test_pendulum(tmp_path, learns):
    """Random play earns -1230, the best about -150."""
    trainer = {} if learns else {"learning_rate": 0.0, "updates_per_step": 0.01}  # more such updates change nothing
    summary = train(tmp_path, env="gym/Pendulum-v1", algorithm="ddpg", steps=6000, trainer=trainer)
    assert (summary["return_mean"] >= -700) == learns, summary["return_mean"]
