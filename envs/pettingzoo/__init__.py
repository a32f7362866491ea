"""PettingZoo's environments: five domains by name, and any other that a user brings."""

from malib_lite.envs.pettingzoo.adapter import PettingZooAdapter, adapt
from malib_lite.envs.pettingzoo.pettingzoo_env import PettingZooEnv, env_desc_gen, env_ids
from malib_lite.envs.pettingzoo.scenario_configs_ref import SCENARIO_CONFIGS

PACKAGE = "pettingzoo"  # whose version the survey states

__all__ = ["PACKAGE", "SCENARIO_CONFIGS", "PettingZooAdapter", "PettingZooEnv", "adapt", "env_desc_gen", "env_ids"]
