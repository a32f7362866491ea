"""The adapter for multi-agent MuJoCo of gymnasium-robotics, https://robotics.farama.org/envs/MaMuJoCo/."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from malib_lite.config import ConfigError, suggest
from malib_lite.contracts.environment import describe
from malib_lite.envs.pettingzoo.adapter import PettingZooAdapter
from malib_lite.envs.pettingzoo.making import check_arguments, make

# How each robot's joints are usually dealt out to agents. Without a factorisation one agent moves them all.
_FACTORISATIONS: dict[str, list[str]] = {
    "Ant": ["2x4", "2x4d", "4x2"],
    "CoupledHalfCheetah": ["1p1"],
    "HalfCheetah": ["2x3", "6x1"],
    "Hopper": ["3x1"],
    "Humanoid": ["9|8"],
    "HumanoidStandup": ["9|8"],
    "InvertedDoublePendulum": [],
    "InvertedPendulum": [],
    "ManySegmentAnt": ["2x3", "3x1"],
    "ManySegmentSwimmer": ["10x2", "6x1"],
    "Pusher": ["3p"],
    "Reacher": ["2x1"],
    "Swimmer": ["2x1"],
    "Walker2d": ["2x3"],
}
_FREE = re.compile(r"ManySegment(Ant|Swimmer)-[1-9]\d*x[1-9]\d*")  # agents x segments, as many as one likes
_KEYS = ("agent_obsk", "agent_factorization", "local_categories", "global_categories", "gym_env")


class MaMuJoCoEnv(PettingZooAdapter):
    """A robot of MuJoCo whose joints are dealt out to cooperating agents, who see those nearby.

    Args:
        env_id: ``"{robot}-{factorisation}"``, one of :func:`env_ids`, e.g. ``"HalfCheetah-2x3"``; for many-segment
            robots any number of agents and segments; the robot alone for a single agent that moves every joint.
        scenario_configs: ``parallel_simulate`` (default True), ``agent_obsk`` (from how many joints away an agent
            sees, default 1) and other keyword arguments of gymnasium-robotics' constructor, which hands
            what it does not know to MuJoCo's environment. With an ``agent_factorization`` of your own, any name may
            stand after the robot.

    Raises:
        ConfigError: there is no such robot or factorisation, a package is missing or does not fit, or
            ``scenario_configs`` is refused.
    """

    def __init__(
        self, env_id: str = "HalfCheetah-2x3", scenario_configs: Mapping[str, Any] | None = None, **unknown: Any
    ) -> None:
        env_id, configs = check_arguments(env_id, scenario_configs, unknown, "HalfCheetah-2x3")
        robot, _, factorisation = env_id.partition("-")
        for key in {"scenario", "agent_conf"} & set(configs):
            raise ConfigError(f"'scenario_configs.{key}': it is part of 'env_id', which is {env_id!r}")
        own = robot in _FACTORISATIONS and (not factorisation or "agent_factorization" in configs)
        if not (own or env_id in env_ids() or _FREE.fullmatch(env_id)):
            raise ConfigError(f"'env_id' = {env_id!r}: there is no such robot, {suggest(env_id, env_ids())}")
        keywords = {**configs, "scenario": robot, "agent_conf": factorisation or None}
        module = "gymnasium_robotics.envs.multiagent_mujoco.mamujoco_v1"
        try:
            env = make(module, env_id, keywords, _KEYS, "mamujoco")
        except IndexError as error:
            raise ConfigError(
                f"'env_id' = {env_id!r}: gymnasium-robotics cannot make it with the installed MuJoCo: {error}"
            ) from error
        _settle_order(env.unwrapped)
        super().__init__(env, env_id=env_id, scenario_configs=configs)


def env_desc_gen(
    env_id: str = "HalfCheetah-2x3", scenario_configs: Mapping[str, Any] | None = None, **unknown: Any
) -> dict[str, Any]:
    """The ``env_description`` of a robot; arguments and errors as of :class:`MaMuJoCoEnv`."""
    return describe(
        MaMuJoCoEnv, env_id=env_id, scenario_configs={} if scenario_configs is None else scenario_configs, **unknown
    )


def env_ids() -> list[str]:
    """The ids of all robots in their usual factorisations, or with a single agent where there is none."""
    return [f"{robot}-{way}" if way else robot for robot, ways in _FACTORISATIONS.items() for way in ways or [""]]


def _settle_order(env: Any) -> None:
    """Give the joints that an agent sees one order in every copy of the environment.

    gymnasium-robotics (seen in 1.4.2) sorts them by label, and where two have the same, as in Pusher, by where they
    happen to lie in memory.
    """
    for by_distance in getattr(env, "k_dicts", []):
        for joints in by_distance.values():
            joints.sort(key=lambda joint: (joint.label, joint.qpos_ids))
    env.observation_factorization = env.create_observation_mapping()
