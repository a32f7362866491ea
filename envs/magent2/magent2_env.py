"""The adapter for MAgent2, https://magent2.farama.org, whose environments are PettingZoo's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from malib_lite.config import ConfigError, suggest
from malib_lite.contracts.environment import describe
from malib_lite.envs.pettingzoo.adapter import PettingZooAdapter
from malib_lite.envs.pettingzoo.making import check_arguments, make

_KEYS = ("map_size", "max_cycles", "minimap_mode", "extra_features")
_IDS = ["adversarial_pursuit_v4", "battle_v4", "battlefield_v5", "combined_arms_v6", "gather_v5", "tiger_deer_v4"]


class MAgent2Env(PettingZooAdapter):
    """A scenario of MAgent2. Agents are many (battle_v4: 162) and leave when they die.

    Args:
        env_id: one of :func:`env_ids`, e.g. ``"battle_v4"``.
        scenario_configs: ``parallel_simulate`` (default True), and keyword arguments of MAgent2's constructor such as
            ``map_size``, ``max_cycles``, ``minimap_mode``, ``extra_features`` and the scenario's rewards.

    Raises:
        ConfigError: there is no such scenario, the package is missing, or ``scenario_configs`` is refused.
    """

    def __init__(
        self, env_id: str = "battle_v4", scenario_configs: Mapping[str, Any] | None = None, **unknown: Any
    ) -> None:
        env_id, configs = check_arguments(env_id, scenario_configs, unknown, "battle_v4")
        if env_id not in _IDS:
            raise ConfigError(f"'env_id' = {env_id!r}: MAgent2 has no such scenario, {suggest(env_id, _IDS)}")
        env = make(f"magent2.environments.{env_id}", env_id, configs, _KEYS, "magent2")
        super().__init__(env, env_id=env_id, scenario_configs=configs)


def env_desc_gen(
    env_id: str = "battle_v4", scenario_configs: Mapping[str, Any] | None = None, **unknown: Any
) -> dict[str, Any]:
    """The ``env_description`` of a scenario; arguments and errors as of :class:`MAgent2Env`."""
    return describe(
        MAgent2Env, env_id=env_id, scenario_configs={} if scenario_configs is None else scenario_configs, **unknown
    )


def env_ids() -> list[str]:
    """The ids of MAgent2's scenarios."""
    return list(_IDS)
