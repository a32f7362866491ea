"""Small Markov decision processes with known values: to check that an algorithm learns what it should."""

from malib_lite.envs.mdp.exact import action_values, optimal_values, policy_values
from malib_lite.envs.mdp.mdp_env import AGENT, MDPEnvironment, env_desc_gen, env_ids
from malib_lite.envs.mdp.scenarios import SCENARIOS
from malib_lite.envs.mdp.spec import MDPSpec, MDPTables, load_spec

__all__ = [
    "AGENT",
    "SCENARIOS",
    "MDPEnvironment",
    "MDPSpec",
    "MDPTables",
    "action_values",
    "env_desc_gen",
    "env_ids",
    "load_spec",
    "optimal_values",
    "policy_values",
]
