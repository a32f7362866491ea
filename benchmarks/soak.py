"""Runs for days: whether memory, open files and the run folder stay level while a run goes on.

    python benchmarks/soak.py self_play --minutes 120            (Linux: reads /proc)
    python benchmarks/soak.py marl --minutes 13 --warm-up 0.5

Trains as a user would, without an end, and samples all the run's processes: the memory of each, its open descriptors;
the files and bytes of the run folder, and what lies in shared memory. A process's memory is its anonymous memory, in
RAM or swapped out: unlike the unique set size it does not grow when a page that came with the fork is first written.

The slope of each process is that of Theil and Sen over the medians of equal stretches of time, with the interval that
holds it with a probability of 95 % (Sen, 1968). Medians of stretches, since neighbouring samples are not independent.
The verdict: no process surely grows by more than ``--bound``, descriptors and shared memory are level.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import theilslopes

KUHN = ["--env", "open_spiel/kuhn_poker"]
ENDLESS = str(10**9)
CONFIGURATIONS = {
    "self_play": ["self_play", *KUHN, "--iterations", ENDLESS],
    # networks throughout: boards are no finite table
    "self_play_board": ["self_play", "--env", "pettingzoo/classic.tictactoe_v3", "--iterations", ENDLESS],
    "league": ["league", *KUHN, "--iterations", ENDLESS],
    "psro": ["psro", *KUHN, "--iterations", ENDLESS],
    "marl": ["marl", "--env", "gym/CartPole-v1", "--rollout.eval_interval", "1"],
}
MIB = 2**20


class Sample(NamedTuple):
    """A process at a time."""

    seconds: float
    memory: int  # bytes of anonymous memory, with what is swapped out
    resident: int  # bytes
    descriptors: int


class Slope(NamedTuple):
    """MiB per hour, with an interval of 95 %."""

    value: float
    low: float
    high: float


@dataclass
class Soak:
    """What was sampled of a run."""

    processes: dict[str, list[Sample]] = field(default_factory=dict)  # by name and process id
    folder: list[tuple[float, int, int]] = field(default_factory=list)  # seconds, files, bytes
    shared: list[tuple[float, int, int]] = field(default_factory=list)  # of the run's shared memory
    progress: list[tuple[float, int]] = field(default_factory=list)  # seconds, reports
    seconds: float = 0.0

    @property
    def reports(self) -> int:
        """How many there were in the end."""
        return self.progress[-1][1]

    def begin(self, warm_up: int) -> float:
        """When so many reports were there."""
        return next(seconds for seconds, reports in self.progress if reports >= warm_up)


def tree(root: int) -> list[int]:
    """A process and all its living descendants."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            children.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
    found, frontier = [], [root]
    while frontier:
        found += frontier
        frontier = [child for parent in frontier for child in children.get(parent, [])]
    return found


def look(pid: int, seconds: float) -> Sample | None:
    """What a process holds now; None if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return None
    size = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return Sample(seconds, size["Anonymous"] + size["Swap"], size["Rss"], descriptors)


def count(folder: Path) -> tuple[int, int]:
    """Files below a folder, and their bytes."""
    sizes = []
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            sizes += [path.stat().st_size] if path.is_file() else []
    return len(sizes), sum(sizes)


def names(run: Path, root: int) -> dict[int, str]:
    """Names of processes by id, as their logs tell them."""
    found = {root: "main"}
    for log in (run / "logs").glob("*.log"):
        for pid in re.findall(r": process (\d+), started by", log.read_text(errors="replace")):
            found[int(pid)] = log.stem
    return found


def shared_folders(pids: list[int]) -> set[Path]:
    """The folders in shared memory whose files the processes have mapped."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for path in re.findall(r"(/dev/shm/\S+)/", Path(f"/proc/{pid}/maps").read_text()):
                found.add(Path(path))
    return found


def soak(command: list[str], minutes: float, interval_s: float, enough: int | None = None) -> Soak:
    """Run a training for a time and sample it.

    Args:
        enough: reports after which it ends sooner.

    Raises:
        RuntimeError: the run ended by itself.
    """
    result = Soak()
    with tempfile.TemporaryDirectory() as parent:
        run = Path(parent) / "run"
        process = subprocess.Popen(
            [sys.executable, "-m", "malib_lite.train", *command, "--quiet", "--logdir", str(run)]
        )
        started = time.monotonic()
        try:
            while (now := time.monotonic() - started) < 60.0 * minutes:
                if process.poll() is not None:
                    raise RuntimeError(f"the run ended with {process.returncode} after {now:.0f} s")
                pids, called = tree(process.pid), names(run, process.pid)
                for pid in pids:
                    sample = look(pid, now)
                    if sample is not None:
                        key = f"{called.get(pid, 'helper')} ({pid})"
                        result.processes.setdefault(key, []).append(sample)
                metrics = run / "metrics.jsonl"
                result.progress.append((now, metrics.read_text().count("\n") if metrics.exists() else 0))
                if enough is not None and result.reports >= enough:
                    break
                result.folder.append((now, *count(run)))
                shared = [count(folder) for folder in shared_folders(pids)]
                result.shared.append((now, sum(files for files, _ in shared), sum(size for _, size in shared)))
                time.sleep(interval_s)
            result.seconds = time.monotonic() - started
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
    return result


def slope(times: list[float], sizes: list[int], num_stretches: int = 20) -> Slope:
    """Growth of ``sizes`` (n,) bytes over ``times`` (n,) s, robustly."""
    stretches = np.array_split(np.arange(len(times)), min(num_stretches, len(times)))
    centres = [float(np.median(np.array(times)[stretch])) / 3600.0 for stretch in stretches]
    medians = [float(np.median(np.array(sizes)[stretch])) / MIB for stretch in stretches]
    fit = theilslopes(medians, centres)
    return Slope(float(fit.slope), float(fit.low_slope), float(fit.high_slope))


def judge(result: Soak, warm_up: float, bound: float) -> list[str]:
    """Print a line for every process, the folder and shared memory; returns what is not as it should be.

    Args:
        warm_up: share of the time that does not count.
        bound: MiB per hour.
    """
    begin, faults = warm_up * result.seconds, []
    print(
        f"{result.seconds / 60:.1f} minutes, {result.reports} reports; slopes after the first {begin / 60:.1f} minutes"
    )
    print(f"{'process':<30}{'MiB/h':>9}{'95 % interval':>19}{'MiB min':>10}{'max':>8}{'RSS max':>9}{'descriptors':>13}")
    for name, samples in sorted(result.processes.items()):
        late = [sample for sample in samples if sample.seconds >= begin]
        if len(late) < 10:
            continue  # a helper that lived for a moment
        memory, descriptors = [sample.memory for sample in late], [sample.descriptors for sample in late]
        fit = slope([sample.seconds for sample in late], memory)
        print(
            f"{name:<30}{fit.value:>9.2f}{f'{fit.low:.2f} .. {fit.high:.2f}':>19}{min(memory) / MIB:>10.1f}"
            f"{max(memory) / MIB:>8.1f}{max(s.resident for s in late) / MIB:>9.1f}"
            f"{f'{min(descriptors)} .. {max(descriptors)}':>13}"
        )
        if fit.low > bound:
            faults.append(f"{name} grows by {fit.value:.2f} MiB/h ({fit.low:.2f} .. {fit.high:.2f})")
        half = len(descriptors) // 2
        if min(descriptors[half:]) > max(descriptors[:half]):
            faults.append(f"{name} holds more and more descriptors: {min(descriptors)} .. {max(descriptors)}")
    for title, rows in (("run folder", result.folder), ("shared memory", result.shared)):
        late_rows = [row for row in rows if row[0] >= begin]
        (first, *_, files, size), (last, *_, more_files, more) = late_rows[0], late_rows[-1]
        hours = (last - first) / 3600.0
        print(
            f"{title}: {files} .. {more_files} files, {size / MIB:.1f} .. {more / MIB:.1f} MiB "
            f"({(more_files - files) / hours:.0f} files/h, {(more - size) / MIB / hours:.1f} MiB/h)"
        )
    if min(row[1] for row in late_rows[len(late_rows) // 2 :]) > max(
        row[1] for row in late_rows[: len(late_rows) // 2]
    ):
        faults.append("more and more files in shared memory")
    return faults


def main() -> int:
    """Soak, print, judge."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # takes the run down on the way out
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configuration", choices=CONFIGURATIONS)
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--warm-up", type=float, default=0.25, help="share of the time that does not count")
    parser.add_argument("--bound", type=float, default=1.0, help="MiB per hour")
    parser.add_argument("--interval", type=float, default=None, help="seconds between two samples")
    arguments, settings = parser.parse_known_args()
    interval_s = arguments.interval or max(0.5, arguments.minutes * 60.0 / 1000.0)
    command = CONFIGURATIONS[arguments.configuration]
    if command[0] == "marl":  # reports and evaluations are shares of its steps: more than it can take in that time
        command = [*command, "--steps", str(int(60 * arguments.minutes * 50_000))]
    result = soak([*command, *settings], arguments.minutes, interval_s)
    faults = judge(result, arguments.warm_up, arguments.bound)
    print("\n".join(faults) or "level")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
