"""MAgent2 and multi-agent MuJoCo, on top of the PettingZoo adapter."""

from itertools import pairwise

import numpy as np
import pytest

from malib_lite.config import ConfigError
from malib_lite.envs import magent2, mamujoco
from malib_lite.rollout.vector_env import DictVectorEnv

SMALL = {"map_size": 16, "max_cycles": 60}


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """MuJoCo writes its warnings into a file of the folder it is run in."""
    monkeypatch.chdir(tmp_path)


def play(env, seed=None, limit=30, noise=0):
    """The steps of one random episode, in a form that compares."""
    rng = np.random.default_rng(noise)
    steps = [env.begin(seed=seed, max_step=limit)]
    while not env.finished:
        spaces = {agent: env.action_spaces[agent] for agent in steps[-1].observations}
        actions = {
            a: int(rng.integers(s.n)) if hasattr(s, "n") else rng.uniform(s.low, s.high).astype(s.dtype)
            for a, s in spaces.items()
        }
        steps.append(env.advance(actions))
    return [(dict(s.observations), dict(s.rewards), dict(s.terminated), dict(s.truncated)) for s in steps]


def repeats(make, limit):
    """An environment gives the same episodes for the same seed, new ones without, and goes on from a saved state."""
    env, twin, heir = make(), make(), make()
    first = play(env, seed=5, limit=limit)
    state = env.state_dict()
    second = play(env, limit=limit)
    np.testing.assert_equal(play(twin, seed=5, limit=limit), first)
    np.testing.assert_equal(play(twin, limit=limit), second)
    heir.load_state_dict(state)
    np.testing.assert_equal(play(heir, limit=limit), second)
    assert np.shape(env.state()) == env.state_space.shape
    for each in (env, twin, heir):
        each.close()
    return first


@pytest.mark.parametrize("env_id", magent2.env_ids())
@pytest.mark.parametrize("parallel", [True, False])
def test_magent2(env_id, parallel):
    pytest.importorskip("magent2")
    steps = repeats(lambda: magent2.MAgent2Env(env_id, {"parallel_simulate": parallel}), limit=4)
    assert len(steps) == 5 and len(steps[-1][0]) > (1 if parallel else 0)


def test_agents_die_one_after_another():
    pytest.importorskip("magent2")
    env = magent2.MAgent2Env("combined_arms_v6", SMALL | {"max_cycles": 150})
    assert env.state_space.shape == (16, 16, 9) and len(env.possible_agents) == 12
    steps = play(env, seed=0, limit=None)
    dead = [agent for _, _, terminated, _ in steps for agent, flag in terminated.items() if flag]
    assert 0 < len(dead) == len(set(dead))
    assert len({len(observations) for observations, *_ in steps}) > 2
    for (before, *_), (after, rewards, terminated, truncated) in pairwise(steps):
        acted = [agent for agent in before if agent not in dead or agent in terminated]
        assert set(after) <= set(acted) and set(rewards) == set(terminated) == set(truncated)
    ends = {agent for s in steps for agent in s[0] if s[2].get(agent) or s[3].get(agent)}
    assert ends == set(env.possible_agents)  # each had its final observation


def test_battle_in_the_rollout():
    pytest.importorskip("magent2")
    venv = DictVectorEnv(magent2.MAgent2Env, {"env_id": "battle_v4", "scenario_configs": SMALL}, [1, 2])
    venv.reset(np.ones(2, bool))
    rng = np.random.default_rng(0)
    for _ in range(60):
        venv.step({agent: rng.integers(21, size=2) for agent in venv.possible_agents})
    assert venv.finished.all()


@pytest.mark.parametrize(
    "config, message",
    [
        ({"env_id": "battle_v3"}, "MAgent2 has no such scenario, did you mean 'battle_v4'"),
        ({"scenario_configs": {"parallel_simulate": 7}}, "must be true or false"),
        ({"env": "battle_v4"}, "unknown key 'env': did you mean 'env_id'"),
        ({"env_id": "gather_v5", "scenario_configs": {"max_cycle": 5}}, "max_cycles"),
    ],
)
def test_what_is_wrong_with_magent2_is_said(config, message):
    pytest.importorskip("magent2")
    with pytest.raises(ConfigError, match=message):
        magent2.MAgent2Env(**config)


QUICK = ["HalfCheetah-2x3", "Ant-4x2", "ManySegmentSwimmer-6x1", "Pusher-3p", "InvertedPendulum"]


@pytest.mark.parametrize(
    "env_id", [pytest.param(i, marks=() if i in QUICK else pytest.mark.slow) for i in mamujoco.env_ids()]
)
def test_mamujoco(env_id):
    pytest.importorskip("gymnasium_robotics")
    if env_id == "CoupledHalfCheetah-1p1":
        try:
            mamujoco.MaMuJoCoEnv(env_id)
        except ConfigError as error:
            assert "the installed MuJoCo" in str(error)
            pytest.skip(str(error))
    repeats(lambda: mamujoco.MaMuJoCoEnv(env_id), limit=20)


def test_the_joints_are_dealt_out():
    pytest.importorskip("gymnasium_robotics")
    env = mamujoco.MaMuJoCoEnv("HalfCheetah-2x3")
    assert [space.shape for space in env.action_spaces.values()] == [(3,), (3,)]
    assert env.state_space.shape == (17,)
    near = mamujoco.MaMuJoCoEnv("HalfCheetah-2x3", {"agent_obsk": 0})
    assert near.observation_spaces["agent_0"].shape < env.observation_spaces["agent_0"].shape
    assert len(mamujoco.MaMuJoCoEnv("HalfCheetah").possible_agents) == 1
    assert len(mamujoco.MaMuJoCoEnv("ManySegmentSwimmer-2x4").possible_agents) == 2


def test_time_is_up_by_truncation():
    pytest.importorskip("gymnasium_robotics")
    env = mamujoco.MaMuJoCoEnv("HalfCheetah-2x3", {"max_episode_steps": 7})
    steps = play(env, seed=0, limit=None)
    assert len(steps) == 8 and steps[-1][3] == {"agent_0": True, "agent_1": True} and not any(steps[-1][2].values())
    fallen = play(mamujoco.MaMuJoCoEnv("Hopper-3x1"), seed=0, limit=None)
    assert all(fallen[-1][2].values()) and not any(fallen[-1][3].values())


def test_what_an_agent_sees_has_one_order_in_every_copy():
    pytest.importorskip("gymnasium_robotics")
    copies = [mamujoco.MaMuJoCoEnv("Pusher-3p") for _ in range(6)]
    first = copies[0].begin(seed=9).observations
    for env in copies[1:]:
        np.testing.assert_equal(env.begin(seed=9).observations, first)
        inner = env._env
        np.testing.assert_equal(inner.observation_factorization, copies[0]._env.observation_factorization)


@pytest.mark.parametrize(
    "config, message",
    [
        ({"env_id": "HalfCheetah-2x2"}, "there is no such robot, did you mean 'HalfCheetah-2x3'"),
        ({"env_id": "Antt-2x4"}, "did you mean 'Ant-2x4'"),
        ({"scenario_configs": {"agent_conf": "6x1"}}, "'scenario_configs.agent_conf': it is part of 'env_id'"),
        ({"scenario_configs": {"frame_skipp": 2}}, "unknown key 'scenario_configs.frame_skipp'"),
        ({"config": {}}, "unknown key 'config'"),
    ],
)
def test_what_is_wrong_with_mamujoco_is_said(config, message):
    pytest.importorskip("gymnasium_robotics")
    with pytest.raises(ConfigError, match=message):
        mamujoco.MaMuJoCoEnv(**config)


def test_descriptions():
    for family, package in ((magent2, "magent2"), (mamujoco, "gymnasium_robotics")):
        pytest.importorskip(package)
        description = family.env_desc_gen()
        assert description["config"]["env_id"] in family.env_ids()
        assert list(description["action_spaces"]) == description["possible_agents"]
