"""Proximal policy optimisation with a clipped objective.

Papers:
    Schulman et al. 2017, Proximal policy optimization algorithms (https://arxiv.org/abs/1707.06347): equation 7 (the
    clipped surrogate), equation 9 (with value loss and entropy bonus), algorithm 1. Advantages: Schulman et al. 2016
    (https://arxiv.org/abs/1506.02438).

Deviations:
    Actor and critic share no layers but a memory, where the policy has one. Its sequences (``sequence_length``) begin
    with what was remembered when they were played, also once the network has moved on. Advantages are normalised over
    the round. The gradient's norm is clipped and the learning rate falls linearly. Optionally a round ends early once
    the policy has moved ``target_kl`` away.
    Further options of usual implementations, all off: the value loss may be clipped likewise, the clips shrink towards
    the end, observations and rewards be normalised by running statistics (Engstrom et al. 2020, Implementation matters
    in deep policy gradients, https://arxiv.org/abs/2005.12729), and the noise of continuous actions be a function of
    the observation (gSDE, Raffin et al. 2021, https://arxiv.org/abs/2005.05719).
    Where rounds are older than the policy, the ratio of equation 7 is to the policy that played. With ``vtrace`` it is
    to the policy that the round found when it arrived, and what happened in between is weighed in the advantages and
    targets of Espeholt et al. 2018 (https://arxiv.org/abs/1802.01561): the clip then bounds what this round does, as in
    the decoupled objective of Hilton et al. 2022 (https://arxiv.org/abs/2110.00641).
    Statistics move when a round arrives, before its updates: what that does to the policy counts in the ratio.
    Values are computed when a round arrives, not recorded while playing: the sampler never runs the critic, and the
    final observations of truncated episodes are valued like all others.

Expected:
    The gradient at ratio 1 is the policy gradient (tests/test_losses.py); the optimal action of a small decision
    process (tests/test_algorithms.py). CartPole-v1, 200,000 steps, greedy: 500 for eight of eight seeds. Pendulum-v1,
    100,000 steps, discount 0.9, minibatches of 64, four environments in rounds of 4,096: -159, -172 and -182 for three
    seeds, and with gSDE -159, -169 and -183.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from malib_lite.algorithms.actor_critic import ActorCriticPolicy
from malib_lite.algorithms.optimiser import Adam, finite, step
from malib_lite.algorithms.returns import accumulated_rewards, gae, rows_to_value, vtrace
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
class PPOConfig:
    """Several passes over each round, in shuffled minibatches."""

    total_timesteps: PositiveInt | None = option(None, "environment steps that schedules span; None: the run's own")
    # returns
    discount: Fraction = option(0.99, "gamma, the worth of a reward one decision later")
    gae_lambda: Fraction = option(0.95, "lambda: 0 trusts the critic, 1 the rewards that were seen")
    vtrace: bool = option(False, "weigh rewards by how likely what was played is for the policy now (see sync)")
    normalise_advantages: bool = option(True, "to mean 0 and deviation 1 over a round")
    # optimisation
    learning_rate: NonNegativeFloat = option(1e-3, "Adam's step size at the beginning")
    learning_rate_final: Fraction = option(0.05, "share of learning_rate left at the end of the horizon; 1 holds it")
    num_epochs: PositiveInt = option(10, "passes over each round")
    minibatch_size: PositiveInt = option(256, "decisions in one gradient, about")
    sequence_length: PositiveInt = option(32, "decisions through which gradients reach back into a memory, about")
    max_grad_norm: PositiveFloat = option(0.5, "gradients are scaled down to this norm")
    # loss
    clip_ratio: PositiveFloat = option(0.2, "epsilon of equation 7")
    clip_ratio_final: Fraction = option(1.0, "share of the clips left at the end of the horizon; 1 holds them")
    value_clip: PositiveFloat | None = option(None, "how far a value may usefully move in one round; None: any")
    value_coef: NonNegativeFloat = option(0.5, "c1 of equation 9, weight of the value loss")
    entropy_coef: NonNegativeFloat = option(0.01, "c2 of equation 9, weight of the entropy bonus")
    target_kl: PositiveFloat | None = option(None, "stop with a round once the policy has moved so far; None: never")


class PPOBatch(NamedTuple):
    """B decisions of shuffled sequences; without a memory each is a sequence of its own."""

    seen: Seen
    action: torch.Tensor  # (B,) int64 or (B, *action) float32
    action_mask: torch.Tensor | None  # (B, A) bool
    log_prob: torch.Tensor  # (B,) float32, of the policy that acted
    advantage: torch.Tensor  # (B,) float32
    value: torch.Tensor  # (B,) float32, of the critic before the round's updates
    value_target: torch.Tensor  # (B,) float32

    @property
    def num_samples(self) -> int:
        return len(self.advantage)


def clipped_surrogate_loss(
    log_prob_t: torch.Tensor, old_log_prob_t: torch.Tensor, advantage_t: torch.Tensor, clip_ratio: float
) -> torch.Tensor:
    """Minus equation 7 of https://arxiv.org/abs/1707.06347, averaged; all (B,) float32."""
    ratio_t = (log_prob_t - old_log_prob_t).exp()
    clipped_t = ratio_t.clamp(1 - clip_ratio, 1 + clip_ratio)
    return -torch.min(ratio_t * advantage_t, clipped_t * advantage_t).mean()


def value_loss(value_t: torch.Tensor, value_target_t: torch.Tensor) -> torch.Tensor:
    """Mean squared error of the critic, L^VF of equation 9; both (B,) float32."""
    return (value_t - value_target_t).square().mean()


def clipped_value_loss(
    value_t: torch.Tensor, old_value_t: torch.Tensor, value_target_t: torch.Tensor, value_clip: float
) -> torch.Tensor:
    """Mean of the larger squared error, with the value and with what the clip leaves of its way; all (B,) float32.

    Section 3 of https://arxiv.org/abs/2005.12729: a value that is farther than the clip from where it was gets no
    further push away from there.
    """
    clipped_t = old_value_t + (value_t - old_value_t).clamp(-value_clip, value_clip)
    return torch.max((value_t - value_target_t).square(), (clipped_t - value_target_t).square()).mean()


def kl_estimate(log_prob_t: torch.Tensor, old_log_prob_t: torch.Tensor) -> torch.Tensor:
    """KL(old, new) from the old policy's actions: unbiased, never negative (http://joschu.net/blog/kl-approx.html)."""
    log_ratio_t = log_prob_t - old_log_prob_t
    return (torch.expm1(log_ratio_t) - log_ratio_t).mean()  # exp(x) - 1 would round small differences away


class PPOPolicy(ActorCriticPolicy):
    """Acts, values what it sees, and remembers how likely its actions were."""

    algorithm = "ppo"


class PPOTrainer(Trainer[Trajectories, PPOBatch]):
    """Algorithm 1: advantages of a round, then epochs of minibatches."""

    config_class = PPOConfig
    rollout_defaults = {"fragment_length": 2048, "num_env_per_thread": 16}
    config: PPOConfig
    policy: PPOPolicy

    def setup(self) -> None:
        self.trained = self.parameters()
        self.optimiser = Adam(self.trained, self.config.learning_rate)
        self.last_kl = 0.0  # of the last minibatch, for target_kl
        self.carried: np.ndarray | None = None  # (S,) float64, discounted rewards of episodes that go on

    def data_spec(self) -> OnPolicySpec:
        return OnPolicySpec()

    def minibatches(self, batch: Trajectories) -> Iterator[PPOBatch]:
        c = self.config
        if not batch.valid.any():
            return
        if isinstance(self.policy.normaliser, RunningNormaliser):
            self.policy.normaliser.update(batch.observation[:-1][batch.valid])
        sequences = Sequences(batch, c.sequence_length if self.policy.memory_size else 1, self.device)
        whole = {name: sequences.cut(array) for name, array in self._prepare(batch).items()}
        count = max(1, min(sequences.count, round(batch.num_decisions / c.minibatch_size)))
        for epoch in range(c.num_epochs):
            order = torch.randperm(sequences.count, generator=self.generator).to(self.device)
            for number, columns in enumerate(order.tensor_split(count), epoch * count + 1):
                self.batch_used = number / (c.num_epochs * count)
                arrays = {name: sequences.pick(array, columns) for name, array in whole.items()}
                yield PPOBatch(sequences.seen(columns), action_mask=arrays.pop("action_mask", None), **arrays)
                if c.target_kl is not None and self.last_kl > c.target_kl:
                    return

    def _prepare(self, batch: Trajectories) -> dict[str, np.ndarray]:
        """What minibatches hold beside what was seen, with advantages and value targets: (T, S, ...) each."""
        c, valid = self.config, batch.valid
        value, log_prob = self.policy.estimates(batch, rows_to_value(batch.terminated, valid), c.vtrace, self.device)
        stream = (self._reward(batch), value, batch.terminated, batch.truncated, valid, c.discount)
        if log_prob is not None:
            value_target, advantage = vtrace(log_prob - batch.extras["log_prob"], *stream, trace_lambda=c.gae_lambda)
        else:
            log_prob = batch.extras["log_prob"]
            advantage = gae(*stream, c.gae_lambda)
            value_target = advantage + value[:-1]
        if c.normalise_advantages:
            of_decisions = advantage[valid]
            advantage = (advantage - of_decisions.mean()) / (of_decisions.std() + 1e-8)
        arrays = {
            "action": batch.action,
            "log_prob": log_prob,
            "advantage": advantage,
            "value": value[:-1],
            "value_target": value_target,
        }
        return arrays if batch.action_mask is None else {**arrays, "action_mask": batch.action_mask[:-1]}

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

    def compute_gradients(self, minibatch: PPOBatch) -> tuple[Sequence[torch.Tensor], Metrics]:
        c = self.config
        shrunk = 1 - self.progress() * (1 - c.clip_ratio_final)
        seen = minibatch.seen
        features = self.policy.recall(seen.observation, seen.memory, seen.begins)[seen.valid]
        distribution = self.policy.distribution(features, minibatch.action_mask)
        log_prob = distribution.log_prob(minibatch.action)
        policy_loss = clipped_surrogate_loss(log_prob, minibatch.log_prob, minibatch.advantage, c.clip_ratio * shrunk)
        value, target = self.policy.value(features), minibatch.value_target
        if c.value_clip is None:
            critic_loss = value_loss(value, target)
        else:
            critic_loss = clipped_value_loss(value, minibatch.value, target, c.value_clip * shrunk)
        entropy = distribution.entropy().mean()
        loss = policy_loss + c.value_coef * critic_loss - c.entropy_coef * entropy
        self.last_kl = kl_estimate(log_prob.detach(), minibatch.log_prob).item()
        metrics = {
            "loss": finite(loss, "ppo"),
            "policy_loss": policy_loss.item(),
            "value_loss": critic_loss.item(),
            "entropy": entropy.item(),
            "kl": self.last_kl,
        }
        return torch.autograd.grad(loss, self.trained), metrics

    def apply_gradients(self, gradients: Sequence[torch.Tensor]) -> Metrics:
        norm = step(self.optimiser, self.trained, gradients, self.config.max_grad_norm, "ppo")
        self.num_updates += 1
        return {"grad_norm": norm}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "carried": copy.deepcopy(self.carried)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.carried = copy.deepcopy(state["carried"])


DEFAULT_CONFIG = {
    "training_config": defaults(PPOConfig),
    "model_config": defaults(ActorCriticConfig),
    "custom_config": {},
}
ALGORITHM = Algorithm(PPOPolicy, PPOTrainer)
