"""Whatever write of a run fails, and wherever the process is killed: its folder reads as the last whole state."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import faults
import pytest
import yaml
from matplotlib.figure import Figure

from malib_lite import evaluate
from malib_lite.config import ConfigError
from malib_lite.population.saved import SavedPopulation
from malib_lite.runtime.metrics import Reports
from malib_lite.runtime.run_folder import RunFolder
from malib_lite.runtime.shared_memory import SharedMemoryError
from malib_lite.scenarios.psro_scenario import PSROScenario
from malib_lite.train import main

EXACT = ["psro", "--env", "open_spiel/kuhn_poker", "--psro.oracle", "exact", "--iterations", "2"]
LEARNT = [
    "marl", "--env", "mdp/multi_round_nmdp", "--workers", "0", "--steps", "384", "--training.keep_checkpoints", "1",
    "--rollout.fragment_length", "64", "--rollout.num_eval_episodes", "2", "--rollout.eval_interval", "1",
]  # fmt: skip


class Whole:
    """What a run without faults did and left."""

    def __init__(self, run, trace, states):
        self.run = run
        self.trace = [tuple(operation) for operation in trace]
        self.states = [json.loads(state) for state in states]
        self.reports = reports_of(run)

    def num_states(self, position):
        """How many states were written before an operation."""
        return sum(what == "replace" and path.endswith("state.json") for what, path in self.trace[:position])

    def has_begun(self, position):
        """Whether there may be a result: not while the configuration is written."""
        return position > self.trace.index(("open", "run/metrics.jsonl"))


def reports_of(run):
    reports = list(Reports(run / "metrics.jsonl")) if (run / "metrics.jsonl").exists() else []
    return [json.dumps({name: value for name, value in report.items() if name != "time"}) for report in reports]


def check_folder(run, whole, position):
    """It reads as the last state before the operation, or as the one that the operation made."""
    before = whole.num_states(position)
    try:
        saved = SavedPopulation.read(run)
    except ConfigError as error:
        assert before == 0 and re.search("is no run folder|has no policies", str(error)), error
    else:
        state = json.loads((run / "checkpoints" / "state.json").read_text())
        assert state in whole.states[max(before - 1, 0) : before + 1]
        for members in saved.members.values():
            assert all(saved.folder.load(member.digest) for member in members)
        for pool in (saved.best or {}).values():
            assert all(saved.folder.load(member.digest) for member in pool)
        assert bool(state.get("payoffs")) == (saved.payoffs is not None)
    reports = reports_of(run)
    assert reports == whole.reports[: len(reports)]
    for name in ("summary.json", "manifest.json"):
        if (run / name).exists():
            assert json.loads((run / name).read_text()).keys() >= {"seed"}
    if (run / "config.yaml").exists():
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert config.keys() == yaml.safe_load((whole.run / "config.yaml").read_text()).keys()
    for name in ("report.md", "strategy.md"):
        if (run / name).exists():
            assert (run / name).read_text().splitlines()[0] == (whole.run / name).read_text().splitlines()[0]
    for picture in run.glob("plots/*.png"):
        assert picture.stat().st_size == (whole.run / "plots" / picture.name).stat().st_size


def check_failure(run, code, said, begun):
    """It failed in one sentence, nothing half written is left, and the result is in the folder or was said."""
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert code in (1, 2) and len(errors) == 1 and "cannot be" in errors[0] and "No space left" in errors[0], said
    assert "Traceback" not in said
    assert not list(run.rglob("*.new"))
    for line in (run / "metrics.jsonl").read_bytes().splitlines(True) if (run / "metrics.jsonl").exists() else []:
        assert json.loads(line) and line.endswith(b"\n")
    if begun and not (run / "summary.json").exists():
        (result,) = re.findall(r"this would be in it: (\{.*\})", said)
        assert json.loads(result)["status"] in ("failed", "completed")


def check_killed(run):
    """What is left half written is removed by who takes the folder next, if anybody may."""
    if run.exists() and not (run / "metrics.jsonl").exists():
        RunFolder(run).close()
        assert not list(run.rglob("*.new"))


def check_order(trace):
    """After a power failure, too: what a name stands for is on the disk before the name, and that before what follows.

    So a state is there only with the policies and payoffs that it names. Of what is appended, the end may be missing.
    """
    for place, (what, path) in enumerate(trace):
        folder = os.path.dirname(path)
        if what == "replace":
            operations = trace[place - 3 : place + 2]
            assert [each for each, _ in operations] == ["open", "write", "fsync", "replace", "fsync"]
            assert len({name for _, name in operations[:3]}) == 1 and operations[4][1] == folder
        elif what == "mkdir" and folder:
            assert trace[place + 1] == ("fsync", folder)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [EXACT, LEARNT], ids=["exact", "learnt"])
@pytest.mark.parametrize("mode", ["full", "once", "kill"])
def test_every_operation_may_fail_or_be_the_last(tmp_path, arguments, mode):
    script = Path(faults.__file__)
    command = [sys.executable, str(script), str(tmp_path), mode, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    whole = Whole(tmp_path / "whole" / "run", told["trace"], told["states"])
    assert len(whole.states) >= 1 and len(whole.trace) > 50
    check_order(whole.trace)
    for position, operation in enumerate(whole.trace):
        root, code = tmp_path / f"{mode}-{position}", told[f"{mode}-{position}"]
        said = (root / "output.txt").read_text()
        harmless = mode == "once" and operation[0] in faults.FREEING
        try:
            check_folder(root / "run", whole, len(whole.trace) if harmless else position)
            if mode == "kill":
                assert code == -9
                check_killed(root / "run")
            elif harmless:
                assert code == 0
            else:
                check_failure(root / "run", code, said, whole.has_begun(position))
        except Exception as error:
            raise AssertionError(f"{mode} at {position}, {operation}:\n{said}") from error


@pytest.mark.parametrize("mode", ["full", "end"])
def test_some_operations_fail_or_are_the_last(tmp_path, mode, capfd):
    """The same in this process and without plots, for one operation in five."""
    code, done = faults.train(tmp_path / "whole", EXACT)
    whole = Whole(tmp_path / "whole" / "run", done.trace, done.states)
    assert code == 0 and len(whole.states) == 3
    check_order(whole.trace)
    for position in range(1, len(whole.trace), 5):
        run = tmp_path / str(position) / "run"
        capfd.readouterr()
        code, _ = faults.train(run.parent, EXACT, mode, position)
        said = "".join(capfd.readouterr())
        check_folder(run, whole, position)
        if mode == "end":
            assert code is None
            check_killed(run)
        else:
            check_failure(run, code, said, whole.has_begun(position))


@pytest.mark.parametrize("mode", ["full", "end"])
def test_an_evaluation_fails_in_a_sentence_and_leaves_the_run_as_it_was(tmp_path, monkeypatch, capsys, mode):
    assert main([*EXACT, "--logdir", str(tmp_path / "run"), "--quiet"]) == 0
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **options: file.write(b"\x89PNG"))  # faster
    with faults.Faults(tmp_path).active() as counted:
        assert evaluate.main([str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    check_order(counted.trace)
    assert len(counted.trace) == 11  # mkdir, and five for each file
    shutil.rmtree(tmp_path / "out")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for position in range(len(counted.trace)):
        capsys.readouterr()
        with faults.Faults(tmp_path, mode, position).active():
            if mode == "full":
                code = evaluate.main([str(tmp_path / "run"), "--out", str(tmp_path / "out")])
                said = capsys.readouterr()
                assert code == (1 if position else 2) and said.err.count("\n") == 1 and "No space left" in said.err
                assert ("NashConv" in said.out) == (position > 0)
            else:
                with pytest.raises(faults.Ended):
                    evaluate.main([str(tmp_path / "run"), "--out", str(tmp_path / "out")])
        assert all(path.read_bytes() == content for path, content in before.items())
        for path in tmp_path.glob("out/*.json"):
            json.loads(path.read_text())
        assert mode == "end" or not list(tmp_path.rglob("*.new"))
        shutil.rmtree(tmp_path / "out", ignore_errors=True)


@pytest.mark.parametrize("when", ["execute", "plot"])
def test_a_folder_that_is_removed_takes_no_result_with_it(tmp_path, monkeypatch, capsys, when):
    real = PSROScenario.execute

    def execute(scenario, run):
        result = real(scenario, run)
        shutil.rmtree(tmp_path / "run")
        return result

    replacement = {"execute": execute, "plot": lambda scenario, run: shutil.rmtree(tmp_path / "run")}[when]
    monkeypatch.setattr(PSROScenario, when, replacement)
    assert main([*EXACT, "--logdir", str(tmp_path / "run"), "--quiet"]) == 1
    said = capsys.readouterr().err
    (result,) = re.findall(r"(?:this would be in it|the result): (\{.*\})", said)
    assert json.loads(result)["status"] == "completed" and json.loads(result)["nash_conv"] >= 0.0
    assert len(re.findall("^error: ", said, re.MULTILINE)) == 1 and "Traceback" not in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["metrics.jsonl", "summary.json"])
def test_a_result_that_is_removed_is_said(tmp_path, monkeypatch, capsys, name):
    monkeypatch.setattr(PSROScenario, "plot", lambda scenario, run: (tmp_path / "run" / name).unlink())
    assert main([*EXACT, "--logdir", str(tmp_path / "run"), "--quiet"]) == 1
    assert f"error: '{tmp_path / 'run' / name}' cannot be written: it was removed" in capsys.readouterr().err


def test_a_folder_that_another_one_replaced_is_not_taken_for_the_run_s(tmp_path, monkeypatch, capsys):
    def replace(scenario, run):
        (tmp_path / "run").rename(tmp_path / "old")
        shutil.copytree(tmp_path / "old", tmp_path / "run")

    monkeypatch.setattr(PSROScenario, "plot", replace)
    assert main([*EXACT, "--logdir", str(tmp_path / "run"), "--quiet"]) == 1
    assert "removed while the run was in it" in capsys.readouterr().err


@pytest.mark.parametrize("interrupt", [True, False])
def test_what_ended_a_run_is_told_before_what_could_not_be_written(tmp_path, monkeypatch, capsys, interrupt):
    """The exit code is that of the interruption, the sentence that of the failure; the result is said in any case."""
    error = KeyboardInterrupt("SIGTERM") if interrupt else SharedMemoryError("there is no room")

    def execute(scenario, run):
        shutil.rmtree(tmp_path / "run")
        raise error

    monkeypatch.setattr(PSROScenario, "execute", execute)
    assert main([*EXACT, "--logdir", str(tmp_path / "run"), "--quiet"]) == (143 if interrupt else 1)
    said = capsys.readouterr().err
    assert "this would be in it" in said and ("interrupted" if interrupt else "error: there is no room") in said


@pytest.mark.parametrize("kind", ["full", "reader has ended", "closed"])
def test_a_run_goes_on_when_nobody_takes_its_output(tmp_path, monkeypatch, capsys, kind):
    read, write = os.pipe()
    os.close(read)
    with open("/dev/full" if kind == "full" else write, "w") as stdout:  # leaving writes what is buffered
        monkeypatch.setattr(sys, "stdout", None if kind == "closed" else stdout)
        assert main([*EXACT, "--logdir", str(tmp_path / "run")]) == 0
        assert evaluate.main([str(tmp_path / "run")]) == 0
    assert capsys.readouterr().err.count("output is lost from here on") == (kind != "closed")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "completed"


SIZES = [4, 12, 36, 60, 100, 160]  # KiB; an untrained network has 24, its run 470
PLAYED = [
    "psro", "--env", "open_spiel/kuhn_poker", "--workers", "1", "--steps", "500", "--iterations", "2",
    "--rollout.fragment_length", "64",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_a_disk_that_is_full_for_all_processes(tmp_path, size):
    """A file system of few KiB, which needs the right to make a user namespace."""
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    namespace = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size={size}k none {disk}"
    try:
        subprocess.run([*namespace, mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    train = shlex.join([sys.executable, "-m", "malib_lite.train", *PLAYED, "--logdir", str(disk / "run")])
    script = f"{mount} && {train}; code=$?; cp -r {disk}/run {kept}; exit $code"
    done = subprocess.run([*namespace, script], capture_output=True, text=True, check=False)
    check_failure(kept, done.returncode, done.stdout + done.stderr, begun=size > SIZES[0])
    try:
        saved = SavedPopulation.read(kept)
    except ConfigError as error:
        assert "has no policies" in str(error) or "no run folder" in str(error)
    else:
        assert all(saved.folder.load(member.digest) for members in saved.members.values() for member in members)
