"""The environment of Markov decision processes: one agent, called "agent", that sees the state it is in."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from malib_lite.config import ConfigError, suggest
from malib_lite.contracts.environment import AgentID, Environment, TimeStep, describe
from malib_lite.envs.mdp.scenarios import SCENARIOS
from malib_lite.envs.mdp.spec import MDPSpec, load_spec

AGENT = "agent"
_DEFAULT = "one_round_dmdp"


class MDPEnvironment(Environment):
    """An MDP whose state is observed as its number; the end is a state too, seen in the final observation.

    Args:
        env_id: one of :func:`env_ids`, or the path of a YAML file (``.yaml`` or ``.yml``) with a specification.
        spec: a specification given here and now, instead of ``env_id``.

    Raises:
        ConfigError: there is no such MDP, or its specification is wrong.
    """

    def __init__(
        self, env_id: str | None = None, spec: MDPSpec | Mapping[str, Any] | None = None, **unknown: Any
    ) -> None:
        for key in unknown:
            raise ConfigError(f"unknown key '{key}': " + suggest(key, ["env_id", "spec"]))
        if env_id is not None and spec is not None:
            raise ConfigError("'env_id' and 'spec' name two MDPs: give one of them")
        if spec is None:
            env_id = _DEFAULT if env_id is None else env_id
            super().__init__(env_id=env_id)
            self.spec = _find(env_id)
        else:
            super().__init__(spec=spec)
            self.spec = load_spec(spec)
        tables = self.spec.tables
        self._rng = np.random.default_rng()
        self._state = 0
        self._over = tables.absorbing.tolist()
        # Plain lists: a draw by bisection costs a tenth of numpy's choice().
        self._start = _cumulate(tables.start)
        self._next = _cumulate(tables.transition)
        self._reward = _cumulate(tables.reward_probs)
        self._reward_values = tables.reward_values.tolist()
        same_actions = tables.legal[~tables.absorbing].all()
        self._masks = None if same_actions else np.where(tables.absorbing[:, None], True, tables.legal)

    @property
    def possible_agents(self) -> list[AgentID]:
        """The one agent."""
        return [AGENT]

    @property
    def observation_spaces(self) -> dict[AgentID, spaces.Space]:
        """Discrete(S): the number of the state, in the order of the specification."""
        return {AGENT: spaces.Discrete(len(self.spec.tables.states))}

    @property
    def action_spaces(self) -> dict[AgentID, spaces.Space]:
        """Discrete(A): the number of the action, in the order in which the specification names them."""
        return {AGENT: spaces.Discrete(len(self.spec.tables.actions))}

    def reset_episode(self, seed: int | None) -> TimeStep:
        """Draw the first state."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._state = bisect_right(self._start, self._rng.random())
        return TimeStep({AGENT: self._state}, action_masks=self._mask())

    def time_step(self, actions: Mapping[AgentID, Any]) -> TimeStep:
        """Draw a reward and a next state, independently.

        Raises:
            ValueError: the state does not have this action.
        """
        state, action = self._state, int(actions[AGENT])
        tables = self.spec.tables
        if not (0 <= action < len(tables.actions) and tables.legal[state, action]):
            raise ValueError(f"action {action} is not legal in state '{tables.states[state]}'")
        chance_reward, chance_next = self._rng.random(2)  # always both: the stream does not depend on the play
        reward = self._reward_values[state][action][bisect_right(self._reward[state][action], chance_reward)]
        self._state = bisect_right(self._next[state][action], chance_next)
        return TimeStep(
            {AGENT: self._state},
            {AGENT: reward},
            {AGENT: self._over[self._state]},
            infos={AGENT: {"state": tables.states[self._state]}},
            action_masks=self._mask(),
        )

    def state_dict(self) -> dict[str, Any]:
        """The random generator's state, from which later episodes follow."""
        return {"rng": self._rng.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with a random generator's state that :meth:`state_dict` gave."""
        self._rng.bit_generator.state = state["rng"]

    def _mask(self) -> dict[AgentID, np.ndarray]:
        return {} if self._masks is None else {AGENT: self._masks[self._state]}


def env_desc_gen(env_id: str | None = None, **config: Any) -> dict[str, Any]:
    """The ``env_description`` of an MDP; arguments and errors as of :class:`MDPEnvironment`."""
    return describe(MDPEnvironment, **({} if env_id is None else {"env_id": env_id}), **config)


def env_ids() -> list[str]:
    """The ids of the MDPs that need no specification."""
    return sorted(SCENARIOS)


def _find(env_id: str) -> MDPSpec:
    """The MDP called ``env_id``, or written in the YAML file of that name."""
    if not isinstance(env_id, str):
        raise ConfigError(f"'env_id' = {env_id!r}: must be the name of an MDP or the path of a YAML file")
    if env_id.endswith((".yaml", ".yml")):
        return load_spec(env_id)
    if env_id not in SCENARIOS:
        raise ConfigError(f"'env_id' = {env_id!r}: there is no such MDP, {suggest(env_id, SCENARIOS)}")
    return load_spec(SCENARIOS[env_id])


def _cumulate(probs: np.ndarray) -> Any:
    """Cumulative sums over the last axis as nested lists, from the last possible outcome on exactly one."""
    sums = np.cumsum(probs, axis=-1)
    return np.divide(sums, sums[..., -1:], out=np.ones_like(sums), where=sums[..., -1:] > 0.0).tolist()
