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
    """Count, sum, spread and extremes of a list of numbers, without the list.

    The spread is kept as squared deviations from the mean, merged as by Chan, Golub and LeVeque (1979): squares of the
    numbers themselves would leave no digit of it where they are all near a million.
    """

    count: int = 0
    total: float = 0.0
    deviations: float = 0.0  # sum of the squared deviations from the mean
    low: float = math.inf
    high: float = -math.inf

    def add(self, values: np.ndarray) -> None:
        """Take in further numbers (B,)."""
        if len(values):
            total = float(values.sum())
            deviations = float(((values - total / len(values)) ** 2).sum())
            self.merge(Tally(len(values), total, deviations, float(values.min()), float(values.max())))

    def merge(self, other: Tally) -> None:
        """Take in another tally."""
        if self.count and other.count:
            apart = (other.mean - self.mean) ** 2
            self.deviations += apart * (self.count * other.count / (self.count + other.count))
        self.deviations += other.deviations
        self.count += other.count
        self.total += other.total
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
        return math.sqrt(self.deviations / (self.count - 1) / self.count)


def compare(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Who has come off better in each of several games, going by returns that broadcast to one shape: int64, 1 where it
    is the one, -1 where it is the other, 0 where the returns are the same up to the rounding of sums."""
    sizes = np.maximum(np.abs(own), np.abs(other))
    rounding = 1e-9 * sizes + 1e-12 * max(1.0, float(sizes.max(initial=0.0)))
    lead = own - other
    outcome: np.ndarray = np.where(np.abs(lead) <= rounding, 0.0, np.sign(lead)).astype(np.int64)
    return outcome


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
    # of the same: by how much it got more or less than another one in any of the episodes, at most
    leads: dict[str, float] = field(default_factory=dict)

    def end(self, lengths: np.ndarray, returns: Mapping[AgentID, np.ndarray]) -> None:
        """Book episodes that ended: lengths (B,), returns (B,) of every agent."""
        self.length.add(lengths)
        for agent, values in returns.items():
            self.returns.setdefault(agent, Tally()).add(values)

    def score(
        self, learner: str, members: Sequence[str], drawn: np.ndarray, returns: np.ndarray, others: np.ndarray
    ) -> None:
        """Book how a learner did against the members of a pool: it has won if it got more than they did.

        Args:
            members: the pool's.
            drawn: (B,) int64, the number of the member that played in each episode.
            returns: (B,) of the learner.
            others: (B,) of the player whose pool it is.
        """
        outcome = 1 - compare(returns, others)  # 0 won, 1 drawn, 2 lost
        counts = np.bincount(3 * drawn + outcome, minlength=3 * len(members)).reshape(-1, 3)
        self._add_scores(learner, {member: row.tolist() for member, row in zip(members, counts, strict=True)})

    def place(self, returns: Mapping[str, np.ndarray]) -> None:
        """Book how players came off against each other in episodes: returns (B,) of each."""
        everybody = np.stack(list(returns.values()))
        for player, own in zip(returns, everybody, strict=True):
            outcome = compare(own, everybody)
            ahead, behind = int((outcome > 0).sum()), int((outcome < 0).sum())
            level = everybody.size - own.size - ahead - behind  # with all others
            self._add_placing(player, [ahead, level, behind], float(np.abs(own - everybody).max(initial=0.0)))

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

    def _add_placing(self, player: str, counts: Sequence[int], lead: float) -> None:
        self.leads[player] = max(self.leads.get(player, 0.0), lead)
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
            self._add_placing(player, counts, other.leads[player])

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
            "leads": self.leads,
        }

    @staticmethod
    def from_json(packed: Mapping[str, Any]) -> Books:
        """What :meth:`to_json` packed."""
        unpack = lambda tally: Tally(**tally) if tally else Tally()  # noqa: E731
        returns = {agent: unpack(tally) for agent, tally in packed["returns"].items()}
        counts = packed["scores"], packed["placings"], packed["leads"]
        return Books(packed["env_steps"], packed["env_crashes"], unpack(packed["length"]), returns, *counts)

    @staticmethod
    def sum(parts: Iterable[Books]) -> Books:
        """All of them in one."""
        books = Books()
        for part in parts:
            books.merge(part)
        return books
