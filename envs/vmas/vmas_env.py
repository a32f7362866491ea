"""The dictionary form of VMAS, https://github.com/proroklab/VectorizedMultiAgentSimulator: a batch of one world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from malib_lite.contracts.environment import AgentID, Environment, TimeStep, describe
from malib_lite.contracts.vector import VectorEnvironment
from malib_lite.envs.vmas.making import Settings, scenario_names, spaces_of
from malib_lite.envs.vmas.vmas_vector import VmasVector, next_seed


class VmasEnv(Environment):
    """A world of bodies that push each other; all agents act in every step. Agents have VMAS's own names.

    Actions are forces, a Box for each agent, or a choice of few; agents that talk have their words in the same action.
    Actions beyond the bounds are clipped. The world ends for all agents at once: it terminates when the scenario says
    so, and is truncated after ``max_steps`` steps. VMAS has no global state.

    Args:
        env_id: the scenario, one of :func:`env_ids`.
        continuous_actions: Box; false: Discrete.
        multidiscrete_actions: MultiDiscrete, a number for each direction, and for the word; only if not continuous.
        max_steps: the longest episode; None: as long as the scenario lasts, which may be for ever.
        scenario_configs: the scenario's own settings, e.g. ``{"n_agents": 4}``.

    Raises:
        ConfigError: a setting is wrong, or vmas is not installed.
    """

    def __init__(self, **configs: Any) -> None:
        settings = Settings(**configs)
        super().__init__(**{"env_id": settings.env_id, **configs})
        self._world = settings.make(1, settings.max_steps)
        self._observation_spaces, self._action_spaces = spaces_of(self._world)
        self._rng = np.random.default_rng()
        self._drawing = not settings.batched
        self._integers = not settings.continuous_actions

    @property
    def possible_agents(self) -> list[AgentID]:
        """The agents that act by the policies given; scripted ones are part of the world."""
        return list(self._action_spaces)

    @property
    def observation_spaces(self) -> dict[AgentID, spaces.Space]:
        """A Box float32 for each agent, or a Dict of such, as the scenario has it."""
        return dict(self._observation_spaces)

    @property
    def action_spaces(self) -> dict[AgentID, spaces.Space]:
        """A Box float32, Discrete or MultiDiscrete for each agent."""
        return dict(self._action_spaces)

    @classmethod
    def make_vector(cls, seeds: Sequence[int], max_step: int | None, **configs: Any) -> VectorEnvironment | None:
        """All worlds in one batch, where the scenario keeps them apart: row i plays what a single one plays.

        None for MultiDiscrete actions and for observations in several parts.
        """
        settings = Settings(**configs)
        if cls is not VmasEnv or not settings.batched or settings.multidiscrete_actions:
            return None
        limits = [number for number in (max_step, settings.max_steps) if number is not None]
        world = settings.make(len(seeds), min(limits, default=None))
        if not all(isinstance(space, spaces.Box) for space in spaces_of(world)[0].values()):
            return None
        return VmasVector(world, seeds)

    def reset_episode(self, seed: int | None) -> TimeStep:
        """Make the world anew."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        observations = self._world.reset(seed=next_seed(self._rng))
        return TimeStep({agent: _first(value) for agent, value in observations.items()})

    def time_step(self, actions: Mapping[AgentID, Any]) -> TimeStep:
        """Apply all forces at once."""
        if self._drawing:  # all of VMAS draws from one generator, which other environments have used meanwhile
            self._world.seed(next_seed(self._rng))
        dtype = torch.int64 if self._integers else torch.float32
        forces = {agent: torch.as_tensor(actions[agent], dtype=dtype).reshape(1, -1) for agent in self._action_spaces}
        observations, rewards, terminated, truncated, infos = self._world.step(forces)
        over, cut = bool(terminated[0]), bool(truncated[0])
        flags = dict.fromkeys(self._action_spaces, True)
        return TimeStep(
            {agent: _first(value) for agent, value in observations.items()},
            {agent: float(value[0]) for agent, value in rewards.items()},
            flags if over else {},
            flags if cut and not over else {},
            {agent: _first(value) for agent, value in infos.items()},
        )

    def state_dict(self) -> dict[str, Any]:
        """The random generator's state, from which later episodes follow."""
        return {"rng": self._rng.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with a random generator's state that :meth:`state_dict` gave."""
        self._rng.bit_generator.state = state["rng"]


def env_desc_gen(env_id: str = "balance", **config: Any) -> dict[str, Any]:
    """The ``env_description`` of a VMAS scenario; arguments and errors as of :class:`VmasEnv`."""
    return describe(VmasEnv, env_id=env_id, **config)


def env_ids() -> list[str]:
    """All scenarios of VMAS, those of MPE and those for debugging included.

    Raises:
        ConfigError: vmas is not installed.
    """
    return scenario_names()


def _first(value: Any) -> Any:
    """The one world's part of a batch of one: tensors as arrays of their own, dictionaries part by part."""
    if isinstance(value, torch.Tensor):
        return value[0].numpy().copy()
    return {name: _first(part) for name, part in value.items()}
