"""OpenSpiel's games; small ones are compiled: stepped by table look-up, and solved exactly."""

from malib_lite.envs.open_spiel.env import OpenSpielEnv, env_desc_gen
from malib_lite.envs.open_spiel.games import env_ids, survey_ids

__all__ = ["OpenSpielEnv", "env_desc_gen", "env_ids", "survey_ids"]
