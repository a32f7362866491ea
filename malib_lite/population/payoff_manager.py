"""The payoff table of a population: what every joint choice of policies is worth to every player."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from malib_lite.population.dominance import sums_to

JointChoice = tuple[int, ...]  # one pool index per player
_SAVED = ("choices", "payoffs", "errors")
_LARGEST = 1e100  # of what is read: solvers and ratings take squares, and sums of them


class PayoffManager:
    """Expected returns (N, P_1, ..., P_N) that grow with the population; each entry is set exactly once."""

    def __init__(self, players: Sequence[str]) -> None:
        """
        Args:
            players: runtime ids, in the order of the table's axes.
        """
        self.players = tuple(players)
        num_players = len(self.players)
        self._payoffs = np.zeros((num_players, *[0] * num_players), np.float64)
        self._errors = np.zeros_like(self._payoffs)  # standard errors; zero where a payoff is exact
        self._known = np.zeros([0] * num_players, bool)
        self._taken = self._known.copy()  # by take_new

    @property
    def sizes(self) -> tuple[int, ...]:
        """Pool size of every player."""
        return self._known.shape

    def expand(self, sizes: Sequence[int]) -> None:
        """Make room for pools of these sizes; known entries stay.

        Raises:
            ValueError: a pool would shrink.
        """
        growth = [(0, new - old) for new, old in zip(sizes, self.sizes, strict=True)]
        if any(more < 0 for _, more in growth):
            raise ValueError(f"pools of sizes {self.sizes} cannot shrink to {tuple(sizes)}")
        self._known, self._taken = np.pad(self._known, growth), np.pad(self._taken, growth)
        self._payoffs = np.pad(self._payoffs, [(0, 0), *growth])
        self._errors = np.pad(self._errors, [(0, 0), *growth])

    def missing(self) -> list[JointChoice]:
        """The joint choices whose payoffs are not known yet."""
        return [tuple(choice) for choice in np.argwhere(~self._known).tolist()]

    def record(self, choice: JointChoice, payoffs: Sequence[float], errors: Sequence[float] | None = None) -> None:
        """Set one entry: expected return of every player, and the standard errors of sampled ones.

        Raises:
            ValueError: the entry is known already, or a payoff is not a number.
        """
        if self._known[choice]:
            raise ValueError(f"the payoffs of {choice} are known already")
        if not np.isfinite(payoffs).all():
            raise ValueError(f"the payoffs of {choice} are {list(payoffs)}")
        of_all_players: Any = (slice(None), *choice)
        self._payoffs[of_all_players] = payoffs
        self._errors[of_all_players] = 0.0 if errors is None else errors
        self._known[choice] = True

    def record_exact(self, payoffs: np.ndarray) -> None:
        """Set all entries that are not known yet, from a whole table (N, P_1, ..., P_N) of exact payoffs.

        Raises:
            ValueError: the table has another shape, or a missing payoff is not a number there.
        """
        if np.shape(payoffs) != self._payoffs.shape:
            raise ValueError(f"payoffs of shape {np.shape(payoffs)} for pools of sizes {self.sizes}")
        missing = ~self._known
        new = np.asarray(payoffs)[:, missing]
        if not np.isfinite(new).all():
            raise ValueError("some of the exact payoffs are not finite")
        self._payoffs[:, missing] = new
        self._known[:] = True

    def table(self) -> np.ndarray:
        """A copy of the payoffs (N, P_1, ..., P_N).

        Of two players whose payoffs sum to zero up to rounding, the sum is made exactly zero: solvers for zero-sum
        games are strict about it.
        """
        payoffs = self._payoffs.copy()
        if len(self.players) == 2 and sums_to(payoffs, 0.0):
            payoffs[0] = (payoffs[0] - payoffs[1]) / 2
            payoffs[1] = -payoffs[0]
        return payoffs

    @property
    def recorded(self) -> np.ndarray:
        """The payoffs (N, P_1, ..., P_N) as they were recorded."""
        return self._payoffs.copy()

    @property
    def errors(self) -> np.ndarray:
        """Standard errors (N, P_1, ..., P_N) of the payoffs, zero where exact."""
        return self._errors.copy()

    def values(self, mixtures: Sequence[np.ndarray]) -> np.ndarray:
        """Expected return (N,) of every player under mixtures over the pools."""
        values = self._payoffs
        for mixture in mixtures:  # the first pool axis is contracted each time
            values = np.tensordot(values, np.asarray(mixture, np.float64), axes=([1], [0]))
        return values

    def take_new(self) -> dict[str, np.ndarray]:
        """What has been recorded since it was last taken, for saving.

        So that what is saved of a table grows as the table does, and not with each time that it is saved.

        Returns:
            ``choices`` (M, N) int64, one pool index per player, and their ``payoffs`` and ``errors`` (N, M).
        """
        new = self._known & ~self._taken
        self._taken = self._known.copy()
        return {"choices": np.argwhere(new), "payoffs": self._payoffs[:, new], "errors": self._errors[:, new]}

    def put_back(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Record what :meth:`take_new` gave.

        Raises:
            ValueError: some of it is known already, or it has another form, or is of members that there are not, or a
                payoff or an error is not finite or so large that its square is not.
        """
        num_players, (rows, payoffs, errors) = len(self.players), (arrays[name] for name in _SAVED)
        if rows.dtype != np.int64 or rows.ndim != 2 or rows.shape[1] != num_players:
            raise ValueError(f"'choices' are {rows.dtype} of shape {rows.shape}, not (M, {num_players}) of int64")
        if (rows < 0).any() or (rows >= self.sizes).any() or len(np.unique(rows, axis=0)) < len(rows):
            raise ValueError(f"'choices' must be different ones in pools of sizes {self.sizes}")
        for name, values in (("payoffs", payoffs), ("errors", errors)):
            if values.dtype != np.float64 or values.shape != (num_players, len(rows)):
                raise ValueError(
                    f"'{name}' are {values.dtype} of shape {values.shape}, not {num_players, len(rows)} of float64"
                )
            if not (np.abs(values) <= _LARGEST).all():  # so written that NaN fails, too
                raise ValueError(f"'{name}' must be numbers of at most {_LARGEST:.0e}")
        if (errors < 0.0).any():
            raise ValueError("'errors' must not be negative")
        choices = tuple(rows.T)
        if self._known[choices].any():
            raise ValueError("some of these payoffs are known already")
        of_all_players: Any = (slice(None), *choices)
        self._payoffs[of_all_players], self._errors[of_all_players] = payoffs, errors
        self._known[choices] = self._taken[choices] = True
