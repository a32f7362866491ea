"""Random numbers for many environments at once, from a stream for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


class RowStreams:
    """E independent random streams that are drawn from together, for native vector environments.

    What row i draws depends on ``seeds[i]`` and on how often row i has drawn, and on nothing else. The generator is
    SplitMix64 (Steele, Lea and Flood 2014, https://doi.org/10.1145/2660193.2660195): its state is one number, so that
    all rows advance in a handful of array operations.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        states = [np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] for seed in seeds]
        self._states = np.array(states, np.uint64)  # (E,)

    def uniform(self, rows: np.ndarray | None = None) -> np.ndarray:
        """The next number in [0, 1) of each of ``rows`` (B,), indices without repetition: (B,) float64. None: all."""
        if rows is None:
            self._states += _STEP
            z = self._states
        else:
            z = self._states[rows]
            z += _STEP
            self._states[rows] = z
        z = (z ^ (z >> np.uint64(30))) * _MIX_1
        z = (z ^ (z >> np.uint64(27))) * _MIX_2
        z ^= z >> np.uint64(31)
        return (z >> np.uint64(11)) * 2.0**-53

    def state_dict(self) -> dict[str, Any]:
        """Where the streams stand."""
        return {"states": self._states.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where :meth:`state_dict` stood."""
        self._states[:] = state["states"]
