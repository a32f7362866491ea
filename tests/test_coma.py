"""COMA: the counterfactual baseline and the critic's targets by hand, and games whose answers are known."""

import copy

import numpy as np
import pytest
import torch
from arithmetic import rounding
from gymnasium import spaces

from malib_lite.algorithms.coma import (
    ALGORITHM,
    COMABatch,
    counterfactual_advantage,
    critic_loss,
    lambda_returns,
    policy_gradient_loss,
)
from malib_lite.config import ConfigError
from malib_lite.contracts.joint import JointTrajectories
from malib_lite.contracts.trainer import TeamShape
from malib_lite.runner import run
from malib_lite.runtime.console import Console
from malib_lite.train import TrainConfig, build, make_scenario

T = torch.tensor
TEAM = TeamShape(num_agents=3, state_size=2)
TABULAR = {"hidden_sizes": ()}


def make(observation_space, num_actions, team=TEAM, training=None, model=None, horizon=None):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy = ALGORITHM.policy(observation_space, spaces.Discrete(num_actions), model or {}, {"team": team})
    policy.seed(0)
    return policy, ALGORITHM.trainer(training or {}, policy, horizon=horizon)


def steps(num_steps, observation_space, num_actions, seed=0):
    """Steps of TEAM that mean nothing: (B, N, *obs), (B, S), (B, N), (B, N), (B, N, A)."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_steps, TEAM.num_agents)
    acting = torch.rand(shape, generator=generator) < 0.7
    mask = torch.rand((*shape, num_actions), generator=generator) < 0.5
    mask[..., 1] = acting[:, 0] = True
    observation = torch.randint(int(observation_space.n), shape, generator=generator)
    state = torch.randn((num_steps, TEAM.state_size), generator=generator)
    return observation, state, acting, torch.randint(num_actions, shape, generator=generator), mask


# -- the counterfactual baseline ---------------------------------------------------------------------------------


def test_advantages_by_hand():
    q, probs = T([[1.0, 2.0, 4.0], [0.0, 8.0, 5.0]]), T([[0.25, 0.5, 0.25], [1.0, 0.0, 0.0]])
    assert counterfactual_advantage(q, probs, T([2, 1])).tolist() == [4 - 2.25, 8.0]


def test_losses_by_hand():
    assert policy_gradient_loss(T([-1.0, -2.0]), T([3.0, -1.0])).item() == pytest.approx(-(-3.0 + 2.0) / 2)
    assert critic_loss(T([1.0, 2.0]), T([0.0, 4.0])).item() == pytest.approx((1 + 4) / 2 / 2)


def test_every_agents_advantages_have_mean_zero():
    """sum_a pi(a|o) A(s, a) = 0, whatever the critic says and whatever the others do; not so of Q itself."""
    policy, _ = make(spaces.Discrete(5), 4)
    observation, state, acting, action, mask = steps(200, spaces.Discrete(5), 4)
    with torch.no_grad():
        q = 10 * policy.critic(observation, state, acting, action).double()  # (K, A)
        probs = policy.action_probs(observation[acting], mask[acting]).double()
        probs /= probs.sum(-1, keepdim=True)
        advantage = torch.stack([counterfactual_advantage(q, probs, torch.full((len(q),), a)) for a in range(4)], -1)
    assert (probs * advantage).sum(-1).abs().max() < 1e-6
    assert (probs * q).sum(-1).abs().max() > 0.1 and advantage.abs().max() > 0.1


def test_the_baseline_changes_no_expected_gradient():
    """Summed over all that an agent could do, as often as it does it: with and without the baseline the same."""
    logits, q = torch.randn(6, 4, requires_grad=True), torch.randn(6, 4)
    policy = torch.distributions.Categorical(logits=logits)
    actions = torch.arange(4).expand(6, -1)
    advantage = torch.stack([counterfactual_advantage(q, policy.probs.detach(), actions[:, a]) for a in range(4)], -1)
    gradients = []
    for credit in (q, advantage):
        loss = policy_gradient_loss(policy.logits, policy.probs.detach() * credit)
        gradients.append(torch.autograd.grad(loss, logits, retain_graph=True)[0])
    torch.testing.assert_close(*gradients, atol=rounding(4, 8 * q.abs().max().item()), rtol=0)  # actions
    assert gradients[0].abs().max() > 1e-3


def test_the_critic_sees_the_others_actions_and_not_ones_own():
    policy, _ = make(spaces.Discrete(5), 4)
    observation, state, acting, action, _ = steps(50, spaces.Discrete(5), 4)
    acting[:, :2], acting[:, 2] = True, False
    rows = acting.nonzero()[:, 1]  # which agent each row of values is of
    with torch.no_grad():
        before = policy.critic(observation, state, acting, action)
        for agent, changes in ((0, [False, True]), (1, [True, False]), (2, [False, False])):  # the third does not act
            other = action.clone()
            other[:, agent] = (other[:, agent] + 1) % 4
            after = policy.critic(observation, state, acting, other)
            assert [not torch.equal(before[rows == n], after[rows == n]) for n in (0, 1)] == changes


# -- targets -----------------------------------------------------------------------------------------------------


def trajectories(terminated=(), truncated=(), invalid=(), num_rows=4, acting=None):
    """One stream of TEAM; reward t + 1 in row t, to each agent t, t + 1 and t + 2."""
    shape = (num_rows, 1)
    rows = np.arange(num_rows, dtype=np.float32)[:, None]
    flags = {"terminated": terminated, "truncated": truncated, "invalid": invalid}
    flags = {name: np.isin(np.arange(num_rows), at)[:, None] for name, at in flags.items()}
    everybody = np.ones((num_rows + 1, 1, TEAM.num_agents), bool)
    return JointTrajectories(
        observation=np.zeros((num_rows + 1, 1, TEAM.num_agents), np.int64),
        acting=everybody if acting is None else acting,
        action=np.zeros((*shape, TEAM.num_agents), np.int64),
        reward=np.stack([rows, rows + 1, rows + 2], -1),
        terminated=flags["terminated"],
        truncated=flags["truncated"],
        valid=~flags["invalid"],
        episode=np.zeros(shape, np.int64),
        policy_version=np.zeros(shape, np.int64),
        state=np.zeros((num_rows + 1, 1, TEAM.state_size), np.float32),
    )


def test_lambda_returns_by_hand():
    """The team earns 1, 2, 3, 4; discount 1/2."""
    value = np.float32([[8], [16], [24], [32], [40]])

    def returns(batch, td_lambda):
        return lambda_returns(value, batch, 0.5, td_lambda)[:, 0].tolist()

    assert returns(trajectories(), 0.0) == [1 + 8, 2 + 12, 3 + 16, 4 + 20]  # the next value, half of it
    assert returns(trajectories(), 1.0) == [1 + 1 + 0.75 + 3, 2 + 1.5 + 6, 3 + 12, 24]  # rewards, then the last value
    assert returns(trajectories(), 0.5)[2:] == [3 + 0.5 * (16 + 12), 24]  # half way between both
    assert returns(trajectories(terminated=[1]), 1.0)[:2] == [1 + 1, 2]
    assert returns(trajectories(truncated=[1], invalid=[2]), 1.0)[:2] == [1 + 7, 2 + 12]


def test_what_follows_is_drawn_from_the_policy():
    """Where the last row of a fragment or an episode was cut, the policy says what would be done there."""
    policy, trainer = make(spaces.Discrete(1), 2, model=TABULAR)
    with torch.no_grad():
        policy.epsilon.zero_()
        policy.actor.net[-1].bias[1] = 50.0  # always does action 1
        last = trainer.target_critic.net[-1]
        last.weight.zero_()
        last.bias.copy_(T([3.0, 7.0]))
    batch = trajectories(truncated=[1], invalid=[2])
    assert trainer._values(batch)[:, 0].tolist() == [3.0, 3.0, 7.0, 3.0, 7.0]  # recorded actions are all 0
    batch = trajectories(terminated=[1])
    assert trainer._values(batch)[:, 0].tolist() == [3.0, 3.0, 3.0, 3.0, 7.0]
    batch = trajectories(terminated=[3])
    assert trainer._values(batch)[-1] == 0  # nobody asks


def test_the_teams_value_is_the_mean_of_those_who_act():
    acting = np.ones((5, 1, 3), bool)
    acting[1, 0, 2] = False
    _, trainer = make(spaces.Discrete(1), 1, model=TABULAR)
    with torch.no_grad():
        last = trainer.target_critic.net[-1]
        last.weight.zero_()
        last.bias.zero_()
        last.weight[0, TEAM.state_size + 1 :][:3] = T([1.0, 2.0, 6.0])  # by which agent it is
    assert trainer._values(trajectories(acting=acting))[:2, 0].tolist() == [3.0, 1.5]


@pytest.mark.parametrize(("cut", "value"), [(True, 10.0), (False, 1 / (1 - 0.81))])
def test_a_time_limit_is_no_end(cut, value):
    """One state, reward 1, ten steps, discount 0.9: worth 10 where the limit truncates, 1 / (1 - 0.81) by one-step
    errors where it terminates."""
    team = TeamShape(num_agents=3, state_size=2)
    training = {
        "discount": 0.9, "td_lambda": 0.0, "critic_learning_rate": 0.1, "learning_rate_final": 0.001, "tau": 0.3,
        "num_minibatches": 1, "max_grad_norm": 100.0,
    }  # fmt: skip
    policy, trainer = make(spaces.Discrete(1), 1, team, training, TABULAR, horizon=400)
    last = {"truncated": [9]} if cut else {"terminated": [9]}
    batch = trajectories(**last, invalid=[10], num_rows=11)
    batch.reward[:] = 1.0
    for _ in range(400):
        trainer.advance(1)
        trainer.train(batch)
    q = policy.critic(*(torch.from_numpy(a[0]) for a in (batch.observation, batch.state, batch.acting, batch.action)))
    assert q.tolist() == [[pytest.approx(value, abs=0.05)]] * 3


# -- the policy --------------------------------------------------------------------------------------------------


def test_every_legal_action_keeps_its_chance():
    policy, _ = make(spaces.Discrete(1), 4)
    mask = T([[True, True, False, True], [False, False, True, False]])
    with torch.no_grad():
        policy.actor.net[-1].bias.copy_(T([200.0, 0.0, 200.0, 0.0]))
        policy.epsilon.fill_(0.3)
        probs = policy.action_probs(T([0, 0]), mask)
    torch.testing.assert_close(probs, T([[0.8, 0.1, 0.0, 0.1], [0.0, 0.0, 1.0, 0.0]]))


def test_epsilon_travels_with_the_parameters():
    settings = {"epsilon_initial": 0.6, "epsilon_final": 0.2, "exploration_fraction": 0.5}
    policy, trainer = make(spaces.Discrete(6), 2, training=settings, horizon=100)
    seen = []
    for _ in range(4):
        seen.append(float(policy.export_state()["epsilon"]))
        trainer.advance(25)
    assert seen == pytest.approx([0.6, 0.4, 0.2, 0.2])


@pytest.mark.parametrize("tau", [1.0, 0.25])
def test_the_target_critic_follows(tau):
    training = {"tau": tau, "target_update_interval": 2, "num_minibatches": 1}
    policy, trainer = make(spaces.Discrete(1), 2, training=training)
    start = copy.deepcopy(trainer.target_critic.state_dict())
    trainer.train(trajectories())
    assert all(torch.equal(start[key], value) for key, value in trainer.target_critic.state_dict().items())
    trainer.train(trajectories())
    for key, value in trainer.target_critic.state_dict().items():
        torch.testing.assert_close(value, start[key] + tau * (policy.critic.state_dict()[key] - start[key]))


def test_the_critic_learns_nothing_from_the_policys_loss():
    """Nor the policy from the critic's: each gradient is of one loss alone."""
    policy, trainer = make(spaces.Discrete(5), 4)
    observation, state, acting, action, mask = steps(64, spaces.Discrete(5), 4)
    gradients, _ = trainer.compute_gradients(COMABatch(observation, state, acting, action, mask, torch.zeros(64)))
    q = policy.critic(observation, state, acting, action)
    own = action[acting]
    wanted = torch.autograd.grad(
        critic_loss(q.gather(-1, own[:, None])[:, 0], torch.zeros(len(own))), list(policy.critic.parameters())
    )
    for ours, theirs in zip(gradients[trainer.num_actor :], wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_spaces_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"coma needs Discrete actions.*Box\("):
        ALGORITHM.policy.check_spaces(spaces.Discrete(2), spaces.Box(-1, 1, (2,)))


# -- it learns ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("learns", [True, False])
def test_the_penalty_game_without_a_penalty(tmp_path, learns):
    """Twenty-five rounds, 10 at the best in each; uniform play earns 61."""
    trainer = {"num_minibatches": 8, "learning_rate": 1e-3 if learns else 0.0}
    settings = build(
        TrainConfig,
        {
            "scenario": "marl", "env": "matrix/custom", "algorithm": "coma", "workers": 0, "steps": 10_000,
            "env_config": {"payoffs": [[10, 0, 0], [0, 2, 0], [0, 0, 10]], "form": "identical", "rounds": 25},
            "trainer": trainer, "rollout": {"eval_interval": 1000}, "logdir": str(tmp_path / "run"),
        },
    )  # fmt: skip
    assert (run(make_scenario(settings), Console(quiet=True))["return_mean"] >= 240) == learns
