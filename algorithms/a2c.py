"""Advantage actor-critic, synchronous: one gradient step for each round of many environments.

Papers:
    Mnih et al. 2016, Asynchronous methods for deep reinforcement learning (https://arxiv.org/abs/1602.01783):
    section 4 and algorithm S3, A3C with all actors in step. Advantages: Schulman et al. 2016
    (https://arxiv.org/abs/1506.02438).

Deviations:
    Actor and critic share no layers but a memory, where the policy has one. Mnih et al. sum the rewards up to the end
    of a fragment and add the value found there, which is ``gae_lambda`` = 1; ``n_step`` bounds the sum. RMSProp's
    epsilon stands outside the root. Adam is offered, too. The gradient's norm is clipped and the learning rate falls
    linearly. Optionally observations and rewards are normalised by running statistics, which move when a round arrives,
    and the noise of continuous actions is a function of the observation (gSDE, Raffin et al. 2021,
    https://arxiv.org/abs/2005.05719). Where rounds are older than the policy (``vtrace``), rewards are weighed as in
    Espeholt et al. 2018 (https://arxiv.org/abs/1802.01561).
    Values are computed when a round arrives, not recorded while playing: the final observations of truncated episodes
    are valued like all others.

Expected:
    The values of a small decision process and its optimal actions, PPO's gradient at ratio 1 (tests/test_a2c.py,
    tests/test_ppo.py).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from malib_lite.algorithms.actor_critic import ActorCriticPolicy
from malib_lite.algorithms.optimiser import Adam, RMSprop, finite, step
from malib_lite.algorithms.returns import accumulated_rewards, gae, n_step_returns, rows_to_value, vtrace
from malib_lite.algorithms.sequences import Seen, Sequences
from malib_lite.config import (
    Fraction,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    config,
    defaults,
    option,
)
from malib_lite.contracts.data import OnPolicySpec, Trajectories
from malib_lite.contracts.trainer import Algorithm, Metrics, Trainer
from malib_lite.models.actors import ActorCriticConfig
from malib_lite.models.normaliser import RunningNormaliser


@config
class A2CConfig:
    """One gradient step for each short round."""

    total_timesteps: PositiveInt | None = option(None, "environment steps that schedules span; None: the run's own")
    # returns
    discount: Fraction = option(0.99, "gamma, the worth of a reward one decision later")
    gae_lambda: Fraction = option(1.0, "lambda: 0 trusts the critic, 1 the rewards up to the fragment's end")
    n_step: PositiveInt | None = option(None, "rewards in a return before the critic's value; None: as gae_lambda says")
    vtrace: bool = option(False, "weigh rewards by how likely what was played is for the policy now (see sync)")
    normalise_advantages: bool = option(False, "to mean 0 and deviation 1 over a round")
    # optimisation
    optimiser: Literal["rmsprop", "adam"] = option("rmsprop", "rmsprop as in the paper, or adam")
    learning_rate: NonNegativeFloat = option(2e-3, "the optimiser's step size at the beginning")
    learning_rate_final: Fraction = option(0.05, "share of learning_rate left at the end of the horizon; 1 holds it")
    max_grad_norm: PositiveFloat = option(0.5, "gradients are scaled down to this norm")
    # loss
    value_coef: NonNegativeFloat = option(0.5, "weight of the value loss")
    entropy_coef: NonNegativeFloat = option(0.01, "beta, weight of the entropy bonus")

    def __post_init__(self) -> None:
        if self.n_step is not None and self.gae_lambda < 1.0:
            raise ValueError(f"'n_step' = {self.n_step} and 'gae_lambda' = {self.gae_lambda}: set one of them")
        if self.n_step is not None and self.vtrace:
            raise ValueError(f"'n_step' = {self.n_step} and 'vtrace' = True: set one of them")


class A2CBatch(NamedTuple):
    """The B decisions of a round."""

    seen: Seen
    action: torch.Tensor  # (B,) int64 or (B, *action) float32
    action_mask: torch.Tensor | None  # (B, A) bool
    advantage: torch.Tensor  # (B,) float32
    value_target: torch.Tensor  # (B,) float32

    @property
    def num_samples(self) -> int:
        return len(self.advantage)


def policy_gradient_loss(log_prob_t: torch.Tensor, advantage_t: torch.Tensor) -> torch.Tensor:
    """-mean(log pi(a_t|s_t) A_t), section 4 of https://arxiv.org/abs/1602.01783; both (B,) float32."""
    return -(log_prob_t * advantage_t).mean()


def value_loss(value_t: torch.Tensor, value_target_t: torch.Tensor) -> torch.Tensor:
    """Mean squared error of the critic, (R - V(s_t))^2 of algorithm S3; both (B,) float32."""
    return (value_t - value_target_t).square().mean()


class A2CPolicy(ActorCriticPolicy):
    """Acts, and values what it sees."""

    algorithm = "a2c"


class A2CTrainer(Trainer[Trajectories, A2CBatch]):
    """Algorithm S3 with all actors in step."""

    config_class = A2CConfig
    rollout_defaults = {"fragment_length": 128, "num_env_per_thread": 16}
    config: A2CConfig
    policy: A2CPolicy

    def setup(self) -> None:
        self.trained = self.parameters()
        self.optimiser: torch.optim.Optimizer
        if self.config.optimiser == "adam":
            self.optimiser = Adam(self.trained, self.config.learning_rate)
        else:
            self.optimiser = RMSprop(self.trained, self.config.learning_rate, alpha=0.99, eps=1e-5**0.5)
        self.carried: np.ndarray | None = None  # (S,) float64, discounted rewards of episodes that go on

    def data_spec(self) -> OnPolicySpec:
        return OnPolicySpec()

    def minibatches(self, batch: Trajectories) -> Iterator[A2CBatch]:
        c, valid = self.config, batch.valid
        if not valid.any():
            return
        if isinstance(self.policy.normaliser, RunningNormaliser):
            self.policy.normaliser.update(batch.observation[:-1][valid])
        value, log_prob = self.policy.estimates(batch, rows_to_value(batch.terminated, valid), c.vtrace, self.device)
        stream = (self._reward(batch), value, batch.terminated, batch.truncated, valid, c.discount)
        if log_prob is not None:
            target_t, advantage_t = vtrace(log_prob - batch.extras["log_prob"], *stream, trace_lambda=c.gae_lambda)
            advantage, value_target = advantage_t[valid], target_t[valid]
        else:
            if c.n_step is None:
                advantage = gae(*stream, c.gae_lambda)[valid]
            else:
                advantage = (n_step_returns(*stream, c.n_step) - value[:-1])[valid]
            value_target = advantage + value[:-1][valid]
        if c.normalise_advantages:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        sequences = Sequences(batch, len(valid) if self.policy.memory_size else 1, self.device)
        yield A2CBatch(
            seen=sequences.seen(torch.arange(sequences.count, device=self.device)),
            action=self.tensor(batch.action[valid]),
            action_mask=None if batch.action_mask is None else self.tensor(batch.action_mask[:-1][valid]),
            advantage=self.tensor(advantage),
            value_target=self.tensor(value_target),
        )

    def _reward(self, batch: Trajectories) -> np.ndarray:
        """Rewards (T, S) float32 in the critic's units."""
        normaliser = self.policy.reward_normaliser
        if normaliser is None:
            return batch.reward
        sums, self.carried = accumulated_rewards(
            batch.reward, batch.terminated, batch.truncated, batch.valid, self.config.discount, self.carried
        )
        normaliser.update(sums[batch.valid])
        return normaliser.rescale(batch.reward)

    def compute_gradients(self, minibatch: A2CBatch) -> tuple[Sequence[torch.Tensor], Metrics]:
        c = self.config
        seen = minibatch.seen
        features = self.policy.recall(seen.observation, seen.memory, seen.begins)[seen.valid]
        distribution = self.policy.distribution(features, minibatch.action_mask)
        policy_loss = policy_gradient_loss(distribution.log_prob(minibatch.action), minibatch.advantage)
        critic_loss = value_loss(self.policy.value(features), minibatch.value_target)
        entropy = distribution.entropy().mean()
        loss = policy_loss + c.value_coef * critic_loss - c.entropy_coef * entropy
        metrics = {
            "loss": finite(loss, "a2c"),
            "policy_loss": policy_loss.item(),
            "value_loss": critic_loss.item(),
            "entropy": entropy.item(),
        }
        return torch.autograd.grad(loss, self.trained), metrics

    def apply_gradients(self, gradients: Sequence[torch.Tensor]) -> Metrics:
        norm = step(self.optimiser, self.trained, gradients, self.config.max_grad_norm, "a2c")
        self.num_updates += 1
        return {"grad_norm": norm}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "carried": copy.deepcopy(self.carried)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.carried = copy.deepcopy(state["carried"])


DEFAULT_CONFIG = {
    "training_config": defaults(A2CConfig),
    "model_config": defaults(ActorCriticConfig),
    "custom_config": {},
}
ALGORITHM = Algorithm(A2CPolicy, A2CTrainer)
