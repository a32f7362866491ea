"""Any PettingZoo environment, https://pettingzoo.farama.org, made by whomever, behind the environment contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv

from malib_lite.config import ConfigError
from malib_lite.contracts.environment import AgentID, Environment, TimeStep
from malib_lite.envs.pettingzoo.drivers import AECDriver, ObservationReader, ParallelDriver

# Keeps the stream of the episodes' seeds apart from the environment's own, which is seeded with the same number.
_EPISODES = int.from_bytes(b"episodes", "big")


class PettingZooAdapter(Environment):
    """A PettingZoo environment as it comes: parallel, or one agent after another (AEC).

    Action masks, be they in observations or in infos, become a field of the step. Agents may leave before the
    others or join later; each one's last observation is delivered. In an AEC environment every step is the decision
    of one agent, and rewards, those of ``last()``, are paid in the step that earns them, whoever's turn it is.

    PettingZoo leaves open whether ``reset`` without a seed goes on in a random stream or starts anew from
    the system's entropy, and both are common. So every episode gets a seed here: the first is the seed given to
    ``reset_episode``, the later ones come from a generator that is seeded with it.

    Args:
        env: the environment; all its randomness must follow from the seed of its ``reset``, as PettingZoo's rules say.
        configs: what :attr:`configs` shows.

    Raises:
        ConfigError: this is no PettingZoo environment, or it does not say which agents there can be.
    """

    def __init__(self, env: ParallelEnv | AECEnv, **configs: Any) -> None:
        if not isinstance(env, (ParallelEnv, AECEnv)):
            raise ConfigError(f"{env!r} is neither a ParallelEnv nor an AECEnv of PettingZoo")
        super().__init__(**configs)
        agents = getattr(env, "possible_agents", None)
        if not agents:
            raise ConfigError(f"{env} does not name its 'possible_agents', so nobody can prepare policies for them")
        for agent in agents:
            if not isinstance(agent, str):
                raise ConfigError(f"{env} has an agent {agent!r}: agent ids must be strings")
        self._env = env
        self._agents = list(agents)
        self._action_spaces = {agent: env.action_space(agent) for agent in agents}
        reader = ObservationReader({agent: env.observation_space(agent) for agent in agents})
        self._observation_spaces = reader.spaces
        self._driver = ParallelDriver(env, reader) if isinstance(env, ParallelEnv) else AECDriver(env, reader)
        self._state_space = _state_space(env)
        self._seeds = np.random.default_rng()
        self._closed = False

    @property
    def parallel_simulate(self) -> bool:
        """Whether all agents act at once (ParallelEnv); otherwise one after another (AECEnv)."""
        return isinstance(self._driver, ParallelDriver)

    @property
    def possible_agents(self) -> list[AgentID]:
        """PettingZoo's ``possible_agents``."""
        return self._agents

    @property
    def observation_spaces(self) -> dict[AgentID, spaces.Space]:
        """PettingZoo's observation spaces without action masks."""
        return self._observation_spaces

    @property
    def action_spaces(self) -> dict[AgentID, spaces.Space]:
        """PettingZoo's action spaces, as they are."""
        return self._action_spaces

    @property
    def state_space(self) -> spaces.Space | None:
        """PettingZoo's ``state_space``, or a Box of the state's shape; None for an environment without a state."""
        return self._state_space

    def state(self) -> Any:
        """PettingZoo's ``state()``; None for an environment without one.

        Some cannot tell it once everybody is over, for lack of bodies to look at: then it is all zeros.
        """
        if self._state_space is None:
            return None
        try:
            return self._env.state()
        except (AttributeError, IndexError, TypeError, ValueError):
            if not self._driver.over:
                raise
            return np.zeros(self._state_space.shape or (), self._state_space.dtype)

    def reset_episode(self, seed: int | None) -> TimeStep:
        """PettingZoo's reset, always with a seed."""
        if seed is None:
            seed = int(self._seeds.integers(2**31))
        else:
            self._seeds = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_EPISODES,)))
        return self._driver.reset(seed)

    def time_step(self, actions: Mapping[AgentID, Any]) -> TimeStep:
        """PettingZoo's step, up to the next decision.

        Raises:
            RuntimeError: the environment breaks PettingZoo's rules; the message says how.
        """
        return self._driver.step(actions)

    def env_done_check(self, step: TimeStep) -> bool:
        """Whether no agent is left to act."""
        return self._driver.over

    def render(self, *args: Any, **kwargs: Any) -> Any:
        """What PettingZoo's ``render_mode`` gives: an array for "rgb_array", None for "human".

        Raises:
            ConfigError: the environment was made without a render_mode.
        """
        if getattr(self._env, "render_mode", None) is None:
            modes = ", ".join(repr(mode) for mode in self._env.metadata.get("render_modes", ())) or "none, it cannot"
            raise ConfigError(f"'scenario_configs.render_mode' is not set; {self._env} offers {modes}")
        return self._env.render()

    def close(self) -> None:
        """Close the PettingZoo environment; a second time does nothing."""
        if not self._closed:
            self._closed = True
            self._env.close()

    def state_dict(self) -> dict[str, Any]:
        """The state of the generator that seeds the episodes, from which all later ones follow."""
        return {"seeds": self._seeds.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with a generator's state that :meth:`state_dict` gave."""
        self._seeds.bit_generator.state = state["seeds"]


def adapt(env: ParallelEnv | AECEnv) -> Environment:
    """The environment contract over a PettingZoo environment that a user made; see :class:`PettingZooAdapter`."""
    return PettingZooAdapter(env)


def _state_space(env: ParallelEnv | AECEnv) -> spaces.Space | None:
    """The space of ``env.state()``: as declared, or found out by looking at a state; None where there is none."""
    declared = getattr(env, "state_space", None)
    if isinstance(declared, spaces.Space):
        return declared
    if type(env.unwrapped).state in (ParallelEnv.state, AECEnv.state):
        return None
    env.reset(seed=0)  # many have no state before it; every episode is seeded anew, so none is spoilt
    try:
        state = np.asarray(env.state())
    except (NotImplementedError, TypeError):
        return None
    return spaces.Box(-np.inf, np.inf, state.shape, state.dtype.type)
