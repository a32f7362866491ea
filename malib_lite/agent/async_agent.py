"""Asynchronous actor-learners: workers that play and compute gradients, each at its own pace."""

from __future__ import annotations

from malib_lite.agent.independent_agent import IndependentAgent
from malib_lite.agent.sync_config import SyncConfig
from malib_lite.config import ConfigError


class AsyncAgent(IndependentAgent):
    """Learns from each agent's own trajectories through gradient workers that never move in lockstep.

    Each worker has rollout workers of its own, also where there is but one, as an actor-learner of Mnih et al. 2016
    (https://arxiv.org/abs/1602.01783): with A2C and "asp" this is A3C. What is left of the waiting is the sync mode's.
    """

    @classmethod
    def num_gradient_workers(cls, sync: SyncConfig) -> int:
        if sync.lockstep:
            raise ConfigError("'training.sync' = 'bsp': an AsyncAgent is never in lockstep; it takes asp, bap or ssp")
        return sync.learners
