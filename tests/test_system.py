"""Whole runs, in one process and in many: they agree, they repeat, and they can be killed at any point."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import far_device
import pytest
from conftest import run_folders
from fakes import CrashingEnv, SlowEnv

from malib_lite.agent.agent_interface import AgentInterface
from malib_lite.contracts.environment import describe
from malib_lite.runner import run
from malib_lite.runtime.actors import ActorSpec, Call, Deadlock, SerialRuntime
from malib_lite.runtime.console import Console
from malib_lite.runtime.processes import ActorFailure
from malib_lite.train import TrainConfig, build, make_scenario
from malib_lite.train import main as run_command

pytestmark = pytest.mark.usefixtures("no_leaks")

MARL = {
    "scenario": "marl",
    "env": "gym/CartPole-v1",
    "steps": 1500,
    "rollout": {"fragment_length": 256, "num_eval_episodes": 2},
}
PSRO = {
    "scenario": "psro", "env": "open_spiel/kuhn_poker", "steps": 3000, "iterations": 2,
    "rollout": {"fragment_length": 64, "num_env_per_thread": 16},
}  # fmt: skip
MDP = {
    "scenario": "marl",
    "env": "mdp/multi_round_nmdp",
    "steps": 600,
    "rollout": {"fragment_length": 64, "num_eval_episodes": 4},
}


def train(folder, **settings):
    scenario = make_scenario(build(TrainConfig, {**settings, "logdir": str(folder)}))
    summary = run(scenario, Console(quiet=True))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("time")
    return summary, lines


CASES = [
    {**MARL, "algorithm": "ppo"}, {**PSRO, "algorithm": "dqn", "trainer": {"updates_per_step": 0.1}},
    *(pytest.param(settings, marks=pytest.mark.slow) for settings in (
        {**MARL, "algorithm": "dqn"}, {**MDP, "algorithm": "pg"}, {**PSRO, "algorithm": "ppo"},
    )),
]  # fmt: skip


@pytest.mark.parametrize("settings", CASES, ids=lambda s: f"{s['scenario']}-{s['algorithm']}")
def test_serial_and_one_worker_process_agree_to_the_bit(tmp_path, settings):
    summary, serial = train(tmp_path / "serial", **settings, workers=0)
    _, processes = train(tmp_path / "processes", **settings, workers=1)
    assert serial == processes and len(serial) >= 2
    assert summary["updates"] > 0 and summary["status"] == "completed"
    policies = [
        sorted(path.name for path in (tmp_path / name).rglob("*.safetensors")) for name in ("serial", "processes")
    ]
    assert policies[0] == policies[1] and policies[0], "parameters differ"


@pytest.mark.skipif(not far_device.AVAILABLE, reason="torch is too old for it")
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({**MDP, "algorithm": "a2c", "steps": 200}, id="learner"),
        pytest.param({**MDP, "algorithm": "ppo", "steps": 200, "learners": 2}, id="gradient workers"),
        pytest.param(
            {**PSRO, "algorithm": "dqn", "steps": 1100, "trainer": {"updates_per_step": 0.01}},
            id="population",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_learners_may_be_on_another_device_than_play(tmp_path, monkeypatch, settings):
    """With a device whose arithmetic is the CPU's, everything is as on the CPU."""
    monkeypatch.setattr("malib_lite.scenarios.scenario.known_devices", lambda: ["cpu", "far"])
    there, made = [], AgentInterface.add_policy

    def add_policy(self, policy_id, *args, **kwargs):
        result = yield from made(self, policy_id, *args, **kwargs)
        there.append(self._trainees[policy_id].trainer.policy.device.type)
        return result

    monkeypatch.setattr(AgentInterface, "add_policy", add_policy)
    with far_device.FarDevice():
        summary, far = train(tmp_path / "far", **settings, workers=0, training={"device": "far"})
    assert set(there) == {"far"} and summary["updates"] > 0
    assert far == train(tmp_path / "near", **settings, workers=0)[1]


def test_two_workers_repeat_and_the_seed_matters(tmp_path):
    settings = {**MDP, "algorithm": "ppo", "workers": 2}
    runs = [train(tmp_path / name, **settings, seed=seed)[1] for name, seed in (("a", 3), ("b", 3), ("c", 4))]
    assert runs[0] == runs[1] != runs[2]


def test_the_config_of_a_run_repeats_it(tmp_path):
    import yaml

    _, first = train(tmp_path / "first", **MDP, algorithm="ppo", workers=0)
    settings = yaml.safe_load((tmp_path / "first" / "config.yaml").read_text())
    _, second = train(tmp_path / "second", **settings)
    assert first == second


def test_without_exact_values_payoffs_are_played(tmp_path):
    settings = {**PSRO, "env": "open_spiel/tic_tac_toe", "steps": 400, "iterations": 1, "psro": {"payoff_episodes": 20}}
    summary, lines = train(tmp_path / "serial", **settings, workers=0)
    assert lines == train(tmp_path / "processes", **settings, workers=1)[1]
    assert "nash_conv" not in summary and "player_0/value" in lines[-1]


@pytest.mark.pictures
def test_every_run_leaves_what_it_should(tmp_path):
    train(tmp_path, **PSRO, workers=1)
    for name in ("config.yaml", "manifest.json", "summary.json", "checkpoints/state.json", "plots/nash_conv.png"):
        assert (tmp_path / name).stat().st_size > 0
    assert list((tmp_path / "tensorboard").iterdir()) and (tmp_path / "plots" / "payoffs.png").exists()
    assert {path.stem for path in (tmp_path / "logs").iterdir()} == {
        "rollout-0",
        "learner-player_0",
        "learner-player_1",
    }
    state = json.loads((tmp_path / "checkpoints" / "state.json").read_text())
    files = {path.stem for path in (tmp_path / "checkpoints" / "policies").iterdir()}
    assert {member.rpartition(":")[2] for members in state["members"].values() for member in members} == files


# -- failures -------------------------------------------------------------------------------------------------------


def crashing(folder, workers, env=CrashingEnv, **config):
    from malib_lite.algorithms.ppo import ALGORITHM
    from malib_lite.scenarios.marl_scenario import MARLScenario

    return MARLScenario(
        "crash", folder, {"default": ALGORITHM}, describe(env, **config), {"trainer_config": {"total_timesteps": 5000}},
        {"num_threads": workers, "num_env_per_thread": 2, "fragment_length": 64},
    )  # fmt: skip


@pytest.mark.parametrize("workers", [0, 1])
def test_an_exception_in_an_environment_is_told_in_full(tmp_path, workers):
    with pytest.raises(Exception) as raised:
        run(crashing(tmp_path, workers, at=3, episode=1), Console(quiet=True))
    text = str(raised.value)
    assert "CrashingEnv" in text and "step 3" in text and "boom" in str(raised.getrepr(chain=True))
    if workers:
        assert isinstance(raised.value, ActorFailure) and "rollout-0" in text and "Traceback" in text
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == "failed" and "CrashingEnv" in summary["error"]


def test_numbers_that_break_down_stop_the_run_and_keep_the_batch(tmp_path):
    from malib_lite.algorithms.ppo import ALGORITHM
    from malib_lite.scenarios.marl_scenario import MARLScenario

    scenario = MARLScenario(
        "nan", tmp_path, {"default": ALGORITHM}, describe(SlowEnv, delay_s=0.0, length=3),
        {"trainer_config": {"total_timesteps": 5000, "learning_rate": 1e30}}, {"num_threads": 1, "fragment_length": 64},
    )  # fmt: skip
    with pytest.raises(ActorFailure, match=r"learner-agent failed: FloatingPointError"):
        run(scenario, Console(quiet=True))
    assert (tmp_path / "logs" / "bad_batch_agent.npz").exists()


def test_a_worker_that_hangs_is_killed_and_named(tmp_path):
    from malib_lite.algorithms.random_policy import ALGORITHM  # its learner starts at once
    from malib_lite.scenarios.marl_scenario import MARLScenario

    scenario = MARLScenario(
        "hang", tmp_path, {"default": ALGORITHM}, describe(SlowEnv, delay_s=1000.0), None,
        {"num_threads": 1, "hang_timeout_s": 10, "worker_restarts": 0},
    )  # fmt: skip
    with pytest.raises(ActorFailure, match="rollout-0 was killed by SIGKILL"):
        run(scenario, Console(quiet=True))


class Waiter:
    """A service whose task waits for ever."""

    def __init__(self, row): ...

    def wait(self):
        while True:
            yield

    def idle(self): ...

    def close(self): ...


def test_a_deadlock_in_serial_mode_is_named():
    runtime = SerialRuntime(1)
    runtime.start([ActorSpec("waiter", Waiter)])
    with pytest.raises(Deadlock, match="waiter"):
        runtime.run({"waiter": Call("wait")})


# -- killing --------------------------------------------------------------------------------------------------------

KUHN = ["psro", "--env", "open_spiel/kuhn_poker"]
KUHN += ["--rollout.fragment_length", "64", "--rollout.num_env_per_thread", "16"]
LONG = [*KUHN, "--iterations", "1000", "--steps", "2000"]


def command(folder, *arguments, workers=1):
    """Start a training as a user would, in a process group of its own."""
    arguments = [
        sys.executable,
        "-m",
        "malib_lite.train",
        *arguments,
        "--workers",
        str(workers),
        "--logdir",
        str(folder),
    ]
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def wait_until(condition, timeout_s=300.0):
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)
    return value


def process_id(folder, actor):
    """Process id of the newest incarnation of an actor, from its log."""
    log = folder / "logs" / f"{actor}.log"
    lines = [line for line in log.read_text().splitlines() if ": process " in line] if log.exists() else []
    return int(lines[-1].split(": process ")[1].split(",")[0]) if lines else None


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def group_members(group):
    """Living processes of a session that :func:`command` started."""
    members = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z" and int(fields[3]) == group:  # the session's id
            members.append(int(entry.parent.name))
    return members


def reported(folder, num_lines):
    path = folder / "metrics.jsonl"
    return path.exists() and path.read_text().count("\n") >= num_lines


def test_a_killed_rollout_worker_is_replaced_and_the_run_ends_well(tmp_path):
    main = command(tmp_path, *KUHN, "--iterations", "6", "--steps", "6000")
    for num_lines in (1, 3):
        wait_until(lambda n=num_lines: reported(tmp_path, n))
        os.kill(process_id(tmp_path, "rollout-0"), signal.SIGKILL)
    output = main.communicate(timeout=600)[0]
    assert main.returncode == 0, output
    assert output.count("rollout-0 was killed by SIGKILL") == 2 and "started again" in output
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == "completed" and summary["iteration"] == 6


@pytest.mark.parametrize("sync", [pytest.param("bsp", marks=pytest.mark.slow), "asp"])
def test_a_killed_gradient_worker_is_replaced_and_the_others_do_not_wait_for_ever(tmp_path, sync):
    """P7: in the middle of whatever it does."""
    main = command(
        tmp_path, "marl", "--env", "gym/CartPole-v1", "--algorithm", "ppo", "--steps", "12000", "--learners", "2",
        "--sync", sync, "--training.delays", "[0.02,0.02]", "--rollout.fragment_length", "256",
        "--trainer.num_epochs", "2", "--rollout.eval_interval", "1000", "--rollout.num_eval_episodes", "2",
    )  # fmt: skip
    for num_lines in (1, 3):
        wait_until(lambda n=num_lines: reported(tmp_path, n))
        os.kill(process_id(tmp_path, "gradients-agent-1"), signal.SIGKILL)
    output = main.communicate(timeout=600)[0]
    assert main.returncode == 0, output
    assert output.count("gradients-agent-1 was killed by SIGKILL") == 2 and "started again" in output
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == "completed" and summary["env_steps"] >= 12000


def test_a_killed_learner_ends_the_run_and_is_named(tmp_path):
    main = command(tmp_path, *LONG)
    wait_until(lambda: reported(tmp_path, 2))
    os.kill(process_id(tmp_path, "learner-player_1"), signal.SIGKILL)
    output = main.communicate(timeout=600)[0]
    assert main.returncode == 1 and "learner-player_1 was killed by SIGKILL" in output
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "failed"
    assert (tmp_path / "checkpoints" / "state.json").exists()
    wait_until(lambda: not group_members(main.pid))


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_interruption_ends_in_order(tmp_path, number, code):
    main = command(tmp_path, *LONG)
    wait_until(lambda: reported(tmp_path, 2))
    (os.killpg if number == signal.SIGINT else os.kill)(main.pid, number)  # Ctrl-C reaches the whole group
    output = main.communicate(timeout=600)[0]
    assert main.returncode == code and "interrupted" in output and "Traceback" not in output
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == "interrupted" and summary["iteration"] >= 1 and summary["nash_conv"] >= 0.0
    assert list((tmp_path / "plots").glob("*.png"))  # of what was reached
    assert json.loads((tmp_path / "checkpoints" / "state.json").read_text())["iteration"] >= 1
    wait_until(lambda: not group_members(main.pid))


@pytest.mark.pictures
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_result_is_there_before_plots_are_drawn(tmp_path, monkeypatch, capsys, number):
    from malib_lite.scenarios.psro_scenario import PSROScenario
    from malib_lite.train import main

    monkeypatch.setattr(PSROScenario, "plot", lambda scenario, run: os.kill(os.getpid(), number))
    assert (
        main([*KUHN, "--psro.oracle", "exact", "--iterations", "3", "--logdir", str(tmp_path / "run")]) == 128 + number
    )
    assert "interrupted; what was reached is in" in capsys.readouterr().err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "completed" and summary["iteration"] == 3 and summary["nash_conv"] >= 0.0


def test_a_plot_that_cannot_be_drawn_takes_nothing_from_the_result(tmp_path, monkeypatch, capsys):
    from malib_lite.scenarios.psro_scenario import PSROScenario
    from malib_lite.train import main

    monkeypatch.setattr(PSROScenario, "plot", lambda scenario, run: 1 / 0)
    assert main([*KUHN, "--psro.oracle", "exact", "--iterations", "3", "--logdir", str(tmp_path / "run")]) == 0
    assert "plots are missing: ZeroDivisionError" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "completed"


def test_an_interruption_while_everybody_imports_is_told_in_a_line(tmp_path):
    main = command(tmp_path, *LONG)
    wait_until(lambda: len(group_members(main.pid)) >= 3)  # multiprocessing's tracker, then the fork server
    os.killpg(main.pid, signal.SIGINT)
    output = main.communicate(timeout=600)[0]
    assert main.returncode == 130 and "interrupted" in output and "Traceback" not in output
    wait_until(lambda: not group_members(main.pid))


def test_when_main_is_killed_nothing_is_left(tmp_path):
    main = command(tmp_path, *LONG, workers=2)
    wait_until(lambda: reported(tmp_path, 1))
    assert len(group_members(main.pid)) >= 5 and len(run_folders(main.pid)) == 1
    main.kill()
    main.wait()
    wait_until(lambda: not group_members(main.pid) and not run_folders(main.pid))


def test_when_all_are_killed_at_once_the_next_run_cleans_up_and_says_so(tmp_path, capsys):
    for attempt in range(4):
        main = command(tmp_path / f"killed-{attempt}", *LONG)
        wait_until(lambda folder=tmp_path / f"killed-{attempt}": reported(folder, 1))
        for pid in [main.pid, *group_members(main.pid)]:
            os.kill(pid, signal.SIGSTOP)  # so that nobody can notice anything before it dies itself
        for pid in group_members(main.pid):
            os.kill(pid, signal.SIGKILL)
        main.wait()
        wait_until(lambda pid=main.pid: not group_members(pid))
        left = run_folders(main.pid)
        arguments = ["--env", "mdp/one_round_dmdp", "--steps", "64", "--workers", "0"]
        # In this process, which has imported everything: a run of another test hardly ever comes before it.
        assert run_command(["marl", *arguments, "--logdir", str(tmp_path / f"next-{attempt}")]) == 0
        output = capsys.readouterr().out
        assert not run_folders(main.pid)
        if "removed" in output:
            break
    assert len(left) == 1 and left.pop() in output and "removed" in output
