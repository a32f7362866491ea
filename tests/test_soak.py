"""Runs for days: nothing that grows with the number of reports is kept in memory."""

import importlib
import math
from pathlib import Path

import numpy as np
import pytest

from malib_lite.runtime.metrics import MetricsWriter

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def soak():
    """The benchmark of that name, as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield importlib.import_module("soak")


def test_reports_are_read_back_as_they_were_written(tmp_path):
    metrics = MetricsWriter(tmp_path)
    assert list(metrics.reports) == []
    metrics.write(0, {"a": 0.1, "mixture": [0.25, math.inf], "name": "x"}, {"replaced": 0})
    metrics.write(1, {"b": math.nan})
    first, second = metrics.reports  # while the run still writes
    assert (first["step"], first["a"], first["name"], first["time"]["replaced"]) == (0, 0.1, "x", 0)
    assert first["mixture"][0] == 0.25 and math.isnan(first["mixture"][1]) and math.isnan(second["b"])
    assert len(list(metrics.reports)) == 2  # as often as one likes
    metrics.close()


def test_a_slope_is_found_among_steps_and_outliers(soak):
    """Memory grows in steps of pages, and a sample may be taken amid something large."""
    random = np.random.default_rng(0)
    times = np.linspace(0.0, 3600.0, 600)
    sizes = 100 * soak.MIB + np.round(5.0 * times / 3600.0 * 256) * 4096  # 5 MiB/h, page by page
    sizes[random.choice(600, 60, replace=False)] += 20 * soak.MIB
    found = soak.slope(times.tolist(), sizes.tolist())
    # A stretch of 1/20 h grows by 0.25 MiB: medians of stretches are within that of the line.
    assert found.low <= 5.0 + 0.5 and found.high >= 5.0 - 0.5 and abs(found.value - 5.0) < 0.5
    level = soak.slope(times.tolist(), [100 * soak.MIB] * 600)
    assert level == (0.0, 0.0, 0.0)


def test_the_verdict_tells_growth_and_descriptors(soak, capsys):
    seconds = [float(s) for s in range(100)]
    rows = [(s, 5, 100) for s in seconds]
    grows = [soak.Sample(s, int(1e8 + 1e4 * s), int(2e8), 10) for s in seconds]  # 34 MiB/h
    leaks = [soak.Sample(s, int(1e8), int(2e8), 10 + int(s)) for s in seconds]
    level = [soak.Sample(s, int(1e8), int(2e8), 10) for s in seconds]
    result = soak.Soak({"grows": grows, "leaks": leaks, "level": level}, rows, rows, [(99.0, 7)], seconds=99.0)
    faults = soak.judge(result, warm_up=0.25, bound=1.0)
    assert len(faults) == 2
    assert faults[0].startswith("grows grows by 34.") and faults[1].startswith("leaks holds more and more descriptors")
    assert "7 reports" in capsys.readouterr().out
    assert soak.judge(
        soak.Soak({"level": level}, rows, [(s, int(s), 9) for s in seconds], [(99.0, 7)], 99.0), 0.25, 1.0
    )
