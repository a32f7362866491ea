"""Environments: what they are made of, how they are changed and checked, and adapters, one family each.

The folder ``envs`` of the project is imported as ``malib_lite.envs``.
"""

from malib_lite.contracts.environment import Environment, TimeStep, describe
from malib_lite.envs.check import EnvCheckError, check_env
from malib_lite.envs.group_wrapper import GroupWrapper
from malib_lite.envs.wrappers import Wrapper

__all__ = ["EnvCheckError", "Environment", "GroupWrapper", "TimeStep", "Wrapper", "check_env", "describe"]
