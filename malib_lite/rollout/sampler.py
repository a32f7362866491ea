"""The rollout loop: a vector of environments, learners and pools, and the recorders of what the learners do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from malib_lite.backend.ring import Slot
from malib_lite.contracts.data import MEMORY
from malib_lite.contracts.environment import AgentID
from malib_lite.contracts.vector import AgentView, VectorEnvironment
from malib_lite.rollout.books import Books
from malib_lite.rollout.inference.local import Answer, Inference, Request
from malib_lite.rollout.pool import PoolPlayer
from malib_lite.rollout.recorder import Recorder

_MAX_STEPS_PER_DECISION = 20  # steps of the environments that a fragment lasts at the most, per decision it can hold


@dataclass
class Learner:
    """A learning runtime id as the sampler sees it."""

    recorder: Recorder
    memory: np.ndarray | None  # (N * E, H) float32: what the policy remembers of each agent's episode
    team: Team | None = None  # where a record is one of all agents together
    # Who acts in this step: (E,) bool for each agent; their indices; those as slices where all do; and their streams
    acting: Sequence[np.ndarray] = field(init=False)
    indices: Sequence[np.ndarray] = field(init=False)
    rows: Sequence[np.ndarray | slice] = field(init=False)
    streams: np.ndarray | slice = field(init=False)


class Team:
    """What a joint record needs to know of N agents in E environments."""

    def __init__(self, num_envs: int, num_agents: int) -> None:
        self.acted = np.zeros((num_envs, num_agents), bool)  # in the last row that was recorded
        self.ended = np.zeros((num_envs, num_agents), bool)  # in this episode


class Sampler:
    """E environments in which some runtime ids learn and the others play from pools.

    The loop of a fragment: ``play`` with one slot per learner. It is part of a task, which waits where the inference
    does. Episodes go on from fragment to fragment; pool members are drawn when an episode begins and kept to its end.
    """

    def __init__(
        self,
        environments: VectorEnvironment,
        groups: Mapping[str, Sequence[AgentID]],
        inference: Inference,
        num_decisions: int,
        whole_episodes: bool,
        max_step: int | None = None,
        teams: Collection[str] = (),
        placings: bool = False,
    ) -> None:
        """
        Args:
            groups: agents of every runtime id.
            inference: runs the policies of the runtime ids that learn.
            num_decisions: rows of a fragment; the fragment ends when the fastest stream has filled them.
            whole_episodes: begin all environments anew with each fragment and end it when every episode has ended.
            max_step: the longest episode, where it is known.
            teams: the runtime ids whose records are joint, see
                :class:`~malib_lite.contracts.joint.JointTrajectories`.
            placings: book how the runtime ids come off against each other, by the mean return of their agents.
        """
        self.environments = environments
        self._inference = inference
        self._groups = {runtime_id: list(agents) for runtime_id, agents in groups.items()}
        self._num_decisions = num_decisions
        self._whole_episodes = whole_episodes
        self._placings = placings
        self._capacity = fragment_capacity(num_decisions, whole_episodes, max_step)
        num_envs = environments.num_envs
        self.learners = {}
        for runtime_id, memory_size in inference.memory_sizes.items():
            num_agents = len(self._groups[runtime_id])
            team = Team(num_envs, num_agents) if runtime_id in teams else None
            recorder = Recorder(self._capacity, num_envs * (1 if team else num_agents))
            memory = np.zeros((num_envs * num_agents, memory_size), np.float32) if memory_size else None
            self.learners[runtime_id] = Learner(recorder, memory, team)
        self.pools: Mapping[str, PoolPlayer] = {}  # who plays for those that do not learn
        self._episode = np.full(num_envs, -1, np.int64)
        self._length = np.zeros(num_envs, np.int64)
        self._return = {agent: np.zeros(num_envs) for agent in environments.possible_agents}
        self._views: dict[AgentID, AgentView] = {}
        self.books = Books()
        # of episodes that are not in the books yet: lengths, returns, and the members that were drawn from each pool
        self._ended: list[tuple[np.ndarray, dict[AgentID, np.ndarray], dict[str, np.ndarray]]] = []
        self._crashes_booked = 0

    def take_books(self) -> Books:
        """The books since they were last taken."""
        taken, self.books = self.books, Books()
        taken.env_crashes = self.environments.num_crashes - self._crashes_booked
        self._crashes_booked = self.environments.num_crashes
        return taken

    def use_pools(self, pools: Mapping[str, PoolPlayer]) -> None:
        """Play against these pools from now on: episodes under way are given up and all environments begin anew."""
        self.pools = pools
        self._views = {}
        for learner in self.learners.values():
            learner.recorder.forget()

    def play(
        self, slots: Mapping[str, Slot], pulse: Callable[[], None] = lambda: None
    ) -> Generator[None, None, dict[str, int]]:
        """Fill one slot per learner; returns the number of rows of each. ``pulse`` is called at every step."""
        for runtime_id, learner in self.learners.items():
            learner.recorder.begin(slots[runtime_id])
        # With whole episodes all have ended by now, but where one overran the last fragment: that one goes on.
        if not self._views or (self._whole_episodes and self.environments.finished.all()):
            self._begin_episodes(np.ones(self.environments.num_envs, bool))
        for steps in range(1, 1 + _MAX_STEPS_PER_DECISION * self._capacity):
            yield from self._step()
            pulse()
            rooms = [learner.recorder.room for learner in self.learners.values()]
            finished = self.environments.finished
            decisions = self._capacity - min(rooms)
            # Where learners hardly ever get a turn, it ends all the same; after none at all, there may be none to come.
            patience = _MAX_STEPS_PER_DECISION if decisions else 1
            enough = max(decisions, steps // patience) >= self._num_decisions
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

    def play_episodes(self, num_episodes: int, pulse: Callable[[], None] = lambda: None) -> Generator[None, None, None]:
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
            yield from self._step()
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
            lengths, parts, drawn = zip(*self._ended, strict=True)
            self._ended = []
            returns = {agent: np.concatenate([of[agent] for of in parts]) for agent in self._return}
            self.books.end(np.concatenate(lengths), returns)
            teams = {player: np.mean([returns[a] for a in agents], axis=0) for player, agents in self._groups.items()}
            if self._placings:
                self.books.place(teams)
            for player in self.learners:
                for other, pool in self.pools.items():
                    members = np.concatenate([of[other] for of in drawn])
                    self.books.score(player, list(map(str, pool.ids)), members, teams[player], teams[other])

    def _begin_episodes(self, mask: np.ndarray) -> None:
        mask = mask.copy()  # the environments clear their own flags
        for pool in self.pools.values():
            pool.draw(mask)
        self._views = self.environments.reset(mask)
        rows = mask.nonzero()[0]
        self._episode[rows] += 1
        self._length[rows] = 0
        for returns in self._return.values():
            returns[rows] = 0.0
        for learner in self.learners.values():
            if learner.team is not None:
                learner.team.ended[rows] = False
            if learner.memory is not None:
                for first in range(0, len(learner.memory), len(mask)):
                    learner.memory[first + rows] = 0.0

    def _step(self) -> Generator[None, None, None]:
        """One step of every environment that is not finished."""
        running = ~self.environments.finished
        num_running = int(np.count_nonzero(running))
        requests: dict[str, Request] = {}
        for runtime_id, learner in self.learners.items():
            request = self._request(learner, self._groups[runtime_id], running)
            if request is not None:
                requests[runtime_id] = request
        answers = self._inference.act(requests) if requests else {}
        while answers is None:
            yield
            answers = self._inference.answers()
        actions: dict[AgentID, np.ndarray] = {}
        for runtime_id, agents in self._groups.items():
            if runtime_id in answers:
                actions.update(self._act(runtime_id, requests[runtime_id], answers[runtime_id]))
            elif runtime_id in self.learners:
                actions.update({agent: self._no_actions(agent) for agent in agents})
            else:
                for agent in agents:
                    rows = (self._views[agent].acting & running).nonzero()[0]
                    actions[agent] = self._act_from_pool(runtime_id, agent, rows)
        self._views = self.environments.step(actions)
        everybody = num_running == self.environments.num_envs
        self._length += 1 if everybody else running
        self.books.env_steps += num_running
        for runtime_id, learner in self.learners.items():
            record = self._record if learner.team is None else self._record_team
            record(learner, self._groups[runtime_id], running, everybody)
        for agent, view in self._views.items():
            self._return[agent] += view.reward if everybody else np.where(running, view.reward, 0.0)
        ended = (running & self.environments.finished).nonzero()[0]
        if len(ended):
            self._ended.append(
                (
                    self._length[ended],
                    {agent: returns[ended] for agent, returns in self._return.items()},
                    {player: pool.drawn[ended] for player, pool in self.pools.items()} if self.learners else {},
                )
            )

    def _request(self, learner: Learner, agents: Sequence[AgentID], running: np.ndarray) -> Request | None:
        """What a learner's agents that act now see; None if none does."""
        num_envs, views = self.environments.num_envs, [self._views[agent] for agent in agents]
        acting = [view.acting & running for view in views]
        indices = [here.nonzero()[0] for here in acting]
        count = sum(map(len, indices))
        if count == 0:
            return None
        rows: Sequence[np.ndarray | slice] = indices
        if count == num_envs * len(agents):  # the common case in single-agent and simultaneous environments
            rows = [slice(0, num_envs)] * len(agents)
            streams: np.ndarray | slice = slice(0, count)
        else:
            streams = np.concatenate([position * num_envs + here for position, here in enumerate(indices)])
        learner.acting, learner.indices, learner.rows, learner.streams = acting, indices, rows, streams
        return Request(
            _join([view.observation[here] for view, here in zip(views, rows, strict=True)]),
            join_masks([(view.action_mask, here, len(i)) for view, here, i in zip(views, rows, indices, strict=True)]),
            None if learner.memory is None else learner.memory[streams],
        )

    def _act(self, runtime_id: str, request: Request, answer: Answer) -> dict[AgentID, np.ndarray]:
        """Record what a learner's agents do; returns their actions (E, ...), of which rows of those that do not act
        mean nothing."""
        learner, agents = self.learners[runtime_id], self._groups[runtime_id]
        num_envs, space = self.environments.num_envs, self.environments.action_spaces[agents[0]]
        acting, indices, rows, streams = learner.acting, learner.indices, learner.rows, learner.streams
        observation, mask, _ = request
        before = None if learner.memory is None else learner.memory.copy()
        chosen, extras, memory = answer
        version = self._inference.versions[runtime_id]
        if memory is not None and learner.memory is not None:
            learner.memory[streams] = memory
        chosen = chosen.astype(space.dtype, copy=False)
        bounds = np.cumsum([len(here) for here in indices])[:-1] if len(agents) > 1 else None

        def by_agent(values: np.ndarray) -> dict[AgentID, np.ndarray]:
            """Rows (B, ...) handed out to the agents, (E, ...) each."""
            parts = [values] if bounds is None else np.split(values, bounds)
            if isinstance(streams, slice):
                return dict(zip(agents, parts, strict=True))
            full = {agent: np.zeros((num_envs, *values.shape[1:]), values.dtype) for agent in agents}
            for agent, here, part in zip(agents, indices, parts, strict=True):
                full[agent][here] = part
            return full

        actions = by_agent(chosen)
        if learner.team is None:
            if before is not None:
                extras[MEMORY] = before[streams]
            learner.recorder.decide(
                streams, observation, mask, chosen, extras,
                episode=_join([self._episode[here] for here in rows]), policy_version=version,
            )  # fmt: skip
        else:
            together = np.stack(acting, axis=1)  # (E, N)
            somebody = np.flatnonzero(together.any(axis=1))
            envs = slice(0, num_envs) if len(somebody) == num_envs else somebody
            learner.team.acted[envs] = together[envs]
            of_team = {name: np.stack(list(by_agent(values).values()), 1)[envs] for name, values in extras.items()}
            if before is not None:  # those who do not act remember, too
                of_team[MEMORY] = before.reshape(len(agents), num_envs, -1).swapaxes(0, 1)[envs]
            learner.recorder.decide(
                envs, *self._seen_by_team(agents, envs), np.stack(list(actions.values()), 1)[envs], of_team,
                episode=self._episode[envs], policy_version=version,
                others=self._others(learner.team, envs),
            )  # fmt: skip
        return actions

    def _act_from_pool(self, runtime_id: str, agent: AgentID, rows: np.ndarray) -> np.ndarray:
        """Actions (E, ...) of one agent of a pool; those outside ``rows`` mean nothing."""
        actions = self._no_actions(agent)
        if len(rows):
            actions[rows] = self.pools[runtime_id].act(agent, self._views[agent], rows)
        return actions

    def _no_actions(self, agent: AgentID) -> np.ndarray:
        space = self.environments.action_spaces[agent]
        return np.zeros((self.environments.num_envs, *(space.shape or ())), space.dtype)

    def _seen_by_team(
        self, agents: Sequence[AgentID], envs: np.ndarray | slice
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """What the agents see (B, N, *obs) and may do (B, N, A) in ``envs``."""
        views = [self._views[agent] for agent in agents]
        masks = [view.action_mask for view in views]
        shape = next((mask.shape for mask in masks if mask is not None), None)
        observation = np.stack([view.observation[envs] for view in views], axis=1)
        if shape is None:
            return observation, None
        full = [np.ones(shape, bool) if mask is None else mask for mask in masks]
        return observation, np.stack([mask[envs] for mask in full], axis=1)

    def _others(self, team: Team, envs: np.ndarray | slice) -> dict[str, np.ndarray]:
        """The further fields of a joint record in ``envs``."""
        state = self.environments.state
        return {"acting": team.acted[envs], **({} if state is None else {"state": state[envs]})}

    def _record(self, learner: Learner, agents: Sequence[AgentID], running: np.ndarray, everybody: bool) -> None:
        """Note what each agent earned in the last step, and whose part in the episode is over."""
        num_envs, recorder, views = self.environments.num_envs, learner.recorder, [self._views[a] for a in agents]
        rewards = _join([view.reward for view in views])
        if not everybody:
            rewards = np.where(np.tile(running, len(agents)), rewards, np.float32(0))
        recorder.reward(slice(0, num_envs * len(agents)), rewards)
        for position, view in enumerate(views):
            rows = ((view.terminated | view.truncated) & running).nonzero()[0]
            if len(rows):
                streams = position * num_envs + rows
                mask = None if view.action_mask is None else view.action_mask[rows]
                recorder.end(streams, view.terminated[rows], view.truncated[rows], view.observation[rows], mask)

    def _record_team(self, learner: Learner, agents: Sequence[AgentID], running: np.ndarray, everybody: bool) -> None:
        """The same of a team: its episode is over when it is for all its agents, cut off if any of the last was."""
        team, views = learner.team, [self._views[agent] for agent in agents]
        assert team is not None
        rewards = np.stack([view.reward for view in views], axis=1)  # (E, N)
        learner.recorder.reward(slice(0, len(running)), np.where(running[:, None], rewards, np.float32(0)))
        truncated = np.any([view.truncated for view in views], axis=0)
        team.ended |= np.stack([view.terminated | view.truncated for view in views], axis=1) & running[:, None]
        rows = (team.ended.all(1) & running).nonzero()[0]
        if len(rows):
            cut = truncated[rows]
            observation, mask = self._seen_by_team(agents, rows)
            learner.recorder.end(rows, ~cut, cut, observation, mask, self._others(team, rows))

    def _finish(self, runtime_id: str, learner: Learner) -> int:
        """Close a learner's slot with the observations that its agents are about to act on."""
        agents, playing = self._groups[runtime_id], ~self.environments.finished
        acting = [self._views[agent].acting & playing for agent in agents]
        if learner.team is not None:
            envs = np.any(acting, axis=0).nonzero()[0]
            learner.team.acted[envs] = np.stack(acting, axis=1)[envs]
            return learner.recorder.finish(envs, *self._seen_by_team(agents, envs), self._others(learner.team, envs))
        rows = [here.nonzero()[0] for here in acting]
        views = [self._views[agent] for agent in agents]
        streams = [position * len(playing) + here for position, here in enumerate(rows)]
        return learner.recorder.finish(
            np.concatenate(streams),
            np.concatenate([view.observation[here] for view, here in zip(views, rows, strict=True)]),
            join_masks([(view.action_mask, here, len(here)) for view, here in zip(views, rows, strict=True)]),
        )


def _join(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def join_masks(masks: Sequence[tuple[np.ndarray | None, np.ndarray | slice, int]]) -> np.ndarray | None:
    """The given rows of some agents' masks, with how many they are; all True for those who have none."""
    num_actions = next((mask.shape[1] for mask, _, _ in masks if mask is not None), None)
    if num_actions is None:
        return None
    return _join([np.ones((n, num_actions), bool) if mask is None else mask[rows] for mask, rows, n in masks])


def fragment_capacity(num_decisions: int, whole_episodes: bool, max_step: int | None) -> int:
    """Decisions per stream that a slot must hold. An episode that overruns even this is split after all."""
    return num_decisions + (max_step or 500) if whole_episodes else num_decisions
