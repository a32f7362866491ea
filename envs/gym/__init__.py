"""Every environment of gymnasium's registry, as an environment with one agent."""

from malib_lite.envs.gym.gym_env import AGENT, GymEnv, env_desc_gen, env_ids
from malib_lite.envs.gym.gym_vector import GymVector, ResettableCartPole

__all__ = ["AGENT", "GymEnv", "GymVector", "ResettableCartPole", "env_desc_gen", "env_ids"]
