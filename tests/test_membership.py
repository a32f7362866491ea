"""Gradient workers and rollout workers that hang, pause, come late, are slow or finish early: nobody waits for ever."""

import json
import os
import signal
import time
from collections import defaultdict

import pytest
from recording import RecordingWorker
from test_learning import train
from test_system import command, process_id, reported, wait_until

pytestmark = [pytest.mark.usefixtures("no_leaks"), pytest.mark.slow]
MODES = pytest.mark.parametrize("sync", ["bsp", "asp", "bap", "ssp"])
SHORT = ["--rollout.fragment_length", "256", "--rollout.eval_interval", "1000", "--rollout.num_eval_episodes", "2"]


def start(folder, sync, *more, steps=8000, learners=2, hang_timeout_s=10):
    return command(
        folder, "marl", "--env", "gym/CartPole-v1", "--algorithm", "ppo", "--steps", str(steps), "--sync", sync,
        "--learners", str(learners), "--trainer.num_epochs", "2", "--rollout.hang_timeout_s", str(hang_timeout_s),
        *SHORT, *more, workers=2,
    )  # fmt: skip


def end(main, folder):
    """What the run said and what it left; it has ended well."""
    output = main.communicate(timeout=600)[0]
    assert main.returncode == 0, output
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "completed" and summary["env_steps"] >= 8000
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["time"]["replaced"] == sum(summary["replaced"].values())
    return output, summary


@MODES
@pytest.mark.parametrize("who", ["gradients-agent-1", "rollout-1"])
def test_who_hangs_is_replaced(tmp_path, sync, who):
    """P7. It stands still in the middle of whatever it does, and never goes on."""
    main = start(tmp_path, sync)
    wait_until(lambda: reported(tmp_path, 2))
    os.kill(process_id(tmp_path, who), signal.SIGSTOP)
    output, summary = end(main, tmp_path)
    assert f"{who} has shown no sign of life for 10 s" in output and f"{who} was killed by SIGKILL" in output
    assert summary["replaced"][who] >= 1  # a slow machine may take its heir for hung, too


@pytest.mark.parametrize("sync", ["bsp", "bap", "asp"])
def test_without_gradient_workers_too(tmp_path, sync):
    main = start(tmp_path, sync, learners=1)
    wait_until(lambda: reported(tmp_path, 2))
    os.kill(process_id(tmp_path, "rollout-1"), signal.SIGSTOP)
    _, summary = end(main, tmp_path)
    assert summary["replaced"]["rollout-1"] >= 1


@MODES
def test_who_pauses_goes_on_and_is_not_replaced(tmp_path, sync):
    main = start(tmp_path, sync, "--training.delays", "[0.05,0.05]", steps=30_000, hang_timeout_s=100)
    wait_until(lambda: reported(tmp_path, 2))
    for _ in range(3):
        pid = process_id(tmp_path, "gradients-agent-1")
        os.kill(pid, signal.SIGSTOP)
        time.sleep(1.0)
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.2)
    _, summary = end(main, tmp_path)
    assert summary["replaced"] == {}


@MODES
def test_who_comes_late_is_taken_in(tmp_path, sync):
    main = start(tmp_path, sync, hang_timeout_s=100)
    pid = wait_until(lambda: process_id(tmp_path, "gradients-agent-1"))
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: process_id(tmp_path, "gradients-agent-0"))
    time.sleep(3.0)
    os.kill(pid, signal.SIGCONT)
    _, summary = end(main, tmp_path)
    counts = summary["sync"]["agent"]
    assert summary["replaced"] == {} and counts["worker_1_gradients_applied"] > 0


@MODES
def test_who_has_less_to_do_finishes_early(tmp_path, sync):
    """Fragments of whole episodes differ in length, and their numbers of minibatches do; updates end in mid-shard."""
    main = start(
        tmp_path, sync, "--rollout.batch_mode", "episode", "--trainer.minibatch_size", "16",
        "--stopping.training.max_iteration", "400", steps=1_000_000,
    )  # fmt: skip
    output = main.communicate(timeout=600)[0]
    assert main.returncode == 0, output
    summary = json.loads((tmp_path / "summary.json").read_text())
    counts = summary["sync"]["agent"]
    assert 400 <= summary["updates"] <= 402 and summary["replaced"] == {}
    assert counts["worker_0_gradients_applied"] != counts["worker_1_gradients_applied"] or sync != "bsp"


def test_replicas_agree_at_every_barrier(tmp_path, monkeypatch):
    """P5: under BSP all workers compute each iteration on the same parameters, which every update has changed."""
    monkeypatch.setattr("malib_lite.runner.GradientWorker", RecordingWorker)
    summary = train(
        tmp_path, scenario="marl", env="gym/CartPole-v1", algorithm="ppo", steps=12_000, learners=3, workers=3,
        trainer={"num_epochs": 2}, rollout={"eval_interval": 1000, "num_eval_episodes": 2, "fragment_length": 256},
    )  # fmt: skip
    checksums = defaultdict(list)
    for number in range(3):
        for line in (tmp_path / "logs" / f"replica-{number}.txt").read_text().splitlines():
            version, checksum = line.split()
            checksums[version].append(checksum)
    used = {version: of_all for version, of_all in checksums.items() if len(of_all) == 3}
    assert all(len(set(of_all)) == 1 for of_all in used.values())
    assert len(used) >= summary["updates"] > 30
    assert len({of_all[0] for of_all in used.values()}) >= summary["updates"]
