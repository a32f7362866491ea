"""Batched inference: who is answered together, by which parameters, with which random numbers, and who may die."""

import itertools
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from arithmetic import rounding
from fakes import SlowEnv
from gymnasium import spaces
from test_system import KUHN, MDP, PSRO, command, group_members, process_id, reported, train, wait_until

from malib_lite.algorithms.dqn import DQNPolicy
from malib_lite.algorithms.maddpg import MADDPGPolicy
from malib_lite.algorithms.ppo import PPOPolicy
from malib_lite.algorithms.random_policy import RandomPolicy
from malib_lite.algorithms.sac import SACPolicy
from malib_lite.backend.bus import BusAddress, LocalAddress
from malib_lite.backend.mailbox import MailboxSpec
from malib_lite.backend.members import MemberFolder
from malib_lite.backend.ring import DamagedMemory, RingSpec, SlotLayout
from malib_lite.contracts.environment import describe
from malib_lite.contracts.trainer import TeamShape
from malib_lite.environments import describe_environment
from malib_lite.rollout.inference.batches import LockstepBatches, TimelyBatches
from malib_lite.rollout.inference.local import Request
from malib_lite.rollout.inference.pipe import PipeInference, mailbox_layouts, read_answer, read_request, write_answer
from malib_lite.rollout.inference.row_blocks import RowBlocks
from malib_lite.rollout.inference.server import InferenceServer, InferenceSpec
from malib_lite.rollout.manager import RolloutWorkerManager
from malib_lite.rollout.pool import act_with
from malib_lite.rollout.recorder import as_trajectories, trajectory_fields
from malib_lite.rollout.rolloutworker import PolicySpec, RolloutWorker, WorkerSpec
from malib_lite.runtime.actors import ActorSpec, Call, SerialRuntime
from malib_lite.runtime.board import Board
from malib_lite.runtime.processes import ActorFailure, ProcessRuntime
from malib_lite.runtime.shared_memory import SharedFolder

pytestmark = pytest.mark.usefixtures("no_leaks")


# -- batches --------------------------------------------------------------------------------------------------------


def histories(scripts, size, limit=200_000):
    """What every interleaving of workers and server gives: for each, the batches of each group, in their order.

    ``scripts`` says how often each worker asks in each of its rounds. A worker asks, waits for the answer, and goes on;
    the server looks whenever it likes.
    """
    num_workers = len(scripts)
    requests = [[r for r, count in enumerate(script) for _ in range(count)] for script in scripts]
    seen, ends = set(), set()
    # a state: of each worker the requests answered, the round it has said it is in, whether it asks; the batches so far
    stack = [(((0, 0, False),) * num_workers, ())]
    while stack:
        state = stack.pop()
        if state in seen:
            continue
        seen.add(state)
        assert len(seen) < limit
        workers, history = state
        moves = []
        machine = LockstepBatches(num_workers, size)
        for w, (done, word, asks) in enumerate(workers):
            machine.observe(w, word, asks, False, 0.0)
            if not asks:
                now_in = requests[w][done] if done < len(requests[w]) else len(scripts[w])
                moved = (done, now_in, False) if now_in != word else (done, word, True)
                if now_in < len(scripts[w]) or now_in != word:
                    moves.append(((*workers[:w], moved, *workers[w + 1 :]), history))
        taken = machine.take(0.0)
        if taken:
            rounds = {requests[w][workers[w][0]] for w in taken}
            assert len(rounds) == 1, "a batch mixes rounds, and so versions"
            assert len({w // size for w in taken}) == 1 and taken == sorted(taken)
            after = tuple((d + 1, r, False) if w in taken else (d, r, a) for w, (d, r, a) in enumerate(workers))
            moves.append((after, (*history, (rounds.pop(), *taken))))
        if not moves:
            assert all(done == len(requests[w]) for w, (done, _, _) in enumerate(workers)), f"stuck: {workers}"
            ends.add(tuple(tuple(b for b in history if b[1] // size == g) for g in range(-(-num_workers // size))))
        stack += moves
    return ends


SCRIPTS = [[(2, 1), (1, 2)], [(1, 2), (3, 0), (1, 1)], [(0, 1), (2, 1), (2, 2)], [(3,), (3,)]]


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("scripts", SCRIPTS)
def test_lockstep_batches_depend_on_what_is_asked_and_never_on_when(scripts, size):
    assert len(histories(scripts, size)) == 1


def test_a_lockstep_batch_has_all_who_are_in_its_round():
    assert histories([(2, 1), (1, 1)], 2) == {(((0, 0, 1), (0, 0), (1, 0, 1)),)}


DEADLINE = 2


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("present", [2, 3])
def test_timely_batches_are_full_or_due(size, present):
    for arrivals in itertools.product([0, 1, 2, 4, None], repeat=present):
        machine, answered = TimelyBatches(3, size, DEADLINE), {}
        for now in range(8):
            asking = {w for w, at in enumerate(arrivals) if at is not None and at <= now} - answered.keys()
            for w in range(3):
                machine.observe(w, 0, w in asking, w >= present, now)
            while batch := machine.take(now):
                assert 0 < len(batch) <= size and set(batch) <= asking and batch == sorted(batch)
                waited = {w: now - arrivals[w] for w in asking}
                full = len(batch) == size or len(asking) == present
                assert full or max(waited.values()) == DEADLINE
                assert min(waited[w] for w in batch) >= max((waited[w] for w in asking - set(batch)), default=0)
                asking -= set(batch)
                answered.update(dict.fromkeys(batch, now))
                for w in batch:
                    machine.observe(w, 0, False, False, now)
            assert all(now - arrivals[w] < DEADLINE for w in asking)
        assert answered.keys() == {w for w, at in enumerate(arrivals) if at is not None}


# -- random streams -------------------------------------------------------------------------------------------------

GRID, FORCES, MOVES = spaces.Box(-1.0, 1.0, (3,)), spaces.Box(-1.0, 1.0, (2,)), spaces.Discrete(4)
TEAM = {"team": TeamShape(num_agents=2, state_size=3)}
POLICIES = {
    "ppo": lambda: PPOPolicy(GRID, MOVES),
    "ppo, combinations": lambda: PPOPolicy(GRID, spaces.MultiDiscrete([3, 2])),
    "ppo, memory": lambda: PPOPolicy(GRID, MOVES, {"memory": "gru"}),
    "dqn": lambda: DQNPolicy(GRID, MOVES),
    "dqn, noisy": lambda: DQNPolicy(GRID, MOVES, {"noisy": True}),
    "sac": lambda: SACPolicy(GRID, FORCES),
    "maddpg": lambda: MADDPGPolicy(GRID, MOVES, {}, TEAM),
    "random": lambda: RandomPolicy(GRID, MOVES),
    "random, forces": lambda: RandomPolicy(GRID, FORCES),
}


@pytest.mark.parametrize("name", POLICIES)
def test_what_a_worker_draws_does_not_depend_on_the_batch(name):
    torch.manual_seed(0)
    policy, sizes, rng = POLICIES[name](), (3, 8, 1), np.random.default_rng(0)
    rows = [rng.standard_normal((size, 3)).astype(np.float32) for size in sizes]
    hidden = [np.zeros((size, policy.memory_size), np.float32) if policy.memory_size else None for size in sizes]
    alone = []
    for number, (observation, memory) in enumerate(zip(rows, hidden, strict=True)):
        policy.seed(number)
        alone.append([act_with(policy, observation, None, False, memory) for _ in range(3)])
    policy.generator = torch.Generator()
    generators = [torch.Generator().manual_seed(number) for number in range(3)]
    all_hidden = np.concatenate(hidden) if policy.memory_size else None
    forward = rounding(3 * 64)  # three layers of at most 64 inputs
    for turn in range(3):
        with RowBlocks(policy.generator, generators, sizes):
            action, extras, _ = act_with(policy, np.concatenate(rows), None, False, all_hidden)
        own = [of_worker[turn] for of_worker in alone]
        expected = np.concatenate([a for a, _, _ in own])
        np.testing.assert_allclose(action, expected, atol=forward if action.dtype.kind == "f" else 0)
        for key in extras:
            np.testing.assert_allclose(extras[key], np.concatenate([e[key] for _, e, _ in own]), atol=forward)


def test_whatever_torch_draws_is_drawn_block_by_block():
    shared, sizes = torch.Generator(), (2, 3)
    draws = {
        "size": lambda n, g: torch.rand((n, 4), generator=g),
        "numbers": lambda n, g: torch.randn(n, 4, generator=g),
        "keyword": lambda n, g: torch.rand(size=(n,), generator=g),
        "integers": lambda n, g: torch.randint(5, (n,), generator=g),
        "in place": lambda n, g: torch.empty(n, 2).exponential_(generator=g),
        "from rows": lambda n, g: torch.multinomial(torch.ones(n, 5), 2, generator=g),
    }
    for name, draw in draws.items():
        expected = torch.cat([draw(n, torch.Generator().manual_seed(n)) for n in sizes])
        with RowBlocks(shared, [torch.Generator().manual_seed(n) for n in sizes], sizes):
            assert torch.equal(draw(5, shared), expected), name
            torch.rand(1, generator=torch.Generator())  # nobody else's are touched
    with (
        RowBlocks(shared, [torch.Generator(), torch.Generator()], sizes),
        pytest.raises(ValueError, match=r"rand draws \(1,\) numbers for 2 observations.*'local'"),
    ):
        torch.rand(1, generator=shared)


# -- the mailbox ----------------------------------------------------------------------------------------------------


def answer_all(mailbox, value):
    request = read_request(mailbox.requests["a"])
    action = np.full(len(request.observation), value)
    write_answer(mailbox.answers["a"], (action, {}, None), slice(0, len(action)), version=value)
    mailbox.reply(mailbox.asked)


def ask(inference, seen):
    assert inference.act({"a": Request(np.full((1, 3), seen, np.float32), None, None)}) is None


@pytest.mark.parametrize(("asked", "answered"), [(2, 0), (0, 1), (-1, -1), (2**62, 0)])
def test_a_mailboxs_counters_that_cannot_be_are_said(asked, answered):
    request, answer = mailbox_layouts(GRID, MOVES, {}, 0, num_rows=2)
    box = MailboxSpec("mailbox-1-0", {"a": request}, {"a": answer}).create(None).open()
    box._counters[0], box._counters[8] = asked, answered
    with pytest.raises(DamagedMemory, match=f"mailbox-1-0: .* {asked} requests .* {answered} answered"):
        box.is_open  # noqa: B018


@pytest.mark.parametrize("rows", [-1, 3])
def test_a_number_of_rows_in_a_mailbox_that_cannot_be_is_said(rows):
    request, answer = mailbox_layouts(GRID, MOVES, {}, 0, num_rows=2)
    box = MailboxSpec("mailbox-1-0", {"a": request}, {"a": answer}).create(None).open()
    for slot, read in ((box.requests["a"], read_request), (box.answers["a"], read_answer)):
        slot.write_meta(rows=rows)
        with pytest.raises(DamagedMemory, match=f"mailbox-1-0: .* {rows} rows, it can have 0 to 2"):
            read(slot)


def test_a_predecessors_answer_is_never_taken_for_ones_own():
    request, answer = mailbox_layouts(GRID, MOVES, {}, 0, num_rows=2)
    spec = MailboxSpec("m", {"a": request}, {"a": answer}).create(None)
    row, server = Board(bytearray(Board.num_bytes(1)), 1).row(0), spec.open()
    dead, heir = (PipeInference(spec.open(), row, {"a": "a"}) for _ in range(2))
    list(dead.prepare({"a": "p"}, {"a": 1}, 0))
    ask(dead, 1.0)
    assert dead.answers() is None and server.is_open
    list(heir.prepare({"a": "p"}, {"a": 1}, 0))  # the other one was killed
    ask(heir, 2.0)
    assert heir.answers() is None and read_request(server.requests["a"]).observation[0, 0] == 1.0
    answer_all(server, 2)
    assert heir.answers() is None and server.is_open, "it asks only now"
    assert read_request(server.requests["a"]).observation[0, 0] == 2.0
    server = spec.open()  # the server was killed: whoever takes over finds the request
    assert server.is_open and heir.answers() is None
    ending = heir.end(leg=5)
    next(ending)
    assert not server.is_over(5), "the open request is still of this leg"
    answer_all(server, 3)
    assert list(ending) == [] and server.is_over(5) and not server.is_over(6)
    assert heir.answers()["a"][0].tolist() == [3] and heir.versions == heir.oldest == {"a": 3}


# -- workers and server ---------------------------------------------------------------------------------------------

ID, NUM_ENVS, NUM_DECISIONS, ROUNDS = "agent", 3, 20, 2


def fragments(num_workers, pipe, batch=None, logs=None, settings=None, scale=1.0):
    """What workers record in two rounds of CartPole on versions 0 and 0: in processes if ``logs`` is a folder."""
    description = describe_environment("gym/CartPole-v1")
    space, action_space = description["observation_spaces"][ID], description["action_spaces"][ID]
    policy_spec = PolicySpec(PPOPolicy, space, action_space, settings or {}, {})
    policy = policy_spec.make(1)
    layout = SlotLayout(trajectory_fields(space, action_space, policy.recorded_fields, NUM_DECISIONS, NUM_ENVS))
    request, answer = mailbox_layouts(space, action_space, policy.extra_fields, policy.memory_size, NUM_ENVS)
    folder = None if logs is None else SharedFolder()
    rings = [RingSpec(f"ring-{w}", layout).create(folder) for w in range(num_workers)]
    mailboxes = [MailboxSpec(f"box-{w}", {ID: request}, {ID: answer}).create(folder) for w in range(num_workers)]
    address = LocalAddress() if folder is None else BusAddress(folder.endpoint("pub"), folder.endpoint("ask"), 2**20)
    common = {"policies": {ID: policy_spec}, "addresses": {ID: address}, "arenas": [[ID]], "seed": 0}
    spec = WorkerSpec(
        description, {ID: [ID]}, num_envs=NUM_ENVS, num_decisions=NUM_DECISIONS, whole_episodes=False, max_step=None,
        seats={ID: ID}, members=MemberFolder(Path("nowhere")), **common,
    )  # fmt: skip
    actors = [
        ActorSpec(
            RolloutWorkerManager.actor(w), RolloutWorker,
            {"spec": spec, "worker": w, "rings": {ID: rings[w]}, "mailboxes": [mailboxes[w]] if pipe else []},
        )
        for w in range(num_workers)
    ]  # fmt: skip
    if pipe:
        boxes = [[box] for box in mailboxes]
        server = InferenceSpec(mailboxes=boxes, batch=batch, deadline_s=0.0, lockstep=True, **common)
        actors.append(ActorSpec(RolloutWorkerManager.SERVER, InferenceServer, {"spec": server}))
    runtime = SerialRuntime(len(actors)) if folder is None else ProcessRuntime(folder, len(actors), logs)
    parameters = address.serve()
    try:
        runtime.start(actors)
        for version in range(ROUNDS):
            weights = {name: array * np.float32(scale**version) for name, array in policy.export_state().items()}
            parameters.set_weights(ID, version, weights)
            calls = RolloutWorkerManager(runtime, num_workers, 1, pipe).calls(
                {ID: ID}, {ID: version}, 1, version, version
            )
            runtime.run(calls, parameters.serve)
        recorded = []
        for ring in map(RingSpec.open, rings):
            for version in range(ROUNDS):
                slot = ring.try_read()
                assert slot.meta["policy_version"] == version
                trajectories = as_trajectories(slot)
                assert (trajectories.policy_version[trajectories.valid] == version).all()
                recorded.append({k: np.array(v) for k, v in vars(trajectories).items() if k not in ("extras",)})
                recorded[-1] |= {k: np.array(v) for k, v in trajectories.extras.items()}
                ring.release()
        return recorded
    finally:
        runtime.close()
        parameters.close()
        if folder is not None:
            folder.remove()


def valid_rows(fragment, name):
    return fragment[name][: len(fragment["valid"])][fragment["valid"]]


@pytest.mark.parametrize("batch", [None, 2, 1])
@pytest.mark.parametrize("settings", [{}, {"memory": "gru"}], ids=["plain", "gru"])
def test_three_workers_play_what_they_would_play_by_themselves(batch, settings):
    alone, together = fragments(3, False, settings=settings), fragments(3, True, batch, settings=settings)
    for own, batched in zip(alone, together, strict=True):
        for name in ("action", "observation", "reward", "terminated", "episode"):
            np.testing.assert_array_equal(valid_rows(batched, name), valid_rows(own, name))
        np.testing.assert_allclose(valid_rows(batched, "log_prob"), valid_rows(own, "log_prob"), atol=rounding(3 * 64))
        assert len(valid_rows(own, "action")) == NUM_ENVS * NUM_DECISIONS


def test_the_version_of_the_round_acts():
    """The twin of the test above: other parameters in round 1 are noticed there, and only there."""
    same, other = fragments(2, True), fragments(2, True, scale=3.0)
    for number, (a, b) in enumerate(zip(same, other, strict=True)):
        assert np.array_equal(valid_rows(a, "log_prob"), valid_rows(b, "log_prob")) == (number % ROUNDS == 0)


def test_two_worker_processes_and_a_server_are_one_process_to_the_bit(tmp_path):
    for one, many in zip(fragments(2, True, scale=1.5), fragments(2, True, scale=1.5, logs=tmp_path), strict=True):
        for name in one:
            np.testing.assert_array_equal(valid_rows(one, name), valid_rows(many, name))


# -- whole runs -----------------------------------------------------------------------------------------------------


def piped(settings, **rollout):
    return {**settings, "rollout": {**settings["rollout"], "inference_server": "pipe", **rollout}}


def test_a_run_learns_what_it_learns_with_local_inference(tmp_path):
    settings = {**MDP, "algorithm": "ppo"}
    _, local = train(tmp_path / "local", **settings, workers=0)
    _, serial = train(tmp_path / "serial", **piped(settings), workers=0)
    summary, processes = train(tmp_path / "processes", **piped(settings), workers=1)
    assert local == serial == processes and summary["updates"] > 0
    assert (tmp_path / "processes" / "logs" / "inference.log").exists()


def test_a_population_too(tmp_path):
    """Two arenas: a learner each, against a pool that stays local."""
    settings = {**PSRO, "algorithm": "ppo", "iterations": 1, "steps": 300}
    assert train(tmp_path / "l", **settings, workers=0)[1] == train(tmp_path / "p", **piped(settings), workers=0)[1]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_seven_processes_and_a_server_are_one_process(tmp_path, algorithm):
    settings = {
        "scenario": "marl", "env": "gym/CartPole-v1", "algorithm": algorithm, "steps": 1500, "learners": 2,
        "rollout": {"eval_interval": 1000, "num_eval_episodes": 2},
    }  # fmt: skip
    serial, processes = (train(tmp_path / str(workers), **piped(settings), workers=workers)[1] for workers in (0, 2))
    assert serial == processes


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("sync", ["asp", pytest.param("bap", marks=pytest.mark.slow)])
def test_asynchronous_runs_take_the_newest(tmp_path, sync, workers):
    settings = {**piped(MDP, num_env_per_thread=4), "algorithm": "ppo", "learners": 2, "sync": sync}
    summary, _ = train(tmp_path, **settings, workers=workers)
    assert summary["status"] == "completed" and summary["updates"] > 0


@pytest.mark.slow
def test_a_policy_that_fails_is_told_in_full(tmp_path):
    from malib_lite.algorithms.ppo import ALGORITHM
    from malib_lite.runner import run
    from malib_lite.runtime.console import Console
    from malib_lite.scenarios.marl_scenario import MARLScenario

    class Broken(PPOPolicy):
        def compute_action(self, *arguments, **more):
            raise ArithmeticError("one too many")

    scenario = MARLScenario(
        "broken", tmp_path, {"default": (Broken, ALGORITHM.trainer)}, describe(SlowEnv, delay_s=0.0), None,
        {"num_threads": 1, "fragment_length": 64, "inference_server": "pipe"},
    )  # fmt: skip
    with pytest.raises(ActorFailure, match="inference failed: ArithmeticError: one too many") as raised:
        run(scenario, Console(quiet=True))
    assert "compute_action" in str(raised.value)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["inference", "rollout-1"])
def test_whoever_is_killed_is_replaced(tmp_path, victim):
    main = command(
        tmp_path, *KUHN, "--iterations", "6", "--steps", "6000", "--rollout.inference_server", "pipe", workers=2
    )
    for num_lines in (1, 3):
        wait_until(lambda n=num_lines: reported(tmp_path, n))
        os.kill(process_id(tmp_path, victim), signal.SIGKILL)
    output = main.communicate(timeout=600)[0]
    assert main.returncode == 0, output
    assert output.count(f"{victim} was killed by SIGKILL") == 2 and "started again" in output
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "completed"


@pytest.mark.slow
def test_a_server_that_is_killed_too_often_ends_the_run_and_is_named(tmp_path):
    main = command(
        tmp_path, *KUHN, "--iterations", "1000", "--steps", "6000", "--rollout.inference_server", "pipe",
        "--rollout.worker_restarts", "0", workers=2,
    )  # fmt: skip
    wait_until(lambda: reported(tmp_path, 1))
    os.kill(process_id(tmp_path, "inference"), signal.SIGKILL)
    output = main.communicate(timeout=600)[0]
    assert main.returncode == 1 and "inference was killed by SIGKILL" in output
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "failed"
    wait_until(lambda: not group_members(main.pid))


def test_who_is_ahead_of_the_learner_keeps_nobody_waiting():
    """It waits for a version that can only be made when those behind it have played."""
    request, answer = mailbox_layouts(GRID, MOVES, {}, 0, 1)
    boxes = [MailboxSpec("m", {"a": request}, {"a": answer}).create(None) for _ in range(3)]
    address = LocalAddress()
    policies = {"a": PolicySpec(RandomPolicy, GRID, MOVES, {}, {})}
    row = Board(bytearray(Board.num_bytes(1)), 1).row(0)
    spec = InferenceSpec(policies, {"a": address}, [["a"]], [[box] for box in boxes], 0, None, 0.0, lockstep=False)
    serving = InferenceServer(row, spec).serve({"a": "p"}, 0)
    weights = policies["a"].make(0).export_state()
    address.serve().set_weights("p", 0, weights)
    workers = [PipeInference(box.open(), row, {"a": "a"}) for box in boxes]
    for worker, wanted in zip(workers, (1, 0, 0), strict=True):
        list(worker.prepare({"a": "p"}, {"a": wanted}, wanted))
        ask(worker, 0.0)
        assert worker.answers() is None
    for _ in range(5):
        next(serving)
    assert [worker.answers() is None for worker in workers] == [True, False, False]
    address.serve().set_weights("p", 1, weights)
    next(serving)
    assert workers[0].answers() is not None and workers[0].versions == {"a": 1}
    for worker in workers:
        list(worker.end(0))
    with pytest.raises(StopIteration) as stop:
        next(serving)
    assert stop.value.value == {"batches": 2, "requests": 3}


def test_a_serving_task_ends_when_nobody_asks_any_more():
    """The server waits for workers' words, not for the main process."""
    request, answer = mailbox_layouts(GRID, MOVES, {}, 0, 1)
    box = MailboxSpec("m", {"a": request}, {"a": answer}).create(None)
    policies = {"a": PolicySpec(RandomPolicy, GRID, MOVES, {}, {})}
    spec = InferenceSpec(policies, {"a": LocalAddress()}, [["a"]], [[box]], 0, None, 0.0, True)
    runtime = SerialRuntime(1)
    runtime.start([ActorSpec("inference", InferenceServer, {"spec": spec})])
    box.open().end(4)
    assert runtime.run({"inference": Call("serve", {"learners": {"a": "p"}, "leg": 4})})["inference"]["batches"] == 0
