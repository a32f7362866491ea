"""Deep Q-learning with a replay memory and a target network.

Papers:
    Mnih et al. 2015, Human-level control through deep reinforcement learning (https://doi.org/10.1038/nature14236),
    algorithm 1. Van Hasselt et al. 2016, Deep reinforcement learning with double Q-learning
    (https://arxiv.org/abs/1509.06461), the target in section "Double DQN".
    Options: Wang et al. 2016, Dueling network architectures (https://arxiv.org/abs/1511.06581), equation 9. Schaul et
    al. 2016, Prioritized experience replay (https://arxiv.org/abs/1511.05952), algorithm 1. Fortunato et al. 2018,
    Noisy networks for exploration (https://arxiv.org/abs/1706.10295), section 3.1.

Deviations:
    Illegal actions take no part: not in acting, not in exploration, not in the target's maximum and argmax.
    Adam for RMSProp; gradients clipped by norm. The squared error by default, not the paper's clipped one (Huber's
    loss): that finds something between mean and median of noisy returns, which misplaces every gamble in a game.
    Updates come in bursts between rounds of play, ``updates_per_step`` for each recorded decision.
    A target network that follows softly (Lillicrap et al. 2016, https://arxiv.org/abs/1509.02971) by default.
    Evaluation plays an average of the network over its last thousand or so updates (Polyak averaging): a single
    network's greedy policy comes and goes.
    Rewards of up to n decisions are summed before the next value is looked up (Sutton 1988), uncorrected for the policy
    having changed since: values spread faster and overestimate less. A fragment's end cuts them shorter.
    The learning rate falls linearly, or the last policy of a run depends on which way the values last swung.
    Dueling streams pass their whole gradient on to the layers that they share; the paper scales it by 1/sqrt(2).
    A memory, where the network has one, reads sequences (``sequence_length``) that begin with what was remembered when
    they were played (the stored state of Kapturowski et al. 2019, https://openreview.net/forum?id=r1lyTjAqYX), without
    burn-in. Importance weights are scaled by the largest of their batch. Noisy networks play without noise in
    evaluation.

Expected:
    Q* of a small decision process to 1e-2 (tests/test_algorithms.py); what it reaches on CartPole-v1 is in the README.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from gymnasium import spaces
from torch import nn

from malib_lite.algorithms.optimiser import Adam, finite, step
from malib_lite.algorithms.sequences import Replayed, outputs, replayed
from malib_lite.algorithms.targets import (
    Follower,
    check_discrete_spaces,
    check_replay,
    explore,
    explored_probs,
    greedy_actions,
)
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
from malib_lite.contracts.data import ReplaySpec, Trajectories, Transitions
from malib_lite.contracts.policy import Policy, PolicyOutput
from malib_lite.contracts.trainer import Algorithm, Metrics, Trainer
from malib_lite.models.distributions import ILLEGAL_LOGIT
from malib_lite.models.nets import HiddenSizes, linear, make_net
from malib_lite.models.noisy import NoisyLinear, parameter_noise
from malib_lite.models.recurrent import Memory, MemoryConfig, MemoryNet


@config
class DQNConfig:
    """Schedules span the horizon: ``total_timesteps``, or else the run's own. Without either they stand at their end
    (exploration) and their beginning (learning rate)."""

    total_timesteps: PositiveInt | None = option(None, "environment steps that schedules span; None: the run's own")
    # learning
    discount: Fraction = option(0.99, "gamma, the worth of a reward one decision later")
    learning_rate: NonNegativeFloat = option(1e-3, "Adam's step size at the beginning")
    learning_rate_final: Fraction = option(0.02, "share of learning_rate left at the end of the horizon; 1 holds it")
    n_step: PositiveInt = option(5, "decisions whose rewards are summed before the next value is looked up")
    double: bool = option(True, "choose the next action by the online network, value it by the target network")
    tau: Fraction = option(0.01, "share of the way the target network goes at each of its updates; 1 copies")
    target_update_interval: PositiveInt = option(1, "updates between updates of the target network")
    huber: bool = option(False, "Huber's loss: steadier, but where returns are noisy its values are not their means")
    averaging: Fraction = option(0.002, "share that the averaged network, which evaluation plays, goes each update")
    max_grad_norm: PositiveFloat = option(10.0, "gradients are scaled down to this norm")
    # replay
    batch_size: PositiveInt = option(128, "transitions in one update")
    capacity: PositiveInt = option(100_000, "transitions kept; the oldest go first")
    learning_starts: PositiveInt = option(500, "transitions before the first update")
    updates_per_step: PositiveFloat = option(0.25, "updates for each recorded decision")
    sequence_length: PositiveInt = option(16, "decisions through which gradients reach back into a memory, about")
    priority_exponent: NonNegativeFloat = option(
        0.0, "alpha, how much surprise counts in replay: 0 not at all, 0.6 much"
    )
    importance_initial: Fraction = option(0.4, "beta at the beginning, how much of that bias is weighed out again")
    importance_final: Fraction = option(1.0, "beta at the end of the horizon; 1 weighs it out altogether")
    # exploration; where the model is noisy there are no random actions
    epsilon_initial: Fraction = option(1.0, "share of random actions at the beginning")
    epsilon_final: Fraction = option(0.05, "share of random actions after exploration_fraction of the horizon")
    exploration_fraction: Fraction = option(0.2, "share of the horizon over which random actions become rarer")

    def __post_init__(self) -> None:
        check_replay(self.capacity, self.batch_size, self.learning_starts)


@config
class QNetConfig(MemoryConfig):
    """Wider than the policy networks: values differ less between actions than they do between states."""

    hidden_sizes: HiddenSizes = option((128, 128), "units of each hidden layer; none makes a linear map")
    dueling: bool = option(False, "split the last hidden layer: one half for the state's value, one for the actions'")
    noisy: bool = option(False, "explore by noise in the parameters that the network learns, not by random actions")
    noisy_sigma: NonNegativeFloat = option(0.5, "deviation of that noise at the beginning, in 1 / sqrt(layer inputs)")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.net is not None and (self.dueling or self.noisy):
            raise ValueError("'net', a network of one's own, is made as it is: it goes with neither dueling nor noisy")


def q_target(
    reward_t: torch.Tensor,
    q_online_tp1: torch.Tensor,
    q_target_tp1: torch.Tensor,
    mask_tp1: torch.Tensor | None,
    terminated_t: torch.Tensor,
    discount: torch.Tensor | float,
) -> torch.Tensor:
    """r + gamma * Q_target(s', argmax_a Q_online(s', a)) over legal a; just r where the episode terminated.

    The target of double Q-learning; with ``q_online_tp1 = q_target_tp1`` it is that of Mnih et al.

    Args:
        reward_t: (B,) float32.
        q_online_tp1, q_target_tp1: (B, A) float32, values of the next observation; anything where terminated.
        mask_tp1: (B, A) bool, the legal next actions; None: all.
        terminated_t: (B,) bool.
        discount: gamma, (B,) where transitions span different numbers of decisions.

    Returns:
        (B,) float32.
    """
    if mask_tp1 is not None:
        q_online_tp1 = q_online_tp1.masked_fill(~mask_tp1, ILLEGAL_LOGIT)
    best_tp1 = q_online_tp1.argmax(-1, keepdim=True)
    value_tp1 = q_target_tp1.gather(-1, best_tp1).squeeze(-1)
    return torch.where(terminated_t, reward_t, reward_t + discount * value_tp1)


def td_error(q_t: torch.Tensor, action_t: torch.Tensor, target_t: torch.Tensor) -> torch.Tensor:
    """Q(s, a) - target, (B,): q_t (B, A) float32, action_t (B,) int64, target_t (B,) float32."""
    return q_t.gather(-1, action_t.unsqueeze(-1)).squeeze(-1) - target_t


def q_loss(
    q_t: torch.Tensor,
    action_t: torch.Tensor,
    target_t: torch.Tensor,
    huber: bool = False,
    weight_t: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean loss of the taken actions' values: half the squared error, or Huber's with threshold 1.

    Arguments as of :func:`td_error`; weight_t (B,) float32 of each transition, None: all 1.
    """
    error_t = td_error(q_t, action_t, target_t)
    if huber:
        loss_t = nn.functional.smooth_l1_loss(error_t, torch.zeros_like(error_t), reduction="none")
    else:
        loss_t = error_t.square() / 2
    return (loss_t if weight_t is None else weight_t * loss_t).mean()


def importance_weights(sampling_ratio: torch.Tensor, beta: float) -> torch.Tensor:
    """(N P(j))^-beta over their maximum, line 10 of Schaul et al.'s algorithm 1; (B,) float32 to (B,) float32."""
    weight = sampling_ratio.pow(-beta)
    return weight / weight.max()


class DQNPolicy(Policy):
    """Acts greedily on Q, and at random with probability ``epsilon``, which travels with the parameters.

    A noisy network's policy is greedy on noisy values instead.
    """

    model_class = QNetConfig
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
        settings = build(QNetConfig, self.model_config, "model_config")
        self.num_actions = int(action_space.n)
        self.noisy = settings.noisy
        layer = (
            (lambda inputs, outputs, gain: NoisyLinear(inputs, outputs, settings.noisy_sigma)) if self.noisy else linear
        )
        memory = Memory(observation_space, settings)
        head = make_net(memory.space, self.num_actions, memory.settings, 1.0, settings.dueling, layer)
        self.q_net = MemoryNet(memory, head)
        self.mean_net = copy.deepcopy(self.q_net).requires_grad_(False)  # follows q_net slowly; evaluation plays it
        self.register_buffer("epsilon", torch.tensor(0.0 if self.noisy else 1.0))

    @classmethod
    def check_spaces(cls, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        check_discrete_spaces("dqn", observation_space, action_space)

    @property
    def memory_size(self) -> int:
        return self.q_net.memory.size

    def compute_action(
        self,
        observation: torch.Tensor,
        act_mask: torch.Tensor | None = None,
        evaluate: bool = False,
        hidden_state: Any = None,
    ) -> PolicyOutput:
        if evaluate:
            q, hidden_state = self.mean_net.step(observation, hidden_state)
            return PolicyOutput(greedy_actions(q, act_mask), None, {}, hidden_state)
        with self.noise(self.q_net, self.generator, len(observation)):  # each row, an environment, has its own
            q, hidden_state = self.q_net.step(observation, hidden_state)
        action = greedy_actions(q, act_mask)
        epsilon = self.epsilon.item()
        if epsilon > 0.0:
            action = explore(action, epsilon, self.num_actions, act_mask, self.generator)
        return PolicyOutput(action, None, {}, hidden_state)

    def noise(self, net: nn.Module, generator: torch.Generator, rows: int = 1) -> AbstractContextManager[None]:
        """Within, a noisy network has new noise: the same for all rows, or for each of B its own."""
        return parameter_noise(net, generator, rows) if self.noisy else nullcontext()

    def action_probs(
        self, observation: torch.Tensor, act_mask: torch.Tensor | None = None, evaluate: bool = False
    ) -> torch.Tensor:
        if self.noisy and not evaluate:
            raise NotImplementedError("how often noise in the parameters chooses an action is not known")
        if self.memory_size:
            return super().action_probs(observation, act_mask, evaluate)
        q = (self.mean_net if evaluate else self.q_net).net(observation)
        greedy = nn.functional.one_hot(greedy_actions(q, act_mask), self.num_actions).float()
        if evaluate:
            return greedy
        return explored_probs(greedy, self.epsilon, act_mask)


Minibatch = Replayed[Transitions, Trajectories]


class DQNTrainer(Trainer[Transitions | Trajectories, Minibatch]):
    """Q-learning from replayed transitions, or sequences of them where the network remembers."""

    config_class = DQNConfig
    rollout_defaults = {"fragment_length": 128, "num_env_per_thread": 8}  # short rounds: updates keep up with play
    # Few updates on large batches, a learning rate that falls to nothing: in a game the mean of noisy returns decides.
    best_response_defaults = {
        "trainer": {
            "discount": 1.0,
            "n_step": 1,
            "learning_rate": 5e-3,
            "learning_rate_final": 0.0,
            "tau": 1.0,
            "target_update_interval": 25,
            "batch_size": 512,
            "updates_per_step": 0.02,
            "epsilon_final": 0.2,
            "averaging": 0.05,
        },
        "model": {"hidden_sizes": (64, 64), "activation": "relu"},
    }
    # The others change, so that only what was played lately counts; and what is explored is imitated, too.
    fictitious_play_defaults = {
        "trainer": {
            **best_response_defaults["trainer"],
            "learning_rate_final": 0.2,
            "batch_size": 256,
            "capacity": 10_000,
            "updates_per_step": 0.04,
            "epsilon_initial": 0.06,
            "epsilon_final": 0.01,
        },
        "model": {"hidden_sizes": (64, 64)},
    }
    config: DQNConfig
    policy: DQNPolicy

    def setup(self) -> None:
        if self.policy.memory_size and self.config.priority_exponent:
            raise ConfigError("'trainer.priority_exponent' goes with 'model.memory' = 'none' alone")
        self.trained = self.parameters()
        self.optimiser = Adam(self.trained, self.config.learning_rate)
        self.target_net = copy.deepcopy(self.policy.q_net).requires_grad_(False)
        self.target_follower = Follower(self.target_net, self.policy.q_net)
        self.mean_follower = Follower(self.policy.mean_net, self.policy.q_net)

    def data_spec(self) -> ReplaySpec:
        c = self.config
        return ReplaySpec(
            c.capacity, c.batch_size, c.learning_starts, c.updates_per_step, c.n_step, c.discount, c.priority_exponent,
            sequence_length=c.sequence_length if self.policy.memory_size else 0,
        )  # fmt: skip

    def follow_schedules(self) -> None:
        super().follow_schedules()
        c = self.config
        explored = self.explored()
        if not self.policy.noisy:
            self.policy.epsilon.fill_(c.epsilon_initial + explored * (c.epsilon_final - c.epsilon_initial))
        corrected = self.progress() if self.horizon else 1.0
        self.beta = c.importance_initial + corrected * (c.importance_final - c.importance_initial)

    def minibatches(self, batch: Transitions | Trajectories) -> Iterator[Minibatch]:
        yield replayed(batch, self.config.n_step, self.config.discount)

    def compute_gradients(self, minibatch: Minibatch) -> tuple[Sequence[torch.Tensor], Metrics]:
        transitions, sequences = minibatch.transitions, minibatch.sequences
        q_net, action = self.policy.q_net, self.tensor(transitions.action)
        target_t = self._target(minibatch)
        with self.policy.noise(q_net, self.generator):
            q_t = outputs(q_net, transitions.observation, sequences, self.device)
        weight = None
        if transitions.sampling_ratio is not None:
            weight = importance_weights(self.tensor(transitions.sampling_ratio), self.beta)
            transitions.td_error = td_error(q_t.detach(), action, target_t).cpu().numpy()  # for the store, line 12
        loss = q_loss(q_t, action, target_t, self.config.huber, weight)
        metrics = {"loss": finite(loss, "dqn"), "q_mean": q_t.detach().mean().item()}
        return torch.autograd.grad(loss, self.trained), metrics

    @torch.no_grad()
    def _target(self, minibatch: Minibatch) -> torch.Tensor:
        """What the taken actions' values should be, (B,) float32; online and target network have their own noise."""
        transitions, sequences = minibatch.transitions, minibatch.sequences
        with self.policy.noise(self.target_net, self.generator):
            q_online_tp1 = q_target_tp1 = outputs(self.target_net, transitions.next_observation, sequences, self.device)
        if self.config.double:
            with self.policy.noise(self.policy.q_net, self.generator):
                q_online_tp1 = outputs(self.policy.q_net, transitions.next_observation, sequences, self.device)
        mask = transitions.next_action_mask
        return q_target(
            self.tensor(transitions.reward),
            q_online_tp1,
            q_target_tp1,
            None if mask is None else self.tensor(mask),
            self.tensor(transitions.terminated),
            self.tensor(transitions.discount),
        )

    def apply_gradients(self, gradients: Sequence[torch.Tensor]) -> Metrics:
        norm = step(self.optimiser, self.trained, gradients, self.config.max_grad_norm, "dqn")
        self.num_updates += 1
        if self.num_updates % self.config.target_update_interval == 0:
            self.target_follower.follow(self.config.tau)
        # a plain mean at first, so that little is left of the beginning
        self.mean_follower.follow(max(self.config.averaging, 10 / (10 + self.num_updates)))
        return {"grad_norm": norm}


DEFAULT_CONFIG = {"training_config": defaults(DQNConfig), "model_config": defaults(QNetConfig), "custom_config": {}}
ALGORITHM = Algorithm(DQNPolicy, DQNTrainer)
