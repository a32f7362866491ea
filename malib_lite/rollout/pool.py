"""Playing from a pool: a fixed mixture of fixed policies, one member drawn per episode and kept to its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from malib_lite.backend.members import Member
from malib_lite.contracts.environment import AgentID
from malib_lite.contracts.policy import Policy
from malib_lite.contracts.vector import AgentView, VectorEnvironment


class PoolPlayer:
    """Plays for one player in E environments; ``drawn`` (E,) says which of ``ids`` does so where.

    Where the agents' observations are a finite table, every member is turned into a table of action probabilities
    once, and acting is a look-up for all environments together; elsewhere each member that is at play makes one
    forward pass per step.
    """

    def __init__(
        self,
        environments: VectorEnvironment,
        agents: Sequence[AgentID],
        members: Mapping[Member, Policy],
        probabilities: Mapping[Member, float],
        generator: np.random.Generator,
        greedy: bool = False,
    ) -> None:
        """
        Args:
            members: they are never trained here; those that are never drawn may be missing.
            probabilities: of each member.
            greedy: whether all act by their modes; otherwise each plays its policy proper.
        """
        self.ids = [member for member, probability in probabilities.items() if probability > 0.0]
        weights = np.array([probabilities[member] for member in self.ids], dtype=np.float64)
        self._cumulative = np.cumsum(weights / weights.sum())
        self._members = [members[member] for member in self.ids]
        self._evaluate = [greedy or not policy.stochastic for policy in self._members]
        self._generator = generator
        self.drawn = np.zeros(environments.num_envs, np.int64)
        memory_size = max(member.memory_size for member in self._members)
        self._memory = {agent: np.zeros((environments.num_envs, memory_size), np.float32) for agent in agents}
        self._remembers = memory_size > 0
        self._tables = {agent: self._tabulate(environments, agent) for agent in agents}

    def draw(self, mask: np.ndarray) -> None:
        """Draw a member for the episodes that begin where ``mask`` (E,) bool is set."""
        chances = self._generator.random(int(mask.sum()))
        self.drawn[mask] = np.minimum(np.searchsorted(self._cumulative, chances, side="right"), len(self.ids) - 1)
        if self._remembers:
            for memory in self._memory.values():
                memory[mask] = 0.0

    def act(self, agent: AgentID, view: AgentView, rows: np.ndarray) -> np.ndarray:
        """Actions (B, ...) of ``agent`` in the environments ``rows`` (B,), where it must act."""
        table = self._tables[agent]
        if table is not None:
            assert view.observation_index is not None
            cumulative = table[self.drawn[rows], view.observation_index[rows]]  # (B, A)
            return (self._generator.random(len(rows))[:, None] >= cumulative).sum(axis=1)
        drawn = self.drawn[rows]
        actions: np.ndarray | None = None
        for member in np.unique(drawn):
            here = drawn == member
            at, memory = rows[here], self._memory[agent]
            chosen, _, remembered = act_with(
                self._members[member],
                view.observation[at],
                None if view.action_mask is None else view.action_mask[at],
                self._evaluate[member],
                memory[at] if self._remembers else None,
            )
            if remembered is not None:
                memory[at] = remembered
            if actions is None:
                actions = np.empty((len(rows), *chosen.shape[1:]), chosen.dtype)
            actions[here] = chosen
        assert actions is not None
        return actions

    def _tabulate(self, environments: VectorEnvironment, agent: AgentID) -> np.ndarray | None:
        """Cumulative action probabilities (P, I, A) float64 of all members, the last one of each row exactly 1."""
        table = environments.observation_table(agent)
        if table is None or self._remembers:
            return None
        tables = [tabulate(m, *table, e) for m, e in zip(self._members, self._evaluate, strict=True)]
        cumulative = np.cumsum(np.stack(tables), axis=-1)
        return cumulative / cumulative[..., -1:]


def tabulate(policy: Policy, observations: np.ndarray, masks: np.ndarray | None, evaluate: bool) -> np.ndarray:
    """Action probabilities (I, A) float64 of a policy for each of I observations: one forward pass."""
    with torch.inference_mode():
        mask = None if masks is None else torch.from_numpy(masks)
        probabilities = policy.action_probs(torch.from_numpy(observations), mask, evaluate).double().numpy()
    return probabilities / probabilities.sum(axis=-1, keepdims=True)


def act_with(
    policy: Policy,
    observation: np.ndarray,
    action_mask: np.ndarray | None,
    evaluate: bool,
    memory: np.ndarray | None = None,
) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray | None]:
    """Let a policy act on B observations; returns actions (B, ...), its extra fields (B, ...) and its new memory."""
    with torch.inference_mode():
        mask = None if action_mask is None else torch.from_numpy(action_mask)
        hidden = None if memory is None else torch.from_numpy(memory)
        output = policy.compute_action(torch.from_numpy(observation), mask, evaluate, hidden)
        extras = {name: extra.numpy() for name, extra in output.extras.items()}
        return output.action.numpy(), extras, None if memory is None else output.hidden_state.numpy()
