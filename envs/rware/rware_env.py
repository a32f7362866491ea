"""RWARE: robots in a warehouse fetch the shelves that are asked for and bring them back.

The package is rware, https://github.com/semitable/robotic-warehouse; the task is described in Papoudakis et al. 2021,
https://arxiv.org/abs/2006.07869.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from malib_lite.config import ConfigError, suggest
from malib_lite.contracts.environment import describe
from malib_lite.envs.tuple_env import TupleEnv

_DEFAULT = "rware-tiny-2ag-v2"
_ENUMS = {"reward_type": "RewardType", "observation_type": "ObservationType"}


class RWAREEnv(TupleEnv):
    """A warehouse full of robots.

    ``rware-tiny-2ag-v2`` is a tiny warehouse with 2 robots; "-easy" and "-hard": twice and half as many shelves are
    asked for. Actions are none, forward, turn left, turn right, load or unload; with ``msg_bits`` they are
    MultiDiscrete, the action and the bits of a message. All are always legal: one that cannot be done does nothing.

    The task has no end. The package's limits of time (500 steps, ``max_steps``, or ``max_inactivity_steps`` without a
    delivery) are truncations here, although it calls them terminations.

    Args:
        env_id: see :func:`env_ids`.
        scenario_configs: keyword arguments of ``rware.warehouse.Warehouse``; ``reward_type`` may be given as "global",
            "individual" or "two_stage", ``observation_type`` as "flattened", "image" or "image_dict".

    Raises:
        ConfigError: see :class:`malib_lite.envs.tuple_env.TupleEnv`.
    """

    family = "rware"
    package = "rware"
    prefix = "rware-"

    def __init__(
        self, env_id: str = _DEFAULT, scenario_configs: Mapping[str, Any] | None = None, **unknown: Any
    ) -> None:
        super().__init__(env_id, scenario_configs, **unknown)
        warehouse: Any = self._env.unwrapped
        num_shelves = int((warehouse.highways == 0).sum())
        if warehouse.request_queue_size >= num_shelves:  # a shelf that is brought is replaced by one not asked for yet
            raise ConfigError(
                f"'env_id' = {env_id!r}: it asks for {warehouse.request_queue_size} shelves at once, "
                f"and must have more than that, but has {num_shelves}"
            )

    def _is_terminal(self) -> bool:
        return False

    def _arguments(self, scenario_configs: Mapping[str, Any]) -> dict[str, Any]:
        """Names, as they stand in a file or on the command line, become the package's enumerations."""
        warehouse = importlib.import_module("rware.warehouse")
        arguments = dict(scenario_configs)
        for key in arguments.keys() & _ENUMS.keys():
            if isinstance(name := arguments[key], str):
                members = {member.name.lower(): member for member in getattr(warehouse, _ENUMS[key])}
                if name not in members:
                    raise ConfigError(f"'scenario_configs.{key}' = {name!r}: {suggest(name, members)}")
                arguments[key] = members[name]
        return arguments


def env_desc_gen(env_id: str = _DEFAULT, **config: Any) -> dict[str, Any]:
    """The ``env_description`` of a warehouse; arguments and errors as of :class:`RWAREEnv`."""
    return describe(RWAREEnv, env_id=env_id, **config)


def env_ids() -> list[str]:
    """All ids that the package registers; imports it."""
    return RWAREEnv.ids()
