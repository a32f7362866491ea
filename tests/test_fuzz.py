"""Files that nobody meant are read or refused in a sentence: no traceback, no hang, no memory beyond the files."""

import json
import subprocess
import sys
from pathlib import Path

import fuzz
import pytest

SEED = 13
BATCH = 250


def test_mutated_files_are_read_or_refused_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fuzz.make_runs(tmp_path, ["psro"])
    codes, wrong = fuzz.try_cases(tmp_path, SEED, range(60))
    assert not wrong
    assert codes["0"] > 5 and codes["2"] > 30


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    fuzz.make_runs(folder, list(fuzz.RUNS))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 2000, BATCH))
def test_2000_mutated_files_are_read_or_refused_in_a_sentence(first, runs):
    """In a process of their own, whose memory is limited."""
    command = [sys.executable, fuzz.__file__, str(runs), str(SEED), str(first), str(BATCH)]
    done = subprocess.run(command, cwd=runs, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    codes = json.loads(done.stdout)
    assert sum(codes.values()) == BATCH and codes["0"] > 10 and codes["2"] > 100


@pytest.mark.slow
@pytest.mark.parametrize("first", range(2000, 2200, 20))
def test_the_commands_themselves_refuse_mutated_files_in_a_sentence(first, runs):
    """What was refused within a process is refused alike by a command, before anything begins."""
    tried = 0
    for number in range(first, first + 20):
        _, command, named = fuzz.prepare(runs, SEED, number)
        code, error, problem = fuzz.try_in_process(command, named)
        assert problem is None
        if code != 2 and command[0] == "train":
            continue  # a training would begin
        done = subprocess.run(
            [sys.executable, "-m", f"malib_lite.{command[0]}", *command[1:]],
            cwd=Path(runs), capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (code, error) and "Traceback" not in done.stdout
        tried += 1
    assert tried > 10
