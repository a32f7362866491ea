"""OpenSpiel's games; small ones are compiled: stepped by table look-up, and solved exactly."""

from malib_lite.envs.open_spiel.env import OpenSpielEnv, env_desc_gen
from malib_lite.envs.open_spiel.games import env_ids, survey_ids

PACKAGE = "open_spiel"  # whose version the survey states

__all__ = ["PACKAGE", "OpenSpielEnv", "env_desc_gen", "env_ids", "survey_ids"]
