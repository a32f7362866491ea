"""What only those can do who remember: say at the end what was shown at the beginning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from malib_lite.contracts.environment import Environment, TimeStep


class Cue(Environment):
    """Each agent is shown one of two cues, then ``delay`` times nothing; then it should name the cue, which pays 1.

    Without a memory half of the answers are right. ``uneven``: odd agents, who count from 1, act every second time only
    once the cue has been shown, and at the end.
    """

    def __init__(self, num_agents: int = 1, delay: int = 3, uneven: bool = False, cut: bool = False) -> None:
        super().__init__(num_agents=num_agents, delay=delay, uneven=uneven, cut=cut)
        self.agents = [f"agent_{number}" for number in range(num_agents)]
        self.delay, self.uneven, self.cut = delay, uneven, cut
        self.rng = np.random.default_rng()

    @property
    def possible_agents(self) -> list[str]:
        return self.agents

    @property
    def observation_spaces(self) -> dict[str, spaces.Space]:
        return {agent: spaces.Box(0.0, 1.0, (3,)) for agent in self.agents}

    @property
    def action_spaces(self) -> dict[str, spaces.Space]:
        return {agent: spaces.Discrete(2) for agent in self.agents}

    def reset_episode(self, seed: int | None) -> TimeStep:
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.cues = self.rng.integers(2, size=len(self.agents))
        self.clock = 0
        return TimeStep({agent: np.float32([cue == 0, cue == 1, 0]) for agent, cue in self.paired()})

    def paired(self):
        return zip(self.agents, self.cues, strict=True)

    def time_step(self, actions: Mapping[str, Any]) -> TimeStep:
        self.clock += 1
        if self.clock > self.delay + 1:
            over = dict.fromkeys(self.agents, True)
            rewards = {agent: float(actions[agent] == cue) for agent, cue in self.paired()}
            last = {agent: np.zeros(3, np.float32) for agent in self.agents}
            return TimeStep(last, rewards, **({"truncated": over} if self.cut else {"terminated": over}))
        asked = self.clock == self.delay + 1
        acting = [
            agent for number, agent in enumerate(self.agents) if asked or not (self.uneven and number * self.clock % 2)
        ]
        return TimeStep({agent: np.float32([0, 0, asked]) for agent in acting})
