"""QMIX and VDN: targets by hand, and the game of the paper, whose answers are known."""

import copy

import numpy as np
import pytest
import torch
from gymnasium import spaces

from malib_lite.algorithms import qmix, vdn
from malib_lite.algorithms.team_q import greedy_values, of_acting, taken_values, team_loss
from malib_lite.config import ConfigError
from malib_lite.contracts.joint import JointTransitions
from malib_lite.contracts.trainer import TeamShape
from malib_lite.runner import run
from malib_lite.runtime.console import Console
from malib_lite.train import TrainConfig, build, make_scenario

T = torch.tensor
MODULES = {"qmix": qmix, "vdn": vdn}
both = pytest.mark.parametrize("name", MODULES)


def make(name, observation_space, num_actions, team, training=None, model=None, horizon=None):
    algorithm = MODULES[name].ALGORITHM
    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy = algorithm.policy(observation_space, spaces.Discrete(num_actions), model or {}, {"team": team})
    return policy, algorithm.trainer(training or {}, policy, horizon=horizon)


# -- by hand -----------------------------------------------------------------------------------------------------


def test_what_agents_do_not_see_never_gets_into_the_network():
    seen = []

    def net(observation):
        seen.append(observation.tolist())
        return 10 * observation

    acting = T([[True, False], [False, True]])
    observation = T([[[1.0, 2.0], [torch.nan, 0.0]], [[0.0, torch.nan], [3.0, 4.0]]])
    q = of_acting(net, observation, acting)
    assert seen == [[[1.0, 2.0], [3.0, 4.0]]]
    assert q.tolist() == [[[10.0, 20.0], [0.0, 0.0]], [[0.0, 0.0], [30.0, 40.0]]]


def test_values_of_what_was_done_by_hand():
    q = T([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]])
    acting = T([[True, True], [False, True]])
    assert taken_values(q, T([[0, 1], [99, 0]]), acting).tolist() == [[1.0, 4.0], [0.0, 7.0]]


def test_greedy_values_by_hand():
    """The online network chooses among what is legal, the target network values; who does not act is worth nothing."""
    q_online = T([[[1.0, 2.0, 9.0], [5.0, 4.0, 3.0], [0.0, 0.0, 1.0]]])
    q_target = T([[[10.0, 20.0, 90.0], [50.0, 70.0, 30.0], [1.0, 2.0, 3.0]]])
    mask = T([[[True, True, False], [True, True, True], [False, False, False]]])
    acting = T([[True, True, False]])
    assert greedy_values(q_online, q_target, mask, acting).tolist() == [[20.0, 50.0, 0.0]]
    assert greedy_values(q_online, q_target, None, acting).tolist() == [[90.0, 50.0, 0.0]]
    assert greedy_values(q_target, q_target, mask, acting).tolist() == [[20.0, 70.0, 0.0]]


def test_the_loss_by_hand():
    q_tot = T([1.0, 2.0], requires_grad=True)
    loss = team_loss(q_tot, T([0.0, 4.0]))
    assert loss.item() == pytest.approx((1 + 4) / 2 / 2)
    loss.backward()
    assert q_tot.grad.tolist() == [0.5, -1.0]  # the error, over B


def test_targets_by_hand():
    """The mean of the rewards, and the sum of the agents' best next values where the episode goes on."""
    policy, trainer = make("vdn", spaces.Discrete(2), 2, TeamShape(2, 0), model={"hidden_sizes": ()})
    with torch.no_grad():
        trainer.target_q_net.net[-1].weight.copy_(T([[1.0, 10.0], [2.0, 20.0]]))  # (A, observations)
        policy.q_net.net[-1].weight.copy_(T([[5.0, 5.0], [4.0, 4.0]]))  # prefers action 0
    empty, yes = np.zeros((3, 0), np.float32), np.ones((3, 2), bool)
    batch = JointTransitions(
        observation=np.zeros((3, 2), np.int64),
        acting=yes,
        action=np.zeros((3, 2), np.int64),
        reward=np.float32([[1, 3], [1, 3], [1, 3]]),
        next_observation=np.array([[0, 1], [0, 1], [0, 99]]),
        next_acting=np.array([[True, True], [True, True], [True, False]]),
        terminated=np.array([False, True, False]),
        discount=np.float32([0.5, 0.5, 0.25]),
        state=empty,
        next_state=empty,
        next_action_mask=np.array([[[True, True], [False, True]]] * 3),
    )
    assert trainer._target(*trainer.minibatches(batch)).tolist() == [2 + 0.5 * (1 + 20), 2.0, 2 + 0.25 * 1]
    _, trainer.policy.q_net = trainer.policy.q_net, trainer.target_q_net  # the online network now prefers action 1
    assert trainer._target(*trainer.minibatches(batch)).tolist() == [2 + 0.5 * (2 + 20), 2.0, 2 + 0.25 * 2]


@both
@pytest.mark.parametrize("tau", [1.0, 0.25])
def test_the_target_networks_follow(name, tau):
    policy, trainer = make(
        name, spaces.Discrete(6), 2, TeamShape(2, 3), {"tau": tau, "target_update_interval": 2, "learning_rate": 0.1}
    )
    pairs = [(trainer.target_q_net, policy.q_net), (trainer.target_mixer, policy.mixer)]
    start = [copy.deepcopy(target.state_dict()) for target, _ in pairs]
    trainer.train(two_step())
    for (target, _), before in zip(pairs, start, strict=True):
        assert all(torch.equal(before[key], value) for key, value in target.state_dict().items())
    trainer.train(two_step())
    for (target, online), before in zip(pairs, start, strict=True):
        for key, value in target.state_dict().items():
            torch.testing.assert_close(value, before[key] + tau * (online.state_dict()[key] - before[key]))


@both
def test_epsilon_travels_with_the_parameters(name):
    settings = {"epsilon_initial": 1.0, "epsilon_final": 0.2, "exploration_fraction": 0.5}
    policy, trainer = make(name, spaces.Discrete(6), 2, TeamShape(2, 3), settings, horizon=100)
    seen = []
    for _ in range(4):
        seen.append(float(policy.export_state()["epsilon"]))
        trainer.advance(25)
    assert seen == pytest.approx([1.0, 0.6, 0.2, 0.2])


@both
def test_spaces_that_do_not_fit_are_refused(name):
    policy_class = MODULES[name].ALGORITHM.policy
    with pytest.raises(ConfigError, match=rf"{name} needs Discrete actions.*Box\("):
        policy_class.check_spaces(spaces.Discrete(2), spaces.Box(-1, 1, (2,)))
    with pytest.raises(ConfigError, match=rf"{name} needs Discrete actions from 0.*start=1"):
        policy_class.check_spaces(spaces.Discrete(2), spaces.Discrete(2, start=1))


# -- the two-step game -------------------------------------------------------------------------------------------

PAYOFFS = np.float32([[[0, 0], [0, 0]], [[7, 7], [7, 7]], [[0, 1], [1, 8]]])  # of states 1, 2A and 2B, by both actions


def two_step():
    """Every joint action in every state once. Agent n in state s observes 2 s + n: each has its own table."""
    state, first, second = (axis.ravel() for axis in np.mgrid[0:3, 0:2, 0:2])
    following = np.where(state == 0, 1 + first, 0)  # the first agent alone decides where the second step is played
    observe = lambda s: 2 * s[:, None] + np.arange(2)  # noqa: E731
    yes, one_hot = np.ones((12, 2), bool), np.eye(3, dtype=np.float32)
    return JointTransitions(
        observation=observe(state),
        acting=yes,
        action=np.stack([first, second], 1),
        reward=PAYOFFS[state, first, second][:, None].repeat(2, 1),
        next_observation=observe(following),
        next_acting=yes,
        terminated=state > 0,
        discount=np.ones(12, np.float32),
        state=one_hot[state],
        next_state=one_hot[following],
    )


def solve(name, learns):
    """What Q_tot (3, 2, 2) becomes of all transitions of the game, over and over; and the policy."""
    training = {"learning_rate": 0.03 if learns else 0.0, "tau": 0.1, "learning_rate_final": 0.01}
    updates = 1500 if learns else 1
    policy, trainer = make(
        name, spaces.Discrete(6), 2, TeamShape(2, 3), training, {"hidden_sizes": ()}, horizon=updates
    )
    batch = two_step()
    for _ in range(updates):
        trainer.advance(1)
        trainer.train(batch)
    q = policy.q_net.net(torch.from_numpy(batch.observation).flatten()).view(12, 2, 2)
    q_taken = taken_values(q, torch.from_numpy(batch.action), torch.from_numpy(batch.acting))
    return policy.mixer(q_taken, torch.from_numpy(batch.state)).detach().view(3, 2, 2).numpy(), policy


def play_two_step(policy):
    """The return of the agents' own greedy actions."""
    greedy = policy.compute_action(torch.arange(6), evaluate=True).action.view(3, 2).tolist()
    second = 1 + greedy[0][0]
    return PAYOFFS[second, greedy[second][0], greedy[second][1]]


@pytest.mark.parametrize("learns", [True, False])
def test_vdn_finds_the_best_sum(learns):
    """Least squares of 2B is [[-1.5, 2.5], [2.5, 6.5]]; 6.5 < 7, so the first agent leads to 2A."""
    q_tot, policy = solve("vdn", learns)
    best_fit = [[[7, 7], [6.5, 6.5]], [[7, 7], [7, 7]], [[-1.5, 2.5], [2.5, 6.5]]]
    assert (np.abs(q_tot - best_fit).max() < 0.02) == learns
    assert play_two_step(policy) == 7 or not learns


@pytest.mark.parametrize("learns", [True, False])
def test_qmix_finds_what_no_sum_can_be(learns):
    """2B rises with each of two values, and so it is a monotonic mixture of them: all is fitted exactly."""
    q_tot, policy = solve("qmix", learns)
    exact = [[[7, 7], [8, 8]], [[7, 7], [7, 7]], [[0, 1], [1, 8]]]
    assert (np.abs(q_tot - exact).max() < 0.1) == learns
    assert play_two_step(policy) == 8 or not learns


@pytest.mark.slow
@pytest.mark.parametrize("learns", [True, False])
def test_the_two_step_game_as_it_is_played(tmp_path, learns):
    """From the command's settings to the return, exploring all the time: 8 for QMIX, 7 for VDN."""
    returns = []
    for name in MODULES:
        trainer = {"epsilon_final": 1.0, "learning_rate": 5e-3 if learns else 0.0, "updates_per_step": 0.1}
        settings = build(
            TrainConfig,
            {
                "scenario": "marl", "env": "matrix/two_step", "algorithm": name, "workers": 0, "steps": 4000,
                "trainer": trainer, "rollout": {"eval_interval": 1000}, "logdir": str(tmp_path / name),
            },
        )  # fmt: skip
        returns.append(run(make_scenario(settings), Console(quiet=True))["return_mean"])
    assert (returns == [8.0, 7.0]) == learns


# -- time limits -------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(("terminated", "value"), [(False, 10.0), (True, 1 / (1 - 0.81))])
def test_a_time_limit_is_no_end(name, terminated, value):
    """One state, reward 1, ten steps, discount 0.9: Q_tot is 10 where the last was cut, 1 / (1 - 0.81) where it ended
    the episode."""
    training = {"learning_rate": 0.1, "learning_rate_final": 0.001, "tau": 0.3}
    policy, trainer = make(name, spaces.Discrete(1), 1, TeamShape(2, 1), training, {"hidden_sizes": ()}, horizon=500)
    nought, yes, state = np.zeros((10, 2), np.int64), np.ones((10, 2), bool), np.ones((10, 1), np.float32)
    discount = np.full(10, 0.9, np.float32)
    ends = terminated & (np.arange(10) == 9)
    batch = JointTransitions(
        nought, yes, nought, np.ones((10, 2), np.float32), nought, yes, ends, discount, state, state
    )
    for _ in range(500):
        trainer.advance(1)
        trainer.train(batch)
    q_tot = policy.mixer(policy.q_net.net(torch.zeros(2, dtype=torch.int64)).view(1, 2), torch.ones(1, 1))
    assert q_tot.item() == pytest.approx(value, abs=0.05)
