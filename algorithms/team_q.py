"""What QMIX and VDN share: everything but the mixer, which makes the team's value of its agents' own.

    Q_tot(s, u) = mixer(Q_1(o_1, u_1), ..., Q_N(o_N, u_N); s)

Every agent acts by its own Q_n, on what it sees; Q_tot exists in training alone, where it is fitted to double-Q targets
of the team's reward. As long as Q_tot falls with no Q_n, the agents' own best actions together are the team's.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from malib_lite.algorithms.optimiser import Adam, finite, step
from malib_lite.algorithms.sequences import Replayed, replayed_jointly, whole_joint_round
from malib_lite.algorithms.targets import (
    Follower,
    check_discrete_spaces,
    check_replay,
    explore,
    explored_probs,
    greedy_actions,
    td_target,
)
from malib_lite.config import ConfigError, Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, build, config, option
from malib_lite.contracts.data import ReplaySpec
from malib_lite.contracts.devices import to_tensor
from malib_lite.contracts.joint import JointTrajectories, JointTransitions
from malib_lite.contracts.policy import Policy, PolicyOutput
from malib_lite.contracts.trainer import Metrics, TeamShape, Trainer
from malib_lite.models.distributions import ILLEGAL_LOGIT
from malib_lite.models.nets import make_net
from malib_lite.models.recurrent import Memory, MemoryConfig, MemoryNet


@config
class TeamQConfig:
    """Schedules span the horizon: ``total_timesteps``, or else the run's own. Without either they stand at their end
    (exploration) and their beginning (learning rate)."""

    total_timesteps: PositiveInt | None = option(None, "environment steps that schedules span; None: the run's own")
    # learning
    discount: Fraction = option(0.99, "gamma, the worth of a reward one step later")
    learning_rate: NonNegativeFloat = option(5e-4, "Adam's step size at the beginning")
    learning_rate_final: Fraction = option(0.02, "share of learning_rate left at the end of the horizon; 1 holds it")
    n_step: PositiveInt = option(1, "steps whose rewards are summed before the next value is looked up")
    double: bool = option(True, "choose the next actions by the online network, value them by the target network")
    tau: Fraction = option(0.005, "share of the way the target networks go at each of their updates; 1 copies")
    target_update_interval: PositiveInt = option(1, "updates between updates of the target networks")
    max_grad_norm: PositiveFloat = option(10.0, "gradients are scaled down to this norm")
    # replay
    batch_size: PositiveInt = option(128, "steps of a team in one update")
    capacity: PositiveInt = option(50_000, "steps of a team kept; the oldest go first")
    learning_starts: PositiveInt = option(500, "steps before the first update")
    updates_per_step: PositiveFloat = option(0.1, "updates for each recorded step")
    sequence_length: PositiveInt = option(16, "steps through which gradients reach back into a memory, about")
    # exploration
    epsilon_initial: Fraction = option(1.0, "share of random actions at the beginning")
    epsilon_final: Fraction = option(0.05, "share of random actions after exploration_fraction of the horizon")
    exploration_fraction: Fraction = option(0.2, "share of the horizon over which random actions become rarer")

    def __post_init__(self) -> None:
        check_replay(self.capacity, self.batch_size, self.learning_starts)


@config
class TeamQNetConfig(MemoryConfig):
    """Of the network that all agents share."""

    activation: Literal["tanh", "relu", "elu"] = option("relu", "nonlinearity after each hidden layer")


def team_shape(algorithm: str, custom_config: Mapping[str, Any]) -> TeamShape:
    """How large the team is that a policy is made for; ConfigError where nobody has said."""
    if not isinstance(custom_config.get("team"), TeamShape):
        raise ConfigError(
            f"{algorithm} trains teams: its policy takes custom_config={{'team': TeamShape(num_agents, state_size)}}"
        )
    return custom_config["team"]


def of_acting(net: nn.Module, observation: torch.Tensor, acting: torch.Tensor) -> torch.Tensor:
    """What ``net`` makes of the observations of agents that act, zeros for the others.

    What the others are shown means nothing: it never gets into the network.

    Args:
        net: (K, *obs) -> (K, A).
        observation: (B, N, *obs).
        acting: (B, N) bool.

    Returns:
        (B, N, A) float32.
    """
    output = net(observation[acting])  # (K, A)
    full = output.new_zeros((*acting.shape, output.shape[-1]))
    full[acting] = output
    return full


def q_values(
    net: MemoryNet, observation: np.ndarray, acting: torch.Tensor, sequences: JointTrajectories | None
) -> torch.Tensor:
    """Q_n(o_n, .) of the agents that act in D steps, zero for the others: (D, N, A) float32.

    ``observation`` (D, N, *obs), or numbers of rows (D,) of ``sequences``; acting (D, N) bool.
    """
    seen = to_tensor(observation, acting.device)
    if sequences is None:
        return of_acting(net.net, seen, acting)
    q = net(*whole_joint_round(sequences, acting.device))  # (L + 1, B N, A)
    q = q.view(-1, acting.shape[1], q.shape[-1])[seen]
    return q.masked_fill(~acting.unsqueeze(-1), 0.0)


def taken_values(q_t: torch.Tensor, action_t: torch.Tensor, acting_t: torch.Tensor) -> torch.Tensor:
    """Q_n(o_n, u_n) of agents that act, zero for the others.

    q_t (B, N, A) float32, action_t (B, N) int64, acting_t (B, N) bool; (B, N).
    """
    action_t = action_t.masked_fill(~acting_t, 0)
    return q_t.gather(-1, action_t.unsqueeze(-1)).squeeze(-1).masked_fill(~acting_t, 0.0)


def greedy_values(
    q_online_tp1: torch.Tensor, q_target_tp1: torch.Tensor, mask_tp1: torch.Tensor | None, acting_tp1: torch.Tensor
) -> torch.Tensor:
    """Q_target,n(o', argmax_a Q_online,n(o', a)) over legal a, zero for agents that are not to act: double Q-learning.

    Args:
        q_online_tp1, q_target_tp1: (B, N, A) float32, of the next observations.
        mask_tp1: (B, N, A) bool, the legal next actions; None: all.
        acting_tp1: (B, N) bool.

    Returns:
        (B, N) float32.
    """
    if mask_tp1 is not None:
        q_online_tp1 = q_online_tp1.masked_fill(~mask_tp1, ILLEGAL_LOGIT)
    return taken_values(q_target_tp1, q_online_tp1.argmax(-1), acting_tp1)


def team_loss(q_tot_t: torch.Tensor, target_t: torch.Tensor) -> torch.Tensor:
    """Half the mean squared error, Rashid et al. 2018, equation 6; q_tot_t, target_t (B,) float32."""
    return (q_tot_t - target_t).square().mean() / 2


class TeamQPolicy(Policy):
    """Acts greedily on one agent's Q, and at random with probability ``epsilon``, which travels with the parameters.

    All agents share ``q_net``. The mixer is part of the policy because it is learnt; acting does not need it.
    """

    algorithm: ClassVar[str]
    model_class: ClassVar[type[TeamQNetConfig]] = TeamQNetConfig
    epsilon: torch.Tensor  # () float32: the share of random actions

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
        settings = build(self.model_class, self.model_config, "model_config")
        self.num_actions = int(action_space.n)
        memory = Memory(observation_space, settings)
        self.q_net = MemoryNet(memory, make_net(memory.space, self.num_actions, memory.settings, output_gain=1.0))
        self.mixer = self.make_mixer(team_shape(self.algorithm, self.custom_config), settings)
        self.register_buffer("epsilon", torch.tensor(1.0))

    @property
    def memory_size(self) -> int:
        return self.q_net.memory.size

    @abstractmethod
    def make_mixer(self, team: TeamShape, settings: Any) -> nn.Module:
        """Agents' values (B, N) and the state (B, S) to Q_tot (B,); ``settings`` of ``model_class``."""

    @classmethod
    def check_spaces(cls, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        check_discrete_spaces(cls.algorithm, observation_space, action_space)

    def compute_action(
        self,
        observation: torch.Tensor,
        act_mask: torch.Tensor | None = None,
        evaluate: bool = False,
        hidden_state: Any = None,
    ) -> PolicyOutput:
        q, hidden_state = self.q_net.step(observation, hidden_state)
        action = greedy_actions(q, act_mask)
        epsilon = 0.0 if evaluate else self.epsilon.item()
        if epsilon > 0.0:
            action = explore(action, epsilon, self.num_actions, act_mask, self.generator)
        return PolicyOutput(action, None, {}, hidden_state)

    def action_probs(
        self, observation: torch.Tensor, act_mask: torch.Tensor | None = None, evaluate: bool = False
    ) -> torch.Tensor:
        if self.memory_size:
            return super().action_probs(observation, act_mask, evaluate)
        greedy = nn.functional.one_hot(greedy_actions(self.q_net.net(observation), act_mask), self.num_actions).float()
        if evaluate:
            return greedy
        return explored_probs(greedy, self.epsilon, act_mask)


Minibatch = Replayed[JointTransitions, JointTrajectories]


class TeamQTrainer(Trainer[JointTransitions | JointTrajectories, Minibatch]):
    """Q-learning of a team's value from replayed steps, or sequences of them where agents remember."""

    config_class = TeamQConfig
    joint = True
    # short rounds: updates keep up with play
    rollout_defaults = {"agent_ids": True, "fragment_length": 128, "num_env_per_thread": 8}
    config: TeamQConfig
    policy: TeamQPolicy

    def setup(self) -> None:
        self.trained = self.parameters()
        self.optimiser = Adam(self.trained, self.config.learning_rate)
        self.target_q_net = copy.deepcopy(self.policy.q_net).requires_grad_(False)
        self.q_net_follower = Follower(self.target_q_net, self.policy.q_net)
        self.target_mixer = copy.deepcopy(self.policy.mixer).requires_grad_(False)
        self.mixer_follower = Follower(self.target_mixer, self.policy.mixer)

    def data_spec(self) -> ReplaySpec:
        c = self.config
        return ReplaySpec(
            c.capacity, c.batch_size, c.learning_starts, c.updates_per_step, c.n_step, c.discount,
            sequence_length=c.sequence_length if self.policy.memory_size else 0,
        )  # fmt: skip

    def follow_schedules(self) -> None:
        super().follow_schedules()
        c = self.config
        explored = self.explored()
        self.policy.epsilon.fill_(c.epsilon_initial + explored * (c.epsilon_final - c.epsilon_initial))

    def minibatches(self, batch: JointTransitions | JointTrajectories) -> Iterator[Minibatch]:
        yield replayed_jointly(batch, self.config.n_step, self.config.discount)

    def compute_gradients(self, minibatch: Minibatch) -> tuple[Sequence[torch.Tensor], Metrics]:
        steps = minibatch.transitions
        acting = self.tensor(steps.acting)
        q_t = q_values(self.policy.q_net, steps.observation, acting, minibatch.sequences)
        q_taken_t = taken_values(q_t, self.tensor(steps.action), acting)
        q_tot_t = self.policy.mixer(q_taken_t, self.tensor(steps.state))
        loss = team_loss(q_tot_t, self._target(minibatch))
        metrics = {"loss": finite(loss, self.policy.algorithm), "q_tot_mean": q_tot_t.detach().mean().item()}
        return torch.autograd.grad(loss, self.trained), metrics

    @torch.no_grad()
    def _target(self, minibatch: Minibatch) -> torch.Tensor:
        """y_tot of equation 6, (B,) float32: the team's reward, and what its best next actions are worth."""
        steps, sequences = minibatch.transitions, minibatch.sequences
        acting = self.tensor(steps.next_acting)
        mask = None if steps.next_action_mask is None else self.tensor(steps.next_action_mask)
        q_online = q_target = q_values(self.target_q_net, steps.next_observation, acting, sequences)
        if self.config.double:
            q_online = q_values(self.policy.q_net, steps.next_observation, acting, sequences)
        q_greedy = greedy_values(q_online, q_target, mask, acting)
        value_tp1 = self.target_mixer(q_greedy, self.tensor(steps.next_state))
        reward = self.tensor(steps.reward).mean(-1)  # the team's, as JointTrajectories.team_reward has it
        return td_target(reward, value_tp1, self.tensor(steps.terminated), self.tensor(steps.discount))

    def apply_gradients(self, gradients: Sequence[torch.Tensor]) -> Metrics:
        c = self.config
        norm = step(self.optimiser, self.trained, gradients, c.max_grad_norm, self.policy.algorithm)
        self.num_updates += 1
        if self.num_updates % c.target_update_interval == 0:
            self.q_net_follower.follow(c.tau)
            self.mixer_follower.follow(c.tau)
        return {"grad_norm": norm}
