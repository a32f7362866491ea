"""The rollout loop: what is recorded is each agent's own trajectory, whatever the fragments."""

import json
import math

import numpy as np
import pytest
import torch
from fakes import CountingEnv, LoopEnv, MaskedEnv, TurnEnv, finish

from malib_lite.backend.ring import Ring, SlotLayout
from malib_lite.contracts.environment import describe
from malib_lite.contracts.policy import Policy, PolicyOutput
from malib_lite.environments import describe_environment
from malib_lite.rollout.books import Books, Tally
from malib_lite.rollout.inference.local import LocalInference
from malib_lite.rollout.pool import PoolPlayer
from malib_lite.rollout.recorder import as_trajectories, trajectory_fields
from malib_lite.rollout.sampler import Sampler, fragment_capacity
from malib_lite.rollout.vector_env import vectorise


class Scripted(Policy):
    """Uniform over legal actions, or always ``custom_config["action"]``."""

    stochastic = True

    def compute_action(self, observation, act_mask=None, evaluate=False, hidden_state=None):
        probabilities = self.action_probs(observation, act_mask)
        return PolicyOutput(torch.multinomial(probabilities, 1, generator=self.generator)[:, 0], None, {}, None)

    def action_probs(self, observation, act_mask=None, evaluate=False):
        n = int(self.action_space.n)
        if "action" in self.custom_config:
            return torch.eye(n)[self.custom_config["action"]].expand(len(observation), n)
        legal = torch.ones(len(observation), n) if act_mask is None else act_mask.float()
        return legal / legal.sum(-1, keepdim=True)


class Remembering(Scripted):
    """It could."""

    @property
    def memory_size(self):
        return 1


def scripted(env, agent, seed=0, **custom_config):
    policy = Scripted(env["observation_spaces"][agent], env["action_spaces"][agent], {}, custom_config)
    policy.seed(seed)
    return policy


def make(env, learners, num_envs=3, num_decisions=4, whole_episodes=False, max_step=None, groups=None):
    venv = vectorise(env, num_envs, seed=1, max_step=max_step)
    groups = groups or {agent: [agent] for agent in env["possible_agents"]}
    policies = {rid: scripted(env, groups[rid][0], seed) for seed, rid in enumerate(learners)}
    sampler = Sampler(venv, groups, LocalInference(policies), num_decisions, whole_episodes, max_step)
    rings = {}
    for rid in learners:
        agent = groups[rid][0]
        fields = trajectory_fields(
            env["observation_spaces"][agent], env["action_spaces"][agent], {},
            fragment_capacity(num_decisions, whole_episodes, max_step), num_envs * len(groups[rid]),
        )  # fmt: skip
        layout = SlotLayout(fields)
        rings[rid] = Ring(bytearray(Ring.num_bytes(layout, 1)), layout, 1)
    return sampler, rings


def play(sampler, rings):
    slots = {rid: ring.try_reserve() for rid, ring in rings.items()}
    rows = finish(sampler.play(slots))
    for rid, slot in slots.items():
        slot.write_meta(rows=rows[rid])
        yield rid, as_trajectories(slot)


def collect(sampler, rings, num_fragments):
    """Every stream's valid rows (observation, action, reward, terminated, truncated, next observation, episode)."""
    streams = {}
    for _ in range(num_fragments):
        for rid, t in play(sampler, rings):
            if t.action_mask is not None:
                assert t.action_mask.any(-1).all()
            for s in range(t.reward.shape[1]):
                for i in np.flatnonzero(t.valid[:, s]):
                    row = (
                        t.observation[i, s].tolist(), int(t.action[i, s]), float(t.reward[i, s]),
                        bool(t.terminated[i, s]), bool(t.truncated[i, s]), t.observation[i + 1, s].tolist(),
                        int(t.episode[i, s]),
                    )  # fmt: skip
                    streams.setdefault((rid, s), []).append(row)
    return streams


@pytest.mark.parametrize("num_decisions", [1, 2, 3, 4, 7])
def test_single_agent_streams_are_whole(num_decisions):
    sampler, rings = make(describe(CountingEnv, length=3), ["agent"], num_decisions=num_decisions)
    for rows in collect(sampler, rings, 20).values():
        assert len(rows) == 20 * num_decisions
        for i, (observation, _, reward, terminated, truncated, following, episode) in enumerate(rows):
            assert observation == [i % 3] and reward == i % 3 + 1 and episode == i // 3
            assert terminated == (i % 3 == 2) and not truncated
            if not terminated:
                assert following == [i % 3 + 1]


def test_a_truncated_stream_keeps_its_final_observation():
    sampler, rings = make(describe(CountingEnv, length=100), ["agent"], num_decisions=5, max_step=2)
    for rows in collect(sampler, rings, 10).values():
        for observation, _, reward, terminated, truncated, following, _ in rows:
            assert not terminated and reward == observation[0] + 1
            assert following == [observation[0] + 1], "the row below a decision is what followed it"
            assert truncated == (observation == [1.0])


@pytest.mark.parametrize("num_decisions", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("length", [1, 2, 5, 6])
def test_turn_based_rewards_reach_the_decision_that_earned_them(num_decisions, length):
    sampler, rings = make(describe(TurnEnv, length=length), ["player_0", "player_1"], num_decisions=num_decisions)
    streams = collect(sampler, rings, 30)
    for s in range(3):
        episodes = {}
        for player in ("player_0", "player_1"):
            for row in streams.get((player, s), []):
                episodes.setdefault(row[6], {}).setdefault(player, []).append(row)
        whole = [e for e in episodes.values() if all(rows[-1][3] for rows in e.values()) and "player_0" in e]
        whole = [e for e in whole if sum(map(len, e.values())) == length]
        assert len(whole) >= 5
        for episode in whole:
            moves = sorted((row[0][0], row[1]) for rows in episode.values() for row in rows)
            expected = TurnEnv.decisions([action for _, action in moves])
            for player, rows in episode.items():
                assert [(r[0], r[1], r[2]) for r in rows] == expected[player]
                assert [r[3] for r in rows] == [False] * (len(rows) - 1) + [True]


def test_whole_episodes_begin_and_end_with_the_fragment():
    sampler, rings = make(describe(TurnEnv, length=5), ["player_0"], num_decisions=6, whole_episodes=True)
    env = describe(TurnEnv, length=5)
    pool = PoolPlayer(
        sampler.environments,
        ["player_1"],
        lambda _: scripted(env, "player_1"),
        {"p": 1.0},
        np.random.default_rng(0),
    )
    sampler.use_pools({"player_1": pool})
    for _ in range(5):
        for _, t in play(sampler, rings):
            for s in range(3):
                valid = np.flatnonzero(t.valid[:, s])
                assert t.observation[valid[0], s].tolist() == [0, 0] and t.terminated[valid[-1], s]
                assert len(valid) % 3 == 0 and len(valid) >= 6


def test_masks_are_recorded_and_obeyed():
    sampler, rings = make(describe(MaskedEnv, length=4), ["agent"], num_decisions=6)
    for _ in range(20):
        for _, t in play(sampler, rings):
            rows, streams = np.nonzero(t.valid)
            assert t.action_mask[rows, streams, t.action[rows, streams]].all()
            assert (t.action_mask[rows, streams].sum(-1) == 2).all()


def test_agents_of_one_group_are_streams_of_one_learner():
    env = describe(TurnEnv, length=4)
    sampler, rings = make(env, ["both"], num_envs=2, num_decisions=4, groups={"both": ["player_0", "player_1"]})
    streams = collect(sampler, rings, 10)
    assert set(streams) == {("both", s) for s in range(4)}
    first_seen = {s: rows[0][0][0] for (_, s), rows in streams.items()}
    assert first_seen == {0: 0.0, 1: 0.0, 2: 1.0, 3: 1.0}  # player_0 in both environments, then player_1


def test_pool_members_are_drawn_at_episode_starts_and_kept():
    env = describe(TurnEnv, length=6)
    sampler, rings = make(env, ["player_0"], num_envs=8, num_decisions=30)
    members = {f"always-{a}": scripted(env, "player_1", action=a) for a in range(3)}
    probabilities = {"always-0": 0.5, "always-1": 0.0, "always-2": 0.5}
    random = np.random.default_rng(3)
    pool = PoolPlayer(sampler.environments, ["player_1"], members.__getitem__, probabilities, random)
    sampler.use_pools({"player_1": pool})
    opponents = {}
    for (_, s), rows in collect(sampler, rings, 10).items():
        for row in rows:
            if row[0][0] > 0:  # [k, the opponent's last action]
                opponents.setdefault((s, row[6]), set()).add(row[0][1])
    assert all(len(actions) == 1 for actions in opponents.values()), "an opponent was swapped in mid-game"
    drawn = [next(iter(actions)) for actions in opponents.values()]
    assert set(drawn) == {0.0, 2.0} and 0.3 < np.mean(np.array(drawn) == 0.0) < 0.7


def test_a_pool_that_grows_opens_only_what_is_new():
    """What it knows of the others it has from the pool before; and plays them as if it had opened all."""
    env = describe_environment("open_spiel/kuhn_poker")
    venv = vectorise(env, 64, seed=0, max_step=None)
    policies = {"pass": scripted(env, "player_0", action=0), "bet": scripted(env, "player_0", action=1)}
    policies |= {"any": scripted(env, "player_0"), "never": None}
    opened = []

    def pool(probabilities, before=None, greedy=False):
        opened.clear()
        random = np.random.default_rng(5)
        return PoolPlayer(
            venv, ["player_0"], lambda m: opened.append(m) or policies[m], probabilities, random, greedy, before
        )

    def actions(player):
        player.draw(np.ones(64, bool))
        view = venv.reset(np.ones(64, bool))["player_0"]
        return [player.ids[number] for number in player.drawn], player.act("player_0", view, np.arange(64)).tolist()

    first = pool({"pass": 0.5, "bet": 0.5})
    assert opened == ["pass", "bet"]
    mixture = {"any": 0.4, "bet": 0.3, "never": 0.0, "pass": 0.3}
    grown = pool(mixture, first)
    assert opened == ["any"]
    drawn, chosen = actions(grown)
    assert (drawn, chosen) == actions(pool(mixture)) and len(opened) == 3
    by_member = {member: {a for m, a in zip(drawn, chosen, strict=True) if m == member} for member in set(drawn)}
    assert by_member == {"pass": {0}, "bet": {1}, "any": {0, 1}}
    pool({"bet": 1.0}, grown)
    assert opened == []
    pool(mixture, grown, greedy=True)  # modes are other tables
    assert len(opened) == 3
    policies["remembers"] = Remembering(env["observation_spaces"]["player_0"], env["action_spaces"]["player_0"])
    pool({**mixture, "remembers": 0.1}, grown)
    assert set(opened) == {"any", "bet", "pass", "remembers"}


def test_books_count_episodes_and_play_episodes_plays_its_number():
    env = describe(CountingEnv, length=3)
    sampler, _ = make(env, [], num_envs=4)
    pool = PoolPlayer(
        sampler.environments,
        ["agent"],
        lambda _: scripted(env, "agent"),
        {"p": 1.0},
        np.random.default_rng(0),
        greedy=True,
    )
    sampler.use_pools({"agent": pool})
    finish(sampler.play_episodes(10))
    books = sampler.take_books()
    assert books.length.count == 10 and books.env_steps == 30
    assert books.returns["agent"].mean == 6.0 and books.returns["agent"].standard_error == 0.0
    assert sampler.take_books().length.count == 0


def test_books_tell_who_came_off_better_than_whom():
    books, others = Books(), Books()
    books.place({"a": np.array([1.0, 0.1 + 0.2]), "b": np.array([2.0, 0.3]), "c": np.array([0.0, 0.3])})
    assert books.placings == {"a": [1, 2, 1], "b": [2, 2, 0], "c": [0, 2, 2]}
    others.place({"a": np.array([5.0]), "b": np.array([0.0]), "c": np.array([0.0])})
    both = Books.from_json(json.loads(json.dumps(Books.sum([books, others]).to_json())))
    assert both.placings == {"a": [3, 2, 1], "b": [2, 3, 1], "c": [0, 3, 3]}
    assert both.leads == {"a": 5.0, "b": 5.0, "c": 5.0} and books.leads == {"a": 1.0, "b": 2.0, "c": 2.0}


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize("offset", [0.0, 0.5, -1.5, 1e6])
def test_to_win_is_to_get_more_than_the_other(scale, offset):
    """Two won, two drawn, two lost, whatever all get besides: 1, 0.5 and 0 are paid for the same game as 1, 0, -1."""
    returns = np.array([1.0, 0.0, -1.0, 1.0, 0.0, -1.0])
    books, drawn = Books(), np.array([0, 0, 0, 1, 1, 1])
    books.score("me", ["old", "new"], drawn, (returns + offset) * scale, (-returns + offset) * scale)
    assert books.scores["me"] == {"old": [1, 1, 1], "new": [1, 1, 1]}
    books.place({"me": (returns + offset) * scale, "other": (-returns + offset) * scale})
    assert books.placings == {"me": [2, 2, 2], "other": [2, 2, 2]}
    assert books.leads["me"] == pytest.approx(2.0 * scale, rel=1e-6)


def test_players_who_get_the_same_draw():
    books = Books()
    books.score("me", ["a"], np.zeros(3, np.int64), np.array([0.1 + 0.2, 7.0, -1.0]), np.array([0.3, 7.0, -1.0]))
    assert books.scores["me"] == {"a": [0, 3, 0]}


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e8])
@pytest.mark.parametrize("parts", [1, 7, 100])
def test_standard_errors_do_not_depend_on_what_is_added(offset, parts):
    """Sums of squares would have lost all digits: 1e16 and a variance of 1. Here rounding is that of the numbers."""
    values = np.random.default_rng(0).normal(size=100)
    tally = Tally()
    for part in np.array_split(values + offset, parts):
        other = Tally()
        other.add(part)
        tally.merge(other)
    assert tally.standard_error == pytest.approx(
        values.std(ddof=1) / 10.0, rel=1e-12 + 10 * offset * np.finfo(float).eps
    )
    assert tally.mean == pytest.approx(values.mean() + offset, rel=1e-12) and tally.count == 100


def test_tallies_of_nothing_and_of_one():
    tally, nothing = Tally(), Tally()
    tally.merge(nothing)
    assert math.isnan(tally.mean) and math.isnan(tally.standard_error)
    tally.add(np.array([3.0]))
    tally.merge(nothing)
    assert tally.mean == 3.0 and math.isnan(tally.standard_error)
    nothing.merge(tally)
    nothing.add(np.array([5.0]))
    assert nothing.standard_error == 1.0 and (nothing.low, nothing.high) == (3.0, 5.0)


def test_a_time_limit_is_a_truncation():
    sampler, rings = make(describe(LoopEnv), ["agent"], num_decisions=7, max_step=10)
    rows = [row for stream in collect(sampler, rings, 10).values() for row in stream]
    assert sum(row[4] for row in rows) == sum(1 for i in range(len(rows) // 3) if i % 10 == 9) * 3
    assert not any(row[3] for row in rows)


def test_whole_episodes_that_overrun_a_fragment_go_on_in_the_next():
    sampler, rings = make(
        describe(CountingEnv, length=600), ["agent"], num_envs=2, num_decisions=4, whole_episodes=True
    )
    for rows in collect(sampler, rings, 4).values():
        assert [row[0][0] for row in rows[:1200]] == [*range(600), *range(600)]
        assert rows[599][3] and sum(row[3] for row in rows) >= 2
    assert sampler.take_books().length.count >= 4


@pytest.mark.parametrize("whole_episodes", [False, True])
def test_a_learner_that_never_gets_a_turn_does_not_stop_the_rollout(whole_episodes):
    env = describe(TurnEnv, length=1)  # over before player_1 moves
    sampler, rings = make(env, ["player_1"], num_decisions=4, whole_episodes=whole_episodes)
    members = {"p": scripted(env, "player_0")}
    pool = PoolPlayer(sampler.environments, ["player_0"], members.__getitem__, {"p": 1.0}, np.random.default_rng(0))
    sampler.use_pools({"player_0": pool})
    for _, t in play(sampler, rings):
        assert t.num_decisions == 0 and len(t.transitions()) == 0


def test_the_final_observation_of_a_truncated_episode_has_its_mask():
    sampler, rings = make(describe(MaskedEnv, length=100), ["agent"], num_decisions=6, max_step=2)
    for _ in range(5):
        for _, t in play(sampler, rings):
            rows, streams = np.nonzero(t.truncated & t.valid)
            assert len(rows)
            legal = np.arange(3) != t.observation[rows + 1, streams] % 3
            assert (t.action_mask[rows + 1, streams] == legal).all()
