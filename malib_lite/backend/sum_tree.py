"""A sum tree: drawing in proportion to weights that change, in logarithmic time and whole batches."""

from __future__ import annotations

import numpy as np


class SumTree:
    """``capacity`` weights, all zero at first, and their sums over ever larger stretches.

    A complete binary tree in one array: node i has the children 2 i and 2 i + 1, the root is node 1, and the weights
    stand in the leaves. Every inner node is the sum of its children to the last bit, however often weights change.
    """

    def __init__(self, capacity: int) -> None:
        self._depth = max(capacity - 1, 1).bit_length()
        self._first_leaf = 2**self._depth
        self._nodes = np.zeros(2 * self._first_leaf)  # float64; node 0 is not used

    @property
    def total(self) -> float:
        """The sum of all weights."""
        return float(self._nodes[1])

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        """The weights of ``rows``, float64; a copy."""
        return self._nodes[self._first_leaf :][rows].copy()

    def set(self, rows: np.ndarray, weights: np.ndarray | float) -> None:
        """Give ``rows`` (B,) int64 new weights (B,), none of them negative. If a row is named twice the last holds."""
        nodes = rows + self._first_leaf
        self._nodes[nodes] = weights
        for _ in range(self._depth):
            nodes = nodes // 2
            self._nodes[nodes] = self._nodes[2 * nodes] + self._nodes[2 * nodes + 1]

    def find(self, points: np.ndarray) -> np.ndarray:
        """The rows (B,) int64 in whose stretches of [0, total) the ``points`` (B,) lie; never one of weight zero."""
        nodes, points = np.ones(len(points), np.int64), points.copy()
        for _ in range(self._depth):
            left, right = self._nodes[2 * nodes], self._nodes[2 * nodes + 1]
            goes_right = (points >= left) & (right > 0.0)  # rounding can carry a point to the end of its stretch
            points -= np.where(goes_right, left, 0.0)
            nodes = 2 * nodes + goes_right
        return nodes - self._first_leaf
