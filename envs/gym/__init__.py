"""Every environment of gymnasium's registry, and every object of gymnasium's kind, as an environment with one agent."""

from malib_lite.envs.gym.adapter import AGENT, GymAdapter, adapt
from malib_lite.envs.gym.cartpole import CartPoleVector
from malib_lite.envs.gym.gym_env import GymEnv, env_desc_gen, env_ids
from malib_lite.envs.gym.gym_vector import GymVector

PACKAGE = "gymnasium"  # whose version the survey states

__all__ = [
    "PACKAGE",
    "AGENT",
    "CartPoleVector",
    "GymAdapter",
    "GymEnv",
    "GymVector",
    "adapt",
    "env_desc_gen",
    "env_ids",
]
