"""K gradient workers compute what one process computes that adds up the gradients of K shards, to the bit."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from arithmetic import rounding
from gymnasium import spaces
from test_algorithms import GRID, MODULES, batch_for, make, play
from test_learning import train

from malib_lite.agent.agent_spec import AgentSpec
from malib_lite.agent.gradient_worker import GradientWorker, GradientWorkerSpec
from malib_lite.agent.gradients import (
    PERMIT_LAYOUT,
    WorkerLink,
    export_networks,
    flatten,
    import_networks,
    record_layout,
    unflatten,
    weighted_mean,
)
from malib_lite.agent.independent_agent import IndependentAgent
from malib_lite.agent.sync_config import SyncConfig
from malib_lite.backend.bus import LocalAddress
from malib_lite.backend.members import MemberFolder
from malib_lite.backend.ring import RingSpec, SlotLayout
from malib_lite.backend.stores import make_store
from malib_lite.config import ConfigError, build
from malib_lite.contracts.data import Trajectories
from malib_lite.rollout.recorder import trajectory_fields
from malib_lite.rollout.rolloutworker import PolicySpec
from malib_lite.runtime.actors import ActorSpec, Call, SerialRuntime
from malib_lite.runtime.seeds import derive_int, generator

SEEN, MOVES = spaces.Box(-1.0, 1.0, (4,)), spaces.Discrete(3)
ROWS, STREAMS = 12, 4
TRAININGS = {
    "dqn": {"batch_size": 16, "learning_starts": 20, "updates_per_step": 0.25, "capacity": 500},
    "ppo": {"minibatch_size": 16, "num_epochs": 4, "learning_rate_final": 0.5},
    "qpg": {"minibatch_size": 16, "critic_updates": 3},
}


def shard(name, round_, worker, streams=STREAMS):
    """What a rollout worker might have played: as many valid rows as it happens, not the same for all workers."""
    policy = policy_spec(name).make(1)
    return play(policy, ROWS, streams, seed=1000 * round_ + worker)


def policy_spec(name):
    policy_class = MODULES[name].ALGORITHM.policy
    return PolicySpec(policy_class, SEEN, MOVES, {"hidden_sizes": (16,)}, {})


class Learner:
    """An agent interface with K gradient workers, in one process, fed by hand."""

    def __init__(self, name, num_workers, tmp_path, settings, **sync):
        trainer_class = MODULES[name].ALGORITHM.trainer
        spec, sync = policy_spec(name), build(SyncConfig, sync)
        layout = SlotLayout(trajectory_fields(SEEN, MOVES, spec.make(0).recorded_fields, ROWS, STREAMS))
        records = record_layout(trainer_class(settings, spec.make(0)))
        rings = [RingSpec(f"r{k}", layout).create(None) for k in range(num_workers)]
        links = [
            WorkerLink(RingSpec("p", PERMIT_LAYOUT).create(None), RingSpec("g", records).create(None))
            for _ in range(num_workers)
        ]
        self.address = LocalAddress()
        agent = AgentSpec(
            "a",
            ["a"],
            spec,
            trainer_class,
            settings,
            self.address,
            MemberFolder(tmp_path),
            rings,
            tmp_path,
            3,
            sync,
            links,
        )
        self.rings = [ring.open() for ring in rings]
        self.runtime = SerialRuntime(num_workers + 1)
        workers = [
            ActorSpec(
                f"worker-{k}",
                GradientWorker,
                {
                    "spec": GradientWorkerSpec(
                        dataclasses.replace(agent, rings=[rings[k]]), IndependentAgent, k, links[k]
                    )
                },
            )
            for k in range(num_workers)
        ]
        self.runtime.start([*workers, ActorSpec("learner", IndependentAgent, {"spec": agent})])
        self.runtime.run({"learner": Call("add_policy", {"policy_id": "p", "horizon": HORIZON})})
        self.rounds = 0

    def learn(self, shards):
        version = self.address.serve().get_weights("p").version
        for worker, (ring, fragment) in enumerate(zip(self.rings, shards, strict=True)):
            slot = ring.try_reserve()
            for array in slot.arrays.values():
                array[...] = 0
            for field in ("observation", "action", "reward", "terminated", "truncated", "valid", "action_mask"):
                array = getattr(fragment, field)
                slot.arrays[field][: len(array)] = array
            for extra, array in fragment.extras.items():
                slot.arrays[f"extra/{extra}"][: len(array)] = array
            slot.write_meta(sequence=self.rounds, rows=ROWS, worker=worker, policy_version=version, env_steps=ROWS)
            ring.commit()
        call = {"policy_id": "p", "num_rounds": 1, "base_sequence": self.rounds, "leg": self.rounds}
        self.rounds += 1
        work = Call("work", {**call, "horizon": HORIZON, "first_version": version})
        calls = {f"worker-{k}": work for k in range(len(self.rings))}
        return self.runtime.run({**calls, "learner": Call("train", call)})["learner"]


HORIZON = 4000


class Accumulation:
    """The same by hand, without rings, permits and versions: gradients of the shards, one after the other, added up."""

    def __init__(self, name, num_workers, settings):
        trainer_class, spec = MODULES[name].ALGORITHM.trainer, policy_spec(name)
        self.trainer = trainer_class(
            settings, spec.make(derive_int(3, "policy", "a", "p")), derive_int(3, "trainer", "a", "p"), HORIZON
        )
        self.replicas, self.stores = [], []
        for k in range(num_workers):
            who = ("a", "p", k)
            replica = trainer_class(settings, spec.make(0), derive_int(3, "replica trainer", *who), HORIZON)
            self.replicas.append(replica)
            self.stores.append(make_store(replica.data_spec(), generator(3, "replica store", *who)))

    def minibatches(self, k):
        """Each with the environment steps of the shard that are behind once it has been learnt from."""
        count = self.stores[k].num_batches
        for number, batch in enumerate(self.stores[k].batches()):
            for minibatch in self.replicas[k].minibatches(batch):
                yield minibatch, int(ROWS * (number + self.replicas[k].batch_used) / count)

    def learn(self, shards):
        for store, fragment in zip(self.stores, shards, strict=True):
            store.add(fragment)
        before, total = self.trainer.num_steps, ROWS * len(shards)
        room, used = self.trainer.room(total), dict.fromkeys(range(len(shards)), 0)
        todo = {k: self.minibatches(k) for k in range(len(shards))}
        while todo:
            rows, counts = [], []
            for k in list(todo):
                import_networks(self.replicas[k], export_networks(self.trainer))
                found = next(todo[k], None)
                if found is None:
                    del todo[k]
                    continue
                minibatch, used[k] = found
                gradients, _ = self.replicas[k].compute_gradients(minibatch)
                rows.append(np.concatenate([g.numpy().ravel() for g in gradients]))
                counts.append(minibatch.num_samples)
            if rows:
                mean = sum(np.float32(count / sum(counts)) * row for row, count in zip(rows, counts, strict=True))
                self.trainer.apply_gradients(unflatten(torch.from_numpy(mean), self.trainer.parameters()))
                self.trainer.advance(before + room * sum(used.values()) // total - self.trainer.num_steps)
        self.trainer.advance(before + total - self.trainer.num_steps)


@pytest.mark.parametrize("name", TRAININGS)
@pytest.mark.parametrize(
    "num_workers", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)]
)
def test_workers_in_step_are_one_process(tmp_path, name, num_workers):
    """P4: over 200 updates, with optimiser state, target networks, schedules and shards of unequal size."""
    learner = Learner(name, num_workers, tmp_path, TRAININGS[name])
    reference = Accumulation(name, num_workers, TRAININGS[name])
    versions = set()
    for round_ in range(200):
        shards = [shard(name, round_, worker) for worker in range(num_workers)]
        report = learner.learn(shards)
        reference.learn(shards)
        versions.add(report["version"])
        if reference.trainer.num_updates >= 200:
            break
    assert report["updates"] == reference.trainer.num_updates >= 200
    published = learner.address.serve().get_weights("p")
    ours, theirs = published.arrays, reference.trainer.policy.export_state()
    assert all(np.array_equal(ours[key], theirs[key]) for key in theirs) and ours.keys() == theirs.keys()
    assert versions == set(range(1, round_ + 2))


def test_other_weights_would_be_noticed(monkeypatch):
    """The negative of the test above: a mean by worker, not by sample, ends elsewhere."""
    settings = TRAININGS["ppo"]
    reference, other = (Accumulation("ppo", 2, settings) for _ in range(2))
    shards = [shard("ppo", 0, 0), shard("ppo", 0, 1)]
    shards[1].valid[4:] = False
    shards[1].terminated[4:] = shards[1].truncated[4:] = False
    reference.learn(shards)
    monkeypatch.setattr(MODULES["ppo"].PPOBatch, "num_samples", 1)
    other.learn(shards)
    ours, theirs = (a.trainer.policy.export_state() for a in (reference, other))
    assert not all(np.array_equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("name", ["dqn", "qmix", "a2c"])
@pytest.mark.parametrize("num_workers", [2, 4])
def test_the_mean_of_shards_is_the_gradient_of_the_whole(name, num_workers):
    """P4 b: up to rounding, for shards of unequal size too."""
    policy, trainer = make(name, GRID, MOVES, seed=1)
    whole = batch_for(trainer, play(policy, rows=24, streams=4))
    if isinstance(whole, Trajectories):
        parts = [slice_streams(whole, share) for share in np.array_split(np.arange(4), num_workers)]
    else:
        parts = [take(whole, share) for share in np.array_split(np.arange(len(whole)), num_workers * 2 - 1)]
    (minibatch,) = trainer.minibatches(whole)
    expected, _ = trainer.compute_gradients(minibatch)
    rows, counts = [], []
    for part in parts:
        (minibatch,) = trainer.minibatches(part)
        row = np.zeros(sum(g.numel() for g in expected), np.float32)
        flatten(trainer.compute_gradients(minibatch)[0], row)
        rows.append(row)
        counts.append(minibatch.num_samples)
    found = unflatten(weighted_mean(rows, counts), expected)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=rounding(24 * 4), rtol=1e-5)  # samples


def take(batch, rows):
    columns = {key: None if value is None else value[rows] for key, value in vars(batch).items()}
    return type(batch)(**columns)


def slice_streams(batch, streams):
    columns = {key: value[:, streams] for key, value in vars(batch).items() if isinstance(value, np.ndarray)}
    return Trajectories(**columns, extras={key: value[:, streams] for key, value in batch.extras.items()})


@pytest.mark.parametrize("name", TRAININGS)
@pytest.mark.parametrize("sync", ["asp", "bap", "ssp"])
def test_one_worker_is_sequential_in_every_mode(tmp_path, name, sync):
    """P6: whatever the mode, one worker's gradients are applied one after the other, each once."""
    learner = Learner(name, 1, tmp_path, TRAININGS[name], learners=1, sync=sync)
    reference = Accumulation(name, 1, TRAININGS[name])
    applied = 0
    for round_ in range(6):
        report = learner.learn([shard(name, round_, 0)])
        reference.learn([shard(name, round_, 0)])
        applied += report["sync"]["workers"]["0"]["gradients_applied"]
    assert report["updates"] == applied == reference.trainer.num_updates > 10
    ours, theirs = learner.address.serve().get_weights("p").arrays, reference.trainer.policy.export_state()
    assert all(np.array_equal(ours[key], theirs[key]) for key in theirs)


# -- whole runs --------------------------------------------------------------------------------------------------


def policies(folder):
    return json.loads((folder / "checkpoints" / "state.json").read_text())["policies"]


@pytest.mark.parametrize("algorithm", ["ppo", pytest.param("dqn", marks=pytest.mark.slow)])
def test_processes_are_one_process(tmp_path, algorithm):
    """Two gradient workers, each with a rollout worker: seven processes give the numbers of one."""
    for workers in (0, 2):
        train(
            tmp_path / str(workers), scenario="marl", env="gym/CartPole-v1", algorithm=algorithm, steps=1500,
            learners=2, workers=workers, rollout={"eval_interval": 1000, "num_eval_episodes": 2},
        )  # fmt: skip
    assert policies(tmp_path / "0") == policies(tmp_path / "2")


@pytest.mark.parametrize("learners", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_population_is_trained_with_gradient_workers(tmp_path, learners):
    summary = train(tmp_path, scenario="psro", env="open_spiel/kuhn_poker", iterations=1, steps=300, learners=learners)
    assert summary["iteration"] == 1 and summary["updates"] > 0


@pytest.mark.parametrize("algorithm", sorted(MODULES))
def test_every_algorithm_has_gradient_workers(tmp_path, algorithm):
    env = "gym/Pendulum-v1" if algorithm in ("sac", "ddpg") else "matrix/climbing"
    config = {} if "gym" in env else {"env_config": {"rounds": 25}}
    summary = train(
        tmp_path, scenario="marl", env=env, algorithm=algorithm, steps=1200, learners=2, **config,
        rollout={"eval_interval": 1000, "num_eval_episodes": 2, "fragment_length": 200, "num_env_per_thread": 4},
    )  # fmt: skip
    assert (summary["updates"] > 0) == (algorithm != "random")


QUICK = {("random", "asp"), ("a2c", "bap")}  # the others are slow tests


@pytest.mark.parametrize(
    ("algorithm", "sync"),
    [
        pytest.param(algorithm, sync, marks=() if (algorithm, sync) in QUICK else pytest.mark.slow)
        for algorithm in sorted({*MODULES} - {"sac", "ddpg"})
        for sync in ("bsp", "asp", "bap")
    ],
)
def test_every_algorithm_answers_in_every_mode(tmp_path, algorithm, sync):
    """Also of those that never ask for a permit, and never hear STOP in one."""
    summary = train(
        tmp_path, scenario="psro", env="matrix/rock_paper_scissors", algorithm=algorithm, iterations=1, steps=1200,
        learners=2, sync=sync, workers=0, mapping="separate",
    )  # fmt: skip
    assert summary["iteration"] == 1
    assert (summary["updates"] > 0) == (algorithm != "random")


def test_a_long_round_is_no_deadlock(tmp_path, monkeypatch):
    monkeypatch.setattr(SerialRuntime, "patience", 100)
    summary = train(
        tmp_path, scenario="marl", env="gym/CartPole-v1", algorithm="dqn", steps=1000, learners=2, workers=0,
        trainer={"learning_starts": 16, "batch_size": 8, "updates_per_step": 0.3}, model={"hidden_sizes": (8,)},
        rollout={"eval_interval": 1000, "num_eval_episodes": 2, "fragment_length": 500, "num_env_per_thread": 1},
    )  # fmt: skip
    assert summary["updates"] > 120


@pytest.mark.parametrize("sync", ["asp", "bap"])
def test_a_budget_may_end_before_learning_starts(tmp_path, sync):
    summary = train(
        tmp_path, scenario="marl", env="gym/CartPole-v1", algorithm="dqn", steps=300, learners=2, sync=sync, workers=0,
        trainer={"learning_starts": 5000}, rollout={"eval_interval": 1000, "num_eval_episodes": 2},
    )  # fmt: skip
    assert summary["updates"] == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learners": 2, "workers": 3}, "learners.*2.*num_threads.*3.*multiple"),
        ({"learners": 2, "model": {"normalise_observations": True}}, "learners.*2.*running statistics"),
        ({"learners": 0}, "learners"),
    ],
)
def test_what_does_not_go_with_gradient_workers_is_said(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        train(tmp_path, scenario="marl", env="gym/CartPole-v1", algorithm="ppo", **settings)


UNEVEN = {"learners": 3, "training": {"delays": [0.0, 0.0, 0.03]}, "trainer": {"num_epochs": 2, "minibatch_size": 64}}


@pytest.mark.parametrize(
    ("sync", "expected"),
    [
        pytest.param("bsp", {0}, marks=pytest.mark.slow),
        pytest.param("asp", set(range(3, 1000)), marks=pytest.mark.slow),
        ("bap", {2}),
        pytest.param("ssp", {2}, marks=pytest.mark.slow),
    ],
)
def test_a_slow_worker_is_left_behind_as_far_as_the_mode_allows(tmp_path, sync, expected):
    """P2 with real processes: the bound is reached, and not passed; each gradient that was pushed counts once (P6)."""
    summary = train(
        tmp_path, scenario="marl", env="gym/CartPole-v1", algorithm="ppo", steps=6000, sync=sync, workers=3, **UNEVEN,
        rollout={"eval_interval": 1000, "num_eval_episodes": 2, "fragment_length": 256, "num_env_per_thread": 8},
    )  # fmt: skip
    (counts,) = summary["sync"].values()
    assert counts["max_staleness"] in expected
    assert counts["gradients_ignored"] == 0
    if sync in ("asp", "ssp"):
        assert summary["updates"] == counts["gradients_applied"]
    else:
        assert summary["updates"] <= counts["gradients_applied"] <= 3 * summary["updates"]
    assert (tmp_path / "plots" / "timeline-agent.png").stat().st_size > 0


@pytest.mark.slow
def test_iterations_that_last_too_long_are_ignored(tmp_path):
    """P8 with real processes."""
    summary = train(
        tmp_path, scenario="marl", env="gym/CartPole-v1", algorithm="ppo", steps=3000, sync="bap", workers=2,
        learners=2, training={"delays": [0.0, 0.2], "longest_iteration_s": 0.1}, trainer=UNEVEN["trainer"],
        rollout={"eval_interval": 1000, "num_eval_episodes": 2, "fragment_length": 256, "num_env_per_thread": 8},
    )  # fmt: skip
    (counts,) = summary["sync"].values()
    assert counts["gradients_ignored"] > 0 and counts["gradients_applied"] > 0


@pytest.mark.parametrize("sync", ["asp", "bap"])
def test_populations_and_opponents_learn_at_their_own_pace(tmp_path, sync):
    """Several learners, in the same environments and in their own: none waits for ever for one that has had enough."""
    summary = train(
        tmp_path / "psro", scenario="psro", env="open_spiel/kuhn_poker", iterations=2, steps=300, sync=sync, workers=0
    )
    assert summary["iteration"] == 2
    summary = train(
        tmp_path / "marl", scenario="marl", env="open_spiel/kuhn_poker", algorithm="a2c", steps=2000, sync=sync,
        learners=2, workers=0, rollout={"eval_interval": 1000, "num_eval_episodes": 4},
    )  # fmt: skip
    assert all(counts["gradients_applied"] > 0 for counts in summary["sync"].values()) and len(summary["sync"]) == 2


def test_what_is_too_old_is_dropped_and_counted(tmp_path):
    """P10: a bound on the lag of 0 leaves hardly anything of a rollout that waits for nobody."""
    summary = train(
        tmp_path, scenario="marl", env="gym/CartPole-v1", algorithm="dqn", steps=3000, sync="asp", workers=0,
        learners=2, training={"max_lag": 0}, rollout={"eval_interval": 1000, "num_eval_episodes": 2},
    )  # fmt: skip
    (counts,) = summary["sync"].values()
    assert counts["fragments_dropped"] > 0


@pytest.mark.parametrize("sync", ["bsp", "asp", "bap", "ssp"])
@pytest.mark.parametrize("learns", [True, False])
def test_actor_critics_learn_at_any_pace(tmp_path, sync, learns):
    """With "asp" this is A3C. Saying what is seen pays 100; guessing 25."""
    summary = train(
        tmp_path, scenario="marl", env="on_policy:Identity", algorithm="a2c", sync=sync, learners=2, workers=0,
        steps=8000 if learns else 1000, trainer={"discount": 0.4, "learning_rate": 5e-3 if learns else 0.0},
        rollout={"eval_interval": 1000, "num_eval_episodes": 10},
    )  # fmt: skip
    assert (summary["return_mean"] >= 90) == learns
