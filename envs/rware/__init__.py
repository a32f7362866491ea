"""RWARE, the robotic warehouse."""

from malib_lite.envs.rware.rware_env import RWAREEnv, env_desc_gen, env_ids

PACKAGE = "rware"  # whose version the survey states

__all__ = ["PACKAGE", "RWAREEnv", "env_desc_gen", "env_ids"]
