"""Level-based foraging."""

from malib_lite.envs.lbf.lbf_env import LBFEnv, env_desc_gen, env_ids

__all__ = ["LBFEnv", "env_desc_gen", "env_ids"]
