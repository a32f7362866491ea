"""Who learns: agent interfaces and their manager."""

from malib_lite.agent.agent_interface import AgentInterface
from malib_lite.agent.async_agent import AsyncAgent
from malib_lite.agent.independent_agent import IndependentAgent
from malib_lite.agent.manager import TrainingManager
from malib_lite.agent.team_agent import TeamAgent

__all__ = ["AgentInterface", "AsyncAgent", "IndependentAgent", "TeamAgent", "TrainingManager"]
