"""A run folder belongs to one run, whatever is started beside it and however it ends."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from malib_lite.config import ConfigError
from malib_lite.runtime.run_folder import RunFolder, make_folder

COMMAND = [sys.executable, "-m", "malib_lite.train", "psro", "--env", "open_spiel/kuhn_poker", "--psro.oracle", "exact"]
HOLD = """
import subprocess, sys
from malib_lite.runtime.run_folder import RunFolder
folder = RunFolder(sys.argv[1])
child = subprocess.Popen(["sleep", "600"])
print(child.pid, flush=True)
child.wait()
"""


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def start(cwd, *arguments):
    command = [*COMMAND, "--iterations", "3", *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_runs_of_one_second_have_folders_of_their_own(tmp_path):
    runs = [start(tmp_path) for _ in range(3)]
    said = [run.communicate(timeout=600)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], said
    folders = list((tmp_path / "logs").iterdir())
    assert len(folders) == 3
    for folder in folders:
        assert json.loads((folder / "summary.json").read_text())["status"] == "completed"
        assert [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_of_two_runs_with_one_folder_one_is_refused(tmp_path):
    runs = {seed: start(tmp_path, "--seed", seed, "--logdir", tmp_path / "same") for seed in (0, 7)}
    said = {seed: run.communicate(timeout=600)[0] for seed, run in runs.items()}
    assert sorted(run.returncode for run in runs.values()) == [0, 2], said
    (winner,) = (seed for seed, run in runs.items() if run.returncode == 0)
    (refused,) = (said[seed].splitlines()[-1] for seed in runs if seed != winner)
    assert refused.startswith("error: 'logdir' = ") and "Traceback" not in said[7 - winner]
    assert json.loads((tmp_path / "same" / "summary.json").read_text())["seed"] == winner
    assert json.loads((tmp_path / "same" / "manifest.json").read_text())["seed"] == winner


def test_a_folder_is_held_until_its_process_is_killed_and_not_by_its_children(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    child = int(holder.stdout.readline())
    try:
        before = files(tmp_path)
        with pytest.raises(ConfigError, match="another run is in it"):
            RunFolder(tmp_path / "run")
        assert files(tmp_path) == before
        holder.kill()
        holder.wait()
        os.kill(child, 0)  # it lives
        RunFolder(tmp_path / "run").close()
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("name", ["summary.json", "metrics.jsonl"])
def test_a_finished_run_is_left_as_it_is(tmp_path, name):
    (tmp_path / name).write_text("{}\n")
    with pytest.raises(ConfigError, match="holds a run already"):
        RunFolder(tmp_path)
    assert os.listdir(tmp_path) == [name]


def test_a_lock_file_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="cannot be written"):
        RunFolder(tmp_path / "run")
    assert not (tmp_path / "elsewhere").exists()


def test_made_folders_differ(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(make_folder, [tmp_path / "logs" / "run"] * 32))
    assert len(set(made)) == 32 and all(folder.is_dir() for folder in made)
    assert {folder.name for folder in made} == {"run", *(f"run-{number}" for number in range(2, 33))}
