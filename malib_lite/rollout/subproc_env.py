"""Environments in processes of their own: for simulators that are slow, or that may crash, hang or leak."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import utils

from malib_lite.backend.ring import Slot, SlotLayout
from malib_lite.contracts.data import Field
from malib_lite.contracts.environment import AgentID
from malib_lite.contracts.vector import AgentView, VectorEnvironment
from malib_lite.models.actions import array_action_space, num_choices
from malib_lite.models.preprocessor import array_space
from malib_lite.rollout.vector_env import EnvironmentFault, vectorise
from malib_lite.runtime.helper import AnonymousMemory, Helper, HelperDied, HelperError

_START_TIMEOUT_S = 120.0  # imports on a busy machine take their time, and some simulators load a world
_FLAGS = ("acting", "reward", "terminated", "truncated")


class SubprocVectorEnv(VectorEnvironment):
    """E environments spread over helper processes, which step them in lockstep and write into shared memory.

    The same episodes as in one process, to the bit, since every environment has the stream of its number. When a
    helper dies or hangs, the episodes it was playing are truncated with the last observations that are known, and
    another helper takes its place with new random streams.
    """

    def __init__(
        self,
        env_description: Mapping[str, Any],
        num_envs: int,
        seed: int,
        max_step: int | None = None,
        first_env_index: int = 0,
        num_processes: int = 1,
        restarts: int = 0,
        timeout_s: float = 300.0,
        with_state: bool = False,
    ) -> None:
        """
        Args:
            env_description: with agents and spaces, as ``describe`` makes it.
            num_envs, seed, max_step, first_env_index, with_state: see :func:`~malib_lite.rollout.vector_env.vectorise`.
            num_processes: helpers; no more than there are environments.
            restarts: how many helpers may be replaced, all in all.
            timeout_s: a helper that takes longer for one step is killed and replaced.

        Raises:
            EnvironmentFault: an environment cannot be made.
        """
        self.num_envs = num_envs
        self.possible_agents = list(env_description["possible_agents"])
        self.observation_spaces = {
            a: array_space(env_description["observation_spaces"][a]) for a in self.possible_agents
        }
        self.action_spaces = {a: array_action_space(env_description["action_spaces"][a]) for a in self.possible_agents}
        self.num_crashes = 0
        self._description = {"creator": env_description["creator"], "config": env_description["config"]}
        self._seed = seed
        self._max_step = max_step
        self._first_env_index = first_env_index
        self._restarts_left = restarts
        self._timeout_s = timeout_s
        self._lives = 0  # helpers that have been started in the place of others
        self._with_state = with_state
        state_space = env_description.get("state_space") if with_state else None
        self._layout = _layout(self, num_envs, None if state_space is None else utils.flatdim(state_space))
        self._shared = AnonymousMemory(self._layout.num_bytes)
        arrays = Slot(self._shared.memory, 0, self._layout).arrays
        self.finished = arrays["finished"]
        self.finished[:] = True
        self.state = arrays.get("state")
        self._reset_mask = arrays["reset"]
        self._lost = np.zeros(num_envs, bool)  # episodes that died with their process
        self._masked = arrays["masked"]
        self._actions = {agent: arrays[f"{agent}/action"] for agent in self.possible_agents}
        self._masks = {agent: arrays.get(f"{agent}/action_mask") for agent in self.possible_agents}
        self._views = {
            agent: AgentView(
                observation=arrays[f"{agent}/observation"],
                action_mask=None,
                **{name: arrays[f"{agent}/{name}"] for name in _FLAGS},
            )
            for agent in self.possible_agents
        }
        bounds = np.linspace(0, num_envs, min(num_processes, num_envs) + 1).astype(int).tolist()
        self._slices = list(itertools.pairwise(bounds))
        self._helpers: list[Helper] = []
        try:
            for number in range(len(self._slices)):
                self._helpers.append(self._start(number))
            self._wait_for_start(range(len(self._helpers)))
        except BaseException:
            self.close()
            raise

    def reset(self, mask: np.ndarray) -> dict[AgentID, AgentView]:
        """Begin new episodes where ``mask`` (E,) bool is set.

        Raises:
            EnvironmentFault: an environment raised an exception, or more helpers have died than may be replaced.
        """
        self._reset_mask[:] = mask
        asked = [number for number, (first, end) in enumerate(self._slices) if self._reset_mask[first:end].any()]
        while asked:
            running = ~self.finished & ~self._reset_mask
            self._ask("reset", asked)
            asked = self._wait(asked, self._timeout_s)  # who takes over from a dead one begins what that was to begin
            for number in asked:
                rows = slice(*self._slices[number])
                self._lost[rows] |= running[rows]
        self._lost &= ~self._reset_mask
        self.finished &= ~self._lost  # that they are over is told by the next step, which says how
        return self._see()

    def step(self, actions: Mapping[AgentID, np.ndarray]) -> dict[AgentID, AgentView]:
        """Advance every environment that is not finished by one step.

        Raises:
            ValueError: the actions of an acting agent are missing, or have another shape or kind.
            EnvironmentFault: an environment raised an exception, or more helpers have died than may be replaced.
        """
        for agent, view in self._views.items():
            if agent in actions:
                if np.shape(actions[agent]) != self._actions[agent].shape:
                    shapes = f"{np.shape(actions[agent])}, not {self._actions[agent].shape}"
                    raise ValueError(f"the actions of {agent!r} have shape {shapes}")
                try:
                    np.copyto(self._actions[agent], actions[agent], casting="same_kind")
                except TypeError as error:
                    raise ValueError(f"the actions of {agent!r}: {error}") from None
            elif (view.acting & ~self.finished).any():
                raise ValueError(f"no actions for {agent!r}, which is to act")
        everybody = range(len(self._helpers))
        running = ~self.finished
        self.finished |= self._lost  # their processes know nothing of them
        self._ask("step", everybody)
        for number in self._wait(everybody, self._timeout_s):
            rows = slice(*self._slices[number])
            self._lost[rows] = running[rows]
        if self._lost.any():
            self._cut(self._lost)
            self._lost[:] = False
        return self._see()

    def close(self) -> None:
        """End the helpers."""
        for helper in self._helpers:
            helper.dismiss()  # all at once: some simulators take their time
        for helper in self._helpers:
            helper.close()
        self._helpers = []
        self._shared.close()

    def state_dict(self) -> dict[str, Any]:
        """Which streams come next: a resumed run goes on in new ones, the same whenever it resumes from here."""
        return {"lives": self._lives}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state that :meth:`state_dict` gave; then all environments wait for a reset."""
        self._lives = int(state["lives"])
        self.finished[:] = True
        for number, helper in enumerate(self._helpers):
            helper.close()
            self._lives += 1
            self._helpers[number] = self._start(number)
        self._wait_for_start(range(len(self._helpers)))

    # -- inside -------------------------------------------------------------------------------------------------

    def _start(self, number: int) -> Helper:
        first, end = self._slices[number]
        arguments = {
            "layout": self._layout,
            "rows": (first, end),
            "vectorise_arguments": {
                "env_description": self._description,
                "num_envs": end - first,
                "seed": np.random.SeedSequence([self._seed, self._lives]) if self._lives else self._seed,
                "max_step": self._max_step,
                "first_env_index": self._first_env_index + first,
                "with_state": self._with_state,
            },
        }
        return Helper(f"environment process {number}", _Server, arguments, self._shared)

    def _ask(self, method: str, numbers: Sequence[int]) -> None:
        for number in numbers:
            self._helpers[number].ask(method)

    def _wait(self, numbers: Sequence[int], timeout_s: float) -> list[int]:
        """Wait for the answers of helpers; returns those that had died, which others have replaced."""
        replaced = []
        for number in numbers:
            try:
                self._helpers[number].answer(timeout_s)
            except HelperError as error:
                raise EnvironmentFault(str(error)) from None
            except HelperDied as death:
                if self._restarts_left == 0:
                    raise EnvironmentFault(f"{death}; no restarts are left (rollout.env_restarts)") from None
                self._restarts_left -= 1
                self.num_crashes += 1
                print(f"{death}; started again, {self._restarts_left} restarts left", file=sys.stderr)
                self._lives += 1
                self._helpers[number] = self._start(number)
                replaced.append(number)
        self._wait_for_start(replaced)
        return replaced

    def _wait_for_start(self, numbers: Sequence[int]) -> None:
        """Wait until helpers have made their environments. One that dies over that would do so again."""
        for number in numbers:
            try:
                self._helpers[number].answer(_START_TIMEOUT_S)
            except (HelperDied, HelperError) as error:
                raise EnvironmentFault(f"{error}\n(while its environments were being made)") from None

    def _cut(self, lost: np.ndarray) -> None:
        """Truncate episodes (E,) bool that were running when their process died."""
        for view in self._views.values():
            view.acting[lost] = view.terminated[lost] = False
            view.reward[lost] = 0.0
            view.truncated[lost] = True
        self.finished[lost] = True

    def _see(self) -> dict[AgentID, AgentView]:
        for column, (agent, view) in enumerate(self._views.items()):
            view.action_mask = self._masks[agent] if self._masked[:, column].any() else None
        return self._views


class _Server:
    """What a helper does: steps its share of the environments and copies what they say into its rows."""

    def __init__(
        self, memory: Any, layout: SlotLayout, rows: tuple[int, int], vectorise_arguments: Mapping[str, Any]
    ) -> None:
        self._venv = vectorise(**vectorise_arguments)
        here = slice(*rows)
        self._arrays = {name: array[here] for name, array in Slot(memory, 0, layout).arrays.items()}

    def reset(self) -> None:
        begun = self._arrays["reset"].copy()
        self._venv.finished |= self._arrays["finished"]  # the caller may have parked some
        self._tell(self._venv.reset(begun), begun)

    def step(self) -> None:
        self._venv.finished |= self._arrays["finished"]
        stepped = ~self._venv.finished
        self._tell(self._venv.step({a: self._arrays[f"{a}/action"] for a in self._venv.possible_agents}), stepped)

    def close(self) -> None:
        self._venv.close()

    def _tell(self, views: Mapping[AgentID, AgentView], rows: np.ndarray) -> None:
        """Copy the views; observations only of ``rows`` (n,) bool, for others may still be last words of the dead."""
        arrays = self._arrays
        for column, (agent, view) in enumerate(views.items()):
            for name in _FLAGS:
                np.copyto(arrays[f"{agent}/{name}"], getattr(view, name))
            arrays[f"{agent}/observation"][rows] = view.observation[rows]
            arrays["masked"][:, column] = view.action_mask is not None
            if view.action_mask is not None:
                arrays[f"{agent}/action_mask"][rows] = view.action_mask[rows]
            elif f"{agent}/action_mask" in arrays:
                arrays[f"{agent}/action_mask"][...] = True
        if self._venv.state is not None:
            arrays["state"][rows] = self._venv.state[rows]
        np.copyto(arrays["finished"], self._venv.finished)


def _layout(venv: VectorEnvironment, num_envs: int, state_size: int | None) -> SlotLayout:
    """The shared arrays: one row per environment."""
    flag = Field((num_envs,), np.dtype(bool))
    agents = venv.possible_agents
    fields = {"finished": flag, "reset": flag, "masked": Field((num_envs, len(agents)), np.dtype(bool))}
    if state_size is not None:
        fields["state"] = Field((num_envs, state_size), np.dtype(np.float32))
    for agent in agents:
        observation_space, action_space = venv.observation_spaces[agent], venv.action_spaces[agent]
        fields[f"{agent}/acting"] = fields[f"{agent}/terminated"] = fields[f"{agent}/truncated"] = flag
        fields[f"{agent}/reward"] = Field((num_envs,), np.dtype(np.float32))
        for name, space in (("observation", observation_space), ("action", action_space)):
            fields[f"{agent}/{name}"] = Field((num_envs, *(space.shape or ())), np.dtype(space.dtype))
        choices = num_choices(action_space)
        if choices is not None:
            fields[f"{agent}/action_mask"] = Field((num_envs, choices), np.dtype(bool))
    return SlotLayout(fields)
