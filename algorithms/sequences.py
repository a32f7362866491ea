"""Sequences of decisions, for methods whose policies may remember: of rounds, and of what is replayed.

Where a policy remembers nothing a round's sequences are one decision long, and sequences are what is shuffled either
way.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch

from malib_lite.contracts.data import MEMORY, Trajectories, Transitions, cut
from malib_lite.contracts.devices import to_tensor
from malib_lite.contracts.joint import JointTrajectories, JointTransitions
from malib_lite.models.recurrent import MemoryNet

TransitionsT = TypeVar("TransitionsT", Transitions, JointTransitions)
TrajectoriesT = TypeVar("TrajectoriesT")


class Seen(NamedTuple):
    """What decisions were taken on: B sequences of L rows. A team's have a further axis, N, before ``*obs`` and H."""

    observation: torch.Tensor  # (L, B, *obs); zeros where not valid
    memory: torch.Tensor  # (B, H) float32, before the first row; H is 0 where the policy remembers nothing
    begins: torch.Tensor  # (L, B) bool, where an episode begins that the row before is not part of
    valid: torch.Tensor  # (L, B) bool, the rows that are decisions
    acting: torch.Tensor | None = None  # (L, B, N) bool, of a team: who sees something; True where not valid


class Sequences:
    """A round cut into sequences.

    sequences = Sequences(trajectories, length, device)
    advantage = sequences.cut(advantage)              # (T, S) -> (L, B)
    for columns in shuffled(sequences.count):
        seen = sequences.seen(columns)
        features = policy.recall(seen)[seen.valid]    # (D, ...), the decisions of these sequences
        advantage_t = sequences.pick(advantage, columns)  # (D,), in the same order
    """

    def __init__(self, batch: Trajectories | JointTrajectories, length: int, device: torch.device) -> None:
        """
        Args:
            length: of a sequence, about; 1 where nothing is remembered.
            device: where its tensors are to be.
        """
        self._length, self._device = length, device
        self._kept = cut(batch.valid, length).any(axis=0)
        self._valid = self.cut(batch.valid)
        self._begins = self.cut(batch.begins[:-1])
        observation = batch.observation[:-1]
        if length > 1:  # rows in between that nobody has written may hold anything
            observation = np.where(_along(batch.valid, observation), observation, np.zeros((), observation.dtype))
        self._observation = self.cut(observation)
        self._acting = None
        if isinstance(batch, JointTrajectories):
            self._acting = self.cut(batch.acting[:-1]) | ~self._valid.unsqueeze(-1)
        memory = batch.extras.get(MEMORY)
        if memory is None:
            self._memory = torch.zeros(*self._observation.shape[1 : batch.reward.ndim], 0, device=device)
        else:
            self._memory = self.cut(np.where(_along(batch.valid, memory), memory, np.float32(0)))[0]

    @property
    def count(self) -> int:
        """B: how many sequences there are with a decision in them."""
        return self._valid.shape[1]

    def cut(self, array: np.ndarray) -> torch.Tensor:
        """(T, S, ...) as (L, B, ...)."""
        return to_tensor(cut(array, self._length)[:, self._kept], self._device)

    def seen(self, columns: torch.Tensor) -> Seen:
        """What the sequences ``columns`` (b,) int64 were taken on."""
        return Seen(
            self._observation[:, columns],
            self._memory[columns],
            self._begins[:, columns],
            self._valid[:, columns],
            None if self._acting is None else self._acting[:, columns],
        )

    def pick(self, array: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """The decisions (D, ...) of the sequences ``columns`` among ``array`` (L, B, ...)."""
        if self._length == 1:
            return array[0, columns]
        return array[:, columns][self._valid[:, columns]]


@dataclass
class Replayed(Generic[TransitionsT, TrajectoriesT]):
    """Transitions for one gradient, and the sequences that they are from where the network remembers.

    With ``sequences``, numbers of rows stand in the place of the transitions' observations: those of (L + 1, B, ...)
    with the first two axes made one.
    """

    transitions: TransitionsT
    sequences: TrajectoriesT | None

    @property
    def num_samples(self) -> int:
        return self.transitions.num_samples


def replayed(batch: Transitions | Trajectories, n_step: int, discount: float) -> Replayed[Transitions, Trajectories]:
    """What a store of transitions or of sequences gave, see :class:`~malib_lite.contracts.data.ReplaySpec`."""
    if isinstance(batch, Transitions):
        return Replayed(batch, None)
    numbered = dataclasses.replace(batch, observation=_row_numbers(batch))
    return Replayed(numbered.transitions(n_step, discount), batch)


def replayed_jointly(
    batch: JointTransitions | JointTrajectories, n_step: int, discount: float
) -> Replayed[JointTransitions, JointTrajectories]:
    """The same of a team."""
    if isinstance(batch, JointTransitions):
        return Replayed(batch, None)
    numbered = dataclasses.replace(batch, observation=_row_numbers(batch), state=batch.global_state)
    return Replayed(numbered.transitions(n_step, discount), batch)


def outputs(
    net: MemoryNet, observation: np.ndarray, sequences: Trajectories | None, device: torch.device
) -> torch.Tensor:
    """Outputs (D, ...) of ``net`` for a Replayed's observations or rows (D, ...)."""
    seen = to_tensor(observation, device)
    if sequences is None:
        output: torch.Tensor = net.net(seen)
        return output
    return net(*whole_round(sequences, device)).flatten(0, 1)[seen]


def whole_round(batch: Trajectories, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All observations of a round (T + 1, S, *obs), what was remembered before the first (S, H), and where episodes
    begin (T + 1, S): the arguments of a policy's ``recall`` for the values of the round."""
    num_streams = batch.valid.shape[1]
    memory = batch.extras[MEMORY][0] if MEMORY in batch.extras else np.zeros((num_streams, 0), np.float32)
    return to_tensor(batch.observation, device), to_tensor(memory, device), to_tensor(batch.begins, device)


def whole_joint_round(
    batch: JointTrajectories, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same of a team whose agents are streams, (T + 1, E N, *obs), (E N, H) and (T + 1, E N); and who acts
    (T + 1, E N). Where nobody does all seem to: nothing follows such rows but another episode."""
    num_agents, memory = batch.reward.shape[2], batch.extras.get(MEMORY)
    if memory is None:
        memory = np.zeros((1, *batch.reward.shape[1:], 0), np.float32)
    begins = np.repeat(batch.begins, num_agents, axis=1)
    acting = batch.acting | ~batch.acting.any(-1, keepdims=True)
    return (
        to_tensor(batch.observation, device).flatten(1, 2),
        to_tensor(memory[0], device).flatten(0, 1),
        to_tensor(begins, device),
        to_tensor(acting, device).flatten(1, 2),
    )


def _row_numbers(batch: Trajectories | JointTrajectories) -> np.ndarray:
    return np.arange(batch.begins.size).reshape(batch.begins.shape)


def _along(flags: np.ndarray, array: np.ndarray) -> np.ndarray:
    """Flags (T, S) with as many axes as ``array`` (T, S, ...) has."""
    return flags.reshape(*flags.shape, *(1,) * (array.ndim - flags.ndim))
