"""The vector form of SMAX: E battles in one compiled step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from malib_lite.contracts.environment import AgentID
from malib_lite.contracts.vector import AgentView, VectorEnvironment
from malib_lite.envs.smax.simulator import Outcome, Simulator, row_key


class SmaxVector(VectorEnvironment):
    """E battles of one scenario. All agents act in every step, the dead ones too, until the battle is over.

    Args:
        simulator: the scenario.
        seeds: E integers; row i draws its chance from ``seeds[i]`` and the number of its episode.
        limit: battles are truncated after so many steps.
    """

    def __init__(self, simulator: Simulator, seeds: Sequence[int], limit: int) -> None:
        self.num_envs = num_envs = len(seeds)
        self.possible_agents = list(simulator.agents)
        self.observation_spaces, self.action_spaces = spaces_of(simulator)
        self.finished = np.ones(num_envs, bool)
        self._simulator = simulator
        self._limit = limit
        self._keys = np.stack([row_key(seed) for seed in seeds])  # (E, 2)
        self._episodes = np.full(num_envs, -1, np.int32)
        self._steps = np.zeros(num_envs, np.int64)
        self._battles = simulator.blank(num_envs)
        num_agents = len(self.possible_agents)
        self._observation = np.zeros((num_agents, num_envs, simulator.observation_size), np.float32)
        self._masks = [np.ones((size, num_envs, actions), bool) for size, actions in simulator.teams]
        self._reward = np.zeros((num_agents, num_envs), np.float32)
        self._acting, self._terminated, self._truncated = np.zeros((3, num_envs), bool)  # the same for all agents
        masks = [mask for team in self._masks for mask in team]
        self._views = {
            agent: AgentView(
                self._acting, self._observation[n], masks[n], self._reward[n], self._terminated, self._truncated
            )
            for n, agent in enumerate(self.possible_agents)
        }

    def reset(self, mask: np.ndarray) -> dict[AgentID, AgentView]:
        """Begin new battles where ``mask`` (E,) bool is set."""
        mask = np.array(mask, dtype=bool)  # a copy: it may be ``finished`` itself
        self._episodes += mask
        self._battles, outcome = self._simulator.reset(self._battles, self._keys, self._episodes, mask)
        self._write(outcome, mask)
        self._steps[mask] = 0
        self._reward[:, mask] = 0.0
        self._terminated[mask] = self._truncated[mask] = self.finished[mask] = False
        self._acting[mask] = True
        return self._views

    def step(self, actions: Mapping[AgentID, np.ndarray]) -> dict[AgentID, AgentView]:
        """Advance every battle that is not finished; ``actions`` are (E,) int for each agent.

        Raises:
            ValueError: an agent's actions are missing, or have another shape or kind.
        """
        playing = ~self.finished
        orders = np.zeros((self.num_envs, len(self.possible_agents)), np.int32)
        for n, agent in enumerate(self.possible_agents):
            column = np.asarray(actions[agent]) if agent in actions else None
            if column is None or column.shape != (self.num_envs,) or column.dtype.kind not in "iu":
                given = "none" if column is None else f"{column.dtype} {column.shape}"
                raise ValueError(f"the actions of {agent!r} must be integers ({self.num_envs},), not {given}")
            orders[:, n] = column
        self._battles, outcome = self._simulator.step(self._battles, self._keys, self._episodes, orders, playing)
        self._write(outcome, playing)
        np.multiply(outcome.reward, playing, out=self._reward)
        self._steps += playing
        over = ~np.asarray(outcome.standing).all(0)
        np.logical_and(over, playing, out=self._terminated)
        np.logical_and(~over & (self._steps >= self._limit), playing, out=self._truncated)
        self.finished |= self._terminated | self._truncated
        np.logical_not(self.finished, out=self._acting)
        return self._views

    def state_dict(self) -> dict[str, Any]:
        """The number of each row's episode; with the seeds it gives all later ones."""
        return {"keys": self._keys.copy(), "episodes": self._episodes.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state that :meth:`state_dict` gave; then all rows wait for a reset."""
        self._keys, self._episodes = state["keys"].copy(), state["episodes"].copy()
        self.finished[:] = True
        self._acting[:] = False

    def _write(self, outcome: Outcome, rows: np.ndarray) -> None:
        """Copy what the battles of ``rows`` (E,) bool show."""
        np.copyto(self._observation, outcome.observation, where=rows[:, None])
        for mask, legal in zip(self._masks, outcome.masks, strict=True):
            np.copyto(mask, legal, where=rows[:, None])


def spaces_of(simulator: Simulator) -> tuple[dict[AgentID, spaces.Space], dict[AgentID, spaces.Space]]:
    """The observation and action spaces of all agents.

    Observations are mostly within -1 and 1, as JaxMARL says, but a unit pushed over the edge of the map sees more.
    """
    sees = spaces.Box(-np.inf, np.inf, (simulator.observation_size,), np.float32)
    does = [spaces.Discrete(actions) for size, actions in simulator.teams for _ in range(size)]
    return dict.fromkeys(simulator.agents, sees), dict(zip(simulator.agents, does, strict=True))
