"""The adapter for OpenSpiel, https://github.com/google-deepmind/open_spiel: agents "player_0", "player_1", ..."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyspiel
from gymnasium import spaces

from malib_lite.config import ConfigError, suggest
from malib_lite.contracts.environment import AgentID, Environment, TimeStep, describe
from malib_lite.contracts.exact import ExactGame
from malib_lite.contracts.vector import VectorEnvironment
from malib_lite.envs.open_spiel.compiled import CompiledVector
from malib_lite.envs.open_spiel.exact import SequenceFormGame
from malib_lite.envs.open_spiel.game_tree import BUDGET, compiled_game, drawn_game, expand_game
from malib_lite.envs.open_spiel.games import (
    action_space,
    agents_of,
    draws_in_secret,
    next_choices,
    observation_space,
    reseeded,
)
from malib_lite.envs.open_spiel.observers import make_observer


class OpenSpielEnv(Environment):
    """A game of OpenSpiel, turn-based or simultaneous.

    Observations are flat float32 arrays of shape (n,), see :class:`~malib_lite.envs.open_spiel.observers.Observer`. In
    the end every agent is terminated and sees its final observation. Agents that move at once act in the same step.

    Args:
        env_id: a game's name (:func:`env_ids`), with parameters if need be: ``"leduc_poker(players=3)"``,
            ``"misere(game=tic_tac_toe())"``.
        compiled: whether many copies are stepped by table look-up, which needs a small game; None: if it is small.
        observation: ``"information_state"``, which remembers everything, or ``"observation"``, the present view; None:
            the information state where the game gives it as a tensor, else what it does give.

    Raises:
        ConfigError: there is no such game, it cannot be played or seen so, or not be compiled though it must be.
    """

    exact_for = f"games of at most {BUDGET:,} histories in which every player remembers all it has seen and done"

    def __init__(
        self,
        env_id: str = "kuhn_poker",
        compiled: bool | None = None,
        observation: str | None = None,
        **unknown: Any,
    ) -> None:
        _settings(env_id, compiled, observation, **unknown)
        super().__init__(env_id=env_id, compiled=compiled, observation=observation)
        self._env_id = env_id
        self._game = drawn_game(env_id, observation)
        self._observer = make_observer(self._game, env_id, observation)
        if compiled:
            compiled_game(env_id, observation)
        length = self._observer.length
        self._agents = agents_of(self._game)
        self._player_of = {agent: player for player, agent in enumerate(self._agents)}
        self._observation_spaces: dict[AgentID, spaces.Space] = {
            agent: observation_space(length) for agent in self._agents
        }
        self._action_spaces: dict[AgentID, spaces.Space] = {
            agent: action_space(self._game.num_distinct_actions()) for agent in self._agents
        }
        self._num_actions = self._game.num_distinct_actions()
        self._blank = np.zeros(length, np.float32)
        self._turn_based = self._game.get_type().dynamics == pyspiel.GameType.Dynamics.SEQUENTIAL
        self._pays_on_the_way = self._game.get_type().reward_model == pyspiel.GameType.RewardModel.REWARDS
        self._draws_in_secret = draws_in_secret(self._game)
        self._sees_the_end = True  # until the game refuses to describe a terminal state
        self._generator: np.random.Generator | None = None
        self._state: pyspiel.State | None = None
        self._legal: dict[AgentID, list[int]] = {}  # of the agents to act

    @property
    def possible_agents(self) -> list[AgentID]:
        """One agent per player, in OpenSpiel's order."""
        return self._agents

    @property
    def observation_spaces(self) -> dict[AgentID, spaces.Space]:
        """Box, float32, flat; the same for all agents."""
        return self._observation_spaces

    @property
    def action_spaces(self) -> dict[AgentID, spaces.Space]:
        """Discrete; the same for all agents."""
        return self._action_spaces

    @classmethod
    def make_vector(cls, seeds: Sequence[int], max_step: int | None, **configs: Any) -> VectorEnvironment | None:
        """The compiled game where its tree is small enough and ``compiled`` does not forbid it."""
        env_id, compiled, observation = _settings(**configs)
        if compiled is False or cls is not OpenSpielEnv:  # a subclass may have changed the rules
            return None
        tree = compiled_game(env_id, observation) if compiled else expand_game(env_id, observation)
        return None if tree is None else CompiledVector(tree, seeds, max_step)

    @classmethod
    def make_exact(cls, **configs: Any) -> ExactGame | None:
        """Exact values where the tree is small enough and the players forget nothing; ``compiled`` has no say."""
        if cls is not OpenSpielEnv:
            return None
        env_id, _, observation = _settings(**configs)
        tree = expand_game(env_id, observation)
        return None if tree is None else SequenceFormGame.build(tree)

    def reset_episode(self, seed: int | None) -> TimeStep:
        """Deal anew. Chance draws from the environment's own stream, and so does what a game draws in secret."""
        if seed is not None or self._generator is None:
            self._generator = np.random.default_rng(seed)
        if self._draws_in_secret:
            self._game = reseeded(self._game, self._env_id, int(self._generator.integers(2**31)))
        self._state = self._game.new_initial_state()
        self._resolve_chance()
        if self._state.is_terminal():
            raise RuntimeError(f"{self._game}: chance ended the episode before anybody could act")
        return self._time_step(rewards=dict.fromkeys(self._agents, 0.0), time_is_up=False)

    def time_step(self, actions: Mapping[AgentID, Any]) -> TimeStep:
        """Move, and let chance move until somebody is to act again.

        Raises:
            ValueError: an agent that is to act has no action or an illegal one.
        """
        state = self._begun()
        if not self._turn_based and state.is_simultaneous_node():
            # OpenSpiel wants an entry for those who have nothing to choose, too.
            chosen = {agent: self._legal_action(agent, actions) for agent in self._legal}
            state.apply_actions([chosen.get(agent, 0) for agent in self._agents])
        else:
            (agent,) = self._legal
            state.apply_action(self._legal_action(agent, actions))
        self._resolve_chance()
        # Rewards stand at the decision after the move: at chance nodes between, games show them early or not at all.
        if self._pays_on_the_way:
            earned = state.rewards()
        else:
            earned = state.returns() if state.is_terminal() else itertools.repeat(0.0)
        rewards = dict(zip(self._agents, earned, strict=False))
        return self._time_step(rewards, time_is_up=self.max_step is not None and self.cnt + 1 >= self.max_step)

    def state_dict(self) -> dict[str, Any] | None:
        """Where the random stream stands, between episodes; None before the first one."""
        return None if self._generator is None else {"generator": self._generator.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where :meth:`state_dict` stood, with a new episode."""
        self._generator = np.random.default_rng()
        self._generator.bit_generator.state = state["generator"]
        self._state, self.finished = None, True

    def render(self, *args: Any, **kwargs: Any) -> str:
        """The state as OpenSpiel writes it, with everything hidden in it."""
        return str(self._begun())

    # -- inside -------------------------------------------------------------------------------------------------

    def _begun(self) -> pyspiel.State:
        if self._state is None:
            raise RuntimeError(f"{self._game}: no episode has begun")
        return self._state

    def _resolve_chance(self) -> None:
        state, generator = self._state, self._generator
        assert state is not None and generator is not None
        while state.is_chance_node():
            outcomes = state.chance_outcomes()
            cumulative = list(itertools.accumulate(probability for _, probability in outcomes))
            drawn = bisect_right(cumulative, generator.random() * cumulative[-1])
            state.apply_action(outcomes[min(drawn, len(outcomes) - 1)][0])

    def _time_step(self, rewards: Mapping[AgentID, float], time_is_up: bool) -> TimeStep:
        state = self._begun()
        ended = state.is_terminal()
        self._legal = {} if ended else self._legal_actions(state)
        seeing = self._agents if ended or time_is_up else list(self._legal)
        return TimeStep(
            observations={agent: self._observe(agent, ended) for agent in seeing},
            rewards=rewards,
            terminated=dict.fromkeys(self._agents, ended),
            truncated=dict.fromkeys(self._agents, False),
            action_masks={agent: self._mask(agent, time_is_up) for agent in seeing},
        )

    def _legal_actions(self, state: pyspiel.State) -> dict[AgentID, list[int]]:
        """Legal actions of the agents that are to act now."""
        if self._turn_based or not state.is_simultaneous_node():
            return {self._agents[state.current_player()]: state.legal_actions()}
        legal = {agent: state.legal_actions(player) for player, agent in enumerate(self._agents)}
        return {agent: actions for agent, actions in legal.items() if actions}

    def _legal_action(self, agent: AgentID, actions: Mapping[AgentID, Any]) -> int:
        legal = self._legal[agent]
        if agent not in actions:
            raise ValueError(f"{self._game}: {agent} is to act and has no action; legal are {legal}")
        # Arrays of one element are welcome, 0.7 is not taken for 0.
        action = np.asarray(actions[agent])
        if action.size != 1 or action.dtype.kind not in "iu" or action.item() not in legal:
            raise ValueError(f"{self._game}: illegal action {actions[agent]!r} of {agent}; legal are {legal}")
        return action.item()

    def _observe(self, agent: AgentID, ended: bool) -> np.ndarray:
        if ended and not self._sees_the_end:
            return self._blank.copy()
        try:
            return self._observer(self._begun(), self._player_of[agent])
        except pyspiel.SpielError:
            if not ended:
                raise
            self._sees_the_end = False  # not asked again: OpenSpiel prints every refusal
            return self._blank.copy()

    def _mask(self, agent: AgentID, time_is_up: bool) -> np.ndarray:
        """Legal actions, (A,) bool; all True for an agent that has none to choose, so that no softmax is empty.

        When an episode is cut short, an agent that is not to act is shown what it may do when it is next to act: its
        value then is a value over these.
        """
        legal = self._legal.get(agent)
        state = self._begun()
        if legal is None and time_is_up and not state.is_terminal():
            legal = next_choices(state, self._player_of[agent])
        if not legal:
            return np.ones(self._num_actions, bool)
        mask = np.zeros(self._num_actions, bool)
        mask[legal] = True
        return mask


def env_desc_gen(env_id: str = "kuhn_poker", **config: Any) -> dict[str, Any]:
    """The ``env_description`` of a game; arguments and errors as of :class:`OpenSpielEnv`."""
    return describe(OpenSpielEnv, env_id=env_id, **config)


def _settings(
    env_id: str = "kuhn_poker", compiled: bool | None = None, observation: str | None = None, **unknown: Any
) -> tuple[str, bool | None, str | None]:
    """The environment's configuration, checked as far as that goes without the game."""
    for key in unknown:
        raise ConfigError(f"unknown key '{key}': " + suggest(key, ["env_id", "compiled", "observation"]))
    if compiled is not None and not isinstance(compiled, bool):
        raise ConfigError(f"'compiled' = {compiled!r}: must be True, False or None")
    return env_id, compiled, observation
