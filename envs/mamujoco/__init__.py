"""Multi-agent MuJoCo: robots whose joints are moved by different agents."""

from malib_lite.envs.mamujoco.mamujoco_env import MaMuJoCoEnv, env_desc_gen, env_ids

__all__ = ["MaMuJoCoEnv", "env_desc_gen", "env_ids"]
