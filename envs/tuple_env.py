"""Multi-agent environments in gymnasium's registry whose spaces and values are tuples with a part for each agent.

Level-based foraging and RWARE (robotic warehouse) are such: ``step`` takes a tuple of actions and gives a tuple of
observations and a list of rewards, and one flag says that the episode is over for all.
"""

from __future__ import annotations

import importlib
import inspect
from abc import abstractmethod
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import gymnasium
from gymnasium import spaces

from malib_lite.config import ConfigError, suggest
from malib_lite.contracts.environment import AgentID, Environment, TimeStep


class TupleEnv(Environment):
    """A registered environment of tuples; the agents are "agent_0", "agent_1", ...

    A subclass says which package registers it, and which ends of an episode are no time limits.

    Args:
        env_id: a registered id of the family.
        scenario_configs: keyword arguments of the environment's class, instead of those that come with the id.

    Raises:
        ConfigError: the package is not installed, there is no such environment, or it refuses ``scenario_configs``.
    """

    family: str  # the extra of malib_lite that installs the package
    package: str  # importing it registers the environments
    prefix: str  # how their ids begin

    def __init__(self, env_id: str, scenario_configs: Mapping[str, Any] | None = None, **unknown: Any) -> None:
        for key in unknown:
            raise ConfigError(f"unknown key '{key}': " + suggest(key, ["env_id", "scenario_configs"]))
        if scenario_configs is not None and not isinstance(scenario_configs, Mapping):
            raise ConfigError(f"'scenario_configs' = {scenario_configs!r}: must map names to values")
        known = self.ids()
        if env_id not in known:
            raise ConfigError(f"'env_id' = {env_id!r}: there is no such environment, {_nearest(str(env_id), known)}")
        super().__init__(env_id=env_id, scenario_configs=dict(scenario_configs or {}))
        self._env = self._make(env_id, self.configs["scenario_configs"])
        self._agents = [f"agent_{i}" for i in range(len(self._env.action_space))]
        self._state: Any = None

    @classmethod
    def ids(cls) -> list[str]:
        """The registered ids; imports the package.

        Raises:
            ConfigError: it is not installed.
        """
        try:
            importlib.import_module(cls.package)
        except ImportError as error:
            line = f"pip install 'malib_lite[{cls.family}]'"
            raise ConfigError(f"the package {cls.package!r} is not installed ({error}): {line}") from error
        return sorted(env_id for env_id in gymnasium.registry if env_id.startswith(cls.prefix))

    @property
    def possible_agents(self) -> list[AgentID]:
        """The agents in the tuples' order."""
        return self._agents

    @property
    def observation_spaces(self) -> dict[AgentID, spaces.Space]:
        """The parts of the observation tuple."""
        return dict(zip(self._agents, self._env.observation_space, strict=True))

    @property
    def action_spaces(self) -> dict[AgentID, spaces.Space]:
        """The parts of the action tuple."""
        return dict(zip(self._agents, self._env.action_space, strict=True))

    @property
    def state_space(self) -> spaces.Space:
        """One flat Box with the observations of all agents."""
        return spaces.flatten_space(self._env.observation_space)

    def state(self) -> Any:
        """The observations of all agents, one after another: the packages have no global state of their own."""
        return spaces.flatten(self._env.observation_space, self._state)

    def reset_episode(self, seed: int | None) -> TimeStep:
        """Gymnasium's reset."""
        self._state, info = self._env.reset(seed=seed)
        return TimeStep(self._parts(self._state), infos=dict.fromkeys(self._agents, info))

    def time_step(self, actions: Mapping[AgentID, Any]) -> TimeStep:
        """Gymnasium's step, with ends told apart."""
        joint = tuple(actions[agent] for agent in self._agents)
        self._state, rewards, over, cut, info = self._env.step(joint)
        everybody = dict.fromkeys(self._agents, True)
        terminal = over and self._is_terminal()
        return TimeStep(
            self._parts(self._state),
            {agent: float(reward) for agent, reward in zip(self._agents, rewards, strict=True)},
            everybody if terminal else {},
            everybody if (over or cut) and not terminal else {},
            dict.fromkeys(self._agents, info),
        )

    def close(self) -> None:
        """Close the gymnasium environment; a second time does nothing."""
        self._env.close()

    def state_dict(self) -> dict[str, Any]:
        """The state of gymnasium's random generator, from which later episodes follow."""
        return {"np_random": self._env.unwrapped.np_random.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with a random generator's state that :meth:`state_dict` gave."""
        self._env.unwrapped.np_random.bit_generator.state = state["np_random"]

    @abstractmethod
    def _is_terminal(self) -> bool:
        """Whether an episode that the package calls over has ended by the task, and not by a limit of time."""

    def _arguments(self, scenario_configs: Mapping[str, Any]) -> dict[str, Any]:
        """``scenario_configs`` in the types that the environment's class takes."""
        return dict(scenario_configs)

    def _parts(self, values: Any) -> dict[AgentID, Any]:
        """A tuple by agent."""
        return dict(zip(self._agents, values, strict=True))

    def _make(self, env_id: str, scenario_configs: Mapping[str, Any]) -> Any:
        """``gymnasium.make`` with its errors made the user's. (Its type knows no rewards that are lists.)"""
        spec = deepcopy(gymnasium.spec(env_id))
        entry = spec.entry_point
        creator: Any = gymnasium.envs.registration.load_env_creator(entry) if isinstance(entry, str) else entry
        for key in scenario_configs:
            if key not in (names := inspect.signature(creator).parameters):
                known = [f"scenario_configs.{name}" for name in names]
                raise ConfigError(
                    f"unknown key 'scenario_configs.{key}' for {env_id}: {suggest(f'scenario_configs.{key}', known)}"
                )
        # in the spec, because make() would keep an argument called max_episode_steps to itself
        spec.kwargs.update(self._arguments(scenario_configs))
        try:
            return gymnasium.make(spec, disable_env_checker=True)
        except (AssertionError, TypeError, ValueError) as error:
            reason, _, _ = str(error).partition(" was raised from the environment creator")  # gymnasium goes on and on
            raise ConfigError(
                f"'scenario_configs' = {dict(scenario_configs)!r}: {env_id} refuses it: {reason}"
            ) from error


def _nearest(env_id: str, known: list[str]) -> str:
    """The nearest id, or a few of the hundreds there are."""
    hint = suggest(env_id, known)
    return hint if hint.startswith("did") else f"known: {', '.join(known[:: len(known) // 5])}, ..."
