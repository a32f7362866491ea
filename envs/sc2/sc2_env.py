"""The adapter for SMAC, https://github.com/oxwhirl/smac, and SMACv2, https://github.com/oxwhirl/smacv2."""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from malib_lite.config import ConfigError, suggest
from malib_lite.contracts.environment import AgentID, Environment, TimeStep, describe
from malib_lite.envs.sc2.maps import SMAC, SMACV2, smacv2_configs

# Arguments of SMAC's class that are not the user's, and why.
_OWN = {
    "map_name": "'env_id' says which map it is",
    "seed": "the engine seeds every environment by itself",
    "continuing_episode": "without it nothing would tell a time-out from a defeat",
}


class SC2Env(Environment):
    """A battle of units, one agent each (``ally_0``, ``ally_1``, ...), against the AI of StarCraft II.

    All agents get the same reward, SMAC's. A dead unit sees zeros, may but do nothing (action 0, which is the dead
    unit's alone), and stays in play until the battle is over. A battle that is won, lost or drawn terminates; at its
    time limit, or when the game broke down and was started anew, it is truncated.

    The information of each agent is SMAC's (``battle_won``, ``dead_allies``, ``dead_enemies``) and ``alive``.

    A seed starts the game anew, for it takes one only when it starts. SMACv2 draws teams and places from generators
    that nobody can seed: there only the course of a battle follows from the seed.

    Args:
        env_id: the battle, one of :func:`env_ids`.
        scenario_configs: arguments of SMAC's ``StarCraft2Env``, e.g. ``{"difficulty": "7", "reward_sparse": True}``;
            for SMACv2 also ``capability_config``, which replaces the whole of the battle's.

    Raises:
        ConfigError: a setting is wrong, or SMAC or SMACv2 is not installed; at the first reset: StarCraft II is not.
    """

    def __init__(self, env_id: str = "3m", scenario_configs: Mapping[str, Any] | None = None, **unknown: Any) -> None:
        for key in unknown:
            raise ConfigError(f"unknown key '{key}': " + suggest(key, ["env_id", "scenario_configs"]))
        known = env_ids()
        if env_id not in known:
            raise ConfigError(f"'env_id' = {env_id!r}: there is no such battle, {suggest(str(env_id), known)}")
        if scenario_configs is not None and not isinstance(scenario_configs, Mapping):
            raise ConfigError(f"'scenario_configs' = {scenario_configs!r}: must map names to values")
        configs = dict(scenario_configs or {})
        super().__init__(env_id=env_id, scenario_configs=configs)
        self._creator, keys = _load(env_id)
        for key in configs:
            if key in _OWN:
                raise ConfigError(f"'scenario_configs.{key}' cannot be set: {_OWN[key]}")
            if key not in keys:
                raise ConfigError(f"unknown key 'scenario_configs.{key}': {suggest(str(key), keys - set(_OWN))}")
        self._game = self._make(None)
        self._started = False
        info = self._game.get_env_info()
        self._agents = [f"ally_{i}" for i in range(int(info["n_agents"]))]
        self._sees = spaces.Box(-np.inf, np.inf, (int(info["obs_shape"]),), np.float32)
        self._does = spaces.Discrete(int(info["n_actions"]))
        self._state_space = spaces.Box(-np.inf, np.inf, (int(info["state_shape"]),), np.float32)
        self._state: np.ndarray | None = None

    @property
    def possible_agents(self) -> list[AgentID]:
        """The allies."""
        return list(self._agents)

    @property
    def observation_spaces(self) -> dict[AgentID, spaces.Space]:
        """A Box float32, the same for each agent."""
        return dict.fromkeys(self._agents, self._sees)

    @property
    def action_spaces(self) -> dict[AgentID, spaces.Space]:
        """Discrete: nothing (the dead), stop, four directions, then a target to shoot at or to heal."""
        return dict.fromkeys(self._agents, self._does)

    @property
    def state_space(self) -> spaces.Space:
        """A Box float32: all units, seen or not."""
        return self._state_space

    def state(self) -> np.ndarray | None:
        """The global state; None before the first episode."""
        return self._state

    def reset_episode(self, seed: int | None) -> TimeStep:
        """Begin a battle; the first one, and one with a seed, starts the game.

        Raises:
            ConfigError: StarCraft II is not installed.
        """
        if seed is not None:
            self.close()
            self._game = self._make(seed)
        try:
            self._game.reset()
        except Exception as error:
            if self._started or not (isinstance(error, FileNotFoundError) or type(error).__name__ == "SC2LaunchError"):
                raise
            raise ConfigError(
                f"StarCraft II does not start ({error}): install the game and SMAC's maps, and set SC2PATH to its "
                "folder, see https://github.com/oxwhirl/smac#installing-starcraft-ii"
            ) from error
        self._started = True
        return self._look({})

    def time_step(self, actions: Mapping[AgentID, Any]) -> TimeStep:
        """Give every unit its order. SMAC raises AssertionError where an action is not legal."""
        reward, over, info = self._game.step([int(actions[agent]) for agent in self._agents])
        cut = bool(info.get("episode_limit", False)) or "battle_won" not in info  # no word: the game broke down
        flags = dict.fromkeys(self._agents, True)
        return self._look(info)._replace(
            rewards=dict.fromkeys(self._agents, float(reward)),
            terminated=flags if over and not cut else {},
            truncated=flags if over and cut else {},
        )

    def close(self) -> None:
        """End the game; a second time does nothing."""
        self._game.close()

    def _make(self, seed: int | None) -> Any:
        """SMAC's environment; the game itself starts with its first reset."""
        env_id, configs = self.configs["env_id"], copy.deepcopy(self.configs["scenario_configs"])
        own = smacv2_configs(env_id) if env_id in SMACV2 else {"map_name": env_id}
        return self._creator(**{**own, **configs, "seed": seed, "continuing_episode": True})

    def _look(self, info: Mapping[str, Any]) -> TimeStep:
        """What the agents see and may do now."""
        masks = {
            agent: np.array(self._game.get_avail_agent_actions(i), dtype=bool) for i, agent in enumerate(self._agents)
        }
        self._state = np.array(self._game.get_state(), np.float32)
        return TimeStep(
            {agent: np.array(seen, np.float32) for agent, seen in zip(self._agents, self._game.get_obs(), strict=True)},
            infos={agent: {**info, "alive": not mask[0]} for agent, mask in masks.items()},
            action_masks=masks,
        )


def env_desc_gen(env_id: str = "3m", **config: Any) -> dict[str, Any]:
    """The ``env_description`` of a battle; arguments and errors as of :class:`SC2Env`."""
    return describe(SC2Env, env_id=env_id, **config)


def env_ids() -> list[str]:
    """SMAC's maps, like ``MMM2``, and SMACv2's battles, like ``terran_5_vs_5``."""
    return [*SMAC, *SMACV2]


def _load(env_id: str) -> tuple[Any, set[str]]:
    """The class that plays ``env_id``, and the names of its arguments.

    Raises:
        ConfigError: it is not installed.
    """
    package = "smacv2" if env_id in SMACV2 else "smac"
    try:
        module = importlib.import_module(f"{package}.env")
        game = module.StarCraft2Env
        creator = module.StarCraftCapabilityEnvWrapper if env_id in SMACV2 else game
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"'{env_id}' needs {package} ({error}): pip install git+https://github.com/oxwhirl/{package}.git "
            "(the 'smac' of PyPI is something else), and StarCraft II with SMAC's maps, see "
            "https://github.com/oxwhirl/smac#installing-starcraft-ii"
        ) from error
    return creator, set(inspect.signature(game.__init__).parameters) - {"self"}
