"""Multi-agent deep deterministic policy gradient: actors that climb a critic of everybody's actions.

Papers:
    Lowe et al. 2017, Multi-agent actor-critic for mixed cooperative-competitive environments
    (https://arxiv.org/abs/1706.02275): equations 5 (policy gradient) and 6 (critic), algorithm 1. Discrete actions by
    the Gumbel softmax: Jang et al. 2017 (https://arxiv.org/abs/1611.01144).

Deviations:
    All agents share one actor, which sees which of them it acts for (``rollout.agent_ids``), and one critic, which is
    told which of them it values; the paper has an actor and a critic for each. Each agent's value is of its own reward,
    as in the paper.
    The critic reads the environment's global state where there is one, and all observations side by side elsewhere.
    Agents that do not act in a step (the dead, or others' turns) are to the critic without an action. What they earn
    then still counts, so a reward that comes between an agent's turns is not lost.
    MultiDiscrete actions are drawn part by part. Continuous ones are explored by Gaussian noise that begins as wide as
    the box and becomes narrower.
    Both gradients of an update are taken at the same parameters; one learning rate for both networks.

Expected:
    The optimum of a penalty game, 250 in 25 rounds (tests/test_maddpg.py). Scores are in docs/results.md.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from math import inf, prod
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from malib_lite.algorithms.optimiser import Adam, finite, step
from malib_lite.algorithms.targets import Bounds, Follower, check_box_spaces, check_replay, td_target
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
from malib_lite.contracts.data import ReplaySpec
from malib_lite.contracts.devices import to_tensor
from malib_lite.contracts.joint import JointTransitions
from malib_lite.contracts.policy import Policy, PolicyOutput
from malib_lite.contracts.trainer import Algorithm, Metrics, TeamShape, Trainer
from malib_lite.models.distributions import MaskedCategorical, MultiCategorical
from malib_lite.models.gumbel import gumbel_softmax
from malib_lite.models.nets import NetConfig, check_actor_spaces, make_net


@config
class MADDPGConfig:
    """Schedules span the horizon: ``total_timesteps``, or else the run's own. Without either they stand at their end
    (exploration) and their beginning (learning rate)."""

    total_timesteps: PositiveInt | None = option(None, "environment steps that schedules span; None: the run's own")
    # learning
    discount: Fraction = option(0.95, "gamma, the worth of a reward one step later")
    learning_rate: NonNegativeFloat = option(1e-3, "Adam's step size at the beginning")
    learning_rate_final: Fraction = option(0.1, "share of learning_rate left at the end of the horizon; 1 holds it")
    n_step: PositiveInt = option(1, "steps whose rewards are summed before the next value is looked up")
    tau: Fraction = option(0.01, "share of the way the target networks go at each update; 1 copies")
    max_grad_norm: PositiveFloat | None = option(None, "gradients are scaled down to this norm; None: never")
    # discrete actions
    temperature: PositiveFloat = option(1.0, "of the Gumbel softmax: lower, its gradient is less biased and noisier")
    logit_penalty: NonNegativeFloat = option(1e-3, "weight of the mean squared logit, which keeps the policy drawing")
    # replay
    batch_size: PositiveInt = option(256, "steps of a team in one update")
    capacity: PositiveInt = option(100_000, "steps of a team kept; the oldest go first")
    learning_starts: PositiveInt = option(500, "steps before the first update")
    updates_per_step: PositiveFloat = option(0.1, "updates for each recorded step")
    # exploration of continuous actions
    noise_initial: NonNegativeFloat = option(1.0, "deviation of the noise at the beginning, in halves of the box")
    noise_final: NonNegativeFloat = option(0.1, "deviation of the noise after exploration_fraction of the horizon")
    exploration_fraction: Fraction = option(0.2, "share of the horizon over which the noise becomes narrower")

    def __post_init__(self) -> None:
        check_replay(self.capacity, self.batch_size, self.learning_starts)


@config
class MADDPGNetConfig(NetConfig):
    """Of the actor, and of the critic, which reads the global state and all actions as a row of numbers."""

    activation: Literal["tanh", "relu", "elu"] = option("relu", "nonlinearity after each hidden layer")
    others_in_critic: bool = option(True, "the critic sees what everybody does; False: only the agent that it values")


def critic_loss(q_t: torch.Tensor, target_t: torch.Tensor) -> torch.Tensor:
    """Half of equation 6, averaged over the agents; q_t and target_t, y of that equation, (B, N) float32."""
    return (q_t - target_t).square().mean() / 2


def actor_loss(q_t: torch.Tensor, acting_t: torch.Tensor) -> torch.Tensor:
    """Its gradient is minus equation 5, averaged over the agents that act.

    q_t (B, N) float32: Q_n of agent n's own present action and what the others did; acting_t (B, N) bool.
    """
    return -q_t[acting_t].mean()


def deviations(own_t: torch.Tensor, taken_t: torch.Tensor) -> torch.Tensor:
    """The joint actions of equation 5, (B, N, N, a): in the n-th, agent n does ``own_t``, the others ``taken_t``.

    own_t, taken_t (B, N, a) float32.
    """
    itself = torch.eye(own_t.shape[1], dtype=torch.bool, device=own_t.device).unsqueeze(-1)  # (N, N, 1)
    return torch.where(itself, own_t.unsqueeze(1), taken_t.unsqueeze(1))


class TeamActor(nn.Module):
    """One agent's observation to its action, and actions to rows of a numbers, which is what the critic reads.

    Discrete and MultiDiscrete actions are one-hot there, part by part; Box actions in halves of the box.
    """

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, settings: NetConfig) -> None:
        super().__init__()
        self.is_single = isinstance(action_space, spaces.Discrete)
        self.num_values: list[int] = []  # of each part of a discrete action
        self.bounds: Bounds | None = None
        if isinstance(action_space, spaces.Box):
            self.bounds = Bounds(action_space)
        else:
            self.num_values = np.atleast_1d(getattr(action_space, "nvec", getattr(action_space, "n", 0))).tolist()
        self.action_size = sum(self.num_values) or prod(action_space.shape or ())
        self.net = make_net(observation_space, self.action_size, settings, output_gain=0.01)

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """(B, *obs) -> (B, a) float32: logits, or a Box action in halves of the box."""
        output: torch.Tensor = self.net(observation)
        return output if self.bounds is None else output.tanh()

    def distribution(
        self, observation: torch.Tensor, act_mask: torch.Tensor | None
    ) -> MaskedCategorical | MultiCategorical:
        """Of discrete actions, for observations (B, *obs)."""
        if self.is_single:
            return MaskedCategorical(self(observation), act_mask)
        return MultiCategorical(self(observation), self.num_values, act_mask)

    def rows(self, action: torch.Tensor) -> torch.Tensor:
        """Actions (B, *action) as rows (B, a) float32."""
        if self.bounds is not None:
            return self.bounds.normalise(action).flatten(1)
        parts = action.view(len(action), -1).unbind(-1)
        hot = [nn.functional.one_hot(part, n) for part, n in zip(parts, self.num_values, strict=True)]
        return torch.cat(hot, -1).float()

    def relaxed(
        self, output: torch.Tensor, act_mask: torch.Tensor | None, generator: torch.Generator, temperature: float
    ) -> torch.Tensor:
        """What :meth:`forward` gave as an action's row (B, a) that gradients flow through."""
        if self.bounds is not None:
            return output
        masks = [None] * len(self.num_values) if act_mask is None else act_mask.split(self.num_values, -1)
        parts = zip(output.split(self.num_values, -1), masks, strict=True)
        return torch.cat([gumbel_softmax(logits, mask, generator, temperature) for logits, mask in parts], -1)


class CentralCritic(nn.Module):
    """Q_n(x, a_1, ..., a_N), by one network that is told n."""

    def __init__(self, team: TeamShape, action_size: int, settings: MADDPGNetConfig) -> None:
        super().__init__()
        self.num_agents, self.others = team.num_agents, settings.others_in_critic
        num_inputs = team.state_size + team.num_agents * (1 + action_size)
        self.net = make_net(spaces.Box(-np.inf, np.inf, (num_inputs,), np.float32), 1, settings, output_gain=1.0)

    def forward(self, state: torch.Tensor, joint: torch.Tensor) -> torch.Tensor:
        """Values (B, N) float32 of all agents.

        Args:
            state: (B, S) float32, x in the paper.
            joint: (B, N, N, a) float32, or (B, 1, N, a): for each agent that is valued, what all of them do.
        """
        number = torch.eye(self.num_agents, device=state.device)
        if not self.others:
            joint = joint * number.unsqueeze(-1)
        shape = (len(state), self.num_agents, -1)
        parts = [state.unsqueeze(1), number.unsqueeze(0), joint.flatten(2)]
        rows = torch.cat([part.expand(shape) for part in parts], -1)
        return self.net(rows.flatten(0, 1)).view(len(state), self.num_agents)


class MADDPGPolicy(Policy):
    """The actor that all agents share, and its critic.

    Discrete actions are drawn from the actor's softmax, Box actions played with Gaussian noise, whose deviation travels
    with the parameters; evaluation takes the likeliest, and no noise.
    """

    model_class = MADDPGNetConfig
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
        settings = build(MADDPGNetConfig, self.model_config, "model_config")
        self.actor = TeamActor(observation_space, action_space, settings)
        team = team_shape("maddpg", self.custom_config)
        self.critic = CentralCritic(team, self.actor.action_size, settings)
        self.register_buffer("noise", torch.tensor(1.0))

    @classmethod
    def check_spaces(cls, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        check_actor_spaces("maddpg", observation_space, action_space)
        if isinstance(action_space, spaces.Box):
            check_box_spaces("maddpg", observation_space, action_space)

    def compute_action(
        self,
        observation: torch.Tensor,
        act_mask: torch.Tensor | None = None,
        evaluate: bool = False,
        hidden_state: Any = None,
    ) -> PolicyOutput:
        bounds = self.actor.bounds
        if bounds is None:
            distribution = self.actor.distribution(observation, act_mask)
            action = distribution.mode if evaluate else distribution.draw(self.generator)
            return PolicyOutput(action, None, {}, hidden_state)
        action = self.actor(observation)
        if not evaluate:
            noise = self.noise * torch.randn(action.shape, generator=self.generator).to(action.device)
            # clipped here, not by the environment alone: what is recorded is what was done
            action = (action + noise).clamp(-1.0, 1.0)
        action = bounds.middle + bounds.half_width * action.view(-1, *bounds.middle.shape)
        return PolicyOutput(action, None, {}, hidden_state)

    def action_probs(
        self, observation: torch.Tensor, act_mask: torch.Tensor | None = None, evaluate: bool = False
    ) -> torch.Tensor:
        if not self.actor.is_single:
            return super().action_probs(observation, act_mask, evaluate)
        distribution = self.actor.distribution(observation, act_mask)
        assert isinstance(distribution, MaskedCategorical)
        if evaluate:
            return nn.functional.one_hot(distribution.mode, self.actor.action_size).float()
        return distribution.probs


class MADDPGTrainer(Trainer[JointTransitions, JointTransitions]):
    """Algorithm 1 from replayed steps of the team."""

    config_class = MADDPGConfig
    joint = True
    # short rounds: updates keep up with play
    rollout_defaults = {"agent_ids": True, "fragment_length": 128, "num_env_per_thread": 8}
    config: MADDPGConfig
    policy: MADDPGPolicy

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

    def minibatches(self, batch: JointTransitions) -> Iterator[JointTransitions]:
        return iter((batch,))

    def compute_gradients(self, minibatch: JointTransitions) -> tuple[Sequence[torch.Tensor], Metrics]:
        actor, critic, c = self.policy.actor, self.policy.critic, self.config
        state, acting = self.tensor(minibatch.state), self.tensor(minibatch.acting)
        taken = _of_acting(actor.rows(self.tensor(minibatch.action)[acting]), acting)
        q_taken = critic(state, taken.unsqueeze(1))
        of_critic = critic_loss(q_taken, self._target(minibatch))

        output, mask = _play(actor, minibatch.observation, minibatch.action_mask, acting)
        own = _of_acting(actor.relaxed(output, mask, self.generator, c.temperature), acting)
        of_actor = actor_loss(critic(state, deviations(own, taken)), acting)
        if actor.bounds is None:
            legal = output if mask is None else output[mask]
            of_actor = of_actor + c.logit_penalty * legal.square().mean()
        metrics = {
            "critic_loss": finite(of_critic, "maddpg"),
            "actor_loss": finite(of_actor, "maddpg"),
            "q_mean": q_taken.detach().mean().item(),
        }
        gradients = [  # in the order of parameters()
            *torch.autograd.grad(of_actor, list(actor.parameters())),
            *torch.autograd.grad(of_critic, list(critic.parameters())),
        ]
        return gradients, metrics

    @torch.no_grad()
    def _target(self, minibatch: JointTransitions) -> torch.Tensor:
        """y of equation 6 for every agent, (B, N) float32."""
        acting = self.tensor(minibatch.next_acting)
        output, mask = _play(self.target_actor, minibatch.next_observation, minibatch.next_action_mask, acting)
        joint = _of_acting(self.target_actor.relaxed(output, mask, self.generator, self.config.temperature), acting)
        return td_target(
            self.tensor(minibatch.reward),
            self.target_critic(self.tensor(minibatch.next_state), joint.unsqueeze(1)),
            self.tensor(minibatch.terminated).unsqueeze(-1),
            self.tensor(minibatch.discount).unsqueeze(-1),
        )

    def apply_gradients(self, gradients: Sequence[torch.Tensor]) -> Metrics:
        norm = step(self.optimiser, self.trained, gradients, self.config.max_grad_norm or inf, "maddpg")
        self.num_updates += 1
        self.actor_follower.follow(self.config.tau)
        self.critic_follower.follow(self.config.tau)
        return {"grad_norm": norm}


def _play(
    actor: TeamActor, observation: np.ndarray, action_mask: np.ndarray | None, acting: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The actor's output (D, a) and the masks (D, A) of the D agents that act, of (B, N, ...)."""
    mask = None if action_mask is None else to_tensor(action_mask, acting.device)[acting]
    return actor(to_tensor(observation, acting.device)[acting]), mask


def _of_acting(rows: torch.Tensor, acting: torch.Tensor) -> torch.Tensor:
    """Rows (D, a) of the agents that act, in their places among (B, N, a); zeros for the others."""
    full = rows.new_zeros((*acting.shape, rows.shape[-1]))
    full[acting] = rows
    return full


DEFAULT_CONFIG = {
    "training_config": defaults(MADDPGConfig),
    "model_config": defaults(MADDPGNetConfig),
    "custom_config": {},
}
ALGORITHM = Algorithm(MADDPGPolicy, MADDPGTrainer)
