"""Level-based foraging."""

from malib_lite.envs.lbf.lbf_env import LBFEnv, env_desc_gen, env_ids

PACKAGE = "lbforaging"  # whose version the survey states

__all__ = ["PACKAGE", "LBFEnv", "env_desc_gen", "env_ids"]
