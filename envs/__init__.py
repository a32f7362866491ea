"""Environments: what they are made of, how they are changed and checked, and adapters, one family each.

The folder ``envs`` of the project is imported as ``malib_lite.envs``.
"""

from malib_lite.contracts.environment import Environment, TimeStep, describe
from malib_lite.envs.check import EnvCheckError, check_env
from malib_lite.envs.group_wrapper import GroupWrapper, together
from malib_lite.envs.single_choice import SingleChoice
from malib_lite.envs.wrappers import Wrapper

__all__ = [
    "EnvCheckError",
    "Environment",
    "GroupWrapper",
    "SingleChoice",
    "TimeStep",
    "Wrapper",
    "check_env",
    "describe",
    "together",
]
