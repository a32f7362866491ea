"""VMAS: two-dimensional physics of many agents in batched PyTorch, by the package vmas."""

from malib_lite.envs.vmas.vmas_env import VmasEnv, env_desc_gen, env_ids
from malib_lite.envs.vmas.vmas_vector import VmasVector

PACKAGE = "vmas"  # whose version the survey states

__all__ = ["PACKAGE", "VmasEnv", "VmasVector", "env_desc_gen", "env_ids"]
