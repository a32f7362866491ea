"""Deep deterministic policy gradient: a deterministic policy that climbs its critic, learnt from replayed transitions.

Papers:
    Lillicrap et al. 2016, Continuous control with deep reinforcement learning (https://arxiv.org/abs/1509.02971):
    algorithm 1 with equations 4 and 5 (critic), 6 (policy gradient) and 7 (exploration).

Deviations:
    The exploration noise is Gaussian, independent from step to step. Fujimoto et al. 2018
    (https://arxiv.org/abs/1802.09477, section 6.1) found nothing gained by the paper's Ornstein-Uhlenbeck process. It
    begins as wide as the box, in place of a phase of random actions, and becomes narrower over the run.
    Both gradients of an update are taken at the same parameters: the policy's does not wait for the critic's step.
    One learning rate for both networks; no batch normalisation, no weight decay; actions enter at the first layer.
    Two small hidden layers (64) by default: an update takes a sixth of the time that the paper's (400, 300) take.

Expected:
    The linear-quadratic regulator's gain to 5 % (tests/test_ddpg.py). Pendulum-v1, 20,000 steps: see docs/results.md.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from math import inf, prod
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
from malib_lite.models.nets import NetConfig, make_net


@config
class DDPGConfig:
    """Schedules span the horizon: ``total_timesteps``, or else the run's own. Without either they stand at their end
    (exploration) and their beginning (learning rate)."""

    total_timesteps: PositiveInt | None = option(None, "environment steps that schedules span; None: the run's own")
    # learning
    discount: Fraction = option(0.99, "gamma, the worth of a reward one decision later")
    learning_rate: NonNegativeFloat = option(1e-3, "Adam's step size at the beginning")
    learning_rate_final: Fraction = option(0.1, "share of learning_rate left at the end of the horizon; 1 holds it")
    n_step: PositiveInt = option(1, "decisions whose rewards are summed before the next value is looked up")
    tau: Fraction = option(0.01, "share of the way the target networks go at each update; 1 copies")
    max_grad_norm: PositiveFloat | None = option(None, "gradients are scaled down to this norm; None: never")
    # replay
    batch_size: PositiveInt = option(256, "transitions in one update")
    capacity: PositiveInt = option(100_000, "transitions kept; the oldest go first")
    learning_starts: PositiveInt = option(500, "transitions before the first update")
    updates_per_step: PositiveFloat = option(1.0, "updates for each recorded decision")
    # exploration
    noise_initial: NonNegativeFloat = option(1.0, "deviation of the noise at the beginning, in halves of the box")
    noise_final: NonNegativeFloat = option(0.1, "deviation of the noise after exploration_fraction of the horizon")
    exploration_fraction: Fraction = option(0.2, "share of the horizon over which the noise becomes narrower")

    def __post_init__(self) -> None:
        check_replay(self.capacity, self.batch_size, self.learning_starts)


@config
class DDPGNetConfig(NetConfig):
    """Of the policy and of the critic."""

    activation: Literal["tanh", "relu", "elu"] = option("relu", "nonlinearity after each hidden layer")


def critic_loss(q_t: torch.Tensor, target_t: torch.Tensor) -> torch.Tensor:
    """Half of equation 4; both (B,) float32, ``target_t`` being y_t of equation 5."""
    return (q_t - target_t).square().mean() / 2


def actor_loss(q_t: torch.Tensor) -> torch.Tensor:
    """Its gradient is minus equation 6; q_t (B,) float32 of the policy's own actions."""
    return -q_t.mean()


class DeterministicActor(nn.Module):
    """One action in the box for each observation."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Box, model_config: NetConfig) -> None:
        super().__init__()
        self.bounds = Bounds(action_space)
        self.net = make_net(observation_space, prod(action_space.shape), model_config, output_gain=0.01)

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """(B, *obs) -> (B, *action) float32."""
        output = self.net(observation).view(-1, *self.bounds.middle.shape)
        return self.bounds.middle + self.bounds.half_width * output.tanh()


class DDPGPolicy(Policy):
    """The actor and its critic; plays with Gaussian noise, whose deviation travels with the parameters."""

    model_class = DDPGNetConfig
    noise: torch.Tensor  # () float32: the noise's deviation, in halves of the box

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
        settings = build(DDPGNetConfig, self.model_config, "model_config")
        self.actor = DeterministicActor(observation_space, action_space, settings)
        self.critic = QNet(observation_space, action_space, settings)
        self.register_buffer("noise", torch.tensor(1.0))

    @classmethod
    def check_spaces(cls, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        check_box_spaces("ddpg", observation_space, action_space)

    def compute_action(
        self,
        observation: torch.Tensor,
        act_mask: torch.Tensor | None = None,
        evaluate: bool = False,
        hidden_state: Any = None,
    ) -> PolicyOutput:
        action = self.actor(observation)
        if not evaluate:
            bounds = self.actor.bounds
            noise = self.noise * torch.randn(action.shape, generator=self.generator).to(action.device)
            # clipped here, not by the environment alone: what is recorded is what was done
            noisy = (bounds.normalise(action) + noise).clamp(-1.0, 1.0)
            action = bounds.middle + bounds.half_width * noisy
        return PolicyOutput(action, None, {}, hidden_state)


class DDPGTrainer(Trainer[Transitions, Transitions]):
    """Algorithm 1 from replayed transitions."""

    config_class = DDPGConfig
    rollout_defaults = {"fragment_length": 64, "num_env_per_thread": 4}  # short rounds: updates keep up with play
    config: DDPGConfig
    policy: DDPGPolicy

    def setup(self) -> None:
        self.trained = self.parameters()
        self.optimiser = Adam(self.trained, self.config.learning_rate)
        self.target_actor = copy.deepcopy(self.policy.actor).requires_grad_(False)
        self.actor_follower = Follower(self.target_actor, self.policy.actor)
        self.target_critic = copy.deepcopy(self.policy.critic).requires_grad_(False)
        self.critic_follower = Follower(self.target_critic, self.policy.critic)

    def data_spec(self) -> ReplaySpec:
        c = self.config
        return ReplaySpec(c.capacity, c.batch_size, c.learning_starts, c.updates_per_step, c.n_step, c.discount)

    def follow_schedules(self) -> None:
        super().follow_schedules()
        c = self.config
        explored = self.explored()
        self.policy.noise.fill_(c.noise_initial + explored * (c.noise_final - c.noise_initial))

    def minibatches(self, batch: Transitions) -> Iterator[Transitions]:
        return iter((batch,))

    def compute_gradients(self, minibatch: Transitions) -> tuple[Sequence[torch.Tensor], Metrics]:
        actor, critic = self.policy.actor, self.policy.critic
        observation, next_observation = map(self.tensor, (minibatch.observation, minibatch.next_observation))
        with torch.no_grad():
            target = td_target(
                self.tensor(minibatch.reward),
                self.target_critic(next_observation, self.target_actor(next_observation)),
                self.tensor(minibatch.terminated),
                self.tensor(minibatch.discount),
            )
        q_taken = critic(observation, self.tensor(minibatch.action))
        of_critic = critic_loss(q_taken, target)
        of_actor = actor_loss(critic(observation, actor(observation)))
        metrics = {
            "critic_loss": finite(of_critic, "ddpg"),
            "actor_loss": finite(of_actor, "ddpg"),
            "q_mean": q_taken.detach().mean().item(),
        }
        gradients = [  # in the order of parameters()
            *torch.autograd.grad(of_actor, list(actor.parameters())),
            *torch.autograd.grad(of_critic, list(critic.parameters())),
        ]
        return gradients, metrics

    def apply_gradients(self, gradients: Sequence[torch.Tensor]) -> Metrics:
        norm = step(self.optimiser, self.trained, gradients, self.config.max_grad_norm or inf, "ddpg")
        self.num_updates += 1
        self.actor_follower.follow(self.config.tau)
        self.critic_follower.follow(self.config.tau)
        return {"grad_norm": norm}


DEFAULT_CONFIG = {"training_config": defaults(DDPGConfig), "model_config": defaults(DDPGNetConfig), "custom_config": {}}
ALGORITHM = Algorithm(DDPGPolicy, DDPGTrainer)
