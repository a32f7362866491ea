"""Centralised training for decentralised execution: one learner sees what a whole team saw and did."""

from __future__ import annotations

from collections.abc import Sequence

from malib_lite.agent.agent_interface import AgentInterface
from malib_lite.backend.ring import Slot
from malib_lite.contracts.joint import JointTrajectories
from malib_lite.rollout.recorder import as_joint_trajectories


class TeamAgent(AgentInterface):
    """Learns from a team's joint trajectories; its agents act each on its own observation, by one shared policy."""

    @classmethod
    def multiagent_post_process(cls, slots: Sequence[Slot]) -> Sequence[JointTrajectories]:
        return [as_joint_trajectories(slot) for slot in slots]
