"""The books of played episodes: how many, how long, and what each agent got."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from malib_lite.contracts.environment import AgentID


@dataclass
class Tally:
    """Count, sum, sum of squares and extremes of a list of numbers, without the list."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    def add(self, values: np.ndarray) -> None:
        """Take in further numbers (B,)."""
        if len(values):
            self.merge(
                Tally(
                    len(values), float(values.sum()), float((values**2).sum()), float(values.min()), float(values.max())
                )
            )

    def merge(self, other: Tally) -> None:
        """Take in another tally."""
        self.count += other.count
        self.total += other.total
        self.squares += other.squares
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    @property
    def mean(self) -> float:
        """The mean; NaN of nothing."""
        return self.total / self.count if self.count else math.nan

    @property
    def standard_error(self) -> float:
        """Standard error of the mean; NaN of fewer than two numbers."""
        if self.count < 2:
            return math.nan
        variance = max(0.0, self.squares / self.count - self.mean**2) * self.count / (self.count - 1)
        return math.sqrt(variance / self.count)


@dataclass
class Books:
    """Steps taken, and the lengths and returns of the episodes that ended."""

    env_steps: int = 0
    env_crashes: int = 0  # processes of environments that died and were replaced
    length: Tally = field(default_factory=Tally)
    returns: dict[AgentID, Tally] = field(default_factory=dict)
    # of learners: against each member of a pool (as text), [wins, draws, losses]
    scores: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    # of players, where it was asked for: [ahead, level, behind], how many others got less, the same, more in an episode
    placings: dict[str, list[int]] = field(default_factory=dict)

    def end(self, lengths: np.ndarray, returns: Mapping[AgentID, np.ndarray]) -> None:
        """Book episodes that ended: lengths (B,), returns (B,) of every agent."""
        self.length.add(lengths)
        for agent, values in returns.items():
            self.returns.setdefault(agent, Tally()).add(values)

    def score(self, learner: str, members: Sequence[str], drawn: np.ndarray, returns: np.ndarray) -> None:
        """Book how a learner did against the members of a pool.

        Args:
            members: the pool's.
            drawn: (B,) int64, the number of the member that played in each episode.
            returns: (B,) of the learner; above zero it has won, below it has lost.
        """
        outcome = 1 - np.sign(returns).astype(np.int64)  # 0 won, 1 drawn, 2 lost
        counts = np.bincount(3 * drawn + outcome, minlength=3 * len(members)).reshape(-1, 3)
        self._add_scores(learner, {member: row.tolist() for member, row in zip(members, counts, strict=True)})

    def place(self, returns: Mapping[str, np.ndarray]) -> None:
        """Book how players came off against each other in episodes: returns (B,) of each."""
        everybody = np.stack(list(returns.values())).round(9)  # what differs by rounding alone is level
        for player, own in zip(returns, everybody, strict=True):
            ahead, behind = int((everybody < own).sum()), int((everybody > own).sum())
            level = everybody.size - own.size - ahead - behind  # with all others
            self._add_placing(player, [ahead, level, behind])

    def player_returns(self, groups: Mapping[str, Sequence[AgentID]]) -> tuple[list[float], list[float]]:
        """Every player's mean return, the mean over its agents, and the standard errors, the largest of its agents'."""
        tallies = [[self.returns[agent] for agent in agents] for agents in groups.values()]
        return (
            [sum(tally.mean for tally in team) / len(team) for team in tallies],
            [max(tally.standard_error for tally in team) for team in tallies],
        )

    def summary(self, prefix: str = "") -> dict[str, float]:
        """Lengths and returns for ``metrics.jsonl``, NaN while no episode has ended.

        ``return_mean`` is the mean over agents. Between opponents it says nothing, so that where there are several
        agents each one's mean, minimum and maximum is there: ``return/AGENT``, ``return_min/AGENT``,
        ``return_max/AGENT``.

        Args:
            prefix: of every name.
        """
        means = [tally.mean for tally in self.returns.values()]
        values = {"return_mean": sum(means) / len(means) if means else math.nan, "length_mean": self.length.mean}
        alone = len(self.returns) < 2
        for agent, tally in (self.returns or {"": Tally()}).items():
            low, high = (tally.low, tally.high) if tally.count else (math.nan, math.nan)
            own = {"return": tally.mean, "return_min": low, "return_max": high}
            if alone:
                values |= {"return_min": low, "return_max": high}
            else:
                values |= {f"{name}/{agent}": value for name, value in own.items()}
        return {f"{prefix}{name}": value for name, value in values.items()}

    def _add_placing(self, player: str, counts: Sequence[int]) -> None:
        self.placings[player] = [a + b for a, b in zip(self.placings.get(player, [0, 0, 0]), counts, strict=True)]

    def _add_scores(self, learner: str, scores: Mapping[str, Sequence[int]]) -> None:
        known = self.scores.setdefault(learner, {})
        for member, counts in scores.items():
            if any(counts):
                known[member] = [a + b for a, b in zip(known.get(member, [0, 0, 0]), counts, strict=True)]

    def merge(self, other: Books) -> None:
        """Take in other books."""
        self.env_steps += other.env_steps
        self.env_crashes += other.env_crashes
        self.length.merge(other.length)
        for agent, tally in other.returns.items():
            self.returns.setdefault(agent, Tally()).merge(tally)
        for learner, scores in other.scores.items():
            self._add_scores(learner, scores)
        for player, counts in other.placings.items():
            self._add_placing(player, counts)

    def to_json(self) -> dict[str, Any]:
        """The books as JSON's types; a tally of nothing becomes None, since JSON has no infinity."""
        pack = lambda tally: asdict(tally) if tally.count else None  # noqa: E731
        return {
            "env_steps": self.env_steps,
            "env_crashes": self.env_crashes,
            "length": pack(self.length),
            "returns": {agent: pack(tally) for agent, tally in self.returns.items()},
            "scores": self.scores,
            "placings": self.placings,
        }

    @staticmethod
    def from_json(packed: Mapping[str, Any]) -> Books:
        """What :meth:`to_json` packed."""
        unpack = lambda tally: Tally(**tally) if tally else Tally()  # noqa: E731
        returns = {agent: unpack(tally) for agent, tally in packed["returns"].items()}
        counts = packed["scores"], packed["placings"]
        return Books(packed["env_steps"], packed["env_crashes"], unpack(packed["length"]), returns, *counts)

    @staticmethod
    def sum(parts: Iterable[Books]) -> Books:
        """All of them in one."""
        books = Books()
        for part in parts:
            books.merge(part)
        return books
