"""MADDPG: draws that gradients flow through, losses by hand, what the critic sees, and small games that it solves."""

import numpy as np
import pytest
import torch
from arithmetic import rounding
from gymnasium import spaces

from malib_lite.algorithms.maddpg import ALGORITHM, actor_loss, critic_loss, deviations
from malib_lite.config import ConfigError
from malib_lite.contracts.joint import JointTransitions
from malib_lite.contracts.trainer import TeamShape
from malib_lite.models.distributions import MaskedCategorical
from malib_lite.models.gumbel import gumbel_softmax
from malib_lite.runner import run
from malib_lite.runtime.console import Console
from malib_lite.train import TrainConfig, build, make_scenario

T = torch.tensor
BOX = spaces.Box(np.float32([-1, -3]), np.float32([1, 1]))
PENALTY = np.float32([[10, 0, 0], [0, 2, 0], [0, 0, 10]])  # k = 0


def make(observation_space, action_space, team, training=None, model=None, horizon=None):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy = ALGORITHM.policy(observation_space, action_space, model or {}, {"team": team})
    policy.seed(0)
    return policy, ALGORITHM.trainer(training or {}, policy, seed=0, horizon=horizon)


def one_step(action, reward, terminated=True, **fields):
    """Steps (B) of a team that sees who is who and nothing else, and whose state is always 1."""
    size, num_agents = action.shape[:2]
    who = np.broadcast_to(np.eye(num_agents, dtype=np.float32), (size, num_agents, num_agents)).copy()
    there, state = np.ones((size, num_agents), bool), np.ones((size, 1), np.float32)
    columns = {
        "observation": who, "acting": there, "action": action, "reward": reward, "next_observation": who,
        "next_acting": there, "terminated": np.full(size, terminated), "discount": np.full(size, 0.9, np.float32),
        "state": state, "next_state": state.copy(),
    }  # fmt: skip
    return JointTransitions(**{**columns, **fields})


def penalty_game(size, rng):
    """Uniform play, which everybody is paid for."""
    action = rng.integers(3, size=(size, 2))
    return one_step(action, PENALTY[action[:, 0], action[:, 1]][:, None].repeat(2, 1))


# -- Gumbel softmax ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.3, 1.0, 5.0])
def test_draws_are_those_of_the_softmax_and_legal(temperature):
    logits, mask = T([[1.0, 2.0, 0.0, 50.0]]), T([[True, True, True, False]])
    drawn = gumbel_softmax(
        logits.expand(100_000, -1), mask.expand(100_000, -1), torch.Generator().manual_seed(0), temperature
    )
    assert ((drawn == 0) | (drawn == 1)).all() and (drawn.sum(-1) == 1).all() and drawn[:, 3].sum() == 0
    torch.testing.assert_close(drawn.mean(0), MaskedCategorical(logits, mask).probs[0], atol=6e-3, rtol=0)


def test_the_gradient_is_that_of_the_noisy_softmax():
    logits, mask = torch.randn(6, 4, requires_grad=True), torch.ones(6, 4, dtype=torch.bool)
    mask[:, 1] = False
    weight, temperature = torch.randn(6, 4), 0.7
    drawn = gumbel_softmax(logits, mask, torch.Generator().manual_seed(3), temperature)
    (gradient,) = torch.autograd.grad((drawn * weight).sum(), logits)
    noise = -torch.empty(6, 4).exponential_(generator=torch.Generator().manual_seed(3)).log()
    soft = ((logits + noise).masked_fill(~mask, -np.inf) / temperature).softmax(-1)
    assert torch.equal(drawn.argmax(-1), soft.argmax(-1))
    (expected,) = torch.autograd.grad((soft * weight).sum(), logits)
    torch.testing.assert_close(gradient, expected, atol=rounding(4, 10.0), rtol=1e-5)
    assert gradient[:, 1].abs().max() == 0 and gradient.abs().max() > 0.01


# -- by hand -----------------------------------------------------------------------------------------------------


def test_losses_by_hand():
    q = T([[1.0, 2.0], [3.0, 5.0]], requires_grad=True)
    assert critic_loss(q, T([[0.0, 2.0], [1.0, 1.0]])).item() == pytest.approx((1 + 0 + 4 + 16) / 4 / 2)
    loss = actor_loss(q, T([[True, False], [True, True]]))
    assert loss.item() == pytest.approx(-(1 + 3 + 5) / 3)
    assert torch.autograd.grad(loss, q)[0].tolist() == [[pytest.approx(-1 / 3), 0.0], [pytest.approx(-1 / 3)] * 2]


def test_each_agent_deviates_alone():
    own, taken = T([[[1.0], [2.0], [3.0]]]), T([[[-1.0], [-2.0], [-3.0]]])
    assert deviations(own, taken)[0, :, :, 0].tolist() == [[1, -2, -3], [-1, 2, -3], [-1, -2, 3]]


@pytest.mark.parametrize(
    ("space", "action", "rows"),
    [
        (spaces.Discrete(3), T([2, 0]), [[0, 0, 1], [1, 0, 0]]),
        (spaces.MultiDiscrete([2, 3]), T([[1, 0], [0, 2]]), [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]),
        (BOX, T([[1.0, -1.0], [0.0, -3.0]]), [[1, 0], [0, -1]]),
    ],
)
def test_actions_as_the_critic_reads_them(space, action, rows):
    policy, _ = make(spaces.Box(-1, 1, (2,)), space, TeamShape(2, 1))
    assert policy.actor.rows(action).tolist() == rows


# -- what the critic sees ----------------------------------------------------------------------------------------


def test_without_the_others_actions_the_critics_loss_is_another():
    """With them it can know every reward of the penalty game. Without, half the variance that is left of them is 7.56:
    of 10, 0, 0 where the own action is the first or the last, of 0, 2, 0 where it is the second."""
    losses = {}
    for others in (True, False):
        model = {"others_in_critic": others}
        policy, trainer = make(
            spaces.Box(0, 1, (2,)), spaces.Discrete(3), TeamShape(2, 1), {"learning_rate": 3e-3}, model
        )
        rng = np.random.default_rng(0)
        metrics = [trainer.train(penalty_game(128, rng))["critic_loss"] for _ in range(250)]
        losses[others] = metrics[0], np.mean(metrics[-50:])
        joint = torch.zeros(1, 2, 2, 3, requires_grad=True)
        (slope,) = torch.autograd.grad(policy.critic(torch.ones(1, 1), joint)[0, 0], joint)
        assert slope[0, 0, 0].abs().min() > 0  # of its own action
        assert (slope[0, 0, 1].abs().max() > 0) == others
        assert slope[0, 1].abs().max() == 0  # what stands in another agent's row is of no consequence
    variances = np.float64([200 / 9, 8 / 9, 200 / 9])
    assert losses[True][0] != losses[False][0]
    assert losses[True][1] < 0.5
    assert losses[False][1] == pytest.approx(variances.mean() / 2, rel=0.15)


@pytest.mark.parametrize("learns", [True, False])
def test_every_agent_is_valued_by_its_own_reward(learns):
    """Rewards of 1 and 3 for ever, at discount 0.5: 2 and 6. Time limits do not end that."""
    training = {"learning_rate": 0.1 if learns else 0.0, "tau": 0.3, "learning_rate_final": 0.001}
    policy, trainer = make(
        spaces.Box(0, 1, (2,)), spaces.Discrete(1), TeamShape(2, 1), training, {"hidden_sizes": ()}, horizon=400
    )
    action, reward = np.zeros((4, 2), np.int64), np.float32([[1, 3]]).repeat(4, 0)
    for _ in range(400):
        trainer.advance(1)
        trainer.train(one_step(action, reward, terminated=False, discount=np.full(4, 0.5, np.float32)))
    value = policy.critic(torch.ones(1, 1), torch.ones(1, 1, 2, 1))[0].tolist()
    assert (value == pytest.approx([2.0, 6.0], abs=0.02)) == learns


def test_the_end_is_worth_nothing():
    _, trainer = make(spaces.Box(0, 1, (2,)), spaces.Discrete(3), TeamShape(2, 1))
    rng = np.random.default_rng(0)
    batch = penalty_game(8, rng)
    batch.next_state[:] = np.nan
    assert np.isfinite(trainer.train(batch)["critic_loss"])
    batch.terminated[0] = False
    with pytest.raises(FloatingPointError, match="maddpg"):
        trainer.train(batch)


def test_a_reward_between_an_agents_turns_is_not_lost():
    """The first agent acts, then the second, and only then the first is paid, 1 for what it did."""
    training, steps = {"learning_rate": 0.01, "tau": 0.1, "learning_rate_final": 0.05}, 400
    policy, trainer = make(spaces.Box(0, 1, (2,)), spaces.Discrete(2), TeamShape(2, 3), training, horizon=steps)
    first, did, answer = (bits.reshape(-1) for bits in np.indices((2, 2, 2)))  # whether it is the first's turn
    batch = one_step(
        np.stack([did, answer], 1),
        np.stack([np.where(first, 0, did), np.zeros(8)], 1).astype(np.float32),
        acting=np.stack([first, 1 - first], 1).astype(bool),
        next_acting=np.stack([1 - first, first], 1).astype(bool),
        terminated=first == 0,
        state=np.eye(3, dtype=np.float32)[np.where(first, 0, 1 + did)],
        next_state=np.eye(3, dtype=np.float32)[1 + did],
    )
    for _ in range(steps):
        trainer.advance(1)
        trainer.train(batch)
    probs = policy.action_probs(torch.eye(2), None)
    assert probs[0, 1] > 0.9
    joint = T([[[[1.0, 0.0], [0.0, 0.0]]], [[[0.0, 1.0], [0.0, 0.0]]]])
    q = policy.critic(torch.eye(3)[[0, 0]], joint)[:, 0]
    torch.testing.assert_close(q, T([0.0, 0.9]), atol=0.05, rtol=0)


# -- how it acts -------------------------------------------------------------------------------------------------


def test_continuous_actions_are_explored_within_the_box():
    policy, trainer = make(
        spaces.Box(-1, 1, (2,)), BOX, TeamShape(2, 4), {"noise_final": 0.2, "exploration_fraction": 0.5}, horizon=100
    )
    observation, seen = torch.zeros(20_000, 2), []
    for _ in range(3):
        with torch.no_grad():
            action = policy.compute_action(observation).action.numpy()
        assert (action >= BOX.low).all() and (action <= BOX.high).all()
        seen.append(float(policy.export_state()["noise"]))
        trainer.advance(25)
    assert seen == pytest.approx([1.0, 0.6, 0.2])
    np.testing.assert_allclose(action.std(0), 0.2 * (BOX.high - BOX.low) / 2, rtol=0.05)
    with torch.no_grad():
        assert policy.compute_action(observation, evaluate=True).action.numpy().std(0).max() == 0


def test_spaces_and_teams_that_do_not_fit_are_refused():
    for space in (spaces.MultiBinary(2), spaces.Box(-np.inf, np.inf, (2,))):
        with pytest.raises(ConfigError, match="maddpg needs"):
            make(spaces.Box(-1, 1, (2,)), space, TeamShape(2, 4))
    with pytest.raises(ConfigError, match="maddpg trains teams"):
        ALGORITHM.policy(spaces.Box(-1, 1, (2,)), spaces.Discrete(2))


# -- it learns ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("learns", [True, False])
def test_the_penalty_game(tmp_path, learns):
    """25 rounds at 10 are 250, and it takes both to agree on one of two ways to get them; uniform play earns 61."""
    settings = {
        "scenario": "marl", "algorithm": "maddpg", "env": "matrix/custom", "steps": 3000, "workers": 0,
        "env_config": {"payoffs": PENALTY.tolist(), "form": "identical", "rounds": 25},
        "rollout": {"eval_interval": 1000}, "trainer": {} if learns else {"learning_rate": 0.0},
        "logdir": str(tmp_path),
    }  # fmt: skip
    summary = run(make_scenario(build(TrainConfig, settings)), Console(quiet=True))
    assert (summary["return_mean"] >= 240) == learns


@pytest.mark.parametrize("action_space", [spaces.MultiDiscrete([3, 3]), spaces.Box(0.0, 2.0, (2,))])
@pytest.mark.parametrize("learns", [True, False])
def test_combined_and_continuous_actions(action_space, learns):
    """One step: each agent is to do its own goal, and the team earns minus the squared distances of all together."""
    goals, rng, updates = np.float32([[0, 2], [1, 0]]), np.random.default_rng(0), 300
    training = {"learning_rate": 3e-3 if learns else 0.0}
    policy, trainer = make(spaces.Box(0, 1, (2,)), action_space, TeamShape(2, 1), training, horizon=updates)
    for _ in range(updates):
        action = (
            rng.integers(3, size=(128, 2, 2))
            if isinstance(action_space, spaces.MultiDiscrete)
            else rng.uniform(0, 2, (128, 2, 2)).astype(np.float32)
        )
        reward = -np.square(action - goals).sum((1, 2)).astype(np.float32)
        trainer.advance(1)
        trainer.train(one_step(action, reward[:, None].repeat(2, 1)))
    with torch.no_grad():
        action = policy.compute_action(torch.eye(2), evaluate=True).action.numpy()
    assert (np.abs(action - goals).max() < 0.2) == learns
