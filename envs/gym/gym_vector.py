"""Vector environments that others registered with gymnasium, held to the engine's vector contract."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array

from malib_lite.contracts.environment import AgentID
from malib_lite.contracts.vector import AgentView, VectorEnvironment
from malib_lite.models.actions import ActionReader, num_choices
from malib_lite.models.preprocessor import Mode, get_preprocessor

_EPISODE_STREAM = int.from_bytes(b"gym", "big")


class GymVector(VectorEnvironment):
    """A ``gymnasium.vector.VectorEnv`` with one agent.

    Every episode is begun by ``reset(seed=[...], options={"reset_mask": mask})``: episode k of row i has a seed made of
    ``seeds[i]`` and k (episode 0: ``seeds[i]`` itself), so that no row's chance depends on the others, nor on what the
    environment does with rows that wait for their reset. Two autoreset modes can be lived with: in DISABLED rows end
    with their final observation, in SAME_STEP they begin anew at once and it is in ``info["final_obs"]``.
    (In NEXT_STEP a row that ended is restarted by the next step, which is no step of any episode.)
    :func:`gymnasium_vector` sees to it beforehand that an environment can do all this.

    Where ``info["action_mask"]`` stands beside Discrete actions, it is the action mask.

    Args:
        venv: the vector environment.
        agent: the agent's name.
        seeds: E integers.
        max_step: episodes are truncated after so many steps, if the environment does not do so before.
    """

    def __init__(self, venv: VectorEnv, agent: AgentID, seeds: Sequence[int], max_step: int | None) -> None:
        self.num_envs = num_envs = venv.num_envs
        self._observations = get_preprocessor(venv.single_observation_space, Mode.STACK)
        self._read_actions = ActionReader(venv.single_action_space)
        self.possible_agents = [agent]
        self.observation_spaces: dict[AgentID, spaces.Space] = {agent: self._observations.observation_space}
        self.action_spaces: dict[AgentID, spaces.Space] = {agent: self._read_actions.array_space}
        self.finished = np.ones(num_envs, bool)
        self._venv = venv
        self._agent = agent
        self._mode = venv.metadata["autoreset_mode"]
        self._seeds = [int(seed) for seed in seeds]
        self._max_step = max_step
        self._episode = np.full(num_envs, -1, np.int64)
        self._steps = np.zeros(num_envs, np.int64)
        self._over = np.zeros(num_envs, bool)  # what the gymnasium environment itself takes for ended
        self._idle = _some_actions(self._read_actions.array_space, num_envs)  # for rows that do not play
        self._num_choices = num_choices(self._read_actions.array_space)
        self._view = AgentView(
            acting=np.zeros(num_envs, bool),
            observation=np.zeros((num_envs, *self._observations.shape), self._observations.observation_space.dtype),
            action_mask=None,
            reward=np.zeros(num_envs, np.float32),
            terminated=np.zeros(num_envs, bool),
            truncated=np.zeros(num_envs, bool),
        )
        self._views = {agent: self._view}
        self._begun = False

    def reset(self, mask: np.ndarray) -> dict[AgentID, AgentView]:
        """Begin new episodes where ``mask`` (E,) bool is set."""
        mask = np.array(mask, bool)  # a copy: it may be ``finished`` itself
        if not mask.any():
            return self._views
        self._episode[mask] += 1
        observation, info = self._restart(mask)
        view = self._view
        view.observation[mask] = observation[mask]
        view.reward[mask] = 0.0
        view.terminated[mask] = view.truncated[mask] = self.finished[mask] = False
        view.acting[mask] = True
        self._steps[mask] = 0
        self._write_masks(info, mask)
        return self._views

    def step(self, actions: Mapping[AgentID, np.ndarray]) -> dict[AgentID, AgentView]:
        """Advance every environment that is not finished by one step.

        Args:
            actions: (E, *action) of the agent's array space.

        Raises:
            RuntimeError: the environment is in SAME_STEP mode, but gives no ``final_obs``.
        """
        playing = ~self.finished
        waiting = self._over & self.finished
        if waiting.any() and self._mode is AutoresetMode.DISABLED:
            self._restart(waiting)  # must not be stepped as it is; nobody will see this episode
        observation, reward, terminated, truncated, info = self._venv.step(self._batch(actions[self._agent], playing))
        terminated, truncated = np.array(terminated, bool), np.array(truncated, bool)
        self._over = terminated | truncated
        observation = self._read(observation)
        if self._mode is AutoresetMode.SAME_STEP and (self._over & playing).any():
            observation = self._with_final_observations(observation, info, self._over & playing)
        self._steps += playing
        if self._max_step is not None:
            truncated |= self._steps >= self._max_step
        view = self._view
        view.observation[playing] = observation[playing]
        view.reward[:] = np.where(playing, np.asarray(reward), 0.0)
        np.logical_and(terminated, playing, out=view.terminated)
        np.logical_and(truncated & ~terminated, playing, out=view.truncated)
        self.finished |= view.terminated
        self.finished |= view.truncated
        np.logical_not(self.finished, out=view.acting)
        self._write_masks(info, np.ones_like(playing))
        return self._views

    def close(self) -> None:
        """Close the gymnasium environment."""
        self._venv.close()

    def state_dict(self) -> dict[str, Any]:
        """The number of each row's episode, on which its chance depends."""
        return {"episode": self._episode.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state that :meth:`state_dict` gave; then all rows wait for a reset."""
        self._episode[:] = state["episode"]
        self.finished[:] = True
        self._view.acting[:] = False

    # -- inside -------------------------------------------------------------------------------------------------

    def _restart(self, mask: np.ndarray) -> tuple[np.ndarray, Mapping[str, Any]]:
        """The environment's own reset of some rows; its first one must be of all."""
        seeds = [_episode_seed(*of_row) for of_row in zip(self._seeds, self._episode.tolist(), strict=True)]
        if self._begun:
            observation, info = self._venv.reset(seed=seeds, options={"reset_mask": mask.copy()})  # type: ignore[arg-type]
            self._over[mask] = False
        else:
            observation, info = self._venv.reset(seed=seeds)  # type: ignore[arg-type]
            self._begun = True
        return self._read(observation), info

    def _read(self, observation: Any) -> np.ndarray:
        """Gymnasium's batch of observations as an array."""
        return self._observations.transform(observation, nested=True)

    def _batch(self, actions: np.ndarray, playing: np.ndarray) -> Any:
        """An array of actions as gymnasium's batch of them, with harmless ones where nobody plays."""
        idle = self._idle
        if self._view.action_mask is not None:
            idle = self._view.action_mask.argmax(axis=1)
        chosen = np.where(playing.reshape(-1, *(1,) * (idle.ndim - 1)), np.asarray(actions), idle)
        values, space = self._read_actions(chosen), self._venv.single_action_space
        if isinstance(space, (spaces.Discrete, spaces.Box)):
            return np.asarray(values, space.dtype)
        empty: Any = create_empty_array(space, self.num_envs)
        return concatenate(space, values, empty)

    def _with_final_observations(
        self, observation: np.ndarray, info: Mapping[str, Any], ended: np.ndarray
    ) -> np.ndarray:
        if "final_obs" not in info:
            raise RuntimeError("a vector environment in SAME_STEP mode must give info['final_obs'] when a row ends")
        observation = observation.copy()
        for i in np.flatnonzero(ended).tolist():
            observation[i] = self._observations.transform(info["final_obs"][i])
        return observation

    def _write_masks(self, info: Mapping[str, Any], rows: np.ndarray) -> None:
        """Take ``info["action_mask"]`` (E, A) where ``info["_action_mask"]`` (E,) says that it was given."""
        if not isinstance(self.action_spaces[self._agent], spaces.Discrete) or "action_mask" not in info:
            return
        if self._view.action_mask is None:
            self._view.action_mask = np.ones((self.num_envs, self._num_choices or 0), bool)
        given = rows & np.asarray(info.get("_action_mask", rows), bool)
        masks = np.asarray(info["action_mask"], bool)
        masks = masks | ~masks.any(axis=1, keepdims=True)  # of ended rows: nobody acts, but a softmax must be finite
        self._view.action_mask[given] = masks[given]


def gymnasium_vector(
    spec: EnvSpec,
    agent: AgentID,
    seeds: Sequence[int],
    max_step: int | None,
    scenario_configs: Mapping[str, Any],
    spaces_of_one: tuple[spaces.Space, spaces.Space],
) -> GymVector | None:
    """The registered vector form of ``spec``; None where there is none or it cannot be held to the contract.

    It must have the observation and action space of the single environment (``spaces_of_one``), take a seed for each
    row, and begin single rows anew with ``reset_mask`` while the others go on. A copy with two rows is put to the test,
    so that forms which ignore what they are asked for are found out. It is made in ``AutoresetMode.DISABLED`` where its
    constructor leaves the choice.
    """
    entry = spec.vector_entry_point
    configs = {**spec.kwargs, **scenario_configs}
    configs.pop("disable_env_checker", None)
    limit = configs.pop("max_episode_steps", None) or spec.max_episode_steps
    if entry is None or spec.additional_wrappers or "render_mode" in configs or limit == -1:
        return None
    if limit is not None:
        configs["max_episode_steps"] = limit
        max_step = limit if max_step is None else min(limit, max_step)
    trial = None
    try:
        creator: Any = load_env_creator(entry) if isinstance(entry, str) else entry
        if "autoreset_mode" in inspect.signature(creator).parameters:
            configs.setdefault("autoreset_mode", AutoresetMode.DISABLED)
        trial = creator(num_envs=2, **configs)
        if not _passes(trial, spaces_of_one):
            return None
        return GymVector(creator(num_envs=len(seeds), **configs), agent, seeds, max_step)
    except Exception as error:  # of somebody else's code: the single environment is there to go on with
        warnings.warn(
            f"the vector form of {spec.id} cannot be used, single environments take its place: "
            f"{type(error).__name__}: {error}",
            stacklevel=2,
        )
        return None
    finally:
        if trial is not None:
            trial.close()


def _passes(venv: VectorEnv, spaces_of_one: tuple[spaces.Space, spaces.Space]) -> bool:
    """Whether two rows can be seeded and begun anew one by one, as far as a few steps can show."""
    if venv.metadata.get("autoreset_mode") not in (AutoresetMode.DISABLED, AutoresetMode.SAME_STEP):
        return False
    if (venv.single_observation_space, venv.single_action_space) != spaces_of_one:
        return False
    read = get_preprocessor(venv.single_observation_space, Mode.STACK).transform

    def reset(seeds: list[int], **options: Any) -> np.ndarray:
        observation, _ = venv.reset(seed=seeds, options=options or None)  # type: ignore[arg-type]
        return read(observation, nested=True).copy()

    try:
        first = reset([1, 2])
        if not np.array_equal(reset([2, 1]), first[::-1]):
            return False
        venv.action_space.seed(0)
        observation, _, terminated, truncated, _ = venv.step(venv.action_space.sample())
        moved = read(observation, nested=True).copy()
        if np.any(terminated) or np.any(truncated):
            return bool(np.array_equal(reset([2, 2], reset_mask=np.array([True, False]))[0], first[1]))
        again = reset([1, 3], reset_mask=np.array([True, False]))
        return bool(np.array_equal(again, np.stack([first[0], moved[1]])))
    except (TypeError, ValueError, gymnasium.error.Error):  # how forms refuse a list of seeds or the mask
        return False


def _episode_seed(seed: int, episode: int) -> int:
    """The seed of a row's episode: a number below 2**31 that depends on nothing else."""
    if episode == 0:
        return seed
    sequence = np.random.SeedSequence(seed, spawn_key=(_EPISODE_STREAM, episode))
    return int(sequence.generate_state(1)[0] >> 1)


def _some_actions(space: spaces.Space, num_envs: int) -> np.ndarray:
    """One legal action for each row, (E, *action): the first choice, or what of a Box is nearest to zero."""
    if isinstance(space, spaces.Box):
        action = np.clip(np.zeros(space.shape), space.low, space.high).astype(space.dtype)
    else:
        action = np.zeros(space.shape or (), space.dtype)
    return np.repeat(action[None], num_envs, axis=0)
