"""Multi-agent MuJoCo: robots whose joints are moved by different agents."""

from malib_lite.envs.mamujoco.mamujoco_env import MaMuJoCoEnv, env_desc_gen, env_ids

PACKAGE = "gymnasium-robotics"  # whose version the survey states

__all__ = ["PACKAGE", "MaMuJoCoEnv", "env_desc_gen", "env_ids"]
