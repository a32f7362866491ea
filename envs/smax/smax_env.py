"""The dictionary form of SMAX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from malib_lite.contracts.environment import AgentID, Environment, TimeStep, describe
from malib_lite.contracts.vector import VectorEnvironment
from malib_lite.envs.smax.simulator import SCENARIOS, Outcome, row_key, simulator
from malib_lite.envs.smax.smax_vector import SmaxVector, spaces_of


class SmaxEnv(Environment):
    """A battle of units, one agent each: ``ally_0``, ``ally_1``, ... against an enemy built in, or ``enemy_0``, ...

    Every agent sees the units within its sight and itself, and may move in four directions (0 to 3), stop (4), or shoot
    at the unit of the other team that it names (5 and up), where that is alive and in range. All agents of a team get
    the same reward: the health that the other team lost, as a fraction of all it had, and ``won_battle_bonus`` for a
    victory. A dead unit sees zeros, may only stop, and stays in play until the battle is over, for its team's rewards
    are its own. The battle terminates with the last unit of a team and is truncated after ``max_steps`` steps.

    The information of each agent is ``alive`` and ``battle_won``: whether its team has won.

    Args:
        env_id: the scenario, one of :func:`env_ids`.
        self_play: both teams act, with the zero-sum reward of a victory (+1) or defeat (-1) alone, unless
            ``scenario_configs`` sets ``use_self_play_reward`` to false. Otherwise JaxMARL's heuristic plays the enemy.
        scenario_configs: scalar arguments of JaxMARL's class, e.g. ``max_steps``, ``see_enemy_actions``,
            ``walls_cause_death``, ``observation_type``, ``attack_mode``.

    Raises:
        ConfigError: a setting is wrong, or jaxmarl is not installed.
    """

    def __init__(
        self,
        env_id: str = "3m",
        self_play: bool = False,
        scenario_configs: Mapping[str, Any] | None = None,
        **unknown: Any,
    ) -> None:
        self._simulator, self._limit = simulator(env_id, self_play, scenario_configs, **unknown)
        super().__init__(env_id=env_id, self_play=self_play, scenario_configs=dict(scenario_configs or {}))
        self._observation_spaces, self._action_spaces = spaces_of(self._simulator)
        self._key = row_key(None)[None]  # (1, 2)
        self._episode = np.array([-1], np.int32)
        self._battle: Any = None
        self._steps = 0
        self._world_state: np.ndarray | None = None

    @property
    def possible_agents(self) -> list[AgentID]:
        """The allies, then with self-play the enemies."""
        return list(self._simulator.agents)

    @property
    def observation_spaces(self) -> dict[AgentID, spaces.Space]:
        """A Box (D,) float32 for each agent, all of one size."""
        return dict(self._observation_spaces)

    @property
    def action_spaces(self) -> dict[AgentID, spaces.Space]:
        """Discrete: five and the number of the other team's units."""
        return dict(self._action_spaces)

    @property
    def state_space(self) -> spaces.Space:
        """A Box (S,) float32: health, position, cooldown and type of every unit, then teams and types once more."""
        return spaces.Box(-np.inf, np.inf, (self._simulator.state_size,), np.float32)

    def state(self) -> np.ndarray | None:
        """The global state; None before the first episode."""
        return self._world_state

    @classmethod
    def make_vector(cls, seeds: Sequence[int], max_step: int | None, **configs: Any) -> VectorEnvironment | None:
        """All rows in one compiled computation. Row i plays the episodes of a single environment of ``seeds[i]``."""
        if cls is not SmaxEnv:
            return None
        battles, limit = simulator(**configs)
        return SmaxVector(battles, seeds, limit if max_step is None else min(limit, max_step))

    def reset_episode(self, seed: int | None) -> TimeStep:
        """Place the units anew."""
        if seed is not None:
            self._key, self._episode = row_key(seed)[None], np.array([-1], np.int32)
        if self._battle is None:
            self._battle = self._simulator.blank(1)
        self._episode = self._episode + np.int32(1)
        self._steps = 0
        self._battle, outcome = self._simulator.reset(self._battle, self._key, self._episode, np.ones(1, bool))
        return self._time_step(outcome)

    def time_step(self, actions: Mapping[AgentID, Any]) -> TimeStep:
        """Let every unit act at once, the dead ones included."""
        orders = np.array([[actions[agent] for agent in self._simulator.agents]], np.int32)
        self._steps += 1
        self._battle, outcome = self._simulator.step(self._battle, self._key, self._episode, orders, np.ones(1, bool))
        step = self._time_step(outcome)
        rewards = np.asarray(outcome.reward)[:, 0].tolist()
        allies, enemies = np.asarray(outcome.standing)[:, 0].tolist()
        over = not (allies and enemies)
        flags = dict.fromkeys(self._simulator.agents, True)
        return step._replace(
            rewards=dict(zip(self._simulator.agents, rewards, strict=True)),
            terminated=flags if over else {},
            truncated=flags if not over and self._steps >= self._limit else {},
        )

    def state_dict(self) -> dict[str, Any]:
        """The key of the random stream and the number of the episode, from which later episodes follow."""
        return {"key": self._key.copy(), "episode": self._episode.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` stood."""
        self._key, self._episode = state["key"].copy(), state["episode"].copy()

    def _time_step(self, outcome: Outcome) -> TimeStep:
        """What the one battle shows, as copies: JAX's arrays are read-only."""
        agents, num_allies = self._simulator.agents, self._simulator.num_allies
        observation, alive = np.array(outcome.observation)[:, 0], np.asarray(outcome.alive)[:, 0].tolist()
        allies, enemies = np.asarray(outcome.standing)[:, 0].tolist()
        won = [allies and not enemies, enemies and not allies]
        masks = [mask for team in outcome.masks for mask in np.array(team)[:, 0]]
        self._world_state = np.array(outcome.world_state)[0]
        return TimeStep(
            dict(zip(agents, observation, strict=True)),
            infos={agent: {"alive": alive[n], "battle_won": won[n >= num_allies]} for n, agent in enumerate(agents)},
            action_masks=dict(zip(agents, masks, strict=True)),
        )


def env_desc_gen(env_id: str = "3m", **config: Any) -> dict[str, Any]:
    """The ``env_description`` of a SMAX scenario; arguments and errors as of :class:`SmaxEnv`."""
    return describe(SmaxEnv, env_id=env_id, **config)


def env_ids() -> list[str]:
    """The scenarios of SMAX: eleven maps of SMAC, three of SMACv2 with units and places drawn anew each time."""
    return list(SCENARIOS)
