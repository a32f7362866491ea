"""MAPPO: losses by hand, PPO where there is one agent, dead agents, time limits, and small games that it solves."""

import copy
import math

import numpy as np
import pytest
import torch
from arithmetic import SAME_POLICY_KL, rounding
from gymnasium import spaces

from malib_lite.algorithms import ppo
from malib_lite.algorithms.mappo import ALGORITHM, ValueNormaliser, clipped_surrogate_loss, kl_estimate, value_loss
from malib_lite.config import ConfigError
from malib_lite.contracts.data import Trajectories
from malib_lite.contracts.joint import JointTrajectories
from malib_lite.contracts.trainer import TeamShape
from malib_lite.runner import run
from malib_lite.runtime.console import Console
from malib_lite.train import TrainConfig, build, make_scenario

T = torch.tensor
ROWS = ("action", "reward", "terminated", "truncated", "valid", "episode", "policy_version")
LINEAR = {"hidden_sizes": ()}


def make(observation_space, action_space, team, training=None, model=None, horizon=None):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy = ALGORITHM.policy(observation_space, action_space, model or {}, {"team": team})
    policy.seed(0)
    return policy, ALGORITHM.trainer(training or {}, policy, seed=0, horizon=horizon)


def noise(policy, num_agents=2, state_size=4, rows=12, envs=3, seed=0):
    """Joint trajectories that are nothing but noise; every agent acts in some rows only."""
    rng = np.random.default_rng(seed)
    shape = (rows + 1, envs, num_agents)
    observation = rng.normal(size=(*shape, *policy.observation_space.shape)).astype(np.float32)
    with torch.no_grad():
        output = policy.compute_action(torch.from_numpy(observation[:-1].reshape(-1, *observation.shape[3:])))
    acting = rng.random(shape) < 0.6
    acting[..., 0] |= ~acting.any(-1)
    terminated = rng.random((rows, envs)) < 0.15
    truncated = ~terminated & (rng.random((rows, envs)) < 0.15)
    valid = np.ones((rows, envs), bool)
    valid[1:] &= ~truncated[:-1]
    return JointTrajectories(
        observation=observation,
        acting=acting,
        action=output.action.numpy().reshape(rows, *shape[1:], *output.action.shape[1:]),
        reward=rng.normal(size=(rows, *shape[1:])).astype(np.float32),
        terminated=terminated & valid,
        truncated=truncated & valid,
        valid=valid,
        episode=np.zeros((rows, envs), np.int64),
        policy_version=np.zeros((rows, envs), np.int64),
        state=rng.normal(size=(*shape[:2], state_size)).astype(np.float32),
        extras={"log_prob": output.log_prob.numpy().reshape(rows, *shape[1:])},
    )


def same(left, right):
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


# -- by hand -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [(1.1, 2.0, -2.2, -2.2), (1.5, 2.0, -2.4, 0.0), (0.5, -2.0, 1.6, 0.0), (1.5, -2.0, 3.0, 3.0)],
)
def test_the_surrogate_by_hand(ratio, advantage, loss, slope):
    log_prob = T([math.log(ratio)], requires_grad=True)
    value = clipped_surrogate_loss(log_prob, T([0.0]), T([advantage]), clip_ratio=0.2)
    value.backward()
    assert value.item() == pytest.approx(loss, abs=1e-6)
    assert log_prob.grad.item() == pytest.approx(slope, abs=1e-6)


def test_value_losses_by_hand():
    value, target = T([[1.0], [5.0]], requires_grad=True), T([[0.0], [1.0]])
    assert value_loss(value, value.detach(), target, None).item() == pytest.approx((1 + 16) / 2)
    # the first value may still fall to its target; the second has risen from 4.9 to 5 and counts as it is
    old = T([[2.0], [4.9]])
    loss = value_loss(value, old, target, 0.5)
    assert loss.item() == pytest.approx((1.5**2 + 16) / 2)
    assert torch.autograd.grad(loss, value)[0].tolist() == [[0.0], [4.0]]
    assert kl_estimate(T([0.0, math.log(2.0)]), T([0.0, 0.0])).item() == pytest.approx((2 - 1 - math.log(2)) / 2)


def test_value_targets_are_normalised_and_restored():
    normaliser, targets = ValueNormaliser(), np.float32([[90.0], [110.0], [100.0], [5000.0]])
    normaliser.update(targets[:2].reshape(-1))
    units = normaliser(torch.from_numpy(targets))
    assert units[:3, 0].tolist() == pytest.approx([-1.0, 1.0, 0.0], abs=1e-6)
    np.testing.assert_allclose(normaliser.restore(units.numpy()), targets, rtol=1e-6)  # far ones are not clipped


# -- one agent that sees the state: PPO --------------------------------------------------------------------------


@pytest.mark.parametrize("action_space", [spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), spaces.Box(-1, 1, (2,))])
@pytest.mark.parametrize("sees_state", [True, False])
def test_with_one_agent_that_sees_the_state_it_is_ppo(action_space, sees_state):
    """The gradient at ratio 1, and a whole training to the bit; a state that is another observation is another critic's
    business, and the actor's alone as long as its advantages are the same."""
    space, training = spaces.Box(-1, 1, (2, 3)), {"minibatch_size": 10, "num_epochs": 3, "value_clip": 0.1}
    policy, trainer = make(space, action_space, TeamShape(1, 6), training)
    single = ppo.PPOPolicy(space, action_space)
    single.import_state(policy.export_state())
    reference = ppo.PPOTrainer(training, single, seed=0)
    joint = noise(policy, num_agents=1, state_size=6)
    joint.acting[:] = True
    joint.state = joint.observation.reshape(*joint.acting.shape[:2], 6).copy()
    if not sees_state:
        joint.state += 1.0
    columns = {name: getattr(joint, name) for name in ROWS} | {
        "action": joint.action[:, :, 0], "reward": joint.reward[:, :, 0]
    }  # fmt: skip
    alone = Trajectories(
        observation=joint.observation[:, :, 0], extras={"log_prob": joint.extras["log_prob"][..., 0]}, **columns
    )
    batches = next(trainer.minibatches(joint)), next(reference.minibatches(alone))
    (ours, metrics), (theirs, _) = trainer.compute_gradients(batches[0]), reference.compute_gradients(batches[1])
    assert metrics["kl"] < SAME_POLICY_KL and sum(g.abs().sum() for g in theirs) > 0.1
    if sees_state:
        for gradient, expected in zip(ours, theirs, strict=True):
            torch.testing.assert_close(gradient, expected, atol=rounding(128), rtol=0)  # samples and inputs of a layer
    trainer.train(joint)
    reference.train(alone)
    assert same(policy.export_state(), single.export_state()) == sees_state


# -- what the critic values --------------------------------------------------------------------------------------


def test_a_teams_value_is_the_states():
    policy, _ = make(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), TeamShape(2, 4))
    state, acting = torch.randn(5, 4), torch.ones(5, 2, dtype=torch.bool)
    value = policy.value(state, torch.randn(5, 2, 3), acting)
    assert value.shape == (5, 1)
    assert torch.equal(value, policy.value(state, torch.randn(5, 2, 3), acting))


def test_a_dead_agent_is_known_by_its_number():
    policy, _ = make(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), TeamShape(2, 4), model={"agent_values": True})
    state, observation = torch.randn(1, 4).expand(2, 4), torch.randn(1, 1, 3).expand(2, 2, 3).clone()
    acting = T([[True, True], [False, True]])
    value = policy.value(state, observation, acting)
    assert value.shape == (2, 2)
    assert value[0, 0] != value[0, 1]  # who sees the same in the same state is still another agent
    assert value[0, 1] == value[1, 1] and value[0, 0] != value[1, 0]
    observation[1, 0] = math.nan
    assert torch.equal(policy.value(state, observation, acting), value)


@pytest.mark.parametrize("model", [{}, {"agent_values": True}, {"normalise_values": True, "agent_values": True}])
def test_agents_that_do_not_act_teach_nothing(model):
    space, team = spaces.Box(-1, 1, (3,)), TeamShape(2, 4)
    (policy, trainer), (twin, other) = (make(space, spaces.Discrete(3), team, model=model) for _ in range(2))
    clean = noise(policy)
    dirty = copy.deepcopy(clean)
    absent = ~clean.acting
    dirty.observation[absent], dirty.action[absent[:-1]], dirty.extras["log_prob"][absent[:-1]] = np.nan, 99, np.nan
    trainer.train(clean)
    other.train(dirty)
    assert same(policy.export_state(), twin.export_state())
    dirty.observation[clean.acting] += 0.1  # and those that do act, do
    trainer.train(clean)
    other.train(dirty)
    assert not same(policy.export_state(), twin.export_state())


def loop(cut, scale=1.0):
    """One state, ten steps that earn agent 0 half of ``scale`` and agent 1 three halves; the limit cuts or ends."""
    last = np.arange(11)[:, None] == 9
    zeros = np.zeros((11, 1), np.int64)
    return JointTrajectories(
        observation=np.zeros((12, 1, 2, 1), np.float32),
        acting=np.ones((12, 1, 2), bool),
        action=np.zeros((11, 1, 2), np.int64),
        reward=np.float32([0.5, 1.5]) * np.full((11, 1, 1), scale, np.float32),
        terminated=last & (not cut),
        truncated=last & cut,
        valid=np.arange(11)[:, None] < 10,
        episode=zeros,
        policy_version=zeros,
        state=np.where(np.arange(12)[:, None, None] < 11, np.float32(1.0), np.float32(np.nan)),
        extras={"log_prob": np.zeros((11, 1, 2), np.float32)},
    )


@pytest.mark.parametrize(
    ("model", "own", "scale", "shares"),
    [
        pytest.param({}, False, 1.0, [1.0], marks=pytest.mark.slow),
        pytest.param({"agent_values": True}, False, 1.0, [1.0, 1.0], marks=pytest.mark.slow),
        ({"agent_values": True}, True, 1.0, [0.5, 1.5]),
        ({"normalise_values": True}, False, 1000.0, [1.0]),
    ],
)
@pytest.mark.parametrize(("cut", "horizon_value"), [(True, 10.0), (False, 1 / (1 - 0.81))])
def test_a_time_limit_is_no_end(model, own, scale, shares, cut, horizon_value):
    """A reward of 1 for ever is worth 10 at discount 0.9; where the limit is an end, one-step errors say 5.26.

    The team's value is of the mean reward, an agent's of that or of its own, as ``own_rewards`` says.
    """
    training = {
        "discount": 0.9, "gae_lambda": 0.0, "learning_rate": 0.3, "learning_rate_final": 0.001, "max_grad_norm": 100.0,
        "own_rewards": own,
    }  # fmt: skip
    team = TeamShape(2, 1)
    policy, trainer = make(
        spaces.Box(-1, 1, (1,)), spaces.Discrete(1), team, training, {**LINEAR, **model}, horizon=150
    )
    for _ in range(150):
        trainer.advance(1)
        trainer.train(loop(cut, scale))
    with torch.no_grad():
        value = policy.value(torch.ones(1, 1), torch.zeros(1, 2, 1), torch.ones(1, 2, dtype=torch.bool)).numpy()
    if policy.value_normaliser is not None:
        value = policy.value_normaliser.restore(value)
    np.testing.assert_allclose(value[0], scale * horizon_value * np.float64(shares), atol=0.05 * scale)


def test_own_rewards_need_a_value_for_each_agent():
    with pytest.raises(ConfigError, match=r"own_rewards.*agent_values"):
        make(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), TeamShape(2, 4), {"own_rewards": True})
    with pytest.raises(ConfigError, match=r"mappo needs Box, Discrete or MultiDiscrete.*MultiBinary"):
        make(spaces.Box(-1, 1, (3,)), spaces.MultiBinary(2), TeamShape(2, 4))


NORMALISED = dict.fromkeys(
    ("normalise_observations", "normalise_rewards", "normalise_values", "agent_values"), True
)  # fmt: skip


def test_statistics_travel_with_the_parameters_and_move_after_the_updates():
    space, team = spaces.Box(-1, 1, (3,)), TeamShape(2, 4)
    policy, trainer = make(space, spaces.Discrete(3), team, {"value_clip": 0.2}, NORMALISED)
    before = policy.export_state()
    for number in range(2):
        joint = noise(policy, seed=number)
        first = next(iter(trainer.minibatches(joint)))
        assert trainer.compute_gradients(first)[1]["kl"] < SAME_POLICY_KL  # the ratio is 1 when a round arrives
        policy.import_state(before)
        trainer.train(joint)
        before = policy.export_state()
    acting = joint.acting[:-1][joint.valid]
    seen = [noise(make(space, spaces.Discrete(3), team)[0], seed=number) for number in range(2)]
    shown = np.concatenate([s.observation[:-1][s.valid][s.acting[:-1][s.valid]] for s in seen])
    np.testing.assert_allclose(policy.normaliser.mean, shown.mean(0, dtype=np.float64), atol=1e-6)
    states = np.concatenate([s.state[:-1][s.valid] for s in seen])
    np.testing.assert_allclose(policy.state_normaliser.mean, states.mean(0, dtype=np.float64), atol=1e-6)
    assert len(acting) and {key for key in before if "normaliser" in key} == {
        f"{name}normaliser.{key}" for name in ("", "state_", "value_", "reward_") for key in ("mean", "var", "count")
    }
    state, parameters = trainer.state_dict(), policy.export_state()
    trainer.train(seen[0])
    twin, resumed = make(space, spaces.Discrete(3), team, {"value_clip": 0.2}, NORMALISED)
    twin.import_state(parameters)
    resumed.load_state_dict(state)
    resumed.train(seen[0])
    assert same(policy.export_state(), twin.export_state())


# -- it learns ---------------------------------------------------------------------------------------------------


def train(folder, learns, **settings):
    if not learns:
        settings["trainer"] = {**settings.get("trainer", {}), "learning_rate": 0.0}
    common = {"scenario": "marl", "algorithm": "mappo", "workers": 0, "logdir": str(folder)}
    scenario = make_scenario(build(TrainConfig, {**common, **settings}))
    return run(scenario, Console(quiet=True))["return_mean"]


SHORT = {"eval_interval": 1000, "fragment_length": 512}


@pytest.mark.parametrize("learns", [True, False])
def test_the_optimum_of_the_two_step_game(tmp_path, learns):
    """8, which QMIX finds and VDN does not: a policy gradient need not take values apart. Where the first agent gives
    the second state up before the team has learnt what to do there, it stays with 7."""
    reached = train(
        tmp_path, learns, env="matrix/two_step", steps=6000, trainer={"learning_rate": 3e-3}, rollout=SHORT, seed=1
    )
    assert (reached == 8.0) == learns


@pytest.mark.parametrize("learns", [True, False])
def test_the_penalty_game(tmp_path, learns):
    """25 rounds at 10 are 250, and it takes both to agree on one of two ways to get them; uniform play earns 61."""
    game = {"payoffs": [[10, 0, 0], [0, 2, 0], [0, 0, 10]], "form": "identical", "rounds": 25}
    trainer = {"learning_rate": 3e-3}
    reached = train(tmp_path, learns, env="matrix/custom", env_config=game, steps=8000, trainer=trainer, rollout=SHORT)
    assert (reached >= 240) == learns


@pytest.mark.parametrize("action_space", [spaces.MultiDiscrete([3, 3]), spaces.Box(0.0, 2.0, (2,))])
@pytest.mark.parametrize("learns", [True, False])
def test_combined_and_continuous_actions(action_space, learns):
    """One step: each agent is to do its own goal, and the team earns minus the squared distances of all together."""
    goals = np.float32([[0, 2], [1, 0]])
    training = {"learning_rate": 0.03 if learns else 0.0, "minibatch_size": 1000}
    policy, trainer = make(spaces.Box(0, 1, (2,)), action_space, TeamShape(2, 1), training, LINEAR, horizon=40)
    who = torch.eye(2)
    zeros, ends = np.zeros((1, 200), np.int64), np.ones((1, 200), bool)
    for _ in range(40):
        with torch.no_grad():
            output = policy.compute_action(who.repeat(200, 1))
        action = output.action.numpy().reshape(1, 200, 2, 2)
        reward = -np.square(action - goals).sum((2, 3)).astype(np.float32)
        trainer.advance(1)
        trainer.train(
            JointTrajectories(
                who.numpy()[None, None].repeat(2, 0).repeat(200, 1), np.ones((2, 200, 2), bool), action,
                reward[..., None].repeat(2, -1), ends, ~ends, ends, zeros, zeros, None,
                np.ones((2, 200, 1), np.float32), {"log_prob": output.log_prob.numpy().reshape(1, 200, 2)},
            )
        )  # fmt: skip
    with torch.no_grad():
        action = policy.compute_action(who, evaluate=True).action.numpy()
    assert (np.abs(action - goals).max() < 0.2) == learns
