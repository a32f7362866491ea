"""Joint records, and agents that are made alike."""

import numpy as np
import pytest
from fakes import TurnEnv, finish
from gymnasium import spaces
from test_sampler import scripted

from malib_lite.backend.ring import Ring, SlotLayout
from malib_lite.config import ConfigError
from malib_lite.contracts.environment import Environment, TimeStep, describe
from malib_lite.contracts.joint import JointTrajectories
from malib_lite.rollout.inference.local import LocalInference
from malib_lite.rollout.recorder import as_joint_trajectories, as_trajectories, trajectory_fields
from malib_lite.rollout.sampler import Sampler, fragment_capacity
from malib_lite.rollout.uniform_agents import UniformAgents, make_uniform, uniform_spaces
from malib_lite.rollout.vector_env import vectorise

AGENTS = ["a", "b", "c"]


class Squad(Environment):
    """Agents leave one after the other, by chance; episodes end by themselves or are cut.

    Agent n sees [number of the episode, step, n]; it earns 10 step + n. The state is the step, twice.
    """

    possible_agents = AGENTS
    observation_spaces = dict.fromkeys(AGENTS, spaces.Box(0, np.inf, (3,), np.float32))
    action_spaces = dict.fromkeys(AGENTS, spaces.Discrete(4))
    state_space = spaces.Box(0, np.inf, (2,), np.float32)

    def reset_episode(self, seed):
        if seed is not None:
            self.rng, self.episode = np.random.default_rng(seed), -1
        self.episode += 1
        self.count, self.alive = 0, list(AGENTS)
        return TimeStep(self.see(AGENTS), action_masks=self.masks(AGENTS))

    def see(self, agents):
        return {a: np.float32([self.episode, self.count, AGENTS.index(a)]) for a in agents}

    def masks(self, agents):
        return {a: np.arange(4) != (self.count + AGENTS.index(a)) % 4 for a in agents}

    def state(self):
        return np.float32([self.count, self.count])

    def time_step(self, actions):
        assert sorted(actions) == self.alive
        self.count += 1
        acted = self.alive
        gone = [a for a in acted if self.rng.random() < 0.2]
        self.alive = [a for a in acted if a not in gone]
        rewards = {a: 10.0 * self.count + AGENTS.index(a) for a in acted}
        return TimeStep(self.see(acted), rewards, dict.fromkeys(gone, True), action_masks=self.masks(acted))


def play(env, num_fragments, team, num_envs=3, num_decisions=5, max_step=6, seed=1, groups=None):
    """Fragments of one learner that governs all agents; by actions that are always the same."""
    venv = vectorise(env, num_envs, seed=seed, max_step=max_step, with_state=True)
    agents = env["possible_agents"]
    policy = scripted(env, agents[0], action=int(env["action_spaces"][agents[0]].n) - 1)
    sampler = Sampler(
        venv, {"all": agents}, LocalInference({"all": policy}), num_decisions, False, max_step, ["all"] if team else []
    )
    spaces_of = (env["observation_spaces"][agents[0]], env["action_spaces"][agents[0]])
    capacity = fragment_capacity(num_decisions, False, max_step)
    shape = (num_envs, len(agents), None if venv.state is None else 2) if team else (num_envs * len(agents),)
    layout = SlotLayout(trajectory_fields(*spaces_of, {}, capacity, *shape))
    fragments = []
    for _ in range(num_fragments):
        ring = Ring(bytearray(Ring.num_bytes(layout, 1)), layout, 1)
        slot = ring.try_reserve()
        rows = finish(sampler.play({"all": slot}))["all"]
        slot.write_meta(rows=rows)
        fragments.append((as_joint_trajectories if team else as_trajectories)(slot))
    return fragments


class Any3(Squad):
    """A Squad whose masks allow what the scripted policy always does."""

    def masks(self, agents):
        return {a: np.array([True, False, False, True]) for a in agents}


def test_a_joint_record_is_the_agents_own_records_side_by_side():
    env = describe(Any3)
    num_envs = 3
    joint, alone = play(env, 16, team=True), play(env, 16, team=False)
    expected = {(e, n): [] for e in range(num_envs) for n in range(3)}
    for fragment in alone:
        for stream in range(num_envs * 3):
            for t in np.flatnonzero(fragment.valid[:, stream]):
                expected[stream % num_envs, stream // num_envs].append(
                    (fragment.observation[t, stream].tolist(), fragment.reward[t, stream].item())
                )
    seen = {key: [] for key in expected}
    for fragment in joint:
        for t, e in np.argwhere(fragment.valid):
            for n in np.flatnonzero(fragment.acting[t, e]):
                seen[e, n].append((fragment.observation[t, e, n].tolist(), fragment.reward[t, e, n].item()))
                assert fragment.action[t, e, n] == 3 and fragment.action_mask[t, e, n].tolist() == [
                    True,
                    False,
                    False,
                    True,
                ]
            assert fragment.acting[t, e].any()
            present = fragment.observation[t, e][fragment.acting[t, e]]
            np.testing.assert_array_equal(fragment.state[t, e], present[0, [1, 1]])
            assert fragment.episode[t, e] == present[0, 0]
    for key, rows in expected.items():
        common = min(len(rows), len(seen[key]))
        assert common > 20 and seen[key][:common] == rows[:common]


def test_what_follows_a_row_of_a_team():
    for fragment in play(describe(Any3), 10, team=True):
        for t, e in np.argwhere(fragment.valid):
            end, cut = fragment.terminated[t, e], fragment.truncated[t, e]
            assert not (end and cut)
            step = fragment.state[t, e, 0]
            if end:
                continue
            assert fragment.state[t + 1, e, 0] == step + 1
            assert cut == (step + 1 == 6) and not (cut and fragment.valid[t + 1 : t + 2, e].any())
            following = fragment.acting[t + 1, e]
            assert following.any() and not (following & ~fragment.acting[t, e]).any()
            np.testing.assert_array_equal(
                fragment.observation[t + 1, e][following][:, 1], np.full(following.sum(), step + 1)
            )


def test_a_team_takes_turns_too():
    """Rewards that come between are the team's last row's; every move is a row."""
    (fragment,) = play(describe(TurnEnv), 1, team=True, num_envs=1, num_decisions=5, max_step=None)
    assert fragment.acting[:5, 0].tolist() == [[True, False], [False, True]] * 2 + [[True, False]]
    assert fragment.terminated[:, 0].tolist() == [False] * 4 + [True]
    assert fragment.reward[:, 0].sum() == sum(k + 20 for k in range(5))  # +100 and -100 cancel
    assert fragment.state is None and fragment.global_state.shape == (6, 1, 4)


def test_joint_transitions_by_hand():
    count, shape = 4, (4, 1, 2)
    trajectories = JointTrajectories(
        observation=np.arange(10, dtype=np.float32).reshape(5, 1, 2, 1),
        acting=np.ones((5, 1, 2), bool),
        action=np.zeros(shape, np.int64),
        reward=np.arange(8, dtype=np.float32).reshape(shape),
        terminated=np.array([[False], [False], [True], [False]]),
        truncated=np.zeros((4, 1), bool),
        valid=np.ones((4, 1), bool),
        episode=np.zeros((4, 1), np.int64),
        policy_version=np.zeros((4, 1), np.int64),
    )
    batch = trajectories.transitions(n_step=2, discount=0.5)
    assert len(batch) == count
    assert batch.reward.tolist() == [[0 + 1.0, 1 + 1.5], [2 + 2.0, 3 + 2.5], [4, 5], [6, 7]]
    assert batch.terminated.tolist() == [False, True, True, False]
    assert batch.discount.tolist() == [0.25, 0.25, 0.5, 0.5]
    assert batch.next_observation[[0, 3], 0, 0].tolist() == [4, 8]
    assert batch.state.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    np.testing.assert_array_equal(trajectories.team_reward[:, 0], [0.5, 2.5, 4.5, 6.5])


# -- agents made alike ------------------------------------------------------------------------------------------------


class Couple(Environment):
    """Two agents that differ in what they see and do."""

    possible_agents = ["long", "short"]
    observation_spaces = {"long": spaces.Box(-1, 1, (3,)), "short": spaces.Discrete(2)}
    action_spaces = {"long": spaces.Discrete(3), "short": spaces.Discrete(2)}

    def reset_episode(self, seed):
        self.count = 0
        return TimeStep({"long": np.float32([1, 2, 3]), "short": 1}, action_masks={"long": np.array([0, 1, 1], bool)})

    def time_step(self, actions):
        assert all(self.action_spaces[a].contains(action) for a, action in actions.items())
        self.count += 1
        return self.reset_episode(None)


GROUPS = {"team": ["long", "short"]}


def test_agents_of_a_group_become_alike():
    venv = make_uniform(vectorise(describe(Couple), 2, 0, 5), GROUPS, agent_ids=True)
    assert venv.observation_spaces["long"] == venv.observation_spaces["short"]
    assert venv.observation_spaces["long"].shape == (5,) and venv.action_spaces["short"] == spaces.Discrete(3)
    views = venv.reset(np.ones(2, bool))
    np.testing.assert_array_equal(views["long"].observation, [[1, 2, 3, 1, 0]] * 2)
    np.testing.assert_array_equal(views["short"].observation, [[0, 1, 0, 0, 1]] * 2)
    assert views["long"].action_mask[0].tolist() == [False, True, True]
    assert views["short"].action_mask[0].tolist() == [True, True, False]
    venv.step({"long": np.array([1, 2]), "short": np.array([1, 0])})


def test_without_need_nothing_is_wrapped():
    plain = vectorise(describe(Any3), 2, 0)
    assert make_uniform(plain, {"team": AGENTS}, agent_ids=False) is plain
    assert make_uniform(plain, {a: [a] for a in AGENTS}, agent_ids=True) is plain
    assert isinstance(make_uniform(plain, {"team": AGENTS}, agent_ids=True), UniformAgents)


def test_actions_that_cannot_be_made_alike_are_refused():
    kinds = {"x": spaces.Discrete(2), "y": spaces.Box(0, 1)}
    with pytest.raises(ConfigError, match="cannot share a policy: their actions differ"):
        uniform_spaces({"team": ["x", "y"]}, dict.fromkeys("xy", spaces.Discrete(2)), kinds, False)
