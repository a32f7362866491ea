"""MAgent2: battles, hunts and gatherings of many agents on a grid."""

from malib_lite.envs.magent2.magent2_env import MAgent2Env, env_desc_gen, env_ids

PACKAGE = "magent2"  # whose version the survey states

__all__ = ["PACKAGE", "MAgent2Env", "env_desc_gen", "env_ids"]
