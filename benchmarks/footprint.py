"""Start-up and memory of a training command: when the first update comes, and what all its processes hold.

    python benchmarks/footprint.py            (Linux: reads /proc)

Runs the default Kuhn poker training as a user would, samples the proportional set size of its whole process tree (main,
fork server, resource tracker, workers, learners), and notes when the run's progress shows its first updates.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def tree(root: int) -> list[int]:
    """A process and all its living descendants."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            children.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
        except OSError:
            continue
    found, frontier = [], [root]
    while frontier:
        found += frontier
        frontier = [child for parent in frontier for child in children.get(parent, [])]
    return found


def pss_mib(pids: list[int]) -> float:
    """Proportional set size of processes: pages they share count once."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "malib_lite.train", "psro", "--env", "open_spiel/kuhn_poker", "--quiet"]
        started = time.monotonic()
        process = subprocess.Popen([*command, "--logdir", folder])
        samples: list[tuple[float, float, int]] = []
        first_report = None
        metrics = Path(folder) / "metrics.jsonl"
        while process.poll() is None:
            pids = tree(process.pid)
            samples.append((time.monotonic() - started, pss_mib(pids), len(pids)))
            if first_report is None and metrics.exists() and metrics.read_text().count("\n") >= 2:
                first_report = time.monotonic() - started
            time.sleep(0.1)
        wall = time.monotonic() - started
        summary = json.loads((Path(folder) / "summary.json").read_text())
    middle = [s for s in samples if 0.3 * wall < s[0] < 0.5 * wall]
    late = [s for s in samples if 0.7 * wall < s[0] < 0.9 * wall]
    print(f"whole command {wall:.1f} s (summary: wall_s {summary['wall_s']}), nash_conv {summary['nash_conv']:.4f}")
    print(f"first best responses learnt, of {summary['iteration']} iterations: {first_report:.1f} s after the command")
    print(
        f"proportional set size: at most {max(s[1] for s in samples):.0f} MiB in {max(s[2] for s in samples)} processes"
    )
    mean = [sum(s[1] for s in part) / len(part) for part in (middle, late)]
    print(f"growth: {mean[0]:.0f} MiB between 30 and 50 % of the run, {mean[1]:.0f} MiB between 70 and 90 %")


if __name__ == "__main__":
    main()
