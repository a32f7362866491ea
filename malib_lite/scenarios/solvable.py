"""Whether what a scenario trains can be judged exactly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from malib_lite.config import ConfigError
from malib_lite.contracts.exact import ExactGame
from malib_lite.rollout.rolloutworker import PolicySpec


def find_exact_game(
    env_description: Mapping[str, Any], groups: Mapping[str, Sequence[str]], policies: Iterable[PolicySpec]
) -> ExactGame | None:
    """The game's exact form, where it offers one, every player is one agent, and none of the policies remembers: what
    those do is a function of all that they have seen.

    Args:
        groups: the agents of each player.

    Raises:
        ConfigError: the exact form is of other agents.
    """
    creator = env_description["creator"]
    if any(spec.make(0).memory_size for spec in policies):
        return None
    if any(len(agents) > 1 for agents in groups.values()) or not hasattr(creator, "make_exact"):
        return None
    game: ExactGame | None = creator.make_exact(**env_description["config"])
    if game is not None and game.agents != [agents[0] for agents in groups.values()]:
        raise ConfigError(f"the exact game's agents are {game.agents}, the environment's are {groups}")
    return game
