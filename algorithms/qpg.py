"""Policy gradients over all actions, and the two that are made of regrets: QPG, RPG and RMPG.

Paper:
    Srinivasan et al. 2018, Actor-critic policy optimization in partially observable multiagent environments
    (https://arxiv.org/abs/1810.09026). A critic q values all that could be done, v is its mean under the policy, and
    the regret of an action is what it is worth beyond v. QPG is also the mean actor-critic of Allen et al. 2017
    (https://arxiv.org/abs/1709.00503). With two legal actions RPG is QPG, for just one of them is better than v.

Deviations:
    Illegal actions take no part: not in acting, not in v, not in the sum of regrets, not in the entropy.
    The critic takes ``critic_updates`` steps on some decisions before the policy takes one on the same. In OpenSpiel's
    agent each of its steps has decisions of its own, and the policy learns from those of every eighth.
    The critic learns lambda-returns. With ``td_lambda`` = 1 these are the returns that were seen, and v stands in for
    the rest where a fragment or a time limit cuts an episode.
    Adam, where OpenSpiel's agent takes plain gradient steps. Gradients of policy and critic are clipped by norm,
    learning rates fall linearly.

Expected:
    Closed forms of the three gradients (tests/test_losses.py), the optimal actions of a small decision process
    (tests/test_qpg.py). CartPole-v1, 150,000 steps, greedy, seed 0: 497. Kuhn poker: see docs/results.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from gymnasium import spaces

from malib_lite.algorithms.optimiser import Adam, finite, step
from malib_lite.algorithms.returns import gae, rows_to_value
from malib_lite.algorithms.stochastic_policy import StochasticPolicy
from malib_lite.algorithms.targets import check_discrete_spaces
from malib_lite.config import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, config, defaults, option
from malib_lite.contracts.data import OnPolicySpec, Trajectories
from malib_lite.contracts.trainer import Algorithm, Metrics, Trainer
from malib_lite.models.distributions import MaskedCategorical
from malib_lite.models.nets import Actor, NetConfig, make_net


@config
class QPGConfig:
    """Steps of the critic, then one of the policy, on each part of a round."""

    total_timesteps: PositiveInt | None = option(None, "environment steps that schedules span; None: the run's own")
    gradient: Literal["qpg", "rpg", "rmpg"] = option("qpg", "of values, of regrets, or of values that regrets weigh")
    # returns
    discount: Fraction = option(0.99, "gamma, the worth of a reward one decision later")
    td_lambda: Fraction = option(1.0, "lambda: 0 trusts the critic, 1 the rewards up to the fragment's end")
    # optimisation
    learning_rate: NonNegativeFloat = option(3e-4, "Adam's step size for the policy at the beginning")
    critic_learning_rate: NonNegativeFloat = option(5e-3, "Adam's step size for the critic at the beginning")
    learning_rate_final: Fraction = option(0.1, "share of both that is left at the end of the horizon; 1 holds them")
    critic_updates: PositiveInt = option(8, "steps of the critic for each of the policy's")
    minibatch_size: PositiveInt = option(256, "decisions in one gradient, about")
    entropy_coef: NonNegativeFloat = option(0.05, "weight of the entropy bonus")
    max_grad_norm: PositiveFloat = option(1.0, "gradients of policy and critic are each scaled down to this norm")


class QPGBatch(NamedTuple):
    """B decisions."""

    observation: torch.Tensor  # (B, *obs)
    action: torch.Tensor  # (B,) int64
    action_mask: torch.Tensor | None  # (B, A) bool
    target: torch.Tensor  # (B,) float32, what the action turned out to be worth

    @property
    def num_samples(self) -> int:
        return len(self.target)


def policy_gradient_loss(
    q_t: torch.Tensor, probs_t: torch.Tensor, action_mask_t: torch.Tensor | None, gradient: str
) -> torch.Tensor:
    """A loss whose gradient is minus one of these, where v = sum_b pi(b|s) q(s, b)::

        qpg:    sum_a grad pi(a|s) (q(s, a) - v)
        rpg:  - sum_a grad (q(s, a) - v)^+
        rmpg:   sum_a grad pi(a|s) (q(s, a) - v)^+

    The mean over the decisions, () float32. q_t (B, A) float32, constant here; probs_t (B, A) float32, the policy, zero
    where illegal; action_mask_t (B, A) bool, True where legal, None: everything is.
    """
    q_t = q_t.detach()
    regret_t = q_t - (probs_t * q_t).sum(-1, keepdim=True)
    if action_mask_t is not None:
        regret_t = regret_t.masked_fill(~action_mask_t, 0.0)
    if gradient != "qpg":
        regret_t = regret_t.relu()
    return (regret_t if gradient == "rpg" else -probs_t * regret_t.detach()).sum(-1).mean()


def critic_loss(q_t: torch.Tensor, action_t: torch.Tensor, target_t: torch.Tensor) -> torch.Tensor:
    """Half the mean squared error of the taken actions' values: q_t (B, A) float32, action_t (B,) int64, target_t (B,)
    float32."""
    return (q_t.gather(-1, action_t.unsqueeze(-1)).squeeze(-1) - target_t).square().mean() / 2


class QPGPolicy(StochasticPolicy):
    """The actor, and the critic that trains it."""

    model_class = NetConfig

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
        self.num_actions = int(action_space.n)
        self.actor = Actor(observation_space, action_space, self.model_config)
        self.critic = make_net(observation_space, self.num_actions, self.model_config, output_gain=1.0)

    @classmethod
    def check_spaces(cls, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        check_discrete_spaces("qpg", observation_space, action_space)

    def distribution(self, observation: torch.Tensor, act_mask: torch.Tensor | None) -> MaskedCategorical:
        distribution: MaskedCategorical = self.actor(observation, act_mask)
        return distribution


class QPGTrainer(Trainer[Trajectories, QPGBatch]):
    """Steps the critic with every gradient, and the policy with each ``critic_updates``-th."""

    config_class = QPGConfig
    rollout_defaults = {"fragment_length": 256, "num_env_per_thread": 16}
    config: QPGConfig
    policy: QPGPolicy

    def setup(self) -> None:
        c, policy = self.config, self.policy
        self.trained = self.parameters()  # the actor's first
        self.num_actor = len(list(policy.actor.parameters()))
        self.optimiser = Adam(self.trained[: self.num_actor], c.learning_rate)
        self.critic_optimiser = Adam(self.trained[self.num_actor :], c.critic_learning_rate)

    def data_spec(self) -> OnPolicySpec:
        return OnPolicySpec()

    def minibatches(self, batch: Trajectories) -> Iterator[QPGBatch]:
        c, valid = self.config, batch.valid
        if not valid.any():
            return
        value = self._values(batch)
        stream = (batch.reward, value, batch.terminated, batch.truncated, valid)
        target = gae(*stream, c.discount, c.td_lambda) + value[:-1]
        whole = QPGBatch(
            observation=self.tensor(batch.observation[:-1][valid]),
            action=self.tensor(batch.action[valid]),
            action_mask=None if batch.action_mask is None else self.tensor(batch.action_mask[:-1][valid]),
            target=self.tensor(target[valid]),
        )
        finite(whole.target.mean(), "qpg")  # now, or parts of the round that are sound would be learnt from first
        order = torch.randperm(whole.num_samples, generator=self.generator).to(self.device)
        count = max(1, round(len(order) / c.minibatch_size))
        for number, rows in enumerate(order.tensor_split(count)):
            part = QPGBatch._make(None if array is None else array[rows] for array in whole)
            for update in range(1, c.critic_updates + 1):
                self.batch_used = (number + update / c.critic_updates) / count
                yield part

    @torch.no_grad()
    def _values(self, batch: Trajectories) -> np.ndarray:
        """v of what was seen, (T + 1, S) float32; zero where it is not needed."""
        needed = rows_to_value(batch.terminated, batch.valid)
        seen = self.tensor(batch.observation[needed])
        mask = None if batch.action_mask is None else self.tensor(batch.action_mask[needed])
        value = np.zeros(needed.shape, np.float32)
        value[needed] = (self.policy.actor(seen, mask).probs * self.policy.critic(seen)).sum(-1).cpu().numpy()
        return value

    def compute_gradients(self, minibatch: QPGBatch) -> tuple[Sequence[torch.Tensor], Metrics]:
        c, mask = self.config, minibatch.action_mask
        q = self.policy.critic(minibatch.observation)  # (B, A)
        distribution = self.policy.actor(minibatch.observation, mask)
        value_loss = critic_loss(q, minibatch.action, minibatch.target)
        policy_loss = policy_gradient_loss(q, distribution.probs, mask, c.gradient)
        entropy = distribution.entropy().mean()
        loss = policy_loss + value_loss - c.entropy_coef * entropy  # of parameters that are not the same
        metrics = {
            "loss": finite(loss, "qpg"),
            "policy_loss": policy_loss.item(),
            "critic_loss": value_loss.item(),
            "entropy": entropy.item(),
        }
        return torch.autograd.grad(loss, self.trained), metrics

    def apply_gradients(self, gradients: Sequence[torch.Tensor]) -> Metrics:
        c, k = self.config, self.num_actor
        critic_norm = step(self.critic_optimiser, self.trained[k:], gradients[k:], c.max_grad_norm, "qpg's critic")
        norm = torch.cat([g.reshape(-1) for g in gradients[:k]]).norm().item()
        self.num_updates += 1
        if self.num_updates % c.critic_updates == 0:
            step(self.optimiser, self.trained[:k], gradients[:k], c.max_grad_norm, "qpg")
        return {"grad_norm": norm, "critic_grad_norm": critic_norm}


DEFAULT_CONFIG = {"training_config": defaults(QPGConfig), "model_config": defaults(NetConfig), "custom_config": {}}
ALGORITHM = Algorithm(QPGPolicy, QPGTrainer)
