"""The rollout loop: a vector of environments, learners and pools, and the recorders of what the learners do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from malib_lite.backend.ring import Slot
from malib_lite.contracts.environment import AgentID
from malib_lite.contracts.policy import Policy
from malib_lite.contracts.vector import AgentView, VectorEnvironment
from malib_lite.rollout.books import Books
from malib_lite.rollout.pool import PoolPlayer, act_with
from malib_lite.rollout.recorder import Recorder

_MAX_STEPS_PER_DECISION = 20  # steps of the environments that a fragment lasts at the most, per decision it can hold


@dataclass
class Learner:
    """A learning runtime id as the sampler sees it."""

    policy: Policy
    recorder: Recorder
    version: int = 0


class Sampler:
    """E environments in which some runtime ids learn and the others play from pools.

    The loop of a fragment: ``play`` with one slot per learner. Episodes go on from fragment to fragment; pool members
    are drawn when an episode begins and kept to its end.
    """

    def __init__(
        self,
        environments: VectorEnvironment,
        groups: Mapping[str, Sequence[AgentID]],
        learners: Mapping[str, Policy],
        num_decisions: int,
        whole_episodes: bool,
        max_step: int | None = None,
    ) -> None:
        """
        Args:
            groups: agents of every runtime id.
            learners: policies of the runtime ids that learn.
            num_decisions: rows of a fragment; the fragment ends when the fastest stream has filled them.
            whole_episodes: begin all environments anew with each fragment and end it when every episode has ended.
            max_step: the longest episode, where it is known.
        """
        self.environments = environments
        self._groups = {runtime_id: list(agents) for runtime_id, agents in groups.items()}
        self._num_decisions = num_decisions
        self._whole_episodes = whole_episodes
        self._capacity = fragment_capacity(num_decisions, whole_episodes, max_step)
        num_envs = environments.num_envs
        self.learners = {
            runtime_id: Learner(policy, Recorder(self._capacity, num_envs * len(self._groups[runtime_id])))
            for runtime_id, policy in learners.items()
        }
        self._pools: Mapping[str, PoolPlayer] = {}
        self._episode = np.full(num_envs, -1, np.int64)
        self._length = np.zeros(num_envs, np.int64)
        self._return = {agent: np.zeros(num_envs) for agent in environments.possible_agents}
        self._views: dict[AgentID, AgentView] = {}
        self.books = Books()
        self._ended: list[tuple[np.ndarray, dict[AgentID, np.ndarray]]] = []  # lengths, returns: not in books yet
        self._crashes_booked = 0

    def take_books(self) -> Books:
        """The books since they were last taken."""
        taken, self.books = self.books, Books()
        taken.env_crashes = self.environments.num_crashes - self._crashes_booked
        self._crashes_booked = self.environments.num_crashes
        return taken

    def use_pools(self, pools: Mapping[str, PoolPlayer]) -> None:
        """Play against these pools from now on: episodes under way are given up and all environments begin anew."""
        self._pools = pools
        self._views = {}
        for learner in self.learners.values():
            learner.recorder.forget()

    def play(self, slots: Mapping[str, Slot], pulse: Callable[[], None] = lambda: None) -> dict[str, int]:
        """Fill one slot per learner; returns the number of rows of each. ``pulse`` is called at every step."""
        for runtime_id, learner in self.learners.items():
            learner.recorder.begin(slots[runtime_id])
        # With whole episodes all have ended by now, but where one overran the last fragment: that one goes on.
        if not self._views or (self._whole_episodes and self.environments.finished.all()):
            self._begin_episodes(np.ones(self.environments.num_envs, bool))
        # A learner that hardly ever gets a turn must not keep the others waiting: the fragment ends all the same.
        for _ in range(_MAX_STEPS_PER_DECISION * self._capacity):
            self._step()
            pulse()
            rooms = [learner.recorder.room for learner in self.learners.values()]
            finished = self.environments.finished
            enough = self._capacity - min(rooms) >= self._num_decisions
            if min(rooms) <= 0 or (enough and not self._whole_episodes):
                break
            if enough:  # whole episodes: let those under way end, begin no other
                if finished.all():
                    break
            elif finished.any():
                self._begin_episodes(finished)
        if self.environments.finished.any() and not self._whole_episodes:
            self._begin_episodes(self.environments.finished)
        self._book()
        return {runtime_id: self._finish(runtime_id, learner) for runtime_id, learner in self.learners.items()}

    def play_episodes(self, num_episodes: int, pulse: Callable[[], None] = lambda: None) -> None:
        """Play ``num_episodes`` to the end without recording anything but the books.

        Every environment plays its fixed share: stopping at the first so many endings would favour short episodes.
        """
        num_envs = self.environments.num_envs
        due = np.full(num_envs, num_episodes // num_envs)
        due[: num_episodes % num_envs] += 1
        idle = due == 0
        self._begin_episodes(np.ones(num_envs, bool))
        self.environments.finished[idle] = True
        while not self.environments.finished.all():
            self._step()
            pulse()
            ended = self.environments.finished & (due > 0)
            due[ended] -= 1
            again = ended & (due > 0)
            if again.any():
                self._begin_episodes(again)
        self._views = {}
        self._book()

    # -- inside -------------------------------------------------------------------------------------------------

    def _book(self) -> None:
        """Take the episodes that have ended into the books, all at once: cheaper than step by step."""
        if self._ended:
            lengths, returns = zip(*self._ended, strict=True)
            self._ended = []
            self.books.end(
                np.concatenate(lengths),
                {agent: np.concatenate([of[agent] for of in returns]) for agent in self._return},
            )

    def _begin_episodes(self, mask: np.ndarray) -> None:
        mask = mask.copy()  # the environments clear their own flags
        for pool in self._pools.values():
            pool.draw(mask)
        self._views = self.environments.reset(mask)
        rows = mask.nonzero()[0]
        self._episode[rows] += 1
        self._length[rows] = 0
        for returns in self._return.values():
            returns[rows] = 0.0

    def _step(self) -> None:
        """One step of every environment that is not finished."""
        running = ~self.environments.finished
        num_running = int(np.count_nonzero(running))
        actions = {
            agent: self._act(runtime_id, position, agent, running)
            for runtime_id, agents in self._groups.items()
            for position, agent in enumerate(agents)
        }
        self._views = self.environments.step(actions)
        everybody = num_running == self.environments.num_envs
        self._length += 1 if everybody else running
        self.books.env_steps += num_running
        for runtime_id, learner in self.learners.items():
            self._record(learner.recorder, self._groups[runtime_id], running, everybody)
        for agent, view in self._views.items():
            self._return[agent] += view.reward if everybody else np.where(running, view.reward, 0.0)
        ended = (running & self.environments.finished).nonzero()[0]
        if len(ended):
            self._ended.append(
                (self._length[ended], {agent: returns[ended] for agent, returns in self._return.items()})
            )

    def _act(self, runtime_id: str, position: int, agent: AgentID, running: np.ndarray) -> np.ndarray:
        """Actions (E, ...) of one agent; rows where it is not to act mean nothing."""
        view, num_envs = self._views[agent], self.environments.num_envs
        space = self.environments.action_spaces[agent]
        acting = view.acting & running
        indices = acting.nonzero()[0]
        if len(indices) == 0:
            return np.zeros((num_envs, *(space.shape or ())), space.dtype)
        rows: np.ndarray | slice = indices
        streams: np.ndarray | slice = position * num_envs + indices
        if len(indices) == num_envs:  # the common case in single-agent and simultaneous environments
            rows, streams = slice(0, num_envs), slice(position * num_envs, (position + 1) * num_envs)
        learner = self.learners.get(runtime_id)
        if learner is None:
            chosen = self._pools[runtime_id].act(agent, view, indices)
        else:
            chosen, extras = act_with(learner.policy, view, rows, evaluate=False)
            learner.recorder.decide(
                streams=streams,
                observation=view.observation[rows],
                action_mask=None if view.action_mask is None else view.action_mask[rows],
                action=chosen,
                extras=extras,
                episode=self._episode[rows],
                policy_version=learner.version,
            )
        chosen = chosen.astype(space.dtype, copy=False)
        if isinstance(rows, slice):
            return chosen
        actions = np.zeros((num_envs, *chosen.shape[1:]), chosen.dtype)
        actions[rows] = chosen
        return actions

    def _record(self, recorder: Recorder, agents: Sequence[AgentID], running: np.ndarray, everybody: bool) -> None:
        num_envs = self.environments.num_envs
        for position, agent in enumerate(agents):
            view = self._views[agent]
            streams = slice(position * num_envs, (position + 1) * num_envs)
            recorder.reward(streams, view.reward if everybody else np.where(running, view.reward, 0.0))
            rows = ((view.terminated | view.truncated) & running).nonzero()[0]
            if len(rows):
                streams = position * num_envs + rows
                mask = None if view.action_mask is None else view.action_mask[rows]
                recorder.end(streams, view.terminated[rows], view.truncated[rows], view.observation[rows], mask)

    def _finish(self, runtime_id: str, learner: Learner) -> int:
        """Close a learner's slot with the observations that its agents are about to act on."""
        streams, observations, masks = [], [], []
        for position, agent in enumerate(self._groups[runtime_id]):
            view = self._views[agent]
            rows = np.flatnonzero(view.acting & ~self.environments.finished)
            streams.append(position * self.environments.num_envs + rows)
            observations.append(view.observation[rows])
            masks.append(view.action_mask[rows] if view.action_mask is not None else None)
        num_actions = next((mask.shape[1] for mask in masks if mask is not None), None)
        full = [
            np.ones((len(s), num_actions or 0), bool) if m is None else m for s, m in zip(streams, masks, strict=True)
        ]
        return learner.recorder.finish(
            np.concatenate(streams), np.concatenate(observations), np.concatenate(full) if num_actions else None
        )


def fragment_capacity(num_decisions: int, whole_episodes: bool, max_step: int | None) -> int:
    """Decisions per stream that a slot must hold. An episode that overruns even this is split after all."""
    return num_decisions + (max_step or 500) if whole_episodes else num_decisions
