"""What may be wrong with a step of an environment, in sentences."""

from __future__ import annotations

import copy
import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from malib_lite.contracts.environment import AgentID, TimeStep
from malib_lite.models.actions import array_action_space, leaves_a_choice, num_choices

Report = Callable[[str, str], None]  # takes the kind of a violation, of which only the first is told, and the sentence


class StepRules:
    """Judges one step after another of an environment's episodes.

    Args:
        observation_spaces, action_spaces: of all possible agents.
        report: called for every violation.
    """

    def __init__(
        self,
        observation_spaces: Mapping[AgentID, spaces.Space],
        action_spaces: Mapping[AgentID, spaces.Space],
        report: Report,
    ) -> None:
        self._observation_spaces = observation_spaces
        self._array_action_spaces = {agent: array_action_space(space) for agent, space in action_spaces.items()}
        self._report = report
        self._ended: set[AgentID] = set()
        self._returned: list[tuple[str, AgentID, Any, Any]] = []  # of the last step: its values and copies of them

    def judge(self, step: Any, is_first: bool, over: Callable[[TimeStep], bool]) -> dict[AgentID, np.ndarray | None]:
        """The agents that are to act, with masks that can be used; none where it makes no sense to go on.

        Args:
            step: what ``reset_episode`` or ``time_step`` returned.
            is_first: whether it was ``reset_episode``.
            over: the environment's ``env_done_check``.
        """
        name = "reset_episode" if is_first else "time_step"
        if is_first:
            self._ended, self._returned = set(), []
        if not self._is_step(step, name):
            return {}
        self._judge_changes()
        self._judge_rewards(step, is_first)
        ending = self._judge_flags(step, is_first)
        for agent, observation in step.observations.items():
            if agent in self._observation_spaces:
                self._judge_observation(agent, observation)
        self._ended |= ending
        is_over = not is_first and over(step)
        acting = [agent for agent in step.observations if agent in self._observation_spaces.keys() - self._ended]
        masks = {agent: self._judge_mask(agent, step, agent in acting) for agent in step.action_masks}
        for agent in ending - step.observations.keys():
            self._report(
                f"final {agent}",
                f"agent {agent!r} ends, but is not in 'observations': on its last step it holds its final observation",
            )
        fields = {"observation": step.observations, "action mask": step.action_masks}
        self._returned = [
            (what, agent, value, copy.deepcopy(value))
            for what, field in fields.items()
            for agent, value in field.items()
        ]
        if is_over:
            return {}
        if not acting:
            self._report("nobody", "no agent is observed, so none can act, but the episode is not over")
        return {agent: masks.get(agent) for agent in acting}

    def _is_step(self, step: Any, name: str) -> bool:
        """Whether it has the types and names that all else builds upon."""
        if not isinstance(step, TimeStep):
            self._report("type", f"'{name}' returned a {type(step).__name__}, not a TimeStep")
            return False
        for field, values in step._asdict().items():
            if not isinstance(values, Mapping):
                self._report("type", f"'{name}' returned {field} that are a {type(values).__name__}, not a dictionary")
                return False
            for agent in values:
                if agent not in self._observation_spaces:
                    hint = "; an episode is over when every agent is flagged" if agent == "__all__" else ""
                    self._report(f"agent {field} {agent}", f"{field} name {agent!r}, no possible agent{hint}")
        return True

    def _judge_changes(self) -> None:
        for what, agent, value, before in self._returned:
            if not same(value, before):
                self._report(
                    f"changed {what}",
                    f"the {what} of {agent!r} was changed after it had been returned: return a new array every time",
                )

    def _judge_rewards(self, step: TimeStep, is_first: bool) -> None:
        for agent, reward in step.rewards.items():
            if not isinstance(reward, numbers.Real):
                what = f"an array of shape {reward.shape}" if isinstance(reward, np.ndarray) else repr(reward)
                self._report(f"reward {agent}", f"the reward of {agent!r} is {what}, not a number")
            elif not math.isfinite(reward):
                self._report(f"reward {agent}", f"the reward of {agent!r} is {reward}")
            elif is_first and reward != 0:
                self._report(
                    "reward first", "'reset_episode' returned rewards; nothing is earned before the first step"
                )

    def _judge_flags(self, step: TimeStep, is_first: bool) -> set[AgentID]:
        """The agents whose part ends in this step."""
        ending: set[AgentID] = set()
        for field, flags in (("terminated", step.terminated), ("truncated", step.truncated)):
            for agent, flag in flags.items():
                if not isinstance(flag, (bool, np.bool_)):
                    self._report(f"flag {agent}", f"{field} of {agent!r} is {flag!r}, not a bool")
                elif flag and is_first:
                    self._report("flag first", f"'reset_episode' returned {agent!r} as {field}")
                elif flag and agent not in self._ended:
                    ending.add(agent)
                    if step.terminated.get(agent, False) and step.truncated.get(agent, False):
                        self._report(
                            "flag both",
                            f"{agent!r} is terminated and truncated in one step: an end by the rules is terminated, "
                            "one by a time limit truncated",
                        )
        return ending & self._observation_spaces.keys()

    def _judge_observation(self, agent: AgentID, observation: Any) -> None:
        if agent in self._ended:
            self._report(f"ended {agent}", f"agent {agent!r} is observed again, though its part in the episode is over")
        problem = explain(self._observation_spaces[agent], observation)
        if problem is not None:
            self._report(f"observation {agent}", f"the observation of {agent!r} {problem}")

    def _judge_mask(self, agent: AgentID, step: TimeStep, acts: bool) -> np.ndarray | None:
        """The mask, if it can be used."""
        if agent not in self._array_action_spaces:
            return None
        mask, space = step.action_masks[agent], self._array_action_spaces[agent]
        size, kind = num_choices(space), f"mask {agent}"
        if agent not in step.observations:
            self._report(kind, f"there is an action mask for {agent!r}, which is not observed")
        elif size is None:
            self._report(kind, f"there is an action mask for {agent!r}, whose actions are not discrete: {space}")
        elif not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            what = f"dtype {mask.dtype}" if isinstance(mask, np.ndarray) else type(mask).__name__
            self._report(kind, f"the action mask of {agent!r} is no array of bool, but {what}")
        elif mask.shape != (size,):
            self._report(kind, f"the action mask of {agent!r} has shape {mask.shape}; its actions make it ({size},)")
        elif acts and not leaves_a_choice(space, mask):
            self._report(
                kind,
                f"the action mask of {agent!r} allows nothing; who is not to act stays out of 'observations'",
            )
        else:
            return mask
        return None


def explain(space: spaces.Space, value: Any) -> str | None:
    """Why ``value`` is not in ``space``, as the end of a sentence; None where it is."""
    if isinstance(space, spaces.Box):
        return _explain_box(space, value)
    if isinstance(space, spaces.Dict):
        wrong_type = None if isinstance(value, Mapping) else f"is a {type(value).__name__}, the space is {space}"
        return wrong_type or _explain_parts(space.spaces, value)
    if isinstance(space, spaces.Tuple):
        wrong_type = None if isinstance(value, tuple) else f"is a {type(value).__name__}, the space is {space}"
        return wrong_type or _explain_parts(dict(enumerate(space.spaces)), dict(enumerate(value)))
    return None if space.contains(value) else f"is {value!r}, which is not in {space}"


def _explain_parts(parts: Mapping[Any, spaces.Space], values: Mapping[Any, Any]) -> str | None:
    if parts.keys() != values.keys():
        return f"has the parts {list(values)}, the space has {list(parts)}"
    problems = ((name, explain(part, values[name])) for name, part in parts.items())
    return next((f"has a part {name!r} that {problem}" for name, problem in problems if problem), None)


def _explain_box(space: spaces.Box, value: Any) -> str | None:
    if not isinstance(value, (np.ndarray, np.generic)):
        return f"is a {type(value).__name__}, not an array of {space.dtype}"
    array = np.asarray(value)
    if array.shape != space.shape:
        return f"has shape {array.shape}, the space {space.shape}"
    if not np.can_cast(array.dtype, space.dtype):
        return f"has dtype {array.dtype}, the space {space.dtype}"
    if np.isnan(array).any():
        return "holds NaN"
    outside = np.argwhere((array < space.low) | (array > space.high))
    if len(outside):
        at = tuple(outside[0].tolist())
        return f"holds {array[at]} at index {at}, where the space goes from {space.low[at]} to {space.high[at]}"
    return None


def same(a: Any, b: Any) -> bool:
    """Whether two nested structures of dictionaries, sequences, arrays and numbers are equal; NaN equals NaN."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, (np.ndarray, np.generic, float)) or isinstance(b, (np.ndarray, np.generic, float)):
        a, b = np.asarray(a), np.asarray(b)
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
    return bool(a == b)
