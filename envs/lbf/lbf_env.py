"""Level-based foraging: agents with levels load food that takes the sum of their levels.

The package is lbforaging, https://github.com/semitable/lb-foraging; the task is described in Christianos, Schäfer and
Albrecht 2020, https://arxiv.org/abs/2006.07169.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from malib_lite.contracts.environment import TimeStep, describe
from malib_lite.envs.tuple_env import TupleEnv

_DEFAULT = "Foraging-8x8-2p-3f-v3"


class LBFEnv(TupleEnv):
    """Level-based foraging on a grid.

    ``Foraging-8x8-2p-3f-v3`` is a field of 8 by 8 with 2 players and 3 pieces of food; "-coop" at the end makes every
    piece take the levels of up to three players, "-2s" in front lets one see only two cells far. Actions are none,
    north, south, west, east, load.

    An episode terminates when all food is loaded. The package says the same of its limit of 50 steps
    (``max_episode_steps``); here that is a truncation, because the observation has no clock.

    There are no action masks. The package turns an action that cannot be done into none, and results are published
    that way; its one public list of valid actions is of joint actions, up to 6 to the power of the players.

    Args:
        env_id: see :func:`env_ids`.
        scenario_configs: keyword arguments of ``lbforaging.foraging.ForagingEnv``, e.g. ``{"penalty": 0.1}``.

    Raises:
        ConfigError: see :class:`malib_lite.envs.tuple_env.TupleEnv`.
    """

    family = "lbf"
    package = "lbforaging"
    prefix = "Foraging"

    def __init__(
        self, env_id: str = _DEFAULT, scenario_configs: Mapping[str, Any] | None = None, **unknown: Any
    ) -> None:
        super().__init__(env_id, scenario_configs, **unknown)

    def reset_episode(self, seed: int | None) -> TimeStep:
        """Place players and food, by chance alone: the package would keep players off where others stood last."""
        for player in self._env.unwrapped.players:
            player.position = None
        return super().reset_episode(seed)

    def _is_terminal(self) -> bool:
        return not self._env.unwrapped.field.any()


def env_desc_gen(env_id: str = _DEFAULT, **config: Any) -> dict[str, Any]:
    """The ``env_description`` of level-based foraging; arguments and errors as of :class:`LBFEnv`."""
    return describe(LBFEnv, env_id=env_id, **config)


def env_ids() -> list[str]:
    """All ids that the package registers; imports it."""
    return LBFEnv.ids()
