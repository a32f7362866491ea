"""Rollout and learner under the sync modes: how old is what is learnt from (P1 to P3, P10)."""

import json
from collections import Counter, defaultdict

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_gradient_workers import MOVES, ROWS, SEEN, STREAMS, policies, policy_spec
from test_learning import train

from malib_lite.agent import AsyncAgent, IndependentAgent
from malib_lite.agent.intake import Intake
from malib_lite.backend.ring import RingSpec, SlotLayout
from malib_lite.backend.stores import OnPolicyStore
from malib_lite.config import ConfigError
from malib_lite.rollout.recorder import trajectory_fields

pytestmark = pytest.mark.usefixtures("no_leaks")


def play(folder, sync, staleness=2, workers=0, **settings):
    """Ten rounds and more between any two reports; returns the learner's counts."""
    settings = {"steps": 16_000, "trainer": {"num_epochs": 1}, **settings}
    summary = train(
        folder, scenario="marl", env="gym/CartPole-v1", algorithm="ppo", sync=sync, workers=workers, **settings,
        rollout={"eval_interval": 1000, "num_eval_episodes": 2, "fragment_length": 32},
        training={"staleness": staleness} if sync in ("bap", "ssp") else {},
    )  # fmt: skip
    (counts,) = summary["sync"].values()
    return counts


@pytest.mark.parametrize(("sync", "staleness"), [("bap", 1), ("bap", 3), ("ssp", 3)])
def test_the_rollout_runs_ahead_by_as_much_as_it_may(tmp_path, sync, staleness):
    """P1 and P2, where one process resumes a rollout that never waits but at its bound: that is reached."""
    counts = play(tmp_path, sync, staleness, steps=6400)
    assert set(map(int, counts["policy_lag"])) == set(range(staleness + 1))  # it grows from 0 after every report
    assert counts["fragments_dropped"] == 0


def test_without_any_lead_it_is_lockstep(tmp_path):
    """P3: to the bit; and with some it is not."""
    lags = {
        name: play(tmp_path / name, name[:3], int(name[4:] or 0), steps=3200) for name in ("bsp-", "bap-0", "bap-1")
    }
    digests = {name: policies(tmp_path / name) for name in lags}
    assert lags["bsp-"]["policy_lag"].keys() == lags["bap-0"]["policy_lag"].keys() == {"0"}  # P10
    assert digests["bsp-"] == digests["bap-0"] != digests["bap-1"]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("sync", "staleness"), [("bsp", 0), ("bap", 0), ("bap", 1), ("bap", 2), ("asp", 0)])
def test_lags_between_processes_are_what_the_mode_says(tmp_path, sync, staleness, workers):
    """P1, P2 and P10 with real processes: every fragment that was learnt from is in the histogram."""
    counts = play(tmp_path, sync, staleness, workers)
    lags = {int(lag): times for lag, times in counts["policy_lag"].items()}
    assert sum(lags.values()) == pytest.approx(500, abs=10) and counts["fragments_dropped"] == 0
    if sync == "asp":
        assert max(lags) > 0
    else:
        assert max(lags) == staleness
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    mean = sum(lag * times for lag, times in lags.items()) / sum(lags.values())
    assert sum(line["agent/policy_lag"] for line in lines) / len(lines) == pytest.approx(mean, abs=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("staleness", [0, 2])
def test_gradient_workers_drop_what_is_too_old(tmp_path, staleness):
    """P10 with gradient workers, whose rollout does not wait: the bound is kept, the rest is counted."""
    counts = play(tmp_path, "bap", staleness, workers=2, learners=2)
    assert max(map(int, counts["policy_lag"])) <= staleness
    assert counts["fragments_dropped"] > 0 or staleness > 0


@pytest.fixture
def rings():
    layout = SlotLayout(trajectory_fields(SEEN, MOVES, policy_spec("ppo").make(0).recorded_fields, ROWS, STREAMS))
    return [RingSpec(f"r{worker}", layout).create(None) for worker in range(3)]


def send(ring, version, leg=0):
    slot = ring.open().try_reserve()
    for array in slot.arrays.values():
        array[...] = 0
    slot.arrays["valid"][:ROWS] = True
    slot.write_meta(sequence=leg, rows=ROWS, worker=0, policy_version=version, env_steps=ROWS)
    opened = ring.open()
    opened.try_reserve()
    opened.commit()


def take(intake, newest, max_lag=None, first_leg=0):
    """One attempt; None: it would wait."""
    try:
        next(intake.receive_any(first_leg, lambda: newest, max_lag, OnPolicyStore()))
    except StopIteration as stop:
        return stop.value
    return None


def test_nobody_waits_for_a_worker_that_has_sent_nothing(rings):
    intake = Intake(rings, IndependentAgent.multiagent_post_process)
    assert take(intake, newest=0) is None
    send(rings[1], version=0)
    assert take(intake, newest=4).fragments == 1
    intake.release()
    for ring in (rings[0], rings[2]):
        send(ring, version=3)
    assert take(intake, newest=4)._asdict() == {"fragments": 2, "decisions": 2 * ROWS * STREAMS, "env_steps": 2 * ROWS}
    intake.release()
    assert take(intake, newest=4) is None
    assert intake.take_tally().policy_lag == {4: 1, 1: 2} and intake.take_tally().policy_lag == {}


def test_what_is_too_old_or_of_another_policy_is_thrown_away(rings):
    intake = Intake(rings, IndependentAgent.multiagent_post_process)
    send(rings[0], version=1)
    send(rings[0], version=2)
    send(rings[1], version=9, leg=-1)
    assert take(intake, newest=4, max_lag=2).fragments == 1
    tally = intake.take_tally()
    assert (tally.fragments_dropped, tally.policy_lag) == (1, {2: 1})


# -- what is shown ---------------------------------------------------------------------------------------------------


def histograms(folder):
    """Of a run, from TensorBoard's file: how often each value came, added up over the reports."""
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"histograms": 0}).Reload()
    totals = defaultdict(Counter)
    for name in events.Tags()["histograms"]:
        for event in events.Histograms(name):
            value = event.histogram_value
            assert value.num == sum(value.bucket)
            limits = (limit - 0.5 for limit in value.bucket_limit)
            totals[name].update({str(int(v)): int(n) for v, n in zip(limits, value.bucket, strict=True) if n})
    return totals


@pytest.mark.parametrize("sync", ["bsp", "bap", "asp"])
def test_what_is_counted_is_shown_and_adds_up(tmp_path, sync):
    """In the metrics, for each worker and together, in TensorBoard's histograms and in the summary."""
    summary = train(
        tmp_path, scenario="marl", env="gym/CartPole-v1", algorithm="ppo", sync=sync, learners=2, steps=2000,
        rollout={"eval_interval": 1000, "num_eval_episodes": 2, "fragment_length": 64}, trainer={"num_epochs": 2},
    )  # fmt: skip
    counts, shown = summary["sync"]["agent"], histograms(tmp_path)
    for name in ("staleness", "gradient_lag", "policy_lag"):
        assert shown[f"agent/{name}"] == Counter(counts[name])
    each = [counts[f"worker_{number}_gradients_applied"] for number in range(2)]
    assert sum(each) == counts["gradients_applied"] == sum(counts["gradient_lag"].values()) and min(each) > 0
    assert sum(counts["staleness"].values()) >= counts["gradients_applied"]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert sum(line["agent/worker_1_gradients_applied"] for line in lines) == each[1]
    assert all(line["time"]["agent/worker_0_waited_for_permits_s"] >= 0 for line in lines)


# -- the agent that is asynchronous by name ------------------------------------------------------------------------


def test_an_async_agent_has_workers_of_its_own_also_where_there_is_one(tmp_path):
    """IndependentAgent learns alone then. The kind may be given by name, and config.yaml repeats it."""
    settings = {"scenario": "marl", "env": "gym/CartPole-v1", "algorithm": "a2c", "steps": 1000, "sync": "asp"}
    alone = train(tmp_path / "alone", **settings)["sync"]["agent"]
    workers = {}
    for kind in ("AsyncAgent", AsyncAgent):
        folder = tmp_path / str(kind)
        workers[kind] = train(folder, **settings, training={"type": kind})["sync"]["agent"]
        assert "type: AsyncAgent" in (folder / "config.yaml").read_text()
    assert "gradients_applied" not in alone
    assert workers["AsyncAgent"]["gradients_applied"] == workers[AsyncAgent]["gradients_applied"] > 0


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"type": "AsyncAgent"}, "training.sync.*bsp.*asp, bap or ssp"),
        ({"type": "AsynAgent", "sync": "asp"}, "training.type.*AsynAgent.*AsyncAgent"),
        ({"type": "TeamAgent"}, "learns from single agents.*IndependentAgent"),
        ({"max_lag": 1}, "max_lag.*bsp"),
    ],
)
def test_what_no_agent_can_do_is_said(tmp_path, training, message):
    with pytest.raises(ConfigError, match=message):
        train(tmp_path, scenario="marl", env="gym/CartPole-v1", algorithm="ppo", training=training)
