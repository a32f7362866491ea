"""Soft actor-critic for Discrete actions: sums over all actions take the place of draws.

Papers:
    Christodoulou 2019, Soft actor-critic for discrete action settings (https://arxiv.org/abs/1910.07207): algorithm 1
    with equations 10 (value), 11 (temperature) and 12 (policy). The critics' loss is equation 5 of Haarnoja et al.
    2018 (https://arxiv.org/abs/1812.05905).

Deviations:
    Illegal actions take no part: not in acting, not in values, not in the entropy, not in the one that is aimed at.
    All gradients of an update are taken at the same parameters: the policy's does not wait for the critics' step.
    The temperature's gradient is that of log alpha, not scaled by alpha: it recovers as fast as it fell.
    The entropy aimed at is a smaller share of a uniform policy's than the paper's 0.98, which is hardly a policy.
    With n_step > 1 the entropy of the decisions in between is not counted.

Expected:
    Soft Q* of a small decision process, alpha fixed, to 2e-2 (tests/test_discrete_sac.py). CartPole-v1, 50,000 steps:
    see docs/results.md.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from math import exp, inf, log
from typing import Any, Literal

import torch
from gymnasium import spaces
from torch import nn

from malib_lite.algorithms.optimiser import Adam, finite, step
from malib_lite.algorithms.stochastic_policy import StochasticPolicy
from malib_lite.algorithms.targets import Follower, check_discrete_spaces, check_replay, td_target
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
from malib_lite.contracts.data import ReplaySpec, Transitions
from malib_lite.contracts.trainer import Algorithm, Metrics, Trainer
from malib_lite.models.distributions import MaskedCategorical
from malib_lite.models.nets import Actor, NetConfig, make_net


@config
class DiscreteSACConfig:
    """An update steps both critics, the policy and the temperature once."""

    total_timesteps: PositiveInt | None = option(None, "environment steps that schedules span; None: the run's own")
    # learning
    discount: Fraction = option(0.99, "gamma, the worth of a reward one decision later")
    learning_rate: NonNegativeFloat = option(1e-3, "Adam's step size at the beginning")
    learning_rate_final: Fraction = option(0.1, "share of learning_rate left at the end of the horizon; 1 holds it")
    n_step: PositiveInt = option(3, "decisions whose rewards are summed before the next value is looked up")
    tau: Fraction = option(0.01, "share of the way the target critics go at each update; 1 copies")
    max_grad_norm: PositiveFloat | None = option(None, "gradients are scaled down to this norm; None: never")
    # entropy
    temperature: PositiveFloat = option(1.0, "alpha, the worth of entropy against reward, at the beginning")
    learn_temperature: bool = option(True, "let alpha follow the entropy that is aimed at; False holds it")
    target_entropy: Fraction = option(0.3, "entropy aimed at, as a share of the legal actions' uniform policy's")
    # replay
    batch_size: PositiveInt = option(128, "transitions in one update")
    capacity: PositiveInt = option(100_000, "transitions kept; the oldest go first")
    learning_starts: PositiveInt = option(500, "transitions before the first update")
    updates_per_step: PositiveFloat = option(0.25, "updates for each recorded decision")

    def __post_init__(self) -> None:
        check_replay(self.capacity, self.batch_size, self.learning_starts)


@config
class DiscreteSACNetConfig(NetConfig):
    """Of the policy and of each critic."""

    activation: Literal["tanh", "relu", "elu"] = option("relu", "nonlinearity after each hidden layer")


def soft_value(q_tp1: torch.Tensor, policy_tp1: MaskedCategorical, alpha: float) -> torch.Tensor:
    """Equation 10, Q being the least of the critics: sum_a pi(a|s') (min_i Q_i(s', a) - alpha log pi(a|s')).

    q_tp1 (critics, B, A) float32; (B,).
    """
    return (policy_tp1.probs * (q_tp1.min(0).values - alpha * policy_tp1.logits)).sum(-1)


def critic_loss(q_t: torch.Tensor, action_t: torch.Tensor, target_t: torch.Tensor) -> torch.Tensor:
    """Half the squared error of the taken actions' values, summed over the critics.

    q_t (critics, B, A) float32, action_t (B,) int64, target_t (B,) float32.
    """
    q_taken_t = q_t.gather(-1, action_t.expand(len(q_t), -1).unsqueeze(-1)).squeeze(-1)
    return (q_taken_t - target_t).square().mean(-1).sum() / 2


def actor_loss(q_t: torch.Tensor, policy_t: MaskedCategorical, alpha: float) -> torch.Tensor:
    """Equation 12: minus the soft value of the policy; q_t (critics, B, A) float32, constant here."""
    return -soft_value(q_t.detach(), policy_t, alpha).mean()


def temperature_loss(log_alpha: torch.Tensor, entropy_t: torch.Tensor, target_entropy_t: torch.Tensor) -> torch.Tensor:
    """Equation 11 with log alpha in alpha's place: falls where the policy is wider than what is aimed at.

    log_alpha () float32; entropy_t, target_entropy_t (B,) float32, constants here.
    """
    return log_alpha * (entropy_t - target_entropy_t).detach().mean()


class DiscreteSACPolicy(StochasticPolicy):
    """The actor, the two critics that train it, and the temperature."""

    model_class = DiscreteSACNetConfig

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
        settings = build(DiscreteSACNetConfig, self.model_config, "model_config")
        self.num_actions = int(action_space.n)
        self.log_alpha = nn.Parameter(torch.tensor(0.0))  # () float32
        self.actor = Actor(observation_space, action_space, settings)
        self.critics = nn.ModuleList(make_net(observation_space, self.num_actions, settings, 1.0) for _ in range(2))

    @classmethod
    def check_spaces(cls, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        check_discrete_spaces("discrete_sac", observation_space, action_space)

    def distribution(self, observation: torch.Tensor, act_mask: torch.Tensor | None) -> MaskedCategorical:
        distribution: MaskedCategorical = self.actor(observation, act_mask)
        return distribution


class DiscreteSACTrainer(Trainer[Transitions, Transitions]):
    """Algorithm 1 from replayed transitions."""

    config_class = DiscreteSACConfig
    rollout_defaults = {"fragment_length": 128, "num_env_per_thread": 8}  # short rounds: updates keep up with play
    config: DiscreteSACConfig
    policy: DiscreteSACPolicy

    def setup(self) -> None:
        c, policy = self.config, self.policy
        with torch.no_grad():
            policy.log_alpha.fill_(log(c.temperature))
        policy.log_alpha.requires_grad_(c.learn_temperature)
        self.trained = self.parameters()
        self.optimiser = Adam(self.trained, c.learning_rate)
        self.target_critics = copy.deepcopy(policy.critics).requires_grad_(False)
        self.critics_follower = Follower(self.target_critics, policy.critics)

    def data_spec(self) -> ReplaySpec:
        c = self.config
        return ReplaySpec(c.capacity, c.batch_size, c.learning_starts, c.updates_per_step, c.n_step, c.discount)

    def minibatches(self, batch: Transitions) -> Iterator[Transitions]:
        return iter((batch,))

    def compute_gradients(self, minibatch: Transitions) -> tuple[Sequence[torch.Tensor], Metrics]:
        policy, alpha = self.policy, exp(self.policy.log_alpha.item())
        observation, next_observation = map(self.tensor, (minibatch.observation, minibatch.next_observation))
        mask, next_mask = (
            None if m is None else self.tensor(m) for m in (minibatch.action_mask, minibatch.next_action_mask)
        )
        with torch.no_grad():
            next_q = torch.stack([critic(next_observation) for critic in self.target_critics])  # (2, B, A)
            target = td_target(
                self.tensor(minibatch.reward),
                soft_value(next_q, policy.actor(next_observation, next_mask), alpha),
                self.tensor(minibatch.terminated),
                self.tensor(minibatch.discount),
            )
        q = torch.stack([critic(observation) for critic in policy.critics])
        of_critics = critic_loss(q, self.tensor(minibatch.action), target)

        distribution = policy.actor(observation, mask)
        of_actor = actor_loss(q, distribution, alpha)
        entropy = distribution.entropy()
        metrics = {
            "critic_loss": finite(of_critics, "discrete_sac"),
            "actor_loss": finite(of_actor, "discrete_sac"),
            "temperature": alpha,
            "entropy": entropy.detach().mean().item(),
            "q_mean": q.detach().mean().item(),
        }
        gradients = [  # in the order of parameters(): a module's own come before those of its parts
            *torch.autograd.grad(of_actor, list(policy.actor.parameters())),
            *torch.autograd.grad(of_critics, list(policy.critics.parameters())),
        ]
        if self.config.learn_temperature:
            num_legal = torch.full_like(entropy, policy.num_actions) if mask is None else mask.sum(-1).float()
            of_temperature = temperature_loss(policy.log_alpha, entropy, self.config.target_entropy * num_legal.log())
            gradients.insert(0, *torch.autograd.grad(of_temperature, policy.log_alpha))
        return gradients, metrics

    def apply_gradients(self, gradients: Sequence[torch.Tensor]) -> Metrics:
        norm = step(self.optimiser, self.trained, gradients, self.config.max_grad_norm or inf, "discrete_sac")
        self.num_updates += 1
        self.critics_follower.follow(self.config.tau)
        return {"grad_norm": norm}


DEFAULT_CONFIG = {
    "training_config": defaults(DiscreteSACConfig),
    "model_config": defaults(DiscreteSACNetConfig),
    "custom_config": {},
}
ALGORITHM = Algorithm(DiscreteSACPolicy, DiscreteSACTrainer)
