"""Independent learning: every decision of every governed agent is a sample for one shared policy."""

from __future__ import annotations

from collections.abc import Sequence

from malib_lite.agent.agent_interface import AgentInterface
from malib_lite.backend.ring import Slot
from malib_lite.contracts.data import Trajectories
from malib_lite.rollout.recorder import as_trajectories


class IndependentAgent(AgentInterface):
    """Learns from each agent's own trajectories, as if the others were part of the environment."""

    @classmethod
    def multiagent_post_process(cls, slots: Sequence[Slot]) -> Sequence[Trajectories]:
        return [as_trajectories(slot) for slot in slots]
