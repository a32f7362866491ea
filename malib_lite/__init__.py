"""Population-based multi-agent reinforcement learning on one machine."""

__version__ = "0.1.0"
