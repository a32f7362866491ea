"""COMA: policy gradients of a team, each agent's action judged against all that it could have done instead.

Paper:
    Foerster et al. 2018, Counterfactual multi-agent policy gradients (https://arxiv.org/abs/1705.08926): the advantage
    of equation 4, the critic of figure 1 (c), which values all actions of one agent in one pass, its targets by
    TD(lambda) with a target network, and the exploration of section "Decentralised StarCraft micromanagement".

Deviations:
    Agents are feed-forward: they act on what they see now. The paper's are recurrent. Neither they nor the critic are
    shown the last actions.
    There is one critic, and a sequence of values for each agent in the paper. Here what comes later counts by the mean
    of the acting agents' values of it: all of them estimate the same, what the team will earn.
    Where a fragment or a time limit cuts an episode, the actions that would follow are drawn from the policy.
    A round is learnt from in ``num_minibatches`` parts, and each part steps critic and policy. In the paper the critic
    takes a step for each time step, from the last to the first, and then the policy one.
    Illegal actions take no part: not in acting, not in exploration, not in the baseline. Agents that do not act in a
    step (the dead, or others' turns) are neither valued nor trained there, and the critic sees no action of theirs.
    A team earns the mean of its agents' rewards, which is the reward itself where they share it.
    Adam for RMSProp, learning rates that fall linearly, a target network that follows softly (``tau`` 1 with
    ``target_update_interval`` copies, as in the paper).

Expected:
    sum_a pi(a) A(s, a) = 0 for every agent; the optimum of the penalty game (tests/test_coma.py). Scores are in
    docs/results.md.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from malib_lite.algorithms.optimiser import Adam, finite, step
from malib_lite.algorithms.returns import gae, rows_to_value
from malib_lite.algorithms.stochastic_policy import StochasticPolicy
from malib_lite.algorithms.targets import Follower, check_discrete_spaces
from malib_lite.algorithms.team_q import team_shape
from malib_lite.config import (
    Fraction,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    build,
    config,
    defaults,
    option,
)
from malib_lite.contracts.data import OnPolicySpec
from malib_lite.contracts.joint import JointTrajectories
from malib_lite.contracts.trainer import Algorithm, Metrics, TeamShape, Trainer
from malib_lite.models.distributions import MaskedCategorical
from malib_lite.models.nets import Actor, NetConfig, make_encoder, make_net


@config
class COMAConfig:
    """Schedules span the horizon: ``total_timesteps``, or else the run's own. Without either they stand at their end
    (exploration) and their beginning (learning rates)."""

    total_timesteps: PositiveInt | None = option(None, "environment steps that schedules span; None: the run's own")
    # returns
    discount: Fraction = option(0.99, "gamma, the worth of a reward one step later")
    td_lambda: Fraction = option(0.8, "lambda: 0 trusts the critic, 1 the rewards up to the fragment's end")
    # optimisation
    learning_rate: NonNegativeFloat = option(5e-4, "Adam's step size for the policy at the beginning")
    critic_learning_rate: NonNegativeFloat = option(5e-3, "Adam's step size for the critic at the beginning")
    learning_rate_final: Fraction = option(0.05, "share of both that is left at the end of the horizon; 1 holds them")
    num_minibatches: PositiveInt = option(4, "parts of a round, each of them a step")
    max_grad_norm: PositiveFloat = option(10.0, "gradients of policy and critic are each scaled down to this norm")
    tau: Fraction = option(0.05, "share of the way the target critic goes at each of its updates; 1 copies")
    target_update_interval: PositiveInt = option(1, "updates between updates of the target critic")
    # exploration
    epsilon_initial: Fraction = option(0.5, "share of uniformly random actions in the policy at the beginning")
    epsilon_final: Fraction = option(0.02, "this share after exploration_fraction of the horizon")
    exploration_fraction: Fraction = option(0.5, "share of the horizon over which random actions become rarer")


class COMABatch(NamedTuple):
    """B steps of a team of N agents."""

    observation: torch.Tensor  # (B, N, *obs)
    state: torch.Tensor  # (B, S) float32
    acting: torch.Tensor  # (B, N) bool
    action: torch.Tensor  # (B, N) int64
    action_mask: torch.Tensor | None  # (B, N, A) bool
    target: torch.Tensor  # (B,) float32, what the team's action turned out to be worth

    @property
    def num_samples(self) -> int:
        return len(self.target)


def counterfactual_advantage(q_t: torch.Tensor, probs_t: torch.Tensor, action_t: torch.Tensor) -> torch.Tensor:
    """Equation 4: Q(s, u) less its mean over what this agent could have done, the others doing what they did.

    Args:
        q_t: (K, A) float32, the critic's values of all actions of one agent.
        probs_t: (K, A) float32, how likely the agent's policy makes them.
        action_t: (K,) int64, what it did.

    Returns:
        (K,) float32.
    """
    baseline_t = (probs_t * q_t).sum(-1)
    return q_t.gather(-1, action_t.unsqueeze(-1)).squeeze(-1) - baseline_t


def policy_gradient_loss(log_prob_t: torch.Tensor, advantage_t: torch.Tensor) -> torch.Tensor:
    """-mean(log pi(u|o) A), of lemma 1's gradient, over the agents' decisions; both (K,) float32."""
    return -(log_prob_t * advantage_t).mean()


def critic_loss(q_taken_t: torch.Tensor, target_t: torch.Tensor) -> torch.Tensor:
    """Half the mean squared error of the values of what was done; both (K,) float32."""
    return (q_taken_t - target_t).square().mean() / 2


def lambda_returns(value_t: np.ndarray, batch: JointTrajectories, discount: float, td_lambda: float) -> np.ndarray:
    """y^(lambda), (T, E) float32, of the values of what the team did in each row, ``value_t`` (T + 1, E) float32.

    The recursion is that of generalised advantages, only that values are those of actions.
    """
    stream = (batch.team_reward, value_t, batch.terminated, batch.truncated, batch.valid)
    return gae(*stream, discount, td_lambda) + value_t[:-1]


class CounterfactualCritic(nn.Module):
    """Q(s, (u^-n, .)): what each of agent n's actions would be worth to the team, the others doing what they do.

    Agent n's values are made of the state, what it sees, which agent it is, and the others' actions (figure 1, c).
    """

    def __init__(self, observation_space: spaces.Space, num_actions: int, team: TeamShape, settings: NetConfig) -> None:
        super().__init__()
        self.num_actions = num_actions
        self.encoder = make_encoder(observation_space, settings)
        width = team.state_size + self.encoder.num_features + team.num_agents * (1 + num_actions)
        joint_space = spaces.Box(-np.inf, np.inf, (width,), np.float32)
        # the encoder has dealt with images
        self.net = make_net(joint_space, num_actions, dataclasses.replace(settings, images="auto"), output_gain=1.0)

    def forward(
        self, observation: torch.Tensor, state: torch.Tensor, acting: torch.Tensor, action: torch.Tensor
    ) -> torch.Tensor:
        """(B, N, *obs), (B, S), (B, N), (B, N) -> (K, A) float32, for the K agents that act, in the order of rows."""
        step, agent = acting.nonzero(as_tuple=True)  # (K,) each: rows of agents that do not act mean nothing
        action = action.masked_fill(~acting, 0)
        done = nn.functional.one_hot(action, self.num_actions) * acting.unsqueeze(-1)  # (B, N, A)
        others = done[step]  # (K, N, A)
        others[torch.arange(len(agent), device=agent.device), agent] = 0
        who = nn.functional.one_hot(agent, acting.shape[1])
        own = self.encoder(observation[acting])
        return self.net(torch.cat([state[step], own, who.float(), others.flatten(1).float()], -1))


class COMAPolicy(StochasticPolicy):
    """The actor that all agents share, mixed with uniform play (``epsilon``), and the critic that trains it."""

    model_class = NetConfig
    epsilon: torch.Tensor  # () float32: the share of uniform play

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        model_config: Mapping[str, Any] | None = None,
        custom_config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(observation_space, action_space, model_config, custom_config)
        self.check_spaces(observation_space, action_space)
        assert isinstance(action_space, spaces.Discrete)
        settings = build(NetConfig, self.model_config, "model_config")
        self.num_actions = int(action_space.n)
        self.actor = Actor(observation_space, action_space, settings)
        team = team_shape("coma", self.custom_config)
        self.critic = CounterfactualCritic(observation_space, self.num_actions, team, settings)
        self.register_buffer("epsilon", torch.tensor(0.5))

    @classmethod
    def check_spaces(cls, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        check_discrete_spaces("coma", observation_space, action_space)

    def distribution(self, observation: torch.Tensor, act_mask: torch.Tensor | None) -> MaskedCategorical:
        """(1 - epsilon) softmax(actor(o)) + epsilon / |legal actions|, for observations (B, *obs)."""
        learnt = self.actor(observation, act_mask).probs  # (B, A)
        legal = torch.ones_like(learnt) if act_mask is None else act_mask.float()
        probs = (1 - self.epsilon) * learnt + self.epsilon * legal / legal.sum(-1, keepdim=True)
        return MaskedCategorical(probs.clamp_min(torch.finfo(probs.dtype).tiny).log(), act_mask)


class COMATrainer(Trainer[JointTrajectories, COMABatch]):
    """Steps critic and policy along each round."""

    config_class = COMAConfig
    joint = True
    rollout_defaults = {"agent_ids": True, "fragment_length": 512, "num_env_per_thread": 16}
    config: COMAConfig
    policy: COMAPolicy

    def setup(self) -> None:
        c, policy = self.config, self.policy
        self.trained = self.parameters()  # the actor's first
        self.num_actor = len(list(policy.actor.parameters()))
        self.optimiser = Adam(self.trained[: self.num_actor], c.learning_rate)
        self.critic_optimiser = Adam(self.trained[self.num_actor :], c.critic_learning_rate)
        self.target_critic = copy.deepcopy(policy.critic).requires_grad_(False)
        self.critic_follower = Follower(self.target_critic, policy.critic)

    def data_spec(self) -> OnPolicySpec:
        return OnPolicySpec()

    def follow_schedules(self) -> None:
        super().follow_schedules()
        c = self.config
        explored = self.explored()
        self.policy.epsilon.fill_(c.epsilon_initial + explored * (c.epsilon_final - c.epsilon_initial))

    def minibatches(self, batch: JointTrajectories) -> Iterator[COMABatch]:
        c, valid = self.config, batch.valid
        if not valid.any():
            return
        target = lambda_returns(self._values(batch), batch, c.discount, c.td_lambda)
        whole = COMABatch(
            observation=self.tensor(batch.observation[:-1][valid]),
            state=self.tensor(batch.global_state[:-1][valid]),
            acting=self.tensor(batch.acting[:-1][valid]),
            action=self.tensor(batch.action[valid]),
            action_mask=None if batch.action_mask is None else self.tensor(batch.action_mask[:-1][valid]),
            target=self.tensor(target[valid]),
        )
        finite(whole.target.mean(), "coma")  # now, or parts of the round that are sound would be learnt from first
        order = torch.randperm(len(whole.target), generator=self.generator).to(self.device)
        count = min(c.num_minibatches, len(order))
        for number, rows in enumerate(order.tensor_split(count), 1):
            self.batch_used = number / count
            yield COMABatch._make(None if part is None else part[rows] for part in whole)

    @torch.no_grad()
    def _values(self, batch: JointTrajectories) -> np.ndarray:
        """The target critic's value of what the team does in each row, (T + 1, E) float32; zero where not needed."""
        needed = rows_to_value(batch.terminated, batch.valid)  # (T + 1, E)
        seen, acting = self.tensor(batch.observation[needed]), self.tensor(batch.acting[needed])
        mask = None if batch.action_mask is None else self.tensor(batch.action_mask[needed])
        undecided = needed.copy()  # rows that only show what followed: what is done there is not in this fragment
        undecided[:-1] &= ~batch.valid
        done = np.zeros(batch.acting.shape, np.int64)
        done[:-1] = batch.action
        action = self.tensor(done[needed])  # (R, N)
        draws = self.tensor(undecided[needed]).unsqueeze(-1) & acting  # (R, N)
        if draws.any():
            policy = self.policy.distribution(seen[draws], None if mask is None else mask[draws])
            action[draws] = policy.draw(self.generator)
        q = self.target_critic(seen, self.tensor(batch.global_state[needed]), acting, action)  # (K, A)
        q_taken = q.new_zeros(action.shape)
        q_taken[acting] = q.gather(-1, action[acting].unsqueeze(-1)).squeeze(-1)
        value = np.zeros(needed.shape, np.float32)
        value[needed] = (q_taken.sum(-1) / acting.sum(-1).clamp_min(1)).cpu().numpy()
        return value

    def compute_gradients(self, minibatch: COMABatch) -> tuple[Sequence[torch.Tensor], Metrics]:
        acting = minibatch.acting
        action = minibatch.action[acting]  # (K,)
        q = self.policy.critic(minibatch.observation, minibatch.state, acting, minibatch.action)  # (K, A)
        q_taken = q.gather(-1, action.unsqueeze(-1)).squeeze(-1)
        value_loss = critic_loss(q_taken, minibatch.target.unsqueeze(-1).expand_as(acting)[acting])
        mask = None if minibatch.action_mask is None else minibatch.action_mask[acting]
        distribution = self.policy.distribution(minibatch.observation[acting], mask)
        advantage = counterfactual_advantage(q.detach(), distribution.probs.detach(), action)
        policy_loss = policy_gradient_loss(distribution.log_prob(action), advantage)
        loss = policy_loss + value_loss  # of parameters that are not the same
        metrics = {
            "loss": finite(loss, "coma"),
            "policy_loss": policy_loss.item(),
            "critic_loss": value_loss.item(),
            "q_mean": q_taken.detach().mean().item(),
            "entropy": distribution.entropy().mean().item(),
        }
        return torch.autograd.grad(loss, self.trained), metrics

    def apply_gradients(self, gradients: Sequence[torch.Tensor]) -> Metrics:
        c, k = self.config, self.num_actor
        critic_norm = step(self.critic_optimiser, self.trained[k:], gradients[k:], c.max_grad_norm, "coma's critic")
        norm = step(self.optimiser, self.trained[:k], gradients[:k], c.max_grad_norm, "coma")
        self.num_updates += 1
        if self.num_updates % c.target_update_interval == 0:
            self.critic_follower.follow(c.tau)
        return {"grad_norm": norm, "critic_grad_norm": critic_norm}


DEFAULT_CONFIG = {"training_config": defaults(COMAConfig), "model_config": defaults(NetConfig), "custom_config": {}}
ALGORITHM = Algorithm(COMAPolicy, COMATrainer)
