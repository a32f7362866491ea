"""Our environments given to others: as PettingZoo's, https://pettingzoo.farama.org, and as gymnasium's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv

from malib_lite.config import ConfigError
from malib_lite.contracts.environment import AgentID, Environment, TimeStep


def to_aec_env(env: Environment, max_step: int | None = None) -> AECEnv[AgentID, Any, Any]:
    """Any environment, agent by agent; those that act at the same time are asked one after another.

    All possible agents are live from the beginning. Where the environment has action masks for Discrete actions, the
    agents observe, as is the custom, ``Dict(observation, action_mask)``; a mask is (A,) int8. Whether it has, its first
    observation shows. Rewards of agents that are out of the episode have no place in PettingZoo and are lost.

    Args:
        env: belongs to the result from now on.
        max_step: episodes are truncated after so many steps of ``env``.
    """
    return _ExportedAEC(_Episode(env, max_step))


def to_parallel_env(env: Environment, max_step: int | None = None) -> ParallelEnv[AgentID, Any, Any]:
    """An environment in which the agents act at the same time; arguments and masks as of :func:`to_aec_env`.

    An agent that has no say in some step later on observes what it saw last, and its action is ignored.

    Raises:
        ConfigError: not all agents are to act in the first step: the environment is turn-based.
    """
    episode = _Episode(env, max_step)
    idle = [agent for agent in env.possible_agents if agent not in episode.acting]
    if idle:
        raise ConfigError(
            f"{episode.name} is turn-based ({idle[0]} is not to act in the first step), and in PettingZoo's parallel "
            "environments all agents act in every step: use to_aec_env"
        )
    return _ExportedParallel(episode)


def to_gymnasium(env: Environment, max_step: int | None = None) -> gymnasium.Env:
    """An environment with one agent; a mask is ``info["action_mask"]`` (A,) int8. Arguments as of :func:`to_aec_env`.

    Raises:
        ConfigError: it has several agents.
    """
    if len(env.possible_agents) != 1:
        raise ConfigError(
            f"{_name(env)} has {len(env.possible_agents)} agents, and gymnasium's environments have one: "
            "use to_aec_env or to_parallel_env"
        )
    return _ExportedGymnasium(env, max_step)


class _ExportedGymnasium(gymnasium.Env):
    """One agent, in gymnasium's terms."""

    def __init__(self, env: Environment, max_step: int | None) -> None:
        (self._agent,) = env.possible_agents
        self._env, self._max_step = env, max_step
        self.observation_space = env.observation_spaces[self._agent]
        self.action_space = env.action_spaces[self._agent]

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; ``options`` have no effect."""
        super().reset(seed=seed)
        step = self._env.begin(seed, self._max_step)
        return self._observation(step), self._info(step)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take a step."""
        agent, step = self._agent, self._env.advance({self._agent: action})
        terminated, truncated = _flags(step, agent, self._env.finished)
        return self._observation(step), float(step.rewards.get(agent, 0.0)), terminated, truncated, self._info(step)

    def render(self) -> Any:
        """What the environment's own ``render`` gives."""
        return self._env.render()

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _observation(self, step: TimeStep) -> Any:
        return _conforming(self.observation_space, step.observations[self._agent])

    def _info(self, step: TimeStep) -> dict[str, Any]:
        info = _info(step, self._agent)
        if self._agent in step.action_masks:
            info["action_mask"] = np.array(step.action_masks[self._agent], np.int8)
        return info


class _Episode:
    """What PettingZoo asks of an episode: for every live agent an observation, a reward, flags and an info."""

    def __init__(self, env: Environment, max_step: int | None) -> None:
        self.env = env
        self.name = _name(env)
        # of the agents that were live before the last step
        self.live: list[AgentID]
        self.rewards: dict[AgentID, float]
        self.terminated: dict[AgentID, bool]
        self.truncated: dict[AgentID, bool]
        self.infos: dict[AgentID, dict[str, Any]]
        self.acting: list[AgentID]  # in the next one
        self._max_step = max_step
        first = env.begin(max_step=max_step)
        self.action_spaces = dict(env.action_spaces)
        self._masked = self._shows_masks(first)
        self.observation_spaces: dict[AgentID, spaces.Space] = {
            agent: self._with_mask(space, self.action_spaces[agent]) for agent, space in env.observation_spaces.items()
        }
        self._start(first)

    def begin(self, seed: int | None) -> None:
        """A new episode."""
        self._start(self.env.begin(seed, self._max_step))

    def advance(self, actions: Mapping[AgentID, Any]) -> None:
        """A step, with the actions of those that are to act."""
        self.live = [agent for agent in self.live if not (self.terminated[agent] or self.truncated[agent])]
        self._take(self.env.advance({agent: actions[agent] for agent in self.acting}))

    def observe(self, agent: AgentID) -> Any:
        """What the agent saw last, and what it may do now: everything, where it has nothing to say."""
        observation = _conforming(self.env.observation_spaces[agent], self._observations[agent])
        if not self._has_mask(agent):
            return observation
        mask = self._masks.get(agent)
        if mask is None:
            mask = np.ones(int(self.action_spaces[agent].n), np.int8)  # type: ignore[attr-defined]
        return {"observation": observation, "action_mask": np.array(mask, np.int8)}

    def state(self) -> np.ndarray | None:
        """The global state, where there is one."""
        state = self.env.state()
        return None if state is None else np.array(state)

    def _start(self, first: TimeStep) -> None:
        self.live = list(self.env.possible_agents)
        self._observations = {agent: _blank(space) for agent, space in self.env.observation_spaces.items()}
        self._take(first)

    def _take(self, step: TimeStep) -> None:
        """What ``step`` says about the agents that were live before it."""
        live, over = self.live, self.env.finished
        if not self._masked and self._shows_masks(step):
            raise RuntimeError(f"{self.name} gives action masks, but gave none with its first observation")
        self._observations.update(step.observations)
        self._masks = step.action_masks
        self.rewards = {agent: float(step.rewards.get(agent, 0.0)) for agent in live}
        flags = {agent: _flags(step, agent, over) for agent in live}
        self.terminated = {agent: flags[agent][0] for agent in live}
        self.truncated = {agent: flags[agent][1] for agent in live}
        self.infos = {agent: _info(step, agent) for agent in live}
        self.acting = [agent for agent in live if agent in step.observations and not any(flags[agent])]

    def _shows_masks(self, step: TimeStep) -> bool:
        """Whether there are masks of the kind that PettingZoo knows."""
        return any(isinstance(self.action_spaces[agent], spaces.Discrete) for agent in step.action_masks)

    def _has_mask(self, agent: AgentID) -> bool:
        return self._masked and isinstance(self.action_spaces[agent], spaces.Discrete)

    def _with_mask(self, space: spaces.Space, action_space: spaces.Space) -> spaces.Space:
        if not (self._masked and isinstance(action_space, spaces.Discrete)):
            return space
        return spaces.Dict({"observation": space, "action_mask": spaces.Box(0, 1, (int(action_space.n),), np.int8)})


class _ExportedParallel(ParallelEnv[AgentID, Any, Any]):
    """Agents that act together, in PettingZoo's terms."""

    def __init__(self, episode: _Episode) -> None:
        self._episode = episode
        self.metadata = {"name": episode.name, "render_modes": []}
        self.render_mode = None
        self.possible_agents = list(episode.env.possible_agents)
        self.agents: list[AgentID] = []
        if episode.env.state_space is not None:
            self.state_space = episode.env.state_space

    def reset(
        self, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[AgentID, Any], dict[AgentID, dict[str, Any]]]:
        """Begin an episode; ``options`` have no effect."""
        episode = self._episode
        episode.begin(seed)
        self.agents = list(episode.live)
        return {agent: episode.observe(agent) for agent in self.agents}, episode.infos

    def step(
        self, actions: Mapping[AgentID, Any]
    ) -> tuple[
        dict[AgentID, Any],
        dict[AgentID, float],
        dict[AgentID, bool],
        dict[AgentID, bool],
        dict[AgentID, dict[str, Any]],
    ]:
        """Take a step; the dictionaries name the agents that were live before it."""
        episode = self._episode
        if not self.agents:
            raise RuntimeError("the episode is over: reset before the next step")
        episode.advance(actions)
        ended = {agent for agent in episode.live if episode.terminated[agent] or episode.truncated[agent]}
        self.agents = [agent for agent in episode.live if agent not in ended]
        observations = {agent: episode.observe(agent) for agent in episode.live}
        return observations, episode.rewards, episode.terminated, episode.truncated, episode.infos

    def observation_space(self, agent: AgentID) -> spaces.Space:
        """The space of the agent's observations."""
        return self._episode.observation_spaces[agent]

    def action_space(self, agent: AgentID) -> spaces.Space:
        """The space of the agent's actions."""
        return self._episode.action_spaces[agent]

    def state(self) -> np.ndarray:
        """The global state, where there is one."""
        state = self._episode.state()
        return super().state() if state is None else state

    def render(self) -> Any:
        """What the environment's own ``render`` gives."""
        return self._episode.env.render()

    def close(self) -> None:
        """Close the environment."""
        self._episode.env.close()


class _ExportedAEC(AECEnv[AgentID, Any, Any]):
    """One agent after another, in PettingZoo's terms."""

    def __init__(self, episode: _Episode) -> None:
        super().__init__()
        self._episode = episode
        self.metadata = {"name": episode.name, "render_modes": []}
        self.render_mode = None
        self.possible_agents = list(episode.env.possible_agents)
        self.agents: list[AgentID] = []
        self.agent_selection: AgentID
        self.terminations: dict[AgentID, bool]
        self.truncations: dict[AgentID, bool]
        if episode.env.state_space is not None:
            self.state_space = episode.env.state_space

    def reset(self, seed: int | None = None, options: Mapping[str, Any] | None = None) -> None:
        """Begin an episode; ``options`` have no effect."""
        self._episode.begin(seed)
        self.agents = list(self._episode.live)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self._skip_agent_selection = None
        self._publish()

    def step(self, action: Any) -> None:
        """The action of the selected agent: None if it is out of the episode, and so leaves."""
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            self._was_dead_step(action)
            return
        self._cumulative_rewards[agent] = 0.0
        self._chosen[agent] = action
        waiting = [other for other in self._episode.acting if other not in self._chosen]
        if waiting:
            self._clear_rewards()
            self.agent_selection = waiting[0]
            return
        self._episode.advance(self._chosen)
        self._publish()
        self._accumulate_rewards()
        self._deads_step_first()

    def observe(self, agent: AgentID) -> Any:
        """What the agent saw last."""
        return self._episode.observe(agent)

    def observation_space(self, agent: AgentID) -> spaces.Space:
        """The space of the agent's observations."""
        return self._episode.observation_spaces[agent]

    def action_space(self, agent: AgentID) -> spaces.Space:
        """The space of the agent's actions."""
        return self._episode.action_spaces[agent]

    def state(self) -> np.ndarray:
        """The global state, where there is one."""
        state = self._episode.state()
        return super().state() if state is None else state

    def render(self) -> Any:
        """What the environment's own ``render`` gives."""
        return self._episode.env.render()

    def close(self) -> None:
        """Close the environment."""
        self._episode.env.close()

    def _publish(self) -> None:
        """What the last step of the environment said."""
        episode = self._episode
        self._chosen: dict[AgentID, Any] = {}
        self.rewards = dict(episode.rewards)
        self.terminations, self.truncations = dict(episode.terminated), dict(episode.truncated)
        self.infos = dict(episode.infos)
        self.agent_selection = (episode.acting or self.agents)[0]


def _name(env: Environment) -> str:
    return str(env.configs.get("env_id") or type(env).__name__)


def _flags(step: TimeStep, agent: AgentID, over: bool) -> tuple[bool, bool]:
    """Terminated and truncated. Whoever has no flag when all is over ended like the others."""
    terminated, truncated = bool(step.terminated.get(agent, False)), bool(step.truncated.get(agent, False))
    if over and not (terminated or truncated):
        truncated = any(step.truncated.values())
        return not truncated, truncated
    return terminated, truncated and not terminated


def _info(step: TimeStep, agent: AgentID) -> dict[str, Any]:
    info = step.infos.get(agent, {})
    return {key: np.copy(part) if isinstance(part, np.ndarray) else part for key, part in dict(info).items()}


def _conforming(space: spaces.Space, value: Any) -> Any:
    """A copy of a value with the very types that the space says, e.g. int64 for a Python integer."""
    if isinstance(space, spaces.Dict):
        return {key: _conforming(part, value[key]) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_conforming(part, value[i]) for i, part in enumerate(space.spaces))
    if isinstance(space, spaces.Discrete):
        return np.int64(value)
    if isinstance(space, (spaces.Box, spaces.MultiDiscrete, spaces.MultiBinary)):
        return np.array(value, space.dtype)
    return value


def _blank(space: spaces.Space) -> Any:
    """What an agent sees that has seen nothing yet: zeros, or the least value where zero is not in the space."""
    if isinstance(space, spaces.Dict):
        return {key: _blank(part) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_blank(part) for part in space.spaces)
    if isinstance(space, spaces.Box):
        return np.clip(np.zeros(space.shape), space.low, space.high)
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        return space.start
    return np.zeros(space.shape) if isinstance(space, spaces.MultiBinary) else space.sample()
