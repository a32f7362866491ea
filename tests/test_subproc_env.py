"""Environments in processes of their own: the same episodes to the bit, and what happens when a process dies."""

import gc
import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from multiprocessing import connection

import numpy as np
import pytest
from fakes import CountingEnv, CrashingEnv, DyingEnv, MaskedEnv, TurnEnv, UnevenEnv, finish

from malib_lite.algorithms import ppo, random_policy
from malib_lite.backend.ring import Ring, SlotLayout
from malib_lite.config import ConfigError
from malib_lite.contracts.environment import describe
from malib_lite.envs.gym import GymEnv
from malib_lite.envs.mdp import MDPEnvironment
from malib_lite.rollout.config import RolloutConfig
from malib_lite.rollout.inference.local import LocalInference
from malib_lite.rollout.recorder import as_trajectories, trajectory_fields
from malib_lite.rollout.rolloutworker import RolloutWorker
from malib_lite.rollout.sampler import Sampler
from malib_lite.rollout.subproc_env import SubprocVectorEnv
from malib_lite.rollout.vector_env import EnvironmentFault, vectorise
from malib_lite.runner import run
from malib_lite.runtime.helper import HelperDied
from malib_lite.scenarios.marl_scenario import MARLScenario

ARRAYS = ("acting", "action_mask", "reward", "terminated", "truncated", "observation")


def everywhere(venv):
    return np.ones(venv.num_envs, bool)


@pytest.fixture
def make():
    """Makes a SubprocVectorEnv that is closed after the test."""
    made = []

    def make(creator, config, *arguments, **options):
        made.append(SubprocVectorEnv(describe(creator, **config), *arguments, **options))
        return made[-1]

    yield make
    for venv in made:
        venv.close()


@pytest.mark.parametrize(
    "creator, config",
    [
        (GymEnv, {"env_id": "CartPole-v1"}),  # a native vector form in each process
        (GymEnv, {"env_id": "Pendulum-v1"}),
        (MDPEnvironment, {"env_id": "multi_round_nmdp"}),
        (MaskedEnv, {"length": 4, "first_mask": 2}),
        (TurnEnv, {"length": 5}),
    ],
)
def test_the_same_episodes_as_in_one_process(make, creator, config):
    ours = make(creator, config, 5, 7, max_step=30, first_env_index=3, num_processes=2)
    plain = vectorise(describe(creator, **config), 5, 7, 30, first_env_index=3)
    assert ours.action_spaces == plain.action_spaces and ours.observation_spaces == plain.observation_spaces
    rng = np.random.default_rng(0)
    views, expected = ours.reset(everywhere(ours)), plain.reset(everywhere(plain))
    ends = 0
    for t in range(60):
        for agent in plain.possible_agents:
            alive = ~plain.finished | expected[agent].truncated
            for name in ARRAYS:
                left, right = getattr(views[agent], name), getattr(expected[agent], name)
                if name in ("observation", "action_mask") and right is not None:
                    left, right = left[alive], right[alive]
                np.testing.assert_array_equal(left, right, err_msg=f"{name} of {agent} at {t}")
        np.testing.assert_array_equal(ours.finished, plain.finished)
        if plain.finished.any():
            ends += plain.finished.sum()
            again = plain.finished & (rng.random(5) < 0.7)  # some wait for their reset
            views, expected = ours.reset(again), plain.reset(again)
        actions = {}
        for agent, space in plain.action_spaces.items():
            mask = expected[agent].action_mask
            column = [space.sample() for _ in range(5)] if mask is None else [np.flatnonzero(row)[0] for row in mask]
            actions[agent] = np.array(column)
        views, expected = ours.step(actions), plain.step(actions)
    assert ends > 3


def test_wrong_actions_are_the_callers_error(make):
    venv = make(CountingEnv, {}, 2, 0)
    venv.reset(everywhere(venv))
    with pytest.raises(ValueError, match="no actions for 'agent'"):
        venv.step({})
    with pytest.raises(ValueError, match="actions of 'agent'"):
        venv.step({"agent": np.zeros(2)})
    for shape in (3, 1, (2, 1)):
        with pytest.raises(ValueError, match=r"actions of 'agent' have shape .*, not \(2,\)"):
            venv.step({"agent": np.zeros(shape, int)})


@pytest.mark.parametrize("hang", [False, True])
def test_a_process_that_dies_costs_its_episodes_and_nothing_else(make, tmp_path, capfd, hang):
    once = tmp_path / "once"
    config = {"once": str(once), "at": 3, "hang": hang}
    venv = make(DyingEnv, config, 4, 0, num_processes=2, restarts=1, timeout_s=10.0 if hang else 300.0)
    view = venv.reset(everywhere(venv))["agent"]
    zeros = {"agent": np.zeros(4, int)}
    venv.step(zeros)
    venv.step(zeros)
    once.touch()
    venv.step(zeros)  # one of the two processes dies
    dead = view.truncated.copy()
    assert dead.tolist() in ([True, True, False, False], [False, False, True, True])
    assert venv.num_crashes == 1 and not view.terminated.any()
    np.testing.assert_array_equal(venv.finished, dead)
    np.testing.assert_array_equal(view.acting, ~dead)
    np.testing.assert_array_equal(view.observation[:, 0], np.where(dead, 2, 3))  # the last that was known
    np.testing.assert_array_equal(view.reward, np.where(dead, 0, 3))
    assert ("was killed by SIGSEGV" if not hang else "no answer for 10 s") in capfd.readouterr().err
    venv.reset(dead)
    venv.step(zeros)
    np.testing.assert_array_equal(view.observation[:, 0], np.where(dead, 1, 4))
    np.testing.assert_array_equal(view.terminated, ~dead)
    once.touch()
    venv.reset(everywhere(venv))
    venv.step(zeros)
    venv.step(zeros)
    with pytest.raises(EnvironmentFault, match=r"no restarts are left \(rollout.env_restarts\)"):
        venv.step(zeros)


def test_a_process_that_dies_as_it_starts_is_not_tried_again(make):
    class Stillborn(CountingEnv):
        def __init__(self, length=5):
            super().__init__(length)
            if os.getpid() != owner:
                os.kill(os.getpid(), signal.SIGSEGV)

    owner = os.getpid()
    with pytest.raises(EnvironmentFault, match=r"(?s)was killed by SIGSEGV.*being made"):
        make(Stillborn, {}, 2, 0, restarts=50)


def test_a_process_that_dies_at_a_reset_costs_the_other_episodes_in_it(make, tmp_path):
    once = tmp_path / "once"
    venv = make(DyingEnv, {"once": str(once), "at": 0}, 2, 0, restarts=1)
    view = venv.reset(everywhere(venv))["agent"]
    venv.finished[0] = True
    zeros = {"agent": np.zeros(2, int)}
    venv.step(zeros)
    once.touch()
    venv.reset(np.array([True, False]))
    assert venv.num_crashes == 1
    assert not view.truncated.any() and view.observation[:, 0].tolist() == [0, 1]
    assert view.acting.tolist() == [True, False] and not venv.finished.any()
    venv.step(zeros)  # the one that began anew goes on, the other one's episode is lost
    assert view.truncated.tolist() == [False, True] == venv.finished.tolist()
    assert view.observation[:, 0].tolist() == [1, 1] and view.reward.tolist() == [1, 0]
    venv.reset(np.array([False, True]))
    venv.step(zeros)
    assert view.observation[:, 0].tolist() == [2, 1] and not view.truncated.any()


@pytest.mark.parametrize("at", [0, 2])
def test_what_is_recorded_of_lost_episodes_ends_with_a_truncation(make, tmp_path, at):
    once = tmp_path / "once"
    venv = make(UnevenEnv, {"once": str(once), "at": at}, 6, 0, num_processes=2, restarts=9)
    space = venv.observation_spaces["agent"], venv.action_spaces["agent"]
    sampler = Sampler(
        venv, {"agent": ["agent"]}, LocalInference({"agent": random_policy.RandomPolicy(*space)}), 10, False
    )
    layout = SlotLayout(trajectory_fields(*space, {}, 10, 6))
    ring = Ring(bytearray(Ring.num_bytes(layout, 1)), layout, 1)
    streams = [[] for _ in range(6)]
    for fragment in range(20):
        if fragment % 4 == 1:
            once.touch()
        slot = ring.try_reserve()
        slot.write_meta(rows=finish(sampler.play({"agent": slot}))["agent"])
        t = as_trajectories(slot)
        for i, s in np.argwhere(t.valid):
            streams[s].append(
                (t.observation[i, s, 0], t.terminated[i, s], t.truncated[i, s], t.observation[i + 1, s, 0])
            )
    assert venv.num_crashes == 5
    ends = 0
    for rows in streams:
        for (seen, terminated, truncated, following), after in itertools.pairwise(rows):
            ends += truncated
            assert terminated or following == seen + 1 or (truncated and following == seen)
            assert after[0] == (0 if terminated or truncated else following)
    books = sampler.take_books()
    assert 3 <= ends <= 15 and books.length.count == ends + sum(row[1] for rows in streams for row in rows)


def test_a_parked_environment_stays_parked(make):
    ours, plain = make(CountingEnv, {}, 3, 0), vectorise(describe(CountingEnv), 3, 0)
    for venv in (ours, plain):
        venv.reset(everywhere(venv))
        venv.finished[0] = True
        venv.reset(np.array([False, True, False]))
        venv.step({"agent": np.zeros(3, int)})
        assert venv.finished.tolist() == [True, False, False]
        assert venv.reset(np.zeros(3, bool))["agent"].observation[:, 0].tolist() == [0, 1, 1]


def test_helpers_that_hang_together_are_waited_for_together(make, monkeypatch):
    class Hanging(CountingEnv):
        def time_step(self, actions):
            time.sleep(1000)

    venv = make(Hanging, {}, 3, 0, num_processes=3, restarts=2, timeout_s=2.0)
    venv.reset(everywhere(venv))
    helpers = list(venv._helpers)
    waits = []
    poll = connection.Connection.poll
    monkeypatch.setattr(connection.Connection, "poll", lambda pipe, wait_s: waits.append(wait_s) or poll(pipe, wait_s))
    for helper in helpers:
        helper.ask("step")
    spread_s = max(helper._asked for helper in helpers) - helpers[0]._asked
    for helper in helpers:
        with pytest.raises(HelperDied, match="no answer for 2 s"):
            helper.answer(2.0)
    assert waits[0] > 0 and max(waits[1:]) <= spread_s  # the first one has waited for all


def test_nothing_is_left_of_those_that_are_closed_fail_or_cannot_be_sent(tmp_path):
    def left():
        gc.collect()
        children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(os.getpid())], capture_output=True, text=True)
        return len(os.listdir("/proc/self/fd")), len(children.stdout.split())

    class Stuck(CountingEnv):
        handle = threading.Lock()

    def start_and_close():
        venv = SubprocVectorEnv(describe(CountingEnv), 2, 0, num_processes=2)
        venv.reset(everywhere(venv))
        venv.close()
        venv.close()  # twice is as good as once

    def cannot_be_sent():
        with pytest.raises(TypeError, match="pickle"):
            SubprocVectorEnv(describe(Stuck), 2, 0, num_processes=2)

    def fails_in_one_and_dies_in_another():
        class Bad(CountingEnv):
            def reset_episode(self, seed):
                if seed == first:
                    os.kill(os.getpid(), signal.SIGSEGV)
                raise ValueError("boom")

        first = vectorise(describe(CountingEnv), 1, 0)._roots[0]
        venv = SubprocVectorEnv(describe(Bad), 2, 0, num_processes=2, restarts=2)
        with pytest.raises(EnvironmentFault, match="boom"):
            venv.reset(everywhere(venv))
        venv.close()

    start_and_close()  # what is made once and kept
    before = left()
    for _ in range(3):
        start_and_close()
        cannot_be_sent()
    fails_in_one_and_dies_in_another()
    assert left() == before


def test_an_exception_comes_with_its_traceback(make):
    venv = make(CrashingEnv, {"at": 2}, 2, 0, num_processes=2, restarts=5)
    venv.reset(everywhere(venv))
    venv.step({"agent": np.zeros(2, int)})
    with pytest.raises(EnvironmentFault, match=r"(?s)environment 0 \(CrashingEnv\) failed in step 2.*boom.*Traceback"):
        venv.step({"agent": np.zeros(2, int)})

    class Stubborn(CountingEnv):
        def __init__(self, length=5):
            super().__init__(length)
            if os.getpid() != owner:
                raise ValueError("not here")

    owner = os.getpid()
    with pytest.raises(EnvironmentFault, match="not here"):
        make(Stubborn, {}, 2, 0)


def test_helpers_end_with_their_owner_even_if_they_hang(tmp_path):
    program = f"""
        import os, signal, sys, threading
        sys.path.insert(0, {str(os.path.dirname(__file__))!r})
        import numpy as np
        from fakes import DyingEnv
        from malib_lite.contracts.environment import describe
        from malib_lite.rollout.subproc_env import SubprocVectorEnv
        config = {{"once": {str(tmp_path / "once")!r}, "at": 1, "hang": True}}
        venv = SubprocVectorEnv(describe(DyingEnv, **config), 2, 0, num_processes=2)
        print(*(helper._process.pid for helper in venv._helpers), flush=True)
        venv.reset(np.ones(2, bool))
        open(config["once"], "w").close()
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGKILL)).start()
        venv.step({{"agent": np.zeros(2, int)}})
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=600)
    assert done.returncode == -signal.SIGKILL
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 300
    while any(running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(running(pid) for pid in pids)


def running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_resuming_twice_gives_the_same_episodes(make):
    def play(venv):
        view = venv.reset(everywhere(venv))["agent"]
        return view.observation.copy()

    config = {"env_id": "CartPole-v1"}
    venv = make(GymEnv, config, 2, 0)
    first = play(venv)
    saved = json.loads(json.dumps(venv.state_dict()))
    runs = []
    for _ in range(2):
        resumed = make(GymEnv, config, 2, 0)
        resumed.load_state_dict(saved)
        runs.append(play(resumed))
    np.testing.assert_array_equal(*runs)
    assert not np.array_equal(first, runs[0])


# -- in a run ---------------------------------------------------------------------------------------------------------


def scenario(folder, description, **rollout):
    return MARLScenario(
        name="subproc",
        log_dir=folder,
        algorithms={"default": (*ppo.ALGORITHM, {"hidden_sizes": [8]})},
        env_description=description,
        training_config={"trainer_config": {"total_timesteps": 512, "minibatch_size": 64}},
        rollout_config={"fragment_length": 128, "num_env_per_thread": 4, "num_eval_episodes": 4, **rollout},
        seed=3,
    )


def metrics(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "time"} for line in lines]


@pytest.mark.parametrize("num_threads", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_run_is_the_same_with_environments_in_processes(tmp_path, no_leaks, num_threads):
    description = describe(GymEnv, env_id="CartPole-v1")
    run(scenario(tmp_path / "plain", description, num_threads=0))
    run(
        scenario(
            tmp_path / "processes", description, num_threads=num_threads, use_subproc_env=True, num_env_processes=2
        )
    )
    assert metrics(tmp_path / "plain") == metrics(tmp_path / "processes") != []


def test_a_run_survives_simulators_that_crash(tmp_path, no_leaks):
    once = tmp_path / "once"
    once.touch()
    summary = run(scenario(tmp_path / "run", describe(DyingEnv, once=str(once), at=3), use_subproc_env=True))
    assert summary["status"] == "completed" and summary["env_crashes"] == 1
    log = tmp_path / "run" / "logs" / "rollout-0.log"
    assert "was killed by SIGSEGV; started again" in log.read_text()


def test_processes_that_die_in_an_evaluation_are_counted(tmp_path, monkeypatch):
    once = tmp_path / "once"
    make_environments = RolloutWorker._vectorise

    def touch_for_evaluation(worker, purpose, number):
        if purpose == "simulate":
            once.touch()
        return make_environments(worker, purpose, number)

    monkeypatch.setattr(RolloutWorker, "_vectorise", touch_for_evaluation)
    description = describe(DyingEnv, once=str(once), at=2)
    summary = run(scenario(tmp_path / "run", description, num_threads=0, use_subproc_env=True))
    assert summary["status"] == "completed" and summary["env_crashes"] == 1


def test_a_timeout_that_could_not_work_is_refused():
    with pytest.raises(ConfigError, match=r"env_timeout_s = 300: must be below rollout.hang_timeout_s"):
        RolloutConfig(use_subproc_env=True, env_timeout_s=300)
