"""PettingZoo's five domains by name."""

from __future__ import annotations

import importlib.util
import pkgutil
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from malib_lite.config import ConfigError, suggest
from malib_lite.contracts.environment import TimeStep, describe
from malib_lite.envs.pettingzoo.adapter import PettingZooAdapter
from malib_lite.envs.pettingzoo.making import NoSuchModule, check_arguments, make
from malib_lite.envs.pettingzoo.scenario_configs_ref import SCENARIO_CONFIGS

_PACKAGES = {
    "atari": "pettingzoo.atari",
    "butterfly": "pettingzoo.butterfly",
    "classic": "pettingzoo.classic",
    "mpe": "mpe2",  # once pettingzoo.mpe
    "sisl": "pettingzoo.sisl",
}
_SCENARIO = re.compile(r"\w+_v\d+")


class PettingZooEnv(PettingZooAdapter):
    """A scenario of PettingZoo's domains atari, butterfly, classic, mpe and sisl.

    Args:
        env_id: ``"{domain}.{scenario}"``, e.g. ``"mpe.simple_spread_v3"``; see :func:`env_ids`.
        scenario_configs: ``parallel_simulate``, True to simulate all agents' moves at once (ParallelEnv), False for
            one after another (AECEnv), by default True wherever PettingZoo allows it; everything else goes to
            PettingZoo's constructor. ``SCENARIO_CONFIGS`` shows what there is. Atari games find their ROMs in the
            package ale-py unless ``auto_rom_install_path`` says otherwise.

    Raises:
        ConfigError: there is no such scenario, a package is missing, or ``scenario_configs`` is refused.
    """

    def __init__(self, env_id: str, scenario_configs: Mapping[str, Any] | None = None, **unknown: Any) -> None:
        env_id, configs = check_arguments(env_id, scenario_configs, unknown, "mpe.simple_spread_v3")
        domain, _, scenario = env_id.partition(".")
        keywords = {**_roms(), **configs} if domain == "atari" else configs
        known = {*SCENARIO_CONFIGS.get(env_id, {}), *keywords}
        try:
            if domain not in _PACKAGES or not _SCENARIO.fullmatch(scenario):
                raise NoSuchModule(env_id)
            env = make(f"{_PACKAGES[domain]}.{scenario}", env_id, keywords, known, "pettingzoo")
        except NoSuchModule:
            hint = suggest(env_id, [known for name in _PACKAGES for known in _ids_at_hand(name)])
            raise ConfigError(f"'env_id' = {env_id!r}: PettingZoo has no such scenario, {hint}") from None
        super().__init__(env, env_id=env_id, scenario_configs=configs)
        self._zombie_clock = getattr(env.unwrapped, "zombie_spawn_interval", None)

    def reset_episode(self, seed: int | None) -> TimeStep:
        """PettingZoo's reset, always with a seed."""
        if self._zombie_clock is not None:
            # knights_archers_zombies (seen in 1.27) lets it run on, and an episode would depend on those before it
            self._zombie_clock.reset()
        return super().reset_episode(seed)


def env_desc_gen(env_id: str, scenario_configs: Mapping[str, Any] | None = None, **unknown: Any) -> dict[str, Any]:
    """The ``env_description`` of a scenario; arguments and errors as of :class:`PettingZooEnv`."""
    return describe(
        PettingZooEnv, env_id=env_id, scenario_configs={} if scenario_configs is None else scenario_configs, **unknown
    )


def env_ids() -> list[str]:
    """The ids of all scenarios of the five domains, be the packages that they need installed or not."""
    return sorted(SCENARIO_CONFIGS)


def _ids_at_hand(domain: str) -> list[str]:
    """The ids of a domain's scenarios in the installed version of its package, or else those of :func:`env_ids`."""
    spec = importlib.util.find_spec(_PACKAGES[domain])
    modules = pkgutil.iter_modules(spec.submodule_search_locations if spec is not None else [])
    installed = [f"{domain}.{module.name}" for module in modules if _SCENARIO.fullmatch(module.name)]
    return installed or [env_id for env_id in env_ids() if env_id.startswith(f"{domain}.")]


def _roms() -> dict[str, str]:
    """Where the Atari ROMs are that the package ale-py brings along."""
    spec = importlib.util.find_spec("ale_py")
    return {"auto_rom_install_path": str(Path(spec.origin).parent / "roms")} if spec and spec.origin else {}
