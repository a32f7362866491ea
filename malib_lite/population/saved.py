"""Populations as a run folder holds them: read, never unpickled."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from malib_lite.backend.members import Member, MemberFolder
from malib_lite.config import ConfigError
from malib_lite.population.payoff_manager import PayoffManager
from malib_lite.runtime.sealed import read_arrays, unseal
from malib_lite.untrusted import check_inside, read_mapping

CHOICES = ("final", "best", "latest", "average")


@dataclass(frozen=True)
class SavedPopulation:
    """What is in a run folder about its players' pools."""

    path: Path
    config: Mapping[str, Any]  # config.yaml
    members: Mapping[str, list[Member]]  # by player, oldest first
    mixtures: Mapping[str, np.ndarray]  # by player, (P,)
    payoffs: np.ndarray | None  # (N, P_1, ..., P_N), where all of it is known
    errors: np.ndarray | None  # their standard errors
    best: Mapping[str, Mapping[Member, float]] | None  # by player: the pools of least NashConv, where it is known

    @property
    def folder(self) -> MemberFolder:
        """Where the members lie."""
        return MemberFolder(self.path / "checkpoints" / "policies")

    @staticmethod
    def read(path: Path) -> SavedPopulation:
        """Read a run folder.

        A run of the marl or the nfsp scenario is a population with one member for each player; that of a league is all
        that its main agents were.

        Raises:
            ConfigError: it is no run folder, or has no policies yet, or one of its files cannot be read.
        """
        if not (path / "config.yaml").is_file():
            raise ConfigError(f"'{path}' is no run folder: it has no config.yaml")
        state_file = path / "checkpoints" / "state.json"
        if not state_file.is_file():
            raise ConfigError(f"'{path}' has no policies: the run has not come to checkpoints/state.json")
        try:
            check_inside(path, "config.yaml", "checkpoints")
            config = read_mapping(path / "config.yaml", follow_link=False)
            state = unseal(state_file, read_mapping(state_file, follow_link=False))
            if "policies" in state:
                members = {player: [Member(player, digest)] for player, digest in state["policies"].items()}
                mixtures = {player: np.ones(1) for player in members}
            else:
                members = {player: list(map(Member.parse, texts)) for player, texts in state["members"].items()}
                mixtures = {p: _mixture(state["strategies"][p], len(of), p) for p, of in members.items()}
            best = _best(state.get("best"), members)
            _check_files(path, [*members.values(), *(best or {}).values()])
            payoffs, errors = _payoffs(path / "checkpoints", state.get("payoffs") or [], members)
        except ConfigError:
            raise
        except (
            OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError
        ) as error:  # fmt: skip
            raise ConfigError(f"'{path}' cannot be read as a run folder: {type(error).__name__}: {error}") from None
        return SavedPopulation(path, config, members, mixtures, payoffs, errors, best)

    def pools(self, choice: str) -> dict[str, dict[Member, float]]:
        """The pools that a choice plays: "final" as the run mixed it, "best" as it did when NashConv was least,
        "latest", "average", or a member's number.

        Raises:
            ConfigError: there is no such choice, or a player has no such member, or NashConv was not known.
        """
        if choice == "best":
            if self.best is None:
                raise ConfigError(
                    f"'{self.path}@best': the run did not know its NashConv, so none is the best; leave it out"
                )
            return {player: dict(pool) for player, pool in self.best.items()}
        pools: dict[str, dict[Member, float]] = {}
        for player, members in self.members.items():
            size = len(members)
            if choice.isdecimal() and int(choice) < size:
                mixture = _one(size, int(choice))
            elif choice in CHOICES:
                mixture = {
                    "final": self.mixtures[player], "latest": _one(size, -1), "average": np.full(size, 1.0 / size)
                }[choice]  # fmt: skip
            else:
                raise ConfigError(
                    f"'{self.path}@{choice}': choose {', '.join(CHOICES)} or the number of a member, "
                    f"0 to {min(map(len, self.members.values())) - 1}"
                )
            pools[player] = _pool(members, mixture)
        return pools


def _check_files(path: Path, pools: Collection[Collection[Member]]) -> None:
    """Members have digests for names, and their files lie in the run folder itself.

    A file that is missing is not found out here: whoever plays the member says so.

    Raises:
        ValueError: a digest is none, or its file is no file of the run folder.
    """
    if not pools or not all(pools):
        raise ValueError("a player has no members")
    check_inside(path / "checkpoints", "policies")
    for digest in {member.digest for pool in pools for member in pool}:
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise ValueError(f"{digest!r} is not the digest of a member")
        with contextlib.suppress(FileNotFoundError):
            check_inside(path / "checkpoints" / "policies", f"{digest}.safetensors")


def _payoffs(
    folder: Path, files: Sequence[str], members: Mapping[str, list[Member]]
) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    """Payoffs (N, P_1, ..., P_N) and their errors, where all of them are in the files.

    Raises:
        ValueError: the files are none of payoffs, or of other members, or lie elsewhere.
        DamagedFile: one of them is damaged.
    """
    check_inside(folder, *files)
    parts = [(folder / name, read_arrays(folder / name)) for name in files]
    sizes = [len(of_player) for of_player in members.values()]
    if sum(len(arrays["choices"]) for _, arrays in parts) < prod(sizes):  # before there is a table of that size
        return None, None
    payoffs = PayoffManager(list(members))
    payoffs.expand(sizes)
    for file, arrays in parts:
        try:
            payoffs.put_back(arrays)
        except ValueError as error:
            raise ValueError(f"'{file}': {error}") from None
    return payoffs.recorded, payoffs.errors


def _one(size: int, index: int) -> np.ndarray:
    """The mixture (P,) that is one member alone."""
    mixture = np.zeros(size)
    mixture[index] = 1.0
    return mixture


def _mixture(strategy: Mapping[str, Any], size: int, player: str) -> np.ndarray:
    """The mixture (P,) of a pool; of one that has not been mixed, whose probabilities are all 0, all members alike.

    Raises:
        ValueError: it is no distribution over the ``size`` members.
    """
    probabilities = np.array(strategy["probabilities"], np.float64)
    if probabilities.shape != (size,):
        raise ValueError(f"the mixture of {player} has the shape {probabilities.shape}, there are {size} members")
    if not probabilities.any():
        return np.full(size, 1.0 / size)
    return _distribution(probabilities, f"the mixture of {player}")


def _distribution(values: np.ndarray, what: str) -> np.ndarray:
    """``values`` themselves; ValueError where they are not finite, not negative and of sum 1.

    The sum may be off by as much as StrategySpec allows where mixtures are set.
    """
    if not (np.isfinite(values).all() and (values >= 0.0).all() and abs(values.sum() - 1.0) <= 1e-6):
        raise ValueError(f"{what} is no distribution: probabilities are finite, not negative and add up to 1")
    return values


def _best(
    saved: Mapping[str, Any] | None, members: Mapping[str, list[Member]]
) -> dict[str, dict[Member, float]] | None:
    """The pools of least NashConv; None where it was not known.

    Raises:
        ValueError: they are of other players, or a mixture is none.
    """
    if not saved:
        return None
    of_players = saved["policies"] if "policies" in saved else saved["mixtures"]
    if list(of_players) != list(members):
        raise ValueError(f"the best mixtures are of {', '.join(of_players)}, the players are {', '.join(members)}")
    if "policies" in saved:
        return {player: {Member(player, digest): 1.0} for player, digest in of_players.items()}
    pools = {}
    for player, probabilities in of_players.items():
        mixture = np.array(probabilities, np.float64)
        _distribution(mixture, f"the best mixture of {player}")
        pools[player] = _pool(members[player][: len(mixture)], mixture)  # there may be newer members
    return pools


def _pool(members: list[Member], mixture: np.ndarray) -> dict[Member, float]:
    """Probabilities by member; one that is in a pool twice has both of its shares."""
    pool: dict[Member, float] = {}
    for member, probability in zip(members, mixture.tolist(), strict=True):
        pool[member] = pool.get(member, 0.0) + probability
    return pool
