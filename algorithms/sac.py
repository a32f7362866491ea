"""Soft actor-critic: a stochastic policy that earns reward and entropy, learnt from replayed transitions.

Papers:
    Haarnoja et al. 2018, Soft actor-critic algorithms and applications (https://arxiv.org/abs/1812.05905): algorithm 1
    with equations 3 and 5 (critics), 7-9 (policy) and 18 (temperature). The squashed Gaussian and its density:
    Haarnoja et al. 2018, appendix C of https://arxiv.org/abs/1801.01290.

Deviations:
    All gradients of an update are taken at the same parameters: the policy's does not wait for the critics' step.
    The temperature's gradient is that of log alpha, not scaled by alpha: it recovers as fast as it fell.
    The entropy that is aimed at does not depend on the action's units: -1 per entry where the box is [-1, 1].
    Two small hidden layers (64) by default: an update takes a sixth of the time that the paper's (256) take.
    No phase of uniform actions: the policy begins as wide as the box.
    With n_step > 1 the entropy of the decisions in between is not counted.

Expected:
    The linear-quadratic regulator's gain to 5 % (tests/test_sac.py). Pendulum-v1, 20,000 steps: see docs/results.md.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from math import exp, inf, log, prod
from typing import Any, Literal

import torch
from gymnasium import spaces
from torch import nn

from malib_lite.algorithms.optimiser import Adam, finite, step
from malib_lite.algorithms.targets import Bounds, Follower, QNet, check_box_spaces, check_replay, td_target
from malib_lite.config import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, build, config, defaults, option
from malib_lite.contracts.data import ReplaySpec, Transitions
from malib_lite.contracts.policy import Policy, PolicyOutput
from malib_lite.contracts.trainer import Algorithm, Metrics, Trainer
from malib_lite.models.distributions import SquashedGaussian
from malib_lite.models.nets import NetConfig, make_net

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0  # of the Gaussian before tanh


@config
class SACConfig:
    """An update steps both critics, the policy and the temperature once."""

    total_timesteps: PositiveInt | None = option(None, "environment steps that schedules span; None: the run's own")
    # learning
    discount: Fraction = option(0.99, "gamma, the worth of a reward one decision later")
    learning_rate: NonNegativeFloat = option(1e-3, "Adam's step size at the beginning")
    learning_rate_final: Fraction = option(0.1, "share of learning_rate left at the end of the horizon; 1 holds it")
    n_step: PositiveInt = option(1, "decisions whose rewards are summed before the next value is looked up")
    tau: Fraction = option(0.01, "share of the way the target critics go at each update; 1 copies")
    max_grad_norm: PositiveFloat | None = option(None, "gradients are scaled down to this norm; None: never")
    # entropy
    temperature: PositiveFloat = option(1.0, "alpha, the worth of entropy against reward, at the beginning")
    learn_temperature: bool = option(True, "let alpha follow the entropy that is aimed at; False holds it")
    target_entropy: float = option(-1.0, "entropy aimed at, per entry of an action, where the box is [-1, 1]")
    # replay
    batch_size: PositiveInt = option(256, "transitions in one update")
    capacity: PositiveInt = option(100_000, "transitions kept; the oldest go first")
    learning_starts: PositiveInt = option(500, "transitions before the first update")
    updates_per_step: PositiveFloat = option(1.0, "updates for each recorded decision")

    def __post_init__(self) -> None:
        check_replay(self.capacity, self.batch_size, self.learning_starts)


@config
class SACNetConfig(NetConfig):
    """Of the policy and of each critic."""

    activation: Literal["tanh", "relu", "elu"] = option("relu", "nonlinearity after each hidden layer")


def soft_value(q_tp1: torch.Tensor, log_prob_tp1: torch.Tensor, alpha: float) -> torch.Tensor:
    """Equation 3 for one drawn action, Q being the least of the critics: min_i Q_i(s', a') - alpha log pi(a'|s').

    q_tp1 (critics, B) float32, log_prob_tp1 (B,) float32; (B,).
    """
    return q_tp1.min(0).values - alpha * log_prob_tp1


def critic_loss(q_t: torch.Tensor, target_t: torch.Tensor) -> torch.Tensor:
    """Equation 5, summed over the critics; q_t (critics, B) float32, target_t (B,) float32."""
    return (q_t - target_t).square().mean(-1).sum() / 2


def actor_loss(q_t: torch.Tensor, log_prob_t: torch.Tensor, alpha: float) -> torch.Tensor:
    """Equation 9, its actions being functions of noise; q_t (critics, B) float32, log_prob_t (B,) float32."""
    return (alpha * log_prob_t - q_t.min(0).values).mean()


def temperature_loss(log_alpha: torch.Tensor, log_prob_t: torch.Tensor, target_entropy: float) -> torch.Tensor:
    """Equation 18 with log alpha in alpha's place: falls where the policy is wider than ``target_entropy``.

    log_alpha () float32, log_prob_t (B,) float32, a constant here.
    """
    return -log_alpha * (log_prob_t.detach().mean() + target_entropy)


class SquashedActor(nn.Module):
    """Observations to a Gaussian squashed into the action space's box; mean and deviation both depend on them."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Box, model_config: NetConfig) -> None:
        super().__init__()
        self.bounds = Bounds(action_space)
        self.net = make_net(observation_space, 2 * prod(action_space.shape), model_config, output_gain=0.01)

    def forward(self, observation: torch.Tensor) -> SquashedGaussian:
        mean, log_std = (half.view(-1, *self.bounds.middle.shape) for half in self.net(observation).chunk(2, -1))
        std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX).exp()
        return SquashedGaussian(mean, std, self.bounds.middle, self.bounds.half_width)


class SACPolicy(Policy):
    """The actor, the two critics that train it, and the temperature."""

    stochastic = True
    model_class = SACNetConfig

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        model_config: Mapping[str, Any] | None = None,
        custom_config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(observation_space, action_space, model_config, custom_config)
        self.check_spaces(observation_space, action_space)
        assert isinstance(action_space, spaces.Box)
        settings = build(SACNetConfig, self.model_config, "model_config")
        self.log_alpha = nn.Parameter(torch.tensor(0.0))  # () float32
        self.actor = SquashedActor(observation_space, action_space, settings)
        self.critics = nn.ModuleList(QNet(observation_space, action_space, settings) for _ in range(2))

    @classmethod
    def check_spaces(cls, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        check_box_spaces("sac", observation_space, action_space)

    def compute_action(
        self,
        observation: torch.Tensor,
        act_mask: torch.Tensor | None = None,
        evaluate: bool = False,
        hidden_state: Any = None,
    ) -> PolicyOutput:
        distribution = self.actor(observation)
        if evaluate:
            action = distribution.mode
            return PolicyOutput(action, distribution.log_prob(action), {}, hidden_state)
        action, log_prob = distribution.draw_with_log_prob(self.generator)
        return PolicyOutput(action, log_prob, {}, hidden_state)


class SACTrainer(Trainer[Transitions, Transitions]):
    """Algorithm 1 from replayed transitions."""

    config_class = SACConfig
    rollout_defaults = {"fragment_length": 64, "num_env_per_thread": 4}  # short rounds: updates keep up with play
    config: SACConfig
    policy: SACPolicy

    def setup(self) -> None:
        c, policy = self.config, self.policy
        with torch.no_grad():
            policy.log_alpha.fill_(log(c.temperature))
        policy.log_alpha.requires_grad_(c.learn_temperature)
        # an action's density is less by its box's volume: half the box is the unit that the entropy is stated in
        half_width = policy.actor.bounds.half_width
        self.target_entropy = c.target_entropy * half_width.numel() + half_width.log().sum().item()
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
        with torch.no_grad():
            next_action, next_log_prob = policy.actor(next_observation).draw_with_log_prob(self.generator)
            next_q = torch.stack([critic(next_observation, next_action) for critic in self.target_critics])
            target = td_target(
                self.tensor(minibatch.reward),
                soft_value(next_q, next_log_prob, alpha),
                self.tensor(minibatch.terminated),
                self.tensor(minibatch.discount),
            )
        taken = self.tensor(minibatch.action)
        q_taken = torch.stack([critic(observation, taken) for critic in policy.critics])
        of_critics = critic_loss(q_taken, target)

        action, log_prob = policy.actor(observation).draw_with_log_prob(self.generator)
        q = torch.stack([critic(observation, action) for critic in policy.critics])
        of_actor = actor_loss(q, log_prob, alpha)
        metrics = {
            "critic_loss": finite(of_critics, "sac"),
            "actor_loss": finite(of_actor, "sac"),
            "temperature": alpha,
            "entropy": -log_prob.detach().mean().item(),
            "q_mean": q_taken.detach().mean().item(),
        }
        gradients = [  # in the order of parameters(): a module's own come before those of its parts
            *torch.autograd.grad(of_actor, list(policy.actor.parameters())),
            *torch.autograd.grad(of_critics, list(policy.critics.parameters())),
        ]
        if self.config.learn_temperature:
            of_temperature = temperature_loss(policy.log_alpha, log_prob, self.target_entropy)
            gradients.insert(0, *torch.autograd.grad(of_temperature, policy.log_alpha))
        return gradients, metrics

    def apply_gradients(self, gradients: Sequence[torch.Tensor]) -> Metrics:
        norm = step(self.optimiser, self.trained, gradients, self.config.max_grad_norm or inf, "sac")
        self.num_updates += 1
        self.critics_follower.follow(self.config.tau)
        return {"grad_norm": norm}


DEFAULT_CONFIG = {"training_config": defaults(SACConfig), "model_config": defaults(SACNetConfig), "custom_config": {}}
ALGORITHM = Algorithm(SACPolicy, SACTrainer)
