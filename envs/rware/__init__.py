"""RWARE, the robotic warehouse."""

from malib_lite.envs.rware.rware_env import RWAREEnv, env_desc_gen, env_ids

__all__ = ["RWAREEnv", "env_desc_gen", "env_ids"]
