"""Google Research Football: matches and drills, with agents on one side or on both."""

from malib_lite.envs.gr_football.football_env import FootballConfig, GRFootballEnv, env_desc_gen, env_ids
from malib_lite.envs.gr_football.scenarios import SCENARIOS

PACKAGE = "gfootball"  # whose version the survey states

__all__ = ["PACKAGE", "SCENARIOS", "FootballConfig", "GRFootballEnv", "env_desc_gen", "env_ids"]
