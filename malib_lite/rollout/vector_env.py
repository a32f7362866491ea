"""Many copies of an environment, stepped one after another in this process and seen as a struct of arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from malib_lite.config import ConfigError
from malib_lite.contracts.environment import AgentID, Environment, TimeStep
from malib_lite.contracts.vector import AgentView, VectorEnvironment
from malib_lite.models.actions import ActionReader, leaves_a_choice, num_choices
from malib_lite.models.preprocessor import Mode, Preprocessor, get_preprocessor

# Second word of the seeds' spawn keys: it keeps these streams apart from others drawn from the same root.
_ENVIRONMENT_STREAM = int.from_bytes(b"env", "big")


class EnvironmentFault(RuntimeError):
    """An environment failed, or broke its contract; the message says which one, where and when."""


def vectorise(
    env_description: Mapping[str, Any],
    num_envs: int,
    seed: int | np.random.SeedSequence,
    max_step: int | None = None,
    first_env_index: int = 0,
    with_state: bool = False,
) -> VectorEnvironment:
    """``num_envs`` copies of the described environment: its native vector form where it has one, else stepped singly.

    Args:
        env_description: ``creator`` (the environment's class) and ``config`` (its keyword arguments), as made by
            :func:`malib_lite.contracts.environment.describe`; further keys are ignored.
        num_envs: E, the number of copies.
        seed: the root of all their random streams: environment i has the stream of (seed, first_env_index + i), so
            that its episodes depend neither on how environments are spread over workers nor on when they are played.
        max_step: episodes are truncated after so many steps; None leaves the environment's own limit.
        first_env_index: the number of the first copy among those of all workers that share ``seed``.
        with_state: whether the environment's global state, if it has one, is wanted in ``state``.

    Raises:
        ConfigError: there is no creator, or the environment refuses its configuration.
    """
    creator = env_description.get("creator")
    if not callable(creator):
        raise ConfigError(f"'env_description.creator' must be an environment class, not {creator!r}")
    if num_envs < 1:
        raise ConfigError(f"'num_envs' = {num_envs}: there must be at least one environment")
    config = dict(env_description.get("config") or {})
    seeds = [_derive(seed, _ENVIRONMENT_STREAM, first_env_index + i) for i in range(num_envs)]
    native: Callable[..., VectorEnvironment | None] | None = getattr(creator, "make_vector", None)
    if native is not None:
        vector = native(seeds=seeds, max_step=max_step, **config)
        if vector is not None and (vector.state is not None or not with_state or not _has_state(creator, config)):
            return vector
    return DictVectorEnv(creator, config, seeds, max_step, first_env_index, with_state)


def _has_state(creator: Callable[..., Environment], config: Mapping[str, Any]) -> bool:
    env = creator(**config)
    try:
        return env.state_space is not None
    finally:
        env.close()


class DictVectorEnv(VectorEnvironment):
    """E :class:`Environment` objects behind the vector interface.

    Environment i is seeded with ``seeds[i]`` once, when its first episode begins; later episodes go on in its stream.
    The spaces are those of the arrays, as ``array_space`` and ``array_action_space`` give them. An agent that
    is left without a flag when its episode is over ended like the others: truncated if any agent was, terminated
    otherwise. Where an agent's time ran out while another was to move, its final observation is the last one it had.
    Both flags in one step mean ``terminated``.

    Args:
        creator: makes one environment from keyword arguments.
        config: these arguments.
        seeds: E integers.
        max_step: episodes are truncated after so many steps.
        first_env_index: the number of environment 0 among those of all workers, for messages.
        with_state: whether ``state`` is filled, where the environments have one: asking them takes time.

    Raises:
        ConfigError: an observation or action space has no array form.
    """

    def __init__(
        self,
        creator: Callable[..., Environment],
        config: Mapping[str, Any] | None,
        seeds: Sequence[int],
        max_step: int | None = None,
        first_env_index: int = 0,
        with_state: bool = False,
    ) -> None:
        self.num_envs = num_envs = len(seeds)
        self.max_step = max_step
        self.episode = np.full(num_envs, -1, dtype=np.int64)  # (E,) running number of each environment's episode
        self.finished = np.ones(num_envs, dtype=bool)
        self._first_env_index = first_env_index
        self._roots = [int(seed) for seed in seeds]
        self._seeds: list[int | None] = list(self._roots)  # None once it is used
        self._envs: list[Environment] = []
        try:
            for _ in range(num_envs):
                self._envs.append(creator(**dict(config or {})))
            first = self._envs[0]
            self.possible_agents = list(first.possible_agents)
            self._channels = {
                agent: _Channel(agent, first.observation_spaces[agent], first.action_spaces[agent], num_envs)
                for agent in self.possible_agents
            }
            self._state: Preprocessor | None = None
            if with_state and first.state_space is not None:
                self._state = get_preprocessor(first.state_space, Mode.FLATTEN)
                self.state = np.zeros((num_envs, self._state.size), np.float32)
        except BaseException:
            self.close()
            raise
        self.observation_spaces = {agent: channel.observation_space for agent, channel in self._channels.items()}
        self.action_spaces = {agent: channel.action_space for agent, channel in self._channels.items()}
        self._views = {agent: channel.view for agent, channel in self._channels.items()}
        self._to_act: list[list[AgentID]] = [[] for _ in range(num_envs)]

    def reset(self, mask: np.ndarray) -> dict[AgentID, AgentView]:
        """Begin new episodes where ``mask`` (E,) bool is set.

        Raises:
            EnvironmentFault: an environment raised an exception or broke its contract.
        """
        for i in np.flatnonzero(mask).tolist():
            env = self._envs[i]
            self.episode[i] += 1
            self.finished[i] = False
            self._to_act[i] = []
            for channel in self._channels.values():
                channel.begin(i)
            seed, self._seeds[i] = self._seeds[i], None
            try:
                first = env.begin(seed=seed, max_step=self.max_step)
                self._record(i, env, first._replace(rewards={}))  # nothing was earned before the first step
            except Exception as error:
                raise self._fault(i, "at the beginning", error) from error
        return self._views

    def step(self, actions: Mapping[AgentID, np.ndarray]) -> dict[AgentID, AgentView]:
        """Advance every environment that is not finished by one step.

        Args:
            actions: (E, *action) of the agent's array space, per agent; rows that are not acting are ignored, and
                agents that act nowhere may be left out. Box actions are clipped to the space's bounds.

        Raises:
            ValueError: the actions of an acting agent are missing, or have another shape or kind.
            EnvironmentFault: an environment raised an exception or broke its contract.
        """
        columns = {}
        for agent, channel in self._channels.items():
            if agent in actions:
                columns[agent] = channel.actions(actions[agent])
            elif (channel.acting & ~self.finished).any():
                raise ValueError(f"no actions for {agent!r}, which is to act")
            channel.clear()
        envs, to_act = self._envs, self._to_act
        for i in np.flatnonzero(~self.finished).tolist():
            env = envs[i]
            number = env.cnt + 1
            try:
                self._record(i, env, env.advance({agent: columns[agent][i] for agent in to_act[i]}))
            except Exception as error:
                raise self._fault(i, f"in step {number}", error) from error
        return self._views

    def _record(self, i: int, env: Environment, step: TimeStep) -> None:
        """Write what environment ``i`` said into row i of the arrays."""
        channels, masks, over = self._channels, step.action_masks, env.finished
        for agent, reward in step.rewards.items():
            channels[agent].reward[i] = reward
        for agent, flag in step.terminated.items():
            if flag:
                channels[agent].end(i, terminated=True)
        for agent, flag in step.truncated.items():
            if flag:
                channels[agent].end(i, terminated=False)
        acting = []
        for agent, observation in step.observations.items():
            channel = channels[agent]
            channel.write(i, observation)
            acts = not (over or channel.ended[i])
            if acts:
                acting.append(agent)
            if masks or channel.mask is not None:
                channel.write_mask(i, masks.get(agent), acts)
        if acting != self._to_act[i]:
            for agent in self._to_act[i]:
                channels[agent].acting[i] = False
            for agent in acting:
                channels[agent].acting[i] = True
            self._to_act[i] = acting
        if self._state is not None and self.state is not None:
            self.state[i] = self._state.transform(env.state())
        if over:
            self.finished[i] = True
            cut = any(channel.truncated[i] for channel in channels.values())
            for channel in channels.values():
                channel.end(i, terminated=not cut)
        elif not acting:
            raise RuntimeError("no agent is observed, so none can act, but the episode is not over")

    def _fault(self, i: int, when: str, error: Exception) -> EnvironmentFault:
        """The error of environment ``i``, with everything that is needed to meet it again."""
        env = self._envs[i]
        env_id = getattr(env, "configs", {}).get("env_id")
        name = type(env).__name__ + ("" if env_id is None else f" {env_id!r}")
        return EnvironmentFault(
            f"environment {self._first_env_index + i} ({name}) failed {when} of episode {self.episode[i]}: "
            f"{type(error).__name__}: {error}"
        )

    def close(self) -> None:
        """Close every environment."""
        for env in self._envs:
            env.close()
        self._envs = []

    def state_dict(self) -> dict[str, Any]:
        """Seeds not used yet, episode numbers, and the random state of every environment with a ``state_dict``."""
        return {
            "seeds": list(self._seeds),
            "episode": self.episode.copy(),
            "envs": [env.state_dict() for env in self._envs],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state that :meth:`state_dict` gave; then all environments wait for a reset.

        Environments without a ``state_dict`` cannot go on in their streams: they get new ones, which depend on the
        episode alone, so that resuming twice gives the same episodes twice.

        Raises:
            ValueError: the state is of another number of environments.
        """
        if len(state["envs"]) != self.num_envs:
            raise ValueError(f"a state of {len(state['envs'])} environments does not fit {self.num_envs}")
        self._seeds = list(state["seeds"])
        self.episode[:] = state["episode"]
        self.finished[:] = True
        for i, inner in enumerate(state["envs"]):
            env = self._envs[i]
            for channel in self._channels.values():
                channel.begin(i)
            if inner is not None:
                env.load_state_dict(inner)
            elif self._seeds[i] is None:
                self._seeds[i] = _derive(self._roots[i], _ENVIRONMENT_STREAM, int(self.episode[i]) + 1)


class _Channel:
    """One agent's columns: the arrays of its view, and how values get into them and out of them."""

    def __init__(
        self, agent: AgentID, observation_space: spaces.Space, action_space: spaces.Space, num_envs: int
    ) -> None:
        self.agent = agent
        self._preprocessor = get_preprocessor(observation_space, Mode.STACK)
        self.observation_space = self._preprocessor.observation_space
        self._read_actions = ActionReader(action_space)
        self.action_space = self._read_actions.array_space
        self._num_choices = num_choices(self.action_space)
        self.ended = [False] * num_envs  # in this episode, not only in this step
        self.acting = np.zeros(num_envs, dtype=bool)
        self.reward = np.zeros(num_envs, dtype=np.float32)
        self.terminated = np.zeros(num_envs, dtype=bool)
        self.truncated = np.zeros(num_envs, dtype=bool)
        self.mask: np.ndarray | None = None  # from the first mask that is seen
        shape = (num_envs, *(self.observation_space.shape or ()))
        self.observation = np.zeros(shape, dtype=self.observation_space.dtype)
        self.view = AgentView(self.acting, self.observation, None, self.reward, self.terminated, self.truncated)
        self._actions_shape = (num_envs, *(self.action_space.shape or ()))
        self._box_shape = observation_space.shape if isinstance(observation_space, spaces.Box) else None

    def begin(self, i: int) -> None:
        """Forget the last episode of environment ``i``."""
        self.ended[i] = False
        self.acting[i] = self.terminated[i] = self.truncated[i] = False
        self.reward[i] = 0.0
        if self.mask is not None:
            self.mask[i] = True

    def clear(self) -> None:
        """Forget the last step of all environments."""
        self.reward.fill(0.0)
        self.terminated.fill(False)
        self.truncated.fill(False)

    def end(self, i: int, terminated: bool) -> None:
        """The agent's part in the episode is over; flags that are repeated afterwards say nothing new."""
        if not self.ended[i]:
            self.ended[i] = True
            (self.terminated if terminated else self.truncated)[i] = True

    def write(self, i: int, value: Any) -> None:
        """Put an observation into row ``i``; the common case, an array of the right shape, is copied without ado."""
        if type(value) is np.ndarray and value.shape == self._box_shape:
            self.observation[i] = value
        else:
            self.observation[i] = self._preprocessor.transform(value)

    def write_mask(self, i: int, mask: np.ndarray | None, acts: bool) -> None:
        """Put an action mask into row ``i``: all legal where there is none."""
        if self._num_choices is None:
            if mask is not None:
                raise ValueError(f"{self.agent!r} has an action mask, but its actions are {self.action_space}")
            return
        if self.mask is None:
            if mask is None:
                return
            self.mask = np.ones((len(self.ended), self._num_choices), dtype=bool)
            self.view.action_mask = self.mask
        if mask is None:
            self.mask[i] = True
            return
        if np.shape(mask) != self.mask.shape[1:]:
            raise ValueError(f"the action mask of {self.agent!r} has shape {np.shape(mask)}, not {self.mask.shape[1:]}")
        self.mask[i] = mask
        if not leaves_a_choice(self.action_space, self.mask[i]):
            if acts:
                raise ValueError(f"the action mask of {self.agent!r} leaves it no choice, but it is to act")
            self.mask[i] = True  # nobody acts on it, but a masked maximum over the row must stay finite

    def actions(self, column: np.ndarray) -> Any:
        """What the environments take, by row."""
        column = np.asarray(column)
        if column.shape != self._actions_shape:
            raise ValueError(f"the actions of {self.agent!r} have shape {column.shape}, not {self._actions_shape}")
        try:
            return self._read_actions(column)
        except ValueError as error:
            raise ValueError(f"the actions of {self.agent!r}: {error}") from None


def _derive(seed: int | np.random.SeedSequence, *key: int) -> int:
    """A seed that depends on nothing but ``seed`` and ``key``; below 2**31, which every environment can take."""
    root = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    child = np.random.SeedSequence(root.entropy, spawn_key=(*root.spawn_key, *key), pool_size=root.pool_size)
    return int(child.generate_state(1)[0] >> 1)
