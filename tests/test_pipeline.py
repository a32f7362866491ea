"""Pipeline PSRO: who learns against whom, when a policy is done, and that it learns."""

import types

import numpy as np
import pytest
from test_psro import KUHN, SMALL, make, play

from malib_lite.backend.members import Member
from malib_lite.config import ConfigError
from malib_lite.population.population import Objective
from malib_lite.scenarios import pipeline
from malib_lite.scenarios.pipeline import PipelineOracle
from malib_lite.scenarios.psro_scenario import PSROScenario
from malib_lite.scenarios.training import Budget

PLAYERS, LEVELS = ("a", "b"), 3
SEATS = {player: [f"{player}.{level}" for level in range(LEVELS)] for player in PLAYERS}


class Training:
    """Counts the parts that every policy has learnt for; a snapshot says who it is, and how old."""

    def __init__(self):
        self.parts, self.added = {}, 0

    def add_policies(self, horizon, parents=None, runtime_ids=None):
        names = [name for ids in SEATS.values() for name in ids] if runtime_ids is None else runtime_ids
        added = dict.fromkeys(names, f"policy-{self.added}")
        self.added += 1
        self.parts |= dict.fromkeys(added.items(), 0)
        return added

    def save(self, policies):
        return {name: Member(name, f"{policy}/{self.parts[name, policy]}") for name, policy in policies.items()}

    def retire(self, policies):
        for each in policies.items():
            del self.parts[each]


@pytest.fixture
def oracle(monkeypatch):
    """A pipeline whose training is counted; ``oracle.met`` are the pools of every part."""
    training = Training()

    def train(run, learning, budget, num_legs, opponents):
        assert budget.env_steps == 100 and set(learning) == set(opponents)
        for each in learning.items():
            training.parts[each] += 1
        made.met.append(opponents)
        report = {"updates": 0, "metrics": {}}
        yield types.SimpleNamespace(reports=dict.fromkeys(learning, report))

    def above(snapshots):
        return [
            {player: {"below": {level[player]: 1.0 for level in snapshots[: number + 1]}} for player in PLAYERS}
            for number in range(len(snapshots))
        ]

    monkeypatch.setattr(pipeline, "train", train)
    made = PipelineOracle(types.SimpleNamespace(training=training), SEATS, Budget(300), above)
    made.met = []
    return made


def test_a_policy_is_done_when_it_has_learnt_for_long_enough(oracle):
    first = oracle.first()
    assert {member.digest for member in first.values()} == {"policy-0/0"}
    population = types.SimpleNamespace(pools=lambda opponents: {"population": {}})
    objectives = {player: Objective({}) for player in PLAYERS}
    seen = []
    for answer in range(6):
        before = len(oracle.met)
        members = oracle.respond(population, objectives).members
        # The pipeline fills first; from then on every part of a training brings an answer.
        assert len(oracle.met) - before == (LEVELS if answer == 0 else 1)
        for player, member in members.items():
            policy, parts = member.digest.split("/")
            # Those who were there from the start had to wait for each other.
            assert member.kind in SEATS[player] and int(parts) == LEVELS + (answer if answer < LEVELS else 0)
            seen.append((member.kind, policy))
    assert len(set(seen)) == len(seen)  # nobody answers twice


def test_every_level_meets_those_below_it(oracle):
    oracle.first()
    population = types.SimpleNamespace(pools=lambda opponents: {"population": {}})
    for _ in range(3):
        oracle.respond(population, {player: Objective({}) for player in PLAYERS})
    order = ["b.0", "b.1", "b.2"]
    for part, pools in enumerate(oracle.met):
        lowest = 1 + max(0, part - LEVELS + 1)  # the slot of the first policies is the first that is given away
        levels = [order[(lowest + level) % LEVELS] for level in range(LEVELS)]
        assert pools[levels[0]] == {"population": {}}
        for level in range(1, LEVELS):
            met = [member.kind for member in pools[levels[level]]["below"]]
            assert met == levels[:level]


def test_mixtures_of_levels_are_those_of_the_population_below(tmp_path, monkeypatch):
    """With uniform mixtures one sees how many there are to be met."""
    sizes, above = [], PSROScenario._above

    def noted(self, run, snapshots):
        pools = above(self, run, snapshots)
        members = {player: len(members) for player, members in self.population.members.items()}
        sizes.append((members["player_0"], [sum(pool["player_0"]["player_1"].values()) for pool in pools]))
        own = [max(pool["player_0"]["player_1"].values()) for pool in pools]
        np.testing.assert_allclose(own, [1 / (members["player_1"] + 1 + level) for level in range(len(snapshots))])
        return pools

    monkeypatch.setattr(PSROScenario, "_above", noted)
    settings = {"pipeline": 3, "meta_solver": "uniform", "payoffs": "sampled", "payoff_episodes": 2}
    _, _, state = play(tmp_path, "psro", psro=settings, iterations=2, **SMALL)
    assert [size for size, _ in sizes] == [1, 1, 1, 2]
    assert all(total == pytest.approx([1.0, 1.0]) for _, total in sizes)
    kinds = {member.split(":")[0] for member in state["members"]["player_0"]}
    assert kinds == {"player_0.0", "player_0.1", "player_0.2"}


@pytest.mark.parametrize("learns", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_it_learns(tmp_path, learns):
    settings = {} if learns else {"trainer": {"learning_rate": 0.0}}
    rollout = {"num_env_per_thread": 64, "fragment_length": 512}
    _, lines, _ = play(
        tmp_path, "psro", psro={"pipeline": 2}, iterations=3, steps=4000, algorithm="ppo", rollout=rollout, **settings
    )
    assert (min(line["nash_conv"] for line in lines) < 0.6) == learns


def test_processes_give_the_numbers_of_one_process(tmp_path):
    settings = {"iterations": 1, "psro": {"pipeline": 2}, **SMALL}
    _, here, _ = play(tmp_path / "serial", "psro", **settings)
    _, there, _ = play(tmp_path / "processes", "psro", **settings | {"workers": 1})
    assert [{**line, "time": None} for line in here] == [{**line, "time": None} for line in there]


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"psro": {"oracle": "exact"}}, "do not learn"),
        ({"psro": {"meta_solver": "anytime"}}, "'anytime' cannot give.*prd"),
        ({"psro": {"meta_solver": "max_entropy_ce"}}, "'max_entropy_ce' cannot give"),
        ({"psro": {"warm_start": "latest"}}, "does not go with 'psro.warm_start' = 'latest'"),
        ({"stopping": {"rollout": {"max_iteration": 1}}}, "stopping.rollout.max_iteration.* = 1"),
        ({"stopping": {"training": {"max_iteration": 5}}}, "stopping.training.max_iteration"),
    ],
)
def test_what_cannot_be_is_said_before_anything_starts(tmp_path, settings, words):
    with pytest.raises(ConfigError, match=words):
        make(tmp_path, "psro", KUHN, **{**settings, "psro": {"pipeline": 2, **settings.get("psro", {})}})
