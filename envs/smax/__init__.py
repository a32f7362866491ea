"""SMAX: StarCraft-like battles in JAX, by the package jaxmarl; no StarCraft II is needed."""

from malib_lite.envs.smax.smax_env import SmaxEnv, env_desc_gen, env_ids
from malib_lite.envs.smax.smax_vector import SmaxVector

PACKAGE = "jaxmarl"  # whose version the survey states

__all__ = ["PACKAGE", "SmaxEnv", "SmaxVector", "env_desc_gen", "env_ids"]
