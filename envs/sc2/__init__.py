"""SMAC and SMACv2: battles of StarCraft II, one agent for each unit. They need the game itself."""

from malib_lite.envs.sc2.sc2_env import SC2Env, env_desc_gen, env_ids

__all__ = ["SC2Env", "env_desc_gen", "env_ids"]
