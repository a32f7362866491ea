"""Playing from a pool: a fixed mixture of fixed policies, one member drawn per episode and kept to its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

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
        members: Callable[[Member], Policy],
        probabilities: Mapping[Member, float],
        generator: np.random.Generator,
        greedy: bool = False,
        before: PoolPlayer | None = None,
    ) -> None:
        """
        Args:
            members: the policy of a member, which is never trained here; asked for no more of them than are needed.
            probabilities: of each member.
            greedy: whether all act by their modes; otherwise each plays its policy proper.
            before: who has played for the same agents in the same environments until now. The tables of members of
                both are taken over: of a pool that grows, however large, only what is new is read and tabulated.
        """
        self.ids = [member for member, probability in probabilities.items() if probability > 0.0]
        weights = np.array([probabilities[member] for member in self.ids], dtype=np.float64)
        self._cumulative = np.cumsum(weights / weights.sum())
        self._greedy = greedy
        self._generator = generator
        self.drawn = np.zeros(environments.num_envs, np.int64)
        known = before._known if before is not None and before._greedy == greedy else {}
        self._policies = {member: members(member) for member in self.ids if member not in known}
        memory_size = max((policy.memory_size for policy in self._policies.values()), default=0)
        self._remembers = memory_size > 0
        if self._remembers and known:  # tables are of no use to a pool of which one remembers
            known = {}
            self._policies = {member: members(member) for member in self.ids}
        self._memory = {agent: np.zeros((environments.num_envs, memory_size), np.float32) for agent in agents}
        self._tables = {
            agent: self._tabulate(environments, agent, {member: tables[agent] for member, tables in known.items()})
            for agent in agents
        }
        self._known: dict[Member, dict[AgentID, np.ndarray]] = {}  # of members of whom tables (I, A) are all it takes
        tables = {agent: table for agent, table in self._tables.items() if table is not None}
        if len(tables) == len(agents):
            rows = enumerate(self.ids)
            self._known = {member: {agent: table[row] for agent, table in tables.items()} for row, member in rows}
            self._policies = {}

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
        for number in np.unique(drawn):
            here = drawn == number
            at, memory, policy = rows[here], self._memory[agent], self._policies[self.ids[number]]
            chosen, _, remembered = act_with(
                policy,
                view.observation[at],
                None if view.action_mask is None else view.action_mask[at],
                self._evaluates(policy),
                memory[at] if self._remembers else None,
            )
            if remembered is not None:
                memory[at] = remembered
            if actions is None:
                actions = np.empty((len(rows), *chosen.shape[1:]), chosen.dtype)
            actions[here] = chosen
        assert actions is not None
        return actions

    def _evaluates(self, policy: Policy) -> bool:
        return self._greedy or not policy.stochastic

    def _tabulate(
        self, environments: VectorEnvironment, agent: AgentID, known: Mapping[Member, np.ndarray]
    ) -> np.ndarray | None:
        """Cumulative action probabilities (P, I, A) float64 of all members, the last one of each row exactly 1.

        Args:
            known: (I, A) of those members whose policies are not at hand.
        """
        table = environments.observation_table(agent)
        if table is None or self._remembers:
            return None
        rows = dict(known)
        for member, policy in self._policies.items():
            cumulative = np.cumsum(tabulate(policy, *table, self._evaluates(policy)), axis=-1)
            rows[member] = cumulative / cumulative[..., -1:]
        return np.stack([rows[member] for member in self.ids])


def tabulate(policy: Policy, observations: np.ndarray, masks: np.ndarray | None, evaluate: bool) -> np.ndarray:
    """Action probabilities (I, A) float64 of a policy for each of I observations: one forward pass.

    Raises:
        ValueError: the policy gives something else, as a network with enormous parameters does.
    """
    with torch.inference_mode():
        mask = None if masks is None else torch.from_numpy(masks)
        probabilities = policy.tabulate(torch.from_numpy(observations), mask, evaluate).double().numpy()
    sums = probabilities.sum(axis=-1, keepdims=True)
    if not ((probabilities >= 0.0).all() and (sums > 0.0).all()):  # so written that NaN fails, too
        raise ValueError("what a policy gives as action probabilities is no distribution")
    return probabilities / sums


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
