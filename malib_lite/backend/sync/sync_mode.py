"""What every sync mode shares: who is in, how far each worker is, and the two questions in which the modes differ.

A sync mode is the bookkeeping of a parameter server, without its arrays, sockets and clocks on the wall. It is told
what happened (a worker asks for work, a gradient arrives, an iteration has lived too long, a worker goes or comes) and
answers what may be done now: which version a worker computes on, which gradients are to be applied and in which order.
The same events in the same order always give the same answers.

The modes are the four corners of two choices:

====================  ======================  ====================  =====================
gradients applied     a lead of 0             a lead of at most S   any lead
====================  ======================  ====================  =====================
by whole iterations   BSP                     BAP                   (BAP, S = infinity)
as they arrive        (SSP, S = 0)            SSP                   ASP
====================  ======================  ====================  =====================

The words, the same in all modes:

- *clock* of a worker: the iterations it has completed, by a gradient or by an interruption. Its next iteration bears
  the number of its clock, so the first is iteration 0.
- *slowest clock*: the least clock among the members. Every iteration below it is *closed*: no member works on it, and
  none ever will, for the slowest clock never falls (a late joiner begins there).
- *lead* of a worker: its clock minus the slowest clock, at the moment it begins an iteration. This is the staleness
  that S bounds. A worker that began with a lead of S and then submits has a clock S + 1 ahead, where it waits: so
  clocks differ by at most S + 1, and among workers that compute by at most S.
- *version*: aggregates applied so far. An aggregate without a gradient changes nothing and is not counted.

What the bound guarantees (P1), where each mode applies an iteration's gradients no later than when it closes: a worker
that begins iteration c does so on parameters that hold every gradient of the iterations up to c - S - 1. If no
iteration went without any gradient, its version under BAP is thus at least c - S.

Why the bound is reached (P2): a worker is refused only when its lead exceeds S, and its lead rises by one with each of
its iterations while the slowest worker stays in one of its own. If that one lasts as long as S + 1 iterations of
another worker, the other begins with the leads 0, 1, ..., S. With S = 1 or more the mode is therefore not BSP in
disguise.

Why nobody is stuck (P7): the slowest member has a lead of 0 and may always begin. A member that leaves, and an
iteration that is interrupted, can only raise the slowest clock.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple


class Aggregate(NamedTuple):
    """Gradients to be applied together, as one version.

    Under BSP and BAP these are all gradients of one iteration, none where every member was interrupted: such an
    aggregate says that the iteration is closed, the parameters and their version stay as they are. Under SSP and ASP
    it is the one gradient that arrived.
    """

    iteration: int
    contributions: tuple[tuple[int, int], ...]  # (worker, iteration), workers ascending: the order of summation


class Assignment(NamedTuple):
    """An iteration under way and the version that it is computed on."""

    iteration: int
    version: int


class SyncMode(ABC):
    """Who may begin an iteration, on which version, and what is applied when.

    The call loop of a parameter server::

        on a request of w:      version = mode.begin(w)          # None: ask again after the next change
        on a gradient of w:     keep = mode.expects(w, iteration)
                                for aggregate in mode.submit(w, iteration): apply it
        on a deadline of w:     for aggregate in mode.interrupt(w): apply it
        on a death of w:        for aggregate in mode.leave(w): apply it

    Args:
        workers: numbers of the first members; they begin at iteration 0 on version 0.
    """

    def __init__(self, workers: Iterable[int]) -> None:
        self._clocks = dict.fromkeys(workers, 0)
        self._departed: dict[int, int] = {}  # clocks of those who left
        self._under_way: dict[int, Assignment] = {}
        self._submitted: dict[int, list[int]] = {}  # by iteration: whose gradients are there and not yet applied
        self._closed = 0  # iterations below this are closed
        self._version = 0
        self._max_staleness = 0

    # -- the two questions --------------------------------------------------------------------------------------

    @abstractmethod
    def _may_begin(self, lead: int) -> bool:
        """Whether a worker may begin an iteration when it is ``lead`` iterations ahead of the slowest member."""

    @abstractmethod
    def _ready(self) -> list[Aggregate]:
        """Take out of what was submitted what is to be applied now: :meth:`_whole_iterations` or :meth:`_arrivals`."""

    def _whole_iterations(self) -> list[Aggregate]:
        """One aggregate for every iteration that has just closed."""
        return [
            Aggregate(iteration, tuple((worker, iteration) for worker in sorted(self._submitted.pop(iteration, ()))))
            for iteration in range(self._closed, self._slowest())
        ]

    def _arrivals(self) -> list[Aggregate]:
        """One aggregate for every gradient that is there."""
        submitted, self._submitted = self._submitted, {}
        return [Aggregate(iteration, ((worker, iteration),)) for iteration, ws in submitted.items() for worker in ws]

    # -- what is told, what is answered -------------------------------------------------------------------------

    def begin(self, worker: int) -> int | None:
        """The version on which ``worker`` is to compute its next iteration, or None while it has to wait.

        The version is the newest there is: if nothing fresher was applied since the worker's last iteration, it is
        the number of the copy that the worker has already. Asked again before the iteration is over, it is the same.

        Raises:
            ValueError: the worker is not a member.
        """
        if worker not in self._clocks:
            raise ValueError(f"worker {worker} is not a member (members: {sorted(self._clocks)}): it has to join first")
        if worker not in self._under_way:
            lead = self.lead(worker)
            if not self._may_begin(lead):
                return None
            self._max_staleness = max(self._max_staleness, lead)
            self._under_way[worker] = Assignment(self._clocks[worker], self._version)
        return self._under_way[worker].version

    def expects(self, worker: int, iteration: int) -> bool:
        """Whether a gradient of this iteration would count if it were submitted now."""
        return worker in self._under_way and self._under_way[worker].iteration == iteration

    def submit(self, worker: int, iteration: int) -> list[Aggregate]:
        """The worker's gradient of ``iteration`` is there; returns what is to be applied now, in order.

        A gradient counts once. What comes after its iteration was interrupted, after its worker left, or a second
        time, is to be thrown away: nothing changes, and the worker may begin its next iteration.

        Raises:
            ValueError: the iteration was never begun.
        """
        if self.expects(worker, iteration):
            self._submitted.setdefault(iteration, []).append(worker)
            return self._complete(worker)
        if iteration >= self._clocks.get(worker, self._departed.get(worker, 0)):
            raise ValueError(f"worker {worker} submits iteration {iteration}, which it never began")
        return []

    def interrupt(self, worker: int) -> list[Aggregate]:
        """The worker's iteration has lived too long: it is completed without a gradient. Returns what that closes.

        The iteration is the one under way, or else the one that the worker might have begun. So a worker that cannot
        be stopped, and is still busy with an iteration interrupted before, holds up the others no longer than one
        that can. A worker that has to wait for others, or has left, has no iteration to interrupt: nothing changes.
        """
        if worker in self._under_way or (worker in self._clocks and self._may_begin(self.lead(worker))):
            return self._complete(worker)
        return []

    def leave(self, worker: int) -> list[Aggregate]:
        """The worker has finished, died or hangs: nobody waits for it any more. Returns what that closes.

        Its gradients that are there still count, once. Its iteration under way is interrupted. When the last member
        leaves, every iteration that was begun is closed, so no gradient is left behind. Leaving twice changes nothing.
        """
        if worker not in self._clocks:
            return []
        interrupted = self._under_way.pop(worker, None) is not None
        self._departed[worker] = self._clocks.pop(worker) + interrupted
        return self._settle()

    def join(self, worker: int) -> None:
        """A worker comes late, or back; it begins on the newest version.

        It begins at the clock of the slowest member: earlier iterations are closed and would be opened again, later
        ones would keep it out of aggregates that are still open. There it changes nobody's lead. One that was here
        before and had got further goes on where it was, so that none of its iterations counts twice.

        Raises:
            ValueError: the worker is a member already.
        """
        if worker in self._clocks:
            raise ValueError(f"worker {worker} is a member already")
        self._clocks[worker] = max(self._closed, self._departed.pop(worker, 0))

    # -- what can be seen ---------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """Aggregates applied so far, those without a gradient not counted."""
        return self._version

    @property
    def clocks(self) -> Mapping[int, int]:
        """Iterations that each member has completed, interrupted ones included."""
        return MappingProxyType(self._clocks)

    @property
    def under_way(self) -> Mapping[int, Assignment]:
        """What each member that has begun an iteration is computing."""
        return MappingProxyType(self._under_way)

    def lead(self, worker: int) -> int:
        """How far a member is ahead of the slowest one: its clock minus theirs."""
        return self._clocks[worker] - self._slowest()

    @property
    def staleness(self) -> int:
        """Fastest clock minus slowest clock among the members now; one above the largest lead while the fastest waits
        at the bound, 0 without members."""
        return max(self._clocks.values()) - self._slowest() if self._clocks else 0

    @property
    def max_staleness(self) -> int:
        """The largest lead with which an iteration has begun."""
        return self._max_staleness

    # -- inside -------------------------------------------------------------------------------------------------

    def _slowest(self) -> int:
        """The slowest member's clock; without members the first iteration that nobody has begun."""
        return min(self._clocks.values(), default=max(self._departed.values(), default=0))

    def _complete(self, worker: int) -> list[Aggregate]:
        self._under_way.pop(worker, None)
        self._clocks[worker] += 1
        return self._settle()

    def _settle(self) -> list[Aggregate]:
        aggregates = self._ready()
        self._version += sum(bool(aggregate.contributions) for aggregate in aggregates)
        self._closed = self._slowest()
        return aggregates
