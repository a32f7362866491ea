"""Multi-agent proximal policy optimisation: PPO for a team, whose critic sees the global state.

Papers:
    Yu et al. 2022, The surprising effectiveness of PPO in cooperative multi-agent games
    (https://arxiv.org/abs/2103.01955): the losses and the algorithm of its appendix, value normalisation, death
    masking. The clipped surrogate: Schulman et al. 2017, equation 7 (https://arxiv.org/abs/1707.06347).
    Advantages: Schulman et al. 2016 (https://arxiv.org/abs/1506.02438).

Deviations:
    All agents share one actor; by default they see which of them they are. It is feed-forward, or has a memory; the
    critic, which is shown the state, has none.
    The team's reward is the mean of its agents' own, which is the reward itself where it is shared.
    By default there is one value for the whole team, of the state alone. ``model.agent_values`` gives every agent one,
    of the state and what it sees; ``own_rewards`` then makes it that of the agent's own reward.
    Value normalisation, value clipping and the normalisation of observations and rewards are options, all off. The
    first goes by the statistics of all value targets so far, not by their running average, and without Huber's loss.
    Advantages are normalised over a round, the learning rate falls linearly, as in our PPO.

Expected:
    With one agent that sees the state, PPO to the bit. The optimum 8 of the two-step game, and 250 in the penalty game
    (tests/test_mappo.py). Scores are in docs/results.md.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from math import inf
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from malib_lite.algorithms.optimiser import Adam, finite, step
from malib_lite.algorithms.returns import accumulated_rewards, gae, rows_to_value
from malib_lite.algorithms.sequences import Seen, Sequences
from malib_lite.algorithms.team_q import team_shape
from malib_lite.config import (
    ConfigError,
    Fraction,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    build,
    config,
    defaults,
    option,
)
from malib_lite.contracts.data import Field, OnPolicySpec
from malib_lite.contracts.joint import JointTrajectories
from malib_lite.contracts.policy import Policy, PolicyOutput
from malib_lite.contracts.trainer import Algorithm, Metrics, Trainer
from malib_lite.models.actors import ActorCriticConfig, make_actor, make_normaliser, restart_noise
from malib_lite.models.distributions import MaskedCategorical, ProbaDistribution
from malib_lite.models.nets import Encoder, check_actor_spaces, make_net
from malib_lite.models.normaliser import RunningNormaliser
from malib_lite.models.recurrent import Memory


@config
class MAPPOConfig:
    """Several passes over each round, in shuffled minibatches."""

    total_timesteps: PositiveInt | None = option(None, "environment steps that schedules span; None: the run's own")
    # returns
    discount: Fraction = option(0.99, "gamma, the worth of a reward one step later")
    gae_lambda: Fraction = option(0.95, "lambda: 0 trusts the critic, 1 the rewards that were seen")
    own_rewards: bool = option(False, "each agent learns from its own reward, not the team's; needs model.agent_values")
    normalise_advantages: bool = option(True, "to mean 0 and deviation 1 over a round")
    # optimisation
    learning_rate: NonNegativeFloat = option(1e-3, "Adam's step size at the beginning")
    learning_rate_final: Fraction = option(0.05, "share of learning_rate left at the end of the horizon; 1 holds it")
    num_epochs: PositiveInt = option(10, "passes over each round")
    minibatch_size: PositiveInt = option(256, "steps of the team in one gradient, about")
    sequence_length: PositiveInt = option(32, "steps through which gradients reach back into a memory, about")
    max_grad_norm: PositiveFloat = option(0.5, "gradients are scaled down to this norm")
    # loss
    clip_ratio: PositiveFloat = option(0.2, "epsilon of the policy's loss")
    value_clip: PositiveFloat | None = option(None, "how far a value may usefully move in one round; None: any")
    value_coef: NonNegativeFloat = option(0.5, "weight of the value loss")
    entropy_coef: NonNegativeFloat = option(0.01, "sigma, weight of the entropy bonus")


@config
class MAPPONetConfig(ActorCriticConfig):
    """Of the actor, and of the critic, which reads the global state as a row of numbers."""

    agent_values: bool = option(False, "each agent has a value, of the state and what it sees; False: the team has one")
    normalise_values: bool = option(False, "the critic counts in deviations of the value targets, from their mean")


class MAPPOBatch(NamedTuple):
    """B steps of a team of N agents, in shuffled sequences; without a memory each is a sequence of its own.

    V is N where every agent has a value, and 1 where the team has one.
    """

    seen: Seen
    action: torch.Tensor  # (B, N) int64 or (B, N, *action)
    action_mask: torch.Tensor | None  # (B, N, A) bool
    state: torch.Tensor  # (B, S) float32
    log_prob: torch.Tensor  # (B, N) float32, of the policy that acted
    advantage: torch.Tensor  # (B, N) float32
    value: torch.Tensor  # (B, V) float32, of the critic before the round's updates
    value_target: torch.Tensor  # (B, V) float32

    @property
    def num_samples(self) -> int:
        return len(self.state)


def clipped_surrogate_loss(
    log_prob_t: torch.Tensor, old_log_prob_t: torch.Tensor, advantage_t: torch.Tensor, clip_ratio: float
) -> torch.Tensor:
    """Minus L(theta) of the paper's appendix but for its entropy, averaged over all D decisions of all agents.

    All (D,) float32.
    """
    ratio_t = (log_prob_t - old_log_prob_t).exp()
    clipped_t = ratio_t.clamp(1 - clip_ratio, 1 + clip_ratio)
    return -torch.min(ratio_t * advantage_t, clipped_t * advantage_t).mean()


def value_loss(
    value_t: torch.Tensor, old_value_t: torch.Tensor, value_target_t: torch.Tensor, value_clip: float | None
) -> torch.Tensor:
    """L(phi) of the paper's appendix: mean of the larger squared error, of a value and of what the clip leaves of it.

    All (B, V) float32. Without ``value_clip`` the plain squared error.
    """
    if value_clip is None:
        return (value_t - value_target_t).square().mean()
    clipped_t = old_value_t + (value_t - old_value_t).clamp(-value_clip, value_clip)
    return torch.max((value_t - value_target_t).square(), (clipped_t - value_target_t).square()).mean()


def kl_estimate(log_prob_t: torch.Tensor, old_log_prob_t: torch.Tensor) -> torch.Tensor:
    """KL(old, new) from the old policy's actions: unbiased, never negative (http://joschu.net/blog/kl-approx.html)."""
    log_ratio_t = log_prob_t - old_log_prob_t
    return (torch.expm1(log_ratio_t) - log_ratio_t).mean()  # exp(x) - 1 would round small differences away


class ValueNormaliser(RunningNormaliser):
    """Value targets to the critic's units, and the critic's values back to those of rewards."""

    def __init__(self) -> None:
        super().__init__((), clip=inf)

    def restore(self, values: np.ndarray) -> np.ndarray:
        """Values of any shape in the units of rewards, float32."""
        return (values * self._deviation().cpu().numpy() + self.mean.cpu().numpy()).astype(np.float32)


class MAPPOPolicy(Policy):
    """The actor that all agents share, which acts on what one of them sees, and the critic of the global state."""

    stochastic = True
    model_class = MAPPONetConfig

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        model_config: Mapping[str, Any] | None = None,
        custom_config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(observation_space, action_space, model_config, custom_config)
        self.check_spaces(observation_space, action_space)
        self.num_agents, state_size = team_shape("mappo", self.custom_config)
        settings = build(MAPPONetConfig, self.model_config, "model_config")
        self.agent_values = settings.agent_values
        self.normaliser = make_normaliser(observation_space, settings)
        self.memory = Memory(observation_space, settings)  # the actor's; the critic is shown the state
        self.actor = make_actor(self.memory.space, action_space, self.memory.settings)
        self.encoder = Encoder(observation_space)
        own = self.encoder.num_features + self.num_agents if self.agent_values else 0
        critic_space = spaces.Box(-np.inf, np.inf, (state_size + own,), np.float32)
        self.critic = make_net(critic_space, 1, settings, output_gain=1.0)
        self.state_normaliser = RunningNormaliser((state_size,)) if settings.normalise_observations else nn.Identity()
        self.value_normaliser = ValueNormaliser() if settings.normalise_values else None
        self.reward_normaliser = RunningNormaliser(()) if settings.normalise_rewards else None

    @classmethod
    def check_spaces(cls, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        check_actor_spaces("mappo", observation_space, action_space)

    @property
    def extra_fields(self) -> dict[str, Field]:
        return {"log_prob": Field((), np.dtype(np.float32))}

    @property
    def memory_size(self) -> int:
        return self.memory.size

    def seed(self, seed: int) -> None:
        super().seed(seed)
        restart_noise(self.actor)

    def recall(self, seen: Seen) -> torch.Tensor:
        """Features (L, B, N, ...) of what was seen, for the actor; without a memory the normalised observations."""
        observation: torch.Tensor = self.normaliser(seen.observation)
        if not self.memory_size:
            return observation
        assert seen.acting is not None
        begins = seen.begins.repeat_interleave(self.num_agents, dim=1)
        streams = observation.flatten(1, 2), seen.memory.flatten(0, 1), begins, seen.acting.flatten(1, 2)
        features: torch.Tensor = self.memory(*streams)
        return features.view(*seen.acting.shape, *features.shape[2:])

    def distribution(self, features: torch.Tensor, act_mask: torch.Tensor | None) -> ProbaDistribution:
        """Of actions, for features (B, ...)."""
        distribution: ProbaDistribution = self.actor(features, act_mask)
        return distribution

    def value(self, state: torch.Tensor, observation: torch.Tensor, acting: torch.Tensor) -> torch.Tensor:
        """The critic's values (B, V) float32, in its own units.

        An agent that does not act is known to its critic by its number alone: the paper's death masking.

        Args:
            state: (B, S) float32.
            observation: (B, N, *obs).
            acting: (B, N) bool.
        """
        state = self.state_normaliser(state)
        if self.agent_values:
            seen = state.new_zeros(*acting.shape, self.encoder.num_features)
            seen[acting] = self.encoder(self.normaliser(observation[acting]))
            number = torch.eye(self.num_agents, device=state.device).expand(len(state), -1, -1)
            rows = torch.cat([state.unsqueeze(1).expand(-1, self.num_agents, -1), seen, number], -1)
            return self.critic(rows.flatten(0, 1)).view(acting.shape)
        value: torch.Tensor = self.critic(state)
        return value

    def compute_action(
        self,
        observation: torch.Tensor,
        act_mask: torch.Tensor | None = None,
        evaluate: bool = False,
        hidden_state: Any = None,
    ) -> PolicyOutput:
        features, hidden_state = self.memory.step(self.normaliser(observation), hidden_state)
        distribution = self.distribution(features, act_mask)
        action = distribution.mode if evaluate else distribution.draw(self.generator)
        log_prob = distribution.log_prob(action)
        return PolicyOutput(action, log_prob, {"log_prob": log_prob}, hidden_state)

    def action_probs(
        self, observation: torch.Tensor, act_mask: torch.Tensor | None = None, evaluate: bool = False
    ) -> torch.Tensor:
        if not isinstance(self.action_space, spaces.Discrete) or self.memory_size:
            return super().action_probs(observation, act_mask, evaluate)
        distribution = self.distribution(self.normaliser(observation), act_mask)
        assert isinstance(distribution, MaskedCategorical)
        if evaluate:
            return nn.functional.one_hot(distribution.mode, distribution.probs.shape[-1]).float()
        return distribution.probs


class MAPPOTrainer(Trainer[JointTrajectories, MAPPOBatch]):
    """Advantages of a round, then epochs of minibatches."""

    config_class = MAPPOConfig
    joint = True
    rollout_defaults = {"agent_ids": True, "fragment_length": 2048, "num_env_per_thread": 16}
    config: MAPPOConfig
    policy: MAPPOPolicy

    def setup(self) -> None:
        if self.config.own_rewards and not self.policy.agent_values:
            raise ConfigError("'trainer.own_rewards' = True: needs 'model.agent_values' = True, a value for each agent")
        self.trained = self.parameters()
        self.optimiser = Adam(self.trained, self.config.learning_rate)
        self.carried: np.ndarray | None = None  # (E V,) float64, discounted rewards of episodes that go on

    def data_spec(self) -> OnPolicySpec:
        return OnPolicySpec()

    def minibatches(self, batch: JointTrajectories) -> Iterator[MAPPOBatch]:
        if not batch.valid.any():
            return
        c, acting = self.config, batch.acting[:-1] & batch.valid[..., None]
        sequences = Sequences(batch, c.sequence_length if self.policy.memory_size else 1, self.device)
        whole = {name: sequences.cut(array) for name, array in self._prepare(batch).items()}
        count = max(1, min(sequences.count, round(batch.num_decisions / c.minibatch_size)))
        for epoch in range(c.num_epochs):
            order = torch.randperm(sequences.count, generator=self.generator).to(self.device)
            for number, columns in enumerate(order.tensor_split(count), epoch * count + 1):
                self.batch_used = number / (c.num_epochs * count)
                arrays = {name: sequences.pick(array, columns) for name, array in whole.items()}
                yield MAPPOBatch(sequences.seen(columns), action_mask=arrays.pop("action_mask", None), **arrays)
        # after the updates: the ratio is 1 when a round arrives
        if isinstance(self.policy.normaliser, RunningNormaliser):
            self.policy.normaliser.update(batch.observation[:-1][acting])
        if isinstance(self.policy.state_normaliser, RunningNormaliser):
            self.policy.state_normaliser.update(batch.global_state[:-1][batch.valid])

    def _prepare(self, batch: JointTrajectories) -> dict[str, np.ndarray]:
        """What minibatches hold beside what was seen, with advantages and value targets: (T, E, ...) each."""
        c, state, acting = self.config, batch.global_state, batch.acting[:-1] & batch.valid[..., None]
        needed = rows_to_value(batch.terminated, batch.valid)
        with torch.no_grad():
            seen = (self.tensor(array[needed]) for array in (state, batch.observation, batch.acting))
            found = self.policy.value(*seen).cpu().numpy()
        value = np.zeros((*needed.shape, found.shape[1]), np.float32)  # (T + 1, E, V)
        value[needed] = found
        advantage, value_target = self._estimate(batch, value)
        advantage = np.broadcast_to(advantage, acting.shape)
        if c.normalise_advantages:
            of_decisions = advantage[acting]
            advantage = (advantage - of_decisions.mean()) / (of_decisions.std() + 1e-8)
        arrays = {
            "action": batch.action,
            "state": state[:-1],
            "log_prob": batch.extras["log_prob"],
            "advantage": advantage,
            "value": value[:-1],
            "value_target": value_target,
        }
        return arrays if batch.action_mask is None else {**arrays, "action_mask": batch.action_mask[:-1]}

    def _estimate(self, batch: JointTrajectories, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Advantages in the units of rewards and value targets in those of the critic, (T, E, V) float32 each.

        ``value`` (T + 1, E, V) is what the critic said. Every environment is a stream for each of its values.
        """
        c, valid, num_values = self.config, batch.valid, value.shape[-1]
        normaliser = self.policy.value_normaliser
        if normaliser is not None:
            value = normaliser.restore(value)
        reward = batch.reward if c.own_rewards else np.repeat(batch.team_reward[..., None], num_values, axis=-1)
        reward = reward.reshape(len(valid), -1)
        ended, cut, there = (np.repeat(flag, num_values, 1) for flag in (batch.terminated, batch.truncated, valid))
        rewarder = self.policy.reward_normaliser
        if rewarder is not None:
            sums, self.carried = accumulated_rewards(reward, ended, cut, there, c.discount, self.carried)
            rewarder.update(sums[there])
            reward = rewarder.rescale(reward)
        advantage = gae(reward, value.reshape(len(value), -1), ended, cut, there, c.discount, c.gae_lambda)
        advantage = advantage.reshape(*valid.shape, num_values)
        value_target = advantage + value[:-1]
        if normaliser is not None:
            normaliser.update(value_target[valid].reshape(-1))
            value_target = normaliser(self.tensor(value_target)).cpu().numpy()
        return advantage, value_target

    def compute_gradients(self, minibatch: MAPPOBatch) -> tuple[Sequence[torch.Tensor], Metrics]:
        c, seen = self.config, minibatch.seen
        assert seen.acting is not None
        acting = seen.acting[seen.valid]  # (B, N); what the others saw and did means nothing
        mask = None if minibatch.action_mask is None else minibatch.action_mask[acting]
        distribution = self.policy.distribution(self.policy.recall(seen)[seen.valid][acting], mask)
        log_prob, old_log_prob = distribution.log_prob(minibatch.action[acting]), minibatch.log_prob[acting]
        policy_loss = clipped_surrogate_loss(log_prob, old_log_prob, minibatch.advantage[acting], c.clip_ratio)
        value = self.policy.value(minibatch.state, seen.observation[seen.valid], acting)
        critic_loss = value_loss(value, minibatch.value, minibatch.value_target, c.value_clip)
        entropy = distribution.entropy().mean()
        loss = policy_loss + c.value_coef * critic_loss - c.entropy_coef * entropy
        metrics = {
            "loss": finite(loss, "mappo"),
            "policy_loss": policy_loss.item(),
            "value_loss": critic_loss.item(),
            "entropy": entropy.item(),
            "kl": kl_estimate(log_prob.detach(), old_log_prob).item(),
        }
        return torch.autograd.grad(loss, self.trained), metrics

    def apply_gradients(self, gradients: Sequence[torch.Tensor]) -> Metrics:
        norm = step(self.optimiser, self.trained, gradients, self.config.max_grad_norm, "mappo")
        self.num_updates += 1
        return {"grad_norm": norm}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "carried": copy.deepcopy(self.carried)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.carried = copy.deepcopy(state["carried"])


DEFAULT_CONFIG = {
    "training_config": defaults(MAPPOConfig),
    "model_config": defaults(MAPPONetConfig),
    "custom_config": {},
}
ALGORITHM = Algorithm(MAPPOPolicy, MAPPOTrainer)
