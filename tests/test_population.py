"""Payoff tables, strategy specs, and the exact evaluation of a population."""

import json
import os
import weakref

import numpy as np
import pytest

from malib_lite.backend.members import _OVERHEAD, _PER_ARRAY, Member, MemberCache, MemberFolder
from malib_lite.population.payoff_manager import PayoffManager
from malib_lite.population.saved import SavedPopulation
from malib_lite.population.strategy_spec import StrategySpec
from malib_lite.runtime.sealed import DamagedFile


def test_every_entry_is_asked_for_once_and_set_once():
    payoffs = PayoffManager(["a", "b"])
    payoffs.expand([2, 1])
    assert payoffs.missing() == [(0, 0), (1, 0)]
    for i, choice in enumerate(payoffs.missing()):
        payoffs.record(choice, [i, -i])
    with pytest.raises(ValueError, match="known already"):
        payoffs.record((0, 0), [5, -5])
    payoffs.expand([2, 3])
    assert payoffs.missing() == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert payoffs.table()[0, 1, 0] == 1.0
    with pytest.raises(ValueError, match="shrink"):
        payoffs.expand([1, 3])
    with pytest.raises(ValueError, match="payoffs of"):
        payoffs.record((0, 1), [np.nan, 0.0])


def test_exact_payoffs_fill_what_is_missing():
    payoffs = PayoffManager(["a", "b"])
    payoffs.expand([2, 2])
    payoffs.record((1, 0), [3.0, -3.0], [0.1, 0.2])
    table = np.arange(8.0).reshape(2, 2, 2)
    payoffs.record_exact(table)
    table[:, 1, 0] = [3.0, -3.0]  # known before, and kept
    assert payoffs.missing() == [] and np.array_equal(payoffs.table(), table)
    assert payoffs.errors[:, 1, 0].tolist() == [0.1, 0.2] and payoffs.errors.sum() == pytest.approx(0.3)
    payoffs.expand([2, 3])
    with pytest.raises(ValueError, match="shape"):
        payoffs.record_exact(table)
    with pytest.raises(ValueError, match="finite"):
        payoffs.record_exact(np.full((2, 2, 3), np.nan))
    assert payoffs.missing() == [(0, 2), (1, 2)]


def test_nearly_zero_sum_is_made_exactly_so_and_nothing_else():
    payoffs = PayoffManager(["a", "b"])
    payoffs.expand([1, 2])
    payoffs.record((0, 0), [1.0, -1.0 + 1e-12])
    payoffs.record((0, 1), [0.5, -0.5])
    assert (payoffs.table().sum(axis=0) == 0.0).all()
    general = PayoffManager(["a", "b"])
    general.expand([1, 1])
    general.record((0, 0), [1.0, 2.0])
    assert general.table()[:, 0, 0].tolist() == [1.0, 2.0]


def test_values_of_mixtures_of_three_players():
    random = np.random.default_rng(0)
    payoffs = PayoffManager(["a", "b", "c"])
    payoffs.expand([2, 3, 2])
    table = random.normal(size=(3, 2, 3, 2))
    for choice in payoffs.missing():
        payoffs.record(choice, table[(slice(None), *choice)])
    mixtures = [random.dirichlet(np.ones(n)) for n in (2, 3, 2)]
    expected = np.einsum("nijk,i,j,k->n", table, *mixtures)
    assert payoffs.values(mixtures) == pytest.approx(expected)


def test_the_table_survives_saving():
    payoffs = PayoffManager(["a", "b"])
    payoffs.expand([2, 2])
    payoffs.record((1, 0), [3.0, -3.0], [0.1, 0.2])
    twin = PayoffManager(["a", "b"])
    twin.expand([3, 2])
    twin.put_back(payoffs.take_new())
    payoffs.expand([3, 2])
    payoffs.record_exact(np.arange(12.0).reshape(2, 3, 2))
    new = payoffs.take_new()  # no entry is given twice, nor taken twice
    assert len(new["choices"]) == 5 and not len(payoffs.take_new()["choices"])
    twin.put_back(new)
    assert np.array_equal(twin.recorded, payoffs.recorded) and np.array_equal(twin.errors, payoffs.errors)
    assert not twin.missing() and not len(twin.take_new()["choices"])
    with pytest.raises(ValueError, match="known"):
        twin.put_back(new)


def test_strategy_spec_mixtures():
    spec = StrategySpec("player_0", (), {})
    for i in range(3):
        spec.register_policy_id(f"policy-{i}")
    assert spec.mixture == pytest.approx(dict.fromkeys(spec.policy_ids, 1 / 3))
    spec.update_prob_list({"policy-0": 0.25, "policy-2": 0.75})
    assert list(spec.mixture.values()) == [0.25, 0.0, 0.75]
    spec.register_policy_id("policy-3")
    assert list(spec.mixture.values()) == [0.25, 0.0, 0.75, 0.0]
    random = np.random.default_rng(0)
    drawn = [spec.sample(random) for _ in range(4000)]
    assert set(drawn) == {"policy-0", "policy-2"} and 0.22 < drawn.count("policy-0") / 4000 < 0.28
    for wrong in ({"policy-9": 1.0}, {"policy-0": 0.9}, {"policy-0": -0.25, "policy-2": 1.25}):
        with pytest.raises(ValueError):
            spec.update_prob_list(wrong)
    with pytest.raises(ValueError, match="already"):
        spec.register_policy_id("policy-0")
    twin = StrategySpec("player_0", (), {})
    twin.load_state_dict(spec.state_dict())
    assert twin.mixture == spec.mixture


def test_saved_members_are_what_was_played(tmp_path):
    """A policy read back from a run's checkpoint plays as the population's member did: same table, same payoffs."""
    from malib_lite.population.exploitability import ExactEvaluator
    from malib_lite.runner import run
    from malib_lite.runtime.console import Console
    from malib_lite.train import TrainConfig, build, make_scenario

    settings = {"scenario": "psro", "env": "open_spiel/kuhn_poker", "iterations": 2, "steps": 2000, "workers": 0}
    scenario = make_scenario(build(TrainConfig, {**settings, "logdir": str(tmp_path)}))
    summary = run(scenario, Console(quiet=True))
    state = json.loads((tmp_path / "checkpoints" / "state.json").read_text())
    env = scenario.env_description
    evaluator, mixtures = ExactEvaluator(env["creator"].make_exact(**env["config"])), {}
    for player, members in state["members"].items():
        made = scenario.policies[player]
        spec = StrategySpec(player, (), {"policy_cls": made.policy_class, "kwargs": made.arguments})
        spec.load_state_dict(state["strategies"][player])
        for member in members:
            digest = Member.parse(member).digest
            evaluator.add(player, spec.load_from_checkpoint(tmp_path / f"checkpoints/policies/{digest}.safetensors"))
        mixtures[player] = np.array(list(spec.mixture.values()))
    assert evaluator.payoffs() == pytest.approx(SavedPopulation.read(tmp_path).payoffs)
    assert evaluator.nash_conv(mixtures) == pytest.approx(summary["nash_conv"])


def test_a_member_that_was_changed_is_not_played(tmp_path):
    folder = MemberFolder(tmp_path)
    member = folder.save("player_0", {"weight": np.ones(3, np.float32)})
    assert folder.save("player_0", {"weight": np.ones(3, np.float32)}) == member == Member.parse(str(member))
    assert folder.load(member.digest)["weight"].tolist() == [1.0, 1.0, 1.0]
    other = folder.save("player_0", {"weight": np.zeros(3, np.float32)})
    (tmp_path / f"{other.digest}.safetensors").replace(tmp_path / f"{member.digest}.safetensors")
    with pytest.raises(DamagedFile, match="is damaged"):
        folder.load(member.digest)


def test_two_processes_may_save_the_same_at_the_same_time(tmp_path, monkeypatch):
    """Another one comes, saves and goes, while this one has written but not yet renamed."""
    folder, arrays = MemberFolder(tmp_path), {"weight": np.ones(3, np.float32)}

    def replace(new, path):
        monkeypatch.undo()
        if (other := os.fork()) == 0:
            os._exit(folder.save("player_1", arrays).kind != "player_1")
        assert os.waitpid(other, 0)[1] == 0
        os.replace(new, path)

    monkeypatch.setattr("malib_lite.runtime.files.os.replace", replace)
    member = folder.save("player_0", arrays)
    assert folder.load(member.digest)["weight"].tolist() == [1.0, 1.0, 1.0]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_cache_of_members_keeps_those_asked_for_last(tmp_path):
    made = []

    class Fake:
        def __init__(self, kind):
            made.append(kind)

        def import_state(self, arrays):
            self.value = arrays["weight"].item()

        def eval(self):
            pass

    folder = MemberFolder(tmp_path)
    members = [folder.save("p", {"weight": np.array(float(i))}) for i in range(3)]
    of_each = _OVERHEAD + _PER_ARRAY + 8  # bytes
    cache = MemberCache(folder, Fake, capacity=2 * of_each)
    first = cache.get(members[0])
    assert cache.get(members[1]).value == 1.0 and cache.get(members[0]) is first and len(made) == 2
    cache.get(members[2])  # member 1 has to go
    assert cache.get(members[0]) is first and len(made) == 3
    assert cache.get(members[1]).value == 1.0 and len(made) == 4


def test_a_cache_of_members_is_bounded_in_bytes(tmp_path):
    """Networks ten times as large: a tenth of them is kept; one that is larger than all the room alone is kept, too."""

    class Fake:
        def import_state(self, arrays):
            self.size = arrays["weight"].size

        def eval(self):
            pass

    def kept(size: int) -> int:
        folder = MemberFolder(tmp_path)
        members = [folder.save(str(size), {"weight": np.full(size, number, np.float64)}) for number in range(30)]
        cache = MemberCache(folder, lambda kind: Fake(), capacity=4 * 2**20)
        alive = [weakref.ref(cache.get(member)) for member in members]
        return sum(policy() is not None for policy in alive)

    assert [kept(size) for size in (1_000, 100_000, 1_000_000)] == [30, 5, 1]
