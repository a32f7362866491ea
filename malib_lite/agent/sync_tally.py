"""What a sync mode did, as it is counted, added up and shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

Histogram = dict[int, int]  # how often each value came
HISTOGRAMS = ("staleness", "gradient_lag", "policy_lag")


def count(histogram: Histogram, value: int, times: int = 1) -> None:
    """Count a value."""
    histogram[value] = histogram.get(value, 0) + times


@dataclass
class WorkerTally:
    """One gradient worker's share."""

    gradients_applied: int = 0
    gradients_ignored: int = 0  # of iterations that were interrupted
    waited_for_play_s: float = 0.0  # until there was something to learn from
    waited_for_permits_s: float = 0.0  # at barriers: until the next iteration might begin

    def add(self, other: WorkerTally) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class SyncTally:
    """One learner's counts; what its gradient workers count themselves is added to them."""

    staleness: Histogram = field(default_factory=dict)  # of iterations: how far ahead of the slowest they began
    gradient_lag: Histogram = field(default_factory=dict)  # of gradients: versions that came since their networks
    policy_lag: Histogram = field(default_factory=dict)  # of fragments: versions that came since their policy
    fragments_dropped: int = 0  # that were too old
    wall_s: float = 0.0
    workers: dict[int, WorkerTally] = field(default_factory=dict)  # none where the learner learns itself

    def worker(self, number: int) -> WorkerTally:
        """The share of a gradient worker."""
        return self.workers.setdefault(number, WorkerTally())

    def add(self, other: SyncTally) -> None:
        for name in HISTOGRAMS:
            for value, times in getattr(other, name).items():
                count(getattr(self, name), value, times)
        self.fragments_dropped += other.fragments_dropped
        self.wall_s += other.wall_s
        for number, share in other.workers.items():
            self.worker(number).add(share)

    def mean(self, name: str) -> float:
        """Of one of the histograms; 0 while it is empty."""
        values = getattr(self, name)
        return sum(value * times for value, times in values.items()) / max(1, sum(values.values()))

    # -- what is shown ------------------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """Numbers by name."""
        counts = {"fragments_dropped": self.fragments_dropped}
        if self.workers:
            counts["max_staleness"] = max(self.staleness, default=0)
        for name in ("gradients_applied", "gradients_ignored") if self.workers else ():
            counts[name] = sum(getattr(share, name) for share in self.workers.values())
            counts |= {f"worker_{number}_{name}": getattr(share, name) for number, share in self.workers.items()}
        return counts

    def seconds(self) -> dict[str, float]:
        """How long each gradient worker waited."""
        return {
            f"worker_{number}_{name}": round(seconds, 3)
            for number, share in self.workers.items()
            for name, seconds in vars(share).items()
            if name.endswith("_s")
        }

    def histograms(self) -> dict[str, Histogram]:
        """Those in which something was counted."""
        return {name: dict(sorted(h.items())) for name in HISTOGRAMS if (h := getattr(self, name))}

    def summary(self) -> dict[str, Any]:
        """All of it, for ``summary.json``."""
        return {**self.counts(), **self.seconds(), **self.to_json()["histograms"], "wall_s": round(self.wall_s, 3)}

    # -- between processes --------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """The same in JSON's types, whose keys are strings."""
        return {
            "histograms": {name: {str(v): n for v, n in h.items()} for name, h in self.histograms().items()},
            "fragments_dropped": self.fragments_dropped,
            "wall_s": self.wall_s,
            "workers": {str(number): asdict(share) for number, share in self.workers.items()},
        }

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> SyncTally:
        """What :meth:`to_json` gave."""
        return SyncTally(
            fragments_dropped=values["fragments_dropped"],
            wall_s=values["wall_s"],
            workers={int(number): WorkerTally(**share) for number, share in values["workers"].items()},
            **{name: {int(v): n for v, n in h.items()} for name, h in values["histograms"].items()},
        )
