"""Does every algorithm learn? Trains each row of a table with three seeds and writes docs/results.md.

    python benchmarks/learning/run.py                 # every row that has no result yet: hours
    python benchmarks/learning/run.py qmix dqn        # rows whose algorithm is named
    python benchmarks/learning/run.py --again qmix    # measure anew

Results are kept in docs/results.json after every training, so that an interrupted run goes on where it stopped. What is
measured is the evaluation of the final policy, exploration off, never the training curve or the best so far; where it
is a mean over the whole run, the row says so.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
SEEDS = (0, 1, 2)

Results: TypeAlias = dict[str, dict[str, dict[str, float]]]  # by row and seed: value and seconds


@dataclass(frozen=True)
class Row:
    """A training, and what others reached with as much or more of it."""

    name: str
    algorithm: str
    env: str
    steps: int
    options: str  # of the command line, beyond these
    metric: str  # of summary.json, or of evaluation.json
    scale: float  # what the metric is multiplied with: the sum over agents, where others give that
    reference: str
    gate: float | None = None  # the median over the seeds must reach it
    at_most: bool = False  # or stay below it
    below: str | None = None  # and below the median of the row with this name
    mean: bool = False  # the metric is the mean over all reports of a run, and not the last one's
    scenario: str = "marl"
    evaluated: bool = False  # by malib_lite.evaluate, for the run itself does not measure it
    note: str = ""  # what the options make of the environment, or which sum the figures are

    @property
    def command(self) -> str:
        """The command line, without the seed."""
        learning = f"--algorithm {self.algorithm} --steps {self.steps} --rollout.num_eval_episodes 100 "
        what = learning if self.steps else ""  # without steps nothing is learnt, but computed
        return f"python -m malib_lite.train {self.scenario} --env {self.env} {what}{self.options}".strip()


def rows() -> list[Row]:
    """The table in rows.yaml."""
    defaults: dict[str, Any] = {"options": "", "metric": "return_mean", "scale": 1.0}
    return [Row(**{**defaults, **row}) for row in yaml.safe_load((HERE / "rows.yaml").read_text())]


def measure(row: Row, seed: int) -> dict[str, float]:
    """Train once; the metric and the seconds that it took."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        command = [*shlex.split(row.command), "--seed", str(seed), "--logdir", str(run), "--quiet"]
        started = time.monotonic()
        subprocess.run([sys.executable, *command[1:]], check=True)
        seconds = round(time.monotonic() - started, 1)
        if row.evaluated:
            evaluate = [sys.executable, "-m", "malib_lite.evaluate", str(run)]
            subprocess.run(evaluate, check=True, stdout=subprocess.DEVNULL)
            (population,) = json.loads((run / "evaluation.json").read_text())["populations"]
            value = population[row.metric]
        elif row.mean:
            reports = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
            value = statistics.mean(report[row.metric] for report in reports if row.metric in report)
        else:
            value = json.loads((run / "summary.json").read_text())[row.metric]
    return {"value": value * row.scale, "seconds": seconds}


def reached(row: Row, results: Results) -> bool | None:
    """Whether a row's median is what it must be; None if nothing is asked of it, or something is not measured yet."""
    medians = [
        statistics.median(result["value"] for result in results[name].values())
        for name in (row.name, row.below)
        if name is not None and len(results.get(name, {})) == len(SEEDS)
    ]
    if len(medians) < (1 if row.below is None else 2) or (row.gate is None and row.below is None):
        return None
    median, gate = medians[0], row.gate
    within = gate is None or (median <= gate if row.at_most else median >= gate)
    return within and (row.below is None or median < medians[1])


def page(table: list[Row], results: Results) -> str:
    """The table as Markdown."""
    lines = [
        "# Results",
        "",
        "Evaluations of final policies, one per seed: mean returns of 100 episodes, exploration off; exploitability",
        "and NashConv exactly; a mean over a whole run where the row says so. Written by",
        "`python benchmarks/learning/run.py`. The gate is what the median must reach; references come from longer",
        "trainings or other hardware, and are often the best of many. Rows without figures have not been measured yet;",
        "those without a gate are what others are compared with.",
        "Seconds are those of a machine of 2 cores with other work beside: two to three times those of an idle one.",
        "",
        "| algorithm | environment | steps | reference | gate | ours, seeds 0, 1, 2 | seconds | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in table:
        found = [results[row.name][str(seed)] for seed in SEEDS if str(seed) in results.get(row.name, {})]
        values = [result["value"] for result in found]
        passed = reached(row, results)
        verdict = "" if passed is None else "reached" if passed else "**short of it**"
        gates = [] if row.gate is None else [f"{'≤' if row.at_most else '≥'} {row.gate:g}"]
        gates += [f"< `{row.below}`"] if row.below else []
        cells = [
            row.algorithm, f"`{row.env}`" + (row.note and f": {row.note}"), f"{row.steps:,}", row.reference,
            ", ".join(gates), ", ".join(f"{value:.4g}" for value in values),
            ", ".join(f"{result['seconds']:.0f}" for result in found), verdict,
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "## Commands", ""]
    evaluate = " && python -m malib_lite.evaluate logs/RUN"
    lines += [f"    {row.command} --seed N{evaluate * row.evaluated}" for row in table]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="algorithms or names of rows; all, if none is given")
    parser.add_argument("--again", action="store_true", help="measure what has been measured already")
    options = parser.parse_args()
    table, path = rows(), DOCS / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for row in table:
        if options.names and not {row.algorithm, row.name} & set(options.names):
            continue
        for seed in SEEDS:
            if str(seed) in results.setdefault(row.name, {}) and not options.again:
                continue
            result = results[row.name][str(seed)] = measure(row, seed)
            print(f"{row.name} seed {seed}: {result['value']:.4g} in {result['seconds']:.0f} s", flush=True)
            path.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
            (DOCS / "results.md").write_text(page(table, results))
    (DOCS / "results.md").write_text(page(table, results))


if __name__ == "__main__":
    main()
