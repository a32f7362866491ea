"""Means of the metrics that updates report."""

from __future__ import annotations

from collections.abc import Mapping


class Means:
    """Running means of named metrics."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        return {name: total / self._counts[name] for name, total in self._sums.items()}
