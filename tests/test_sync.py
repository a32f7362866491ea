"""The sync modes, every event judged by a ledger: all interleavings, random schedules, and broken twins as a proof."""

import heapq
import pickle
import random
from collections import deque

import pytest

from malib_lite.backend.sync import ASP, BAP, BSP, SSP, SYNC_MODES, Aggregate, SyncMode, make_sync
from malib_lite.config import ConfigError

INFINITE = 10**9


class Ledger:
    """A mode, and beside it the plain record of what happened to it, from which every answer is judged.

    The ledger computes nothing as the modes do: it keeps each worker's clock and the set of gradients accepted,
    applied and dropped, and states what the definitions say about them.
    """

    def __init__(self, mode, workers, bound, whole):
        self.mode, self.bound, self.whole = mode, bound, whole
        self.clock = dict.fromkeys(workers, 0)  # members
        self.gone = {}  # clock at which a worker left; an iteration given up counts
        self.doing = {}  # worker: version
        self.waiting, self.applied, self.dropped = set(), set(), set()  # (worker, iteration)
        self.closed = self.top = 0  # iterations closed, and iterations that anybody ever completed or gave up
        self.versions = self.empty = 0  # aggregates with and without a gradient
        self.largest_lead = 0

    def lead(self, worker):
        return self.clock[worker] - min(self.clock.values())

    def begin(self, worker):
        version = self.mode.begin(worker)
        if worker in self.doing:
            assert version == self.doing[worker], "asked again, answered otherwise"
            return version
        lead, iteration = self.lead(worker), self.clock[worker]
        if version is None:
            assert lead > self.bound, "waits without need"
            return None
        assert lead <= self.bound, "P1: too far ahead"
        assert version == self.versions, "not the newest version"
        assert all(i >= iteration - self.bound for _, i in self.waiting), "P1: an old gradient is missing"
        if self.whole:
            assert version >= iteration - self.bound - self.empty, "P1: the version is too old"
            assert version == iteration - self.empty or self.bound > 0, "BSP: not iteration i on version i"
        self.largest_lead = max(self.largest_lead, lead)
        self.doing[worker] = version
        self.check()
        return version

    def submit(self, worker):
        iteration = self.clock[worker]
        assert self.mode.expects(worker, iteration)
        del self.doing[worker]
        self.waiting.add((worker, iteration))
        return self.complete(worker, self.mode.submit(worker, iteration), iteration)

    def submit_late(self, worker):
        """The gradients of the worker's dropped iterations arrive, and those applied arrive once more."""
        for owner, iteration in self.dropped | self.applied:
            if owner == worker:
                assert not self.mode.expects(worker, iteration)
                assert self.mode.submit(worker, iteration) == [], "P8: a dropped gradient moved something"
                self.check()

    def interrupt(self, worker):
        may = worker in self.doing or (worker in self.clock and self.lead(worker) <= self.bound)
        aggregates = self.mode.interrupt(worker)
        if not may:
            assert aggregates == []
            self.check()
            return aggregates
        if self.doing.pop(worker, None) is not None:
            self.dropped.add((worker, self.clock[worker]))
        return self.complete(worker, aggregates)

    def complete(self, worker, aggregates, iteration=None):
        self.clock[worker] += 1
        self.top = max(self.top, self.clock[worker])
        self.check_aggregates(aggregates, (worker, iteration))
        return aggregates

    def leave(self, worker):
        clock = self.clock.pop(worker)
        if self.doing.pop(worker, None) is not None:
            self.dropped.add((worker, clock))
            clock += 1
        self.gone[worker] = clock
        self.top = max(self.top, clock)
        aggregates = self.mode.leave(worker)
        self.check_aggregates(aggregates)
        return aggregates

    def join(self, worker):
        self.mode.join(worker)
        self.clock[worker] = max(self.closed, self.gone.pop(worker, 0))
        self.check()

    def check_aggregates(self, aggregates, arrived=(None, None)):
        for _, contributions in aggregates:
            assert not self.dropped & set(contributions), "P8: applied although interrupted"
            assert not self.applied & set(contributions), "P6: applied twice"
            self.applied |= set(contributions)
            self.versions += bool(contributions)
            self.empty += not contributions
        if self.whole:
            expected = []
            while self.closed < self.top and all(clock > self.closed for clock in self.clock.values()):
                expected.append(Aggregate(self.closed, tuple(sorted(c for c in self.waiting if c[1] == self.closed))))
                self.closed += 1
        else:
            expected = [] if arrived[1] is None else [Aggregate(arrived[1], (arrived,))]
            self.closed = min(self.clock.values(), default=self.top)
        assert aggregates == expected, "wrong aggregates"
        self.waiting -= self.applied
        self.check()

    def check(self):
        mode = self.mode
        assert mode.clocks == self.clock, "wrong clocks"
        assert (mode.version, mode.max_staleness) == (self.versions, self.largest_lead)
        assert {w: a.version for w, a in mode.under_way.items()} == self.doing
        spread = max(self.clock.values(), default=0) - min(self.clock.values(), default=0)
        assert mode.staleness == spread <= self.bound + 1

    def check_end(self):
        """Somebody may go on (P7), and when all have left every gradient has been applied exactly once (P6)."""
        if self.clock and not self.doing:
            mode = pickle.loads(pickle.dumps(self.mode))  # nothing is tried on the original
            assert not all(mode.begin(worker) is None for worker in self.clock), "P7: deadlock"
        heir = pickle.loads(pickle.dumps(self))
        for worker in sorted(heir.clock):
            heir.leave(worker)
        assert not heir.waiting, "P6: a gradient was never applied"

    def key(self):
        """The state as something hashable."""
        return freeze(vars(self))


def freeze(value):
    if isinstance(value, SyncMode):
        return freeze(vars(value))
    if isinstance(value, dict):
        return tuple(sorted((k, freeze(v)) for k, v in value.items()))
    if isinstance(value, set):
        return tuple(sorted(value))
    return tuple(value) if isinstance(value, list) else value


MODES = {"bsp": (BSP, True), "asp": (ASP, False), "bap": (BAP, True), "ssp": (SSP, False)}


def bound_of(name, staleness):
    return {"bsp": 0, "asp": INFINITE}.get(name, staleness)


def make_ledger(name, num_workers, staleness, broken=None):
    """A ledger with the mode, or with a broken twin of it."""
    cls, whole = MODES[name]
    cls = broken or cls
    arguments = (range(num_workers), staleness) if name in ("bap", "ssp") else (range(num_workers),)
    return Ledger(cls(*arguments), range(num_workers), bound_of(name, staleness), whole)


# -- all interleavings --------------------------------------------------------------------------------------------


def explore(ledger, iterations, faults):
    """Every state that can be reached when each worker does so many iterations and so many faults happen at most.

    Faults are interruptions (of idle workers as well), leaves and joins (of a new worker, or of one that left).

    Returns:
        the number of states, and the largest lead of any iteration begun.
    """
    frontier, known, largest = deque([(pickle.dumps(ledger), faults)]), set(), 0
    newcomer = len(ledger.clock)
    while frontier:
        image, left = frontier.popleft()
        state = pickle.loads(image)
        moves = []
        for worker, clock in state.clock.items():
            if worker in state.doing:
                moves.append(("submit", worker, 0))
            elif clock < iterations:
                moves.append(("begin", worker, 0))
            moves += [(fault, worker, 1) for fault in ("interrupt", "leave") if left and clock < iterations]
        if left:
            moves += [("join", worker, 1) for worker in {*state.gone, newcomer} - set(state.clock)]
        for move, worker, cost in moves:
            after = pickle.loads(image)
            getattr(after, move)(worker)
            key = (after.key(), left - cost)
            if key not in known:
                known.add(key)
                largest = max(largest, after.largest_lead)
                for who in {*after.clock, *after.gone}:
                    after.submit_late(who)
                after.check_end()
                frontier.append((pickle.dumps(after), left - cost))
    return len(known), largest


@pytest.mark.parametrize("name", SYNC_MODES)
def test_every_interleaving_keeps_the_bound_and_reaches_it(name):
    for staleness in range(3) if name in ("bap", "ssp") else [0]:
        iterations = 4  # enough for a lead of 3, which the bound then has to forbid
        _, largest = explore(make_ledger(name, 2, staleness), iterations, faults=0)
        assert largest == min(bound_of(name, staleness), iterations - 1)  # P2: tight, not only bounded


def test_every_interleaving_of_three_workers():
    for name, staleness in (("bsp", 0), ("bap", 1), ("ssp", 1)):
        states, largest = explore(make_ledger(name, 3, staleness), 3, faults=0)
        assert largest == staleness and states > 50


@pytest.mark.parametrize("name", SYNC_MODES)
def test_every_interleaving_with_interrupts_leaves_and_joins(name):
    for staleness in range(2) if name in ("bap", "ssp") else [0]:
        states, _ = explore(make_ledger(name, 2, staleness), 2, faults=2)
        assert states > 500


# -- random schedules ---------------------------------------------------------------------------------------------


def random_schedule(ledger, rng, num_events, faults=0.1):
    """Random events, workers of different speed; returns what was done and what came of it."""
    workers = sorted(ledger.clock)
    speeds = {worker: rng.choice((1, 1, 8)) for worker in [*workers, len(workers)]}
    trace = []
    for _ in range(num_events):
        members = list(ledger.clock)
        if rng.random() < faults or not members:
            outside = sorted(set(speeds) - set(members))
            fault = rng.choice(("interrupt", "interrupt", "leave", "join"))
            if not members or (fault == "join" and outside):
                event, worker = "join", rng.choice(outside)
            else:
                event, worker = ("interrupt" if fault == "join" else fault), rng.choice(members)
        else:
            worker = rng.choices(members, [speeds[w] for w in members])[0]
            event = "submit" if worker in ledger.doing else "begin"
        trace.append((event, worker, getattr(ledger, event)(worker)))
        if rng.random() < 0.05:
            ledger.submit_late(worker)
    ledger.check_end()
    return trace


@pytest.mark.parametrize("count", [2_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_random_schedules(count):
    largest = {}
    for seed in range(count):
        rng = random.Random(seed)
        name, staleness = SYNC_MODES[seed % 4], rng.randrange(5)
        ledger = make_ledger(name, rng.randint(2, 5), staleness)
        random_schedule(ledger, rng, num_events=25)
        largest[name, staleness] = max(largest.get((name, staleness), 0), ledger.largest_lead)
    for (name, staleness), lead in largest.items():
        assert lead == bound_of(name, staleness) or (name == "asp" and lead > 4)  # P2


class Unbounded(BAP):
    """Aggregates whole iterations and never lets anybody wait."""

    def _may_begin(self, lead):
        return True


@pytest.mark.parametrize(
    ("one", "other", "staleness"),
    [
        (make_ledger("bap", 3, 0), make_ledger("bsp", 3, 0), "S = 0"),
        (make_ledger("bap", 3, INFINITE), make_ledger("bap", 3, INFINITE, Unbounded), "S = infinity"),
        (make_ledger("ssp", 3, INFINITE), make_ledger("asp", 3, 0), "S = infinity"),
    ],
)
def test_limits_of_the_bound_have_the_same_trace(one, other, staleness):
    images = pickle.dumps(one), pickle.dumps(other)
    for seed in range(300):
        traces = [random_schedule(pickle.loads(image), random.Random(seed), num_events=40) for image in images]
        assert traces[0] == traces[1], staleness


def test_without_faults_iteration_i_of_bsp_is_computed_on_version_i():
    for seed in range(200):
        clock = dict.fromkeys(range(3), 0)
        for event, worker, answer in random_schedule(make_ledger("bsp", 3, 0), random.Random(seed), 40, faults=0):
            if event == "submit":
                clock[worker] += 1
            else:
                assert answer == (clock[worker] if clock[worker] == min(clock.values()) else None)


@pytest.mark.parametrize("name", SYNC_MODES)
def test_one_worker_is_sequential(name):
    mode = make_ledger(name, 1, 2).mode
    for i in range(10):
        assert mode.begin(0) == i == mode.version
        assert mode.submit(0, i) == [Aggregate(i, ((0, i),))]


# -- single rules, by hand ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bap", "ssp"])
@pytest.mark.parametrize("staleness", range(5))
def test_a_slow_worker_lets_the_others_lead_by_exactly_s(name, staleness):
    mode = make_sync(name, range(3), staleness)
    assert mode.begin(0) == 0
    for worker in (1, 2):
        completed = 0
        while mode.begin(worker) is not None:
            mode.submit(worker, completed)
            completed += 1
        assert completed == staleness + 1
    assert (mode.max_staleness, mode.staleness) == (staleness, staleness + 1)
    assert mode.version == (0 if name == "bap" else 2 * (staleness + 1))
    assert len(mode.submit(0, 0)) == 1
    assert mode.begin(1) == mode.version


def test_bap_goes_on_with_its_cached_copy_and_takes_a_fresher_one():
    mode = make_sync("bap", range(2), 1)
    assert [mode.begin(0), mode.begin(1)] == [0, 0]
    assert mode.submit(0, 0) == []
    assert mode.begin(0) == 0  # nothing fresher: its cached copy
    assert mode.submit(0, 1) == []
    assert mode.begin(0) is None
    assert mode.submit(1, 0) == [Aggregate(0, ((0, 0), (1, 0)))]
    assert [mode.begin(0), mode.begin(1)] == [1, 1]


def test_an_iteration_without_any_gradient_leaves_the_version_and_all_go_on():
    mode = make_sync("bsp", range(2))
    assert [mode.begin(0), mode.begin(1)] == [0, 0]
    assert mode.interrupt(0) == []
    assert mode.begin(0) is None
    assert mode.interrupt(1) == [Aggregate(0, ())]
    assert mode.version == 0
    assert [mode.begin(0), mode.begin(1)] == [0, 0]
    assert mode.submit(0, 0) == []  # late, thrown away
    assert mode.submit(0, 1) == []
    assert mode.submit(1, 1) == [Aggregate(1, ((0, 1), (1, 1)))]


def test_a_worker_busy_with_an_interrupted_iteration_does_not_hold_up_the_others():
    mode = make_sync("bsp", range(2))
    mode.begin(0)
    for i in range(3):  # worker 0 is busy all the time and asks for nothing
        assert mode.begin(1) == i
        assert mode.submit(1, i) == []
        assert mode.interrupt(0) == [Aggregate(i, ((1, i),))]
    for _ in range(2):
        assert mode.interrupt(0) == []
        assert dict(mode.clocks) == {0: 4, 1: 3}  # ahead now, it has to wait: there is nothing more to interrupt
    assert mode.submit(0, 0) == []


def test_gradients_of_one_who_left_count_once_also_if_it_comes_back():
    mode = make_sync("bap", range(2), 3)
    for i in range(2):
        mode.begin(0)
        mode.submit(0, i)
    mode.begin(0)
    assert mode.leave(0) == [] == mode.leave(0)
    mode.join(0)
    assert mode.clocks[0] == 3  # iterations 0 and 1 are submitted, 2 was given up
    assert mode.submit(0, 2) == []
    for i in range(2):
        mode.begin(1)
        assert mode.submit(1, i) == [Aggregate(i, ((0, i), (1, i)))]
    mode.join(7)
    assert mode.clocks[7] == 2  # where the slowest is


def test_what_cannot_be_is_refused():
    mode = make_sync("asp", range(2))
    with pytest.raises(ValueError, match="never began"):
        mode.submit(0, 0)
    with pytest.raises(ValueError, match="member already"):
        mode.join(1)
    mode.leave(1)
    for worker in (1, 5):
        with pytest.raises(ValueError, match="join first"):
            mode.begin(worker)
    with pytest.raises(ValueError, match="never began"):
        mode.submit(5, 0)


def test_wrong_settings_are_answered():
    with pytest.raises(ConfigError, match="did you mean 'bap'"):
        make_sync("bapp", range(2), 1)
    for staleness in (None, -1):
        with pytest.raises(ConfigError, match="staleness: 'ssp' needs"):
            make_sync("ssp", range(2), staleness)
    with pytest.raises(ConfigError, match="'bsp' has no bound"):
        make_sync("bsp", range(2), 2)
    made = [make_sync(name, range(2), bound) for name, bound in zip(SYNC_MODES, (None, None, 1, 1), strict=True)]
    assert [type(mode) for mode in made] == [BSP, ASP, BAP, SSP]


# -- what a mode costs, in simulated time -------------------------------------------------------------------------


def applied_per_second(mode, duration, horizon=400.0, longest_life=float("inf")):
    """Gradients applied per unit of simulated time, ``duration(worker)`` drawing how long an iteration takes."""
    queue, applied, now = [], 0, 0.0  # (time, worker, whether the iteration ends by itself)
    while now < horizon:
        for worker in mode.clocks:
            if worker not in mode.under_way and mode.begin(worker) is not None:
                length = duration(worker)
                heapq.heappush(queue, (now + min(length, longest_life), worker, length <= longest_life))
        now, worker, finished = heapq.heappop(queue)
        aggregates = mode.submit(worker, mode.clocks[worker]) if finished else mode.interrupt(worker)
        applied += sum(len(contributions) for _, contributions in aggregates)
    return applied / now


def test_a_worker_that_is_always_slow_sets_the_pace_unless_interrupted():
    def duration(worker):
        return 5.0 if worker == 0 else 1.0

    def rate(name, staleness=None, **kwargs):
        return applied_per_second(make_sync(name, range(4), staleness), duration, **kwargs)

    assert rate("bsp") == pytest.approx(4 / 5, rel=0.02)
    assert rate("bap", 3) == pytest.approx(4 / 5, rel=0.02)
    assert rate("ssp", 3) == pytest.approx(4 / 5, rel=0.05)
    assert rate("asp") == pytest.approx(3 + 1 / 5, rel=0.02)
    assert rate("bap", 3, longest_life=2.0) == pytest.approx(3 / 2, rel=0.02)


def test_delays_that_come_and_go_are_evened_out_by_the_bound():
    def rate(name, staleness=None):
        rng = random.Random(0)
        mode = make_sync(name, range(4), staleness)
        return applied_per_second(mode, lambda worker: 5.0 if rng.random() < 0.2 else 1.0), mode.max_staleness

    (bsp, _), (bap, lead) = rate("bsp"), rate("bap", 4)
    assert bap > 1.3 * bsp and lead == 4


# -- broken twins: the same checks must catch them ----------------------------------------------------------------


class OneTooFar(BAP):
    def _may_begin(self, lead):
        return lead <= self.bound + 1


class Lockstep(BAP):
    """BSP in disguise."""

    def _may_begin(self, lead):
        return lead == 0


class WaitsForTheDead(SSP):
    def begin(self, worker):
        lead = self._clocks[worker] - min(self._departed.values(), default=INFINITE)
        return super().begin(worker) if lead <= self.bound else None


class ForgetsToAdvance(BAP):
    """A leave closes nothing: the others' gradients of that iteration lie about until somebody submits."""

    def leave(self, worker):
        interrupted = self._under_way.pop(worker, None) is not None
        self._departed[worker] = self._clocks.pop(worker) + interrupted
        return []


class TakesLateGradients(BAP):
    def submit(self, worker, iteration):
        if worker in self._clocks and not self.expects(worker, iteration):
            self._submitted.setdefault(iteration, []).append(worker)
        return super().submit(worker, iteration)


class BeginsAfresh(BAP):
    """A worker that comes back is taken for a new one."""

    def join(self, worker):
        self._departed.pop(worker, None)
        super().join(worker)


class AppliesAgain(SSP):
    """Gradients are handed out but stay where they are."""

    def _arrivals(self):
        return [Aggregate(i, ((w, i),)) for i, ws in self._submitted.items() for w in ws]


BROKEN = {
    OneTooFar: "P1: too far ahead",
    Lockstep: "waits without need",
    WaitsForTheDead: "P7: deadlock",
    ForgetsToAdvance: "wrong aggregates",
    TakesLateGradients: "P8: applied although interrupted",
    BeginsAfresh: "wrong clocks",
    AppliesAgain: "P6: applied twice",
}


@pytest.mark.parametrize("broken", BROKEN)
def test_enumeration_catches_a_broken_twin(broken):
    name = "ssp" if issubclass(broken, SSP) else "bap"
    with pytest.raises(AssertionError, match=BROKEN[broken]):
        explore(make_ledger(name, 2, 1, broken), 3, faults=2)


@pytest.mark.parametrize("broken", BROKEN)
def test_random_schedules_catch_a_broken_twin(broken):
    name = "ssp" if issubclass(broken, SSP) else "bap"
    with pytest.raises(AssertionError):
        for seed in range(2000):
            random_schedule(make_ledger(name, 3, 1, broken), random.Random(seed), num_events=30)
