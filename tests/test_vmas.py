"""VMAS in its dictionary form and its batched form, which must play the same."""

import sys

import numpy as np
import pytest
from gymnasium import spaces

from malib_lite.config import ConfigError
from malib_lite.envs.vmas import VmasEnv, VmasVector, env_desc_gen, env_ids
from malib_lite.envs.vmas.making import BATCHED, _options
from malib_lite.rollout.vector_env import DictVectorEnv, vectorise

vmas = pytest.importorskip("vmas")


def some_action(space, *key):
    """An action, the same for the same key."""
    rng = np.random.default_rng(key)
    if isinstance(space, spaces.Box):
        return rng.uniform(space.low, space.high).astype(np.float32)
    return int(rng.integers(space.n))


def play(env, seed, num_steps, max_step=None):
    """What an environment of the dictionary form shows in ``num_steps`` steps, episode after episode."""
    shown = []
    step = env.begin(seed=seed, max_step=max_step)
    for t in range(num_steps):
        if env.finished:
            step = env.begin(max_step=max_step)
        actions = {agent: some_action(space, t, n) for n, (agent, space) in enumerate(env.action_spaces.items())}
        before = step
        step = env.advance(actions)
        for agent in env.possible_agents:
            flags = step.terminated.get(agent, False), step.truncated.get(agent, False)
            shown.append((before.observations[agent], step.rewards[agent], *flags))
    return shown


def play_row(venv, row, num_steps):
    """The same of one row of the batched form; the other rows play at random, and pause now and then."""
    shown, others = [], np.random.default_rng(row)
    views = venv.reset(np.ones(venv.num_envs, bool))
    for t in range(num_steps):
        again = venv.finished & (others.random(venv.num_envs) < 0.5)
        again[row] = venv.finished[row]
        if again.any():
            views = venv.reset(again)
        before = [view.observation[row].copy() for view in views.values()]
        assert all(view.acting[row] for view in views.values())
        actions = {}
        for n, (agent, space) in enumerate(venv.action_spaces.items()):
            column = np.stack([some_action(space, *others.integers(1000, size=2)) for _ in range(venv.num_envs)])
            column[row] = some_action(space, t, n)
            actions[agent] = column
        views = venv.step(actions)
        for view, observation in zip(views.values(), before, strict=True):
            shown.append((observation, view.reward[row], bool(view.terminated[row]), bool(view.truncated[row])))
    return shown


def assert_same(shown, other):
    assert len(shown) == len(other)
    for one, two in zip(shown, other, strict=True):
        np.testing.assert_allclose(one[0], two[0], atol=1e-5)
        assert one[1] == pytest.approx(two[1], abs=1e-5)
        assert one[2:] == two[2:]


def test_spaces_of_balance():
    description = env_desc_gen("balance")
    assert description["possible_agents"] == [f"agent_{i}" for i in range(3)]
    for agent in description["possible_agents"]:
        sees, does = description["observation_spaces"][agent], description["action_spaces"][agent]
        assert isinstance(sees, spaces.Box) and sees.shape == (16,) and sees.dtype == np.float32
        assert isinstance(does, spaces.Box) and does.shape == (2,) and does.high.tolist() == [1.0, 1.0]
    assert VmasEnv(scenario_configs={"n_agents": 4}).possible_agents[-1] == "agent_3"
    assert VmasEnv(continuous_actions=False).action_spaces["agent_0"] == spaces.Discrete(9)
    grid = VmasEnv(continuous_actions=False, multidiscrete_actions=True).action_spaces["agent_0"]
    assert grid == spaces.MultiDiscrete([3, 3])


def test_agents_that_talk_have_their_words_in_the_action():
    env = VmasEnv(env_id="simple_reference")
    assert env.action_spaces["agent_0"].shape == (12,) and env.action_spaces["agent_0"].low[-1] == 0.0
    assert VmasEnv(env_id="simple_reference", continuous_actions=False).action_spaces["agent_0"].n == 9 * 10


@pytest.mark.parametrize("continuous_actions", [True, False])
@pytest.mark.parametrize("env_id", ["balance", "simple_spread", "give_way"])
def test_a_row_of_the_batch_plays_what_a_single_environment_plays(env_id, continuous_actions):
    config = {"env_id": env_id, "continuous_actions": continuous_actions, "max_steps": 30}
    seeds = [21, 22, 23, 24]
    for row in (0, 2):
        venv = VmasEnv.make_vector(seeds, 17, **config)
        shown = play(VmasEnv(**config), seeds[row], 40, max_step=17)
        assert_same(play_row(venv, row, 40), shown)
        assert (False, True) in {entry[2:] for entry in shown} or env_id == "balance"


@pytest.mark.slow
@pytest.mark.parametrize("env_id", sorted(BATCHED))
def test_every_batched_scenario_keeps_its_rows_apart(env_id):
    venv = VmasEnv.make_vector([31, 32, 33], 13, env_id=env_id)
    assert_same(play_row(venv, 1, 40), play(VmasEnv(env_id=env_id), 32, 40, max_step=13))


@pytest.mark.parametrize(
    "config",
    [
        {"env_id": "football"},
        {"env_id": "simple_push"},
        {"env_id": "buzz_wire"},
        {"env_id": "give_way", "scenario_configs": {"obs_noise": 0.1}},
        {"env_id": "simple_tag", "scenario_configs": {"respawn_at_catch": True}},
        {"env_id": "balance", "continuous_actions": False, "multidiscrete_actions": True},
    ],
)
def test_worlds_that_cannot_share_a_batch_are_not_batched(config):
    assert VmasEnv.make_vector([1, 2], None, **config) is None


def test_noise_in_the_steps_depends_on_the_seed_and_not_on_other_environments():
    config = {"env_id": "give_way", "scenario_configs": {"obs_noise": 0.1}}
    alone = play(VmasEnv(**config), 5, 15)
    other = VmasEnv(**config)
    other.begin(seed=77)

    class Disturbed(VmasEnv):
        def time_step(self, actions):
            other.time_step({agent: some_action(space, 0) for agent, space in other.action_spaces.items()})
            return super().time_step(actions)

    for one, two in zip(play(Disturbed(**config), 5, 15), alone, strict=True):
        assert np.array_equal(one[0], two[0])
    assert not np.array_equal(play(VmasEnv(**config), 6, 1)[0][0], alone[0][0])


def test_the_same_seed_plays_the_same_and_goes_on():
    env = VmasEnv()
    first = [env.begin(seed=3).observations["agent_0"], env.begin().observations["agent_0"]]
    assert not np.array_equal(*first)
    other = VmasEnv()
    assert np.array_equal(other.begin(seed=3).observations["agent_0"], first[0])
    state = other.state_dict()
    for _ in range(2):
        assert np.array_equal(other.begin().observations["agent_0"], first[1])
        other.load_state_dict(state)
    venv, rows = VmasEnv.make_vector([3, 4], None), np.ones(2, bool)
    assert np.array_equal(venv.reset(rows)["agent_0"].observation[0], first[0])
    state = venv.state_dict()
    for _ in range(2):
        assert np.array_equal(venv.reset(rows)["agent_0"].observation[0], first[1])
        venv.load_state_dict(state)
        assert venv.finished.all()


def test_a_fall_terminates_and_a_time_limit_truncates():
    env = VmasEnv(max_steps=500)
    step = env.begin(seed=0)
    while not env.finished:  # all run from under the package
        step = env.advance(dict.fromkeys(env.possible_agents, np.array([1.0, 0.0], np.float32)))
    assert env.cnt < 100 and set(step.terminated.values()) == {True} and not step.truncated
    assert set(step.rewards) == set(step.observations) == set(env.possible_agents)
    assert step.rewards["agent_0"] < -5  # the fall costs 10
    env = VmasEnv(env_id="simple_spread", max_steps=3)
    env.begin(seed=0)
    for _ in range(3):
        assert not env.finished
        step = env.advance(dict.fromkeys(env.possible_agents, np.zeros(2, np.float32)))
    assert env.finished and set(step.truncated.values()) == {True} and not step.terminated


def test_actions_beyond_the_bounds_are_clipped():
    one, two = VmasEnv(env_id="simple"), VmasEnv(env_id="simple")
    one.begin(seed=1), two.begin(seed=1)
    (agent,) = one.possible_agents
    for _ in range(3):
        first = one.advance({agent: np.array([1.0, -1.0], np.float32)})
        second = two.advance({agent: np.array([70.0, -3.0], np.float32)})
    assert np.array_equal(first.observations[agent], second.observations[agent])


def test_observations_are_the_callers_own():
    env = VmasEnv(env_id="simple")
    first = env.begin(seed=1).observations["agent_0"]
    kept = first.copy()
    env.advance({"agent_0": np.ones(2, np.float32)})
    assert np.array_equal(first, kept)


def test_rows_reset_alone_and_finished_rows_stand_still():
    venv = VmasEnv.make_vector([1, 2, 3], 2, env_id="simple")
    forward = {"agent_0": np.ones((3, 2), np.float32)}
    view = venv.reset(np.array([True, True, False]))["agent_0"]
    assert view.acting.tolist() == [True, True, False]
    venv.step(forward)
    venv.step(forward)
    assert venv.finished.all() and view.truncated.tolist() == [True, True, False]
    last = view.observation.copy()
    venv.reset(np.array([True, False, False]))
    assert view.truncated.tolist() == [False, True, False] and view.reward[0] == 0.0 and view.reward[1] != 0.0
    assert np.array_equal(view.observation[1:], last[1:]) and not np.array_equal(view.observation[0], last[0])
    venv.step(forward)
    assert np.array_equal(view.observation[1:], last[1:]) and view.reward.tolist()[1:] == [0.0, 0.0]
    assert venv.finished.tolist() == [False, True, True]


def test_the_engine_takes_the_batched_form_where_there_is_one():
    venv = vectorise(env_desc_gen("balance"), 3, seed=0)
    assert isinstance(venv, VmasVector)
    venv.reset(np.ones(3, bool))
    with pytest.raises(ValueError, match=r"'agent_0' must have shape \(3, 2\), not \(2, 2\)"):
        venv.step(dict.fromkeys(venv.possible_agents, np.zeros((2, 2), np.float32)))
    assert isinstance(vectorise(env_desc_gen("simple_push"), 2, seed=0), DictVectorEnv)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"env_id": "ballance"}, "did you mean 'balance'"),
        ({"n_agents": 4}, "unknown key 'n_agents'"),
        ({"scenario_configs": {"n_agent": 4}}, "scenario_configs.n_agent.*did you mean 'n_agents'"),
        ({"scenario_configs": 4}, "must map names to values"),
        ({"scenario_configs": {"n_agents": "many"}}, "'n_agents': 'many'.*balance refuses it: '>' not supported"),
        ({"scenario_configs": {"n_agents": 1}}, "balance refuses it: AssertionError"),
        ({"max_steps": 0}, "max_steps"),
        ({"continuous_actions": "no"}, "continuous_actions' = 'no'"),
        ({"multidiscrete_actions": True}, "needs 'continuous_actions' = False"),
    ],
)
def test_wrong_settings_are_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        VmasEnv(**config)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "vmas", None)
    _options.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install 'malib_lite\[vmas\]'"):
        VmasEnv()


def test_ids_are_all_scenarios():
    assert set(env_ids()) == {*vmas.scenarios, *vmas.debug_scenarios, *vmas.mpe_scenarios} and len(env_ids()) == 41
    assert set(env_ids()) >= BATCHED


@pytest.mark.slow
@pytest.mark.parametrize("env_id", env_ids())
def test_every_scenario_plays(env_id):
    env = VmasEnv(env_id=env_id, max_steps=5)
    for episode in range(2):
        step = env.begin(seed=episode)
        while not env.finished:
            for agent, seen in step.observations.items():
                assert env.observation_spaces[agent].contains(seen), agent
            step = env.advance({agent: space.sample() for agent, space in env.action_spaces.items()})
            assert all(np.isfinite(reward) for reward in step.rewards.values())
