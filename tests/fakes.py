"""Tiny environments whose every number is known beforehand. Import them as ``from fakes import CountingEnv``.

Processes that make one of them import this module: nothing heavy may be imported here.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from malib_lite.contracts.environment import Environment, TimeStep

AGENT = "agent"


def finish(task):
    """Run a task that never has to wait, and return what it returns."""
    while True:
        try:
            next(task)
        except StopIteration as stop:
            return stop.value


def seeds(num_envs: int, root: int) -> range:
    """Seeds of ``num_envs`` environments that no other ``root`` gives."""
    return range(1000 * root, 1000 * root + num_envs)


class SingleAgentEnv(Environment):
    """One agent that sees a number in a Box of shape (1,) float32 and has two actions."""

    @property
    def possible_agents(self) -> list[str]:
        return [AGENT]

    @property
    def observation_spaces(self) -> dict[str, spaces.Space]:
        return {AGENT: spaces.Box(0.0, np.inf, (1,), np.float32)}

    @property
    def action_spaces(self) -> dict[str, spaces.Space]:
        return {AGENT: spaces.Discrete(2)}

    @staticmethod
    def see(number: float) -> dict[str, np.ndarray]:
        return {AGENT: np.array([number], np.float32)}


class CountingEnv(SingleAgentEnv):
    """Observation t after t steps; step t (from 1) earns t; terminates after ``length`` steps."""

    def __init__(self, length: int = 5) -> None:
        super().__init__(length=length)
        self.length = length
        self.count = 0

    def reset_episode(self, seed: int | None) -> TimeStep:
        self.count = 0
        return TimeStep(self.see(0))

    def time_step(self, actions: Mapping[str, Any]) -> TimeStep:
        self.count += 1
        return TimeStep(self.see(self.count), {AGENT: float(self.count)}, {AGENT: self.count >= self.length})


class LoopEnv(SingleAgentEnv):
    """One state, observed as 1; every step earns 1; only a time limit ends it. Its value is 1 / (1 - discount)."""

    def reset_episode(self, seed: int | None) -> TimeStep:
        return TimeStep(self.see(1))

    def time_step(self, actions: Mapping[str, Any]) -> TimeStep:
        return TimeStep(self.see(1), {AGENT: 1.0})


class CrashingEnv(CountingEnv):
    """A CountingEnv that raises ValueError("boom") in step ``at`` (from 1) of episode ``episode`` (from 0)."""

    def __init__(self, at: int = 3, episode: int = 0, length: int = 5) -> None:
        super().__init__(length=length)
        self.configs = {"at": at, "episode": episode, "length": length}
        self.at = at
        self.crash_episode = episode
        self.num_episodes = 0

    def reset_episode(self, seed: int | None) -> TimeStep:
        self.num_episodes += 1
        return super().reset_episode(seed)

    def time_step(self, actions: Mapping[str, Any]) -> TimeStep:
        if self.num_episodes == self.crash_episode + 1 and self.count + 1 == self.at:
            raise ValueError("boom")
        return super().time_step(actions)


class DyingEnv(CountingEnv):
    """Kills its process, or hangs, when the file ``once`` can be removed: at step ``at``, 0 for the reset."""

    def __init__(self, once: str, at: int = 2, hang: bool = False) -> None:
        super().__init__(length=4)
        self.configs = {"once": once, "at": at, "hang": hang}
        self.once, self.at, self.hang = once, at, hang

    def die(self):
        try:
            os.remove(self.once)
        except FileNotFoundError:
            return
        if self.hang:
            time.sleep(1000)
        os.kill(os.getpid(), signal.SIGSEGV)

    def reset_episode(self, seed):
        if self.at == 0:
            self.die()
        return super().reset_episode(seed)

    def time_step(self, actions) -> TimeStep:
        if self.count + 1 == self.at:
            self.die()
        return super().time_step(actions)


class UnevenEnv(DyingEnv):
    """Its episodes are of different lengths."""

    def reset_episode(self, seed):
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.length = int(self.rng.integers(2, 9))
        return super().reset_episode(seed)


class SlowEnv(CountingEnv):
    """A CountingEnv whose steps take ``delay_s`` seconds."""

    def __init__(self, delay_s: float = 0.01, length: int = 5) -> None:
        super().__init__(length=length)
        self.configs = {"delay_s": delay_s, "length": length}
        self.delay_s = delay_s

    def time_step(self, actions: Mapping[str, Any]) -> TimeStep:
        time.sleep(self.delay_s)
        return super().time_step(actions)


class MaskedEnv(CountingEnv):
    """A CountingEnv with three actions, of which action ``count % 3`` is not legal.

    The first mask comes with observation ``first_mask``; with observation ``empty_at`` nothing is legal, which no
    environment may say. An illegal action raises ValueError.
    """

    def __init__(self, length: int = 5, first_mask: int = 0, empty_at: int | None = None) -> None:
        super().__init__(length=length)
        self.configs = {"length": length, "first_mask": first_mask, "empty_at": empty_at}
        self.first_mask = first_mask
        self.empty_at = empty_at

    @property
    def action_spaces(self) -> dict[str, spaces.Space]:
        return {AGENT: spaces.Discrete(3)}

    def masks(self) -> dict[str, np.ndarray]:
        if self.count < self.first_mask:
            return {}
        mask = np.arange(3) != self.count % 3
        return {AGENT: mask & (self.count != self.empty_at)}

    def reset_episode(self, seed: int | None) -> TimeStep:
        return super().reset_episode(seed)._replace(action_masks=self.masks())

    def time_step(self, actions: Mapping[str, Any]) -> TimeStep:
        if not self.masks().get(AGENT, np.ones(3, bool))[actions[AGENT]]:
            raise ValueError(f"action {actions[AGENT]} is illegal at count {self.count}")
        return super().time_step(actions)._replace(action_masks=self.masks())


class TurnEnv(Environment):
    """Two agents strictly in turn, ``player_0`` first, ``length`` moves in all.

    Before move k (from 0) its player sees [k, the other's last action], 0 where there was none. Action a of move k
    earns ``k + 10 a``, *paid when the other has moved* (move k + 1); the last step pays its own move too, and a final
    +100 to ``player_0`` and -100 to ``player_1``. Nothing is paid twice: :meth:`decisions` says what each agent's own
    trajectory must be. Both players see a final observation.
    """

    def __init__(self, length: int = 5) -> None:
        super().__init__(length=length)
        self.length = length
        self.played: list[int] = []

    @property
    def possible_agents(self) -> list[str]:
        return ["player_0", "player_1"]

    @property
    def observation_spaces(self) -> dict[str, spaces.Space]:
        return {agent: spaces.Box(0.0, np.inf, (2,), np.float32) for agent in self.possible_agents}

    @property
    def action_spaces(self) -> dict[str, spaces.Space]:
        return {agent: spaces.Discrete(3) for agent in self.possible_agents}

    @staticmethod
    def decisions(played: Sequence[int]) -> dict[str, list[tuple[list[float], int, float]]]:
        """Each agent's own (observation, action, reward) rows of an episode in which ``played`` were the actions."""
        rows: dict[str, list[tuple[list[float], int, float]]] = {"player_0": [], "player_1": []}
        for k, action in enumerate(played):
            seen = [float(k), float(played[k - 1]) if k else 0.0]
            rows[f"player_{k % 2}"].append((seen, action, k + 10.0 * action))
        for agent, final in (("player_0", 100.0), ("player_1", -100.0)):
            if rows[agent]:
                seen, action, reward = rows[agent][-1]
                rows[agent][-1] = (seen, action, reward + final)
        return rows

    def see(self, agent: int) -> np.ndarray:
        others = [action for k, action in enumerate(self.played) if k % 2 != agent]
        return np.array([len(self.played), others[-1] if others else 0], np.float32)

    def reset_episode(self, seed: int | None) -> TimeStep:
        self.played = []
        return TimeStep({"player_0": self.see(0)})

    def time_step(self, actions: Mapping[str, Any]) -> TimeStep:
        mover = len(self.played) % 2
        (action,) = (actions[agent] for agent in [f"player_{mover}"])
        self.played.append(int(action))
        k = len(self.played) - 1
        rewards = {"player_0": 0.0, "player_1": 0.0}
        if k > 0:
            rewards[f"player_{1 - mover}"] += (k - 1) + 10.0 * self.played[k - 1]
        if len(self.played) < self.length:
            return TimeStep({f"player_{1 - mover}": self.see(1 - mover)}, rewards)
        rewards[f"player_{mover}"] += k + 10.0 * action
        rewards["player_0"] += 100.0
        rewards["player_1"] -= 100.0
        over = dict.fromkeys(self.possible_agents, True)
        return TimeStep({"player_0": self.see(0), "player_1": self.see(1)}, rewards, over)
