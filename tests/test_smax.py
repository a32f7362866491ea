"""SMAX in its dictionary form and its vector form, which must be the same game."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from malib_lite.config import ConfigError
from malib_lite.envs.smax import SmaxEnv, SmaxVector, env_desc_gen, env_ids
from malib_lite.envs.smax.simulator import _options, simulator
from malib_lite.rollout.vector_env import vectorise

needs_jaxmarl = pytest.mark.skipif(importlib.util.find_spec("jaxmarl") is None, reason="jaxmarl is not installed")
STOP = 4
FIRST_TARGET = 5


def some_action(mask, *key):
    """A legal action, the same for the same key."""
    return int(np.random.default_rng(key).choice(np.flatnonzero(mask)))


def focus_fire(mask):
    """Shoot at the first enemy in range; wait for them otherwise."""
    targets = np.flatnonzero(mask[FIRST_TARGET:])
    return int(targets[0]) + FIRST_TARGET if len(targets) else STOP


def play(env, seed, num_steps, key):
    """What an environment of the dictionary form shows in ``num_steps`` steps, episode after episode."""
    shown, episode = [], 0
    step = env.begin(seed=seed)
    for _ in range(num_steps):
        if env.finished:
            episode += 1
            step = env.begin()
        actions = {
            agent: some_action(mask, key, episode, env.cnt, n)
            for n, (agent, mask) in enumerate(step.action_masks.items())
        }
        before = step
        step = env.advance(actions)
        for agent in env.possible_agents:
            flags = step.terminated.get(agent, False), step.truncated.get(agent, False)
            shown.append((before.observations[agent], before.action_masks[agent], step.rewards[agent], *flags))
    return shown


def play_row(venv, row, num_steps, key):
    """The same of one row of the vector form; the other rows play at random, and pause now and then."""
    shown, others = [], np.random.default_rng(key + 1)
    views = venv.reset(np.ones(venv.num_envs, bool))
    episode = count = 0
    while len(shown) < num_steps * len(venv.possible_agents):
        again = venv.finished & (others.random(venv.num_envs) < 0.5)
        again[row] = venv.finished[row]
        if again.any():
            if again[row]:
                episode, count = episode + 1, 0
            views = venv.reset(again)
        actions, before = {}, []
        for n, (agent, view) in enumerate(views.items()):
            assert view.action_mask.any(1).all()
            column = (others.random(view.action_mask.shape) * view.action_mask).argmax(1)
            column[row] = some_action(view.action_mask[row], key, episode, count, n)
            actions[agent] = column
            before.append((view.observation[row].copy(), view.action_mask[row].copy()))
        views = venv.step(actions)
        count += 1
        for view, (observation, mask) in zip(views.values(), before, strict=True):
            flags = bool(view.terminated[row]), bool(view.truncated[row])
            shown.append((observation, mask, view.reward[row], *flags))
    return shown


def assert_same(shown, other):
    assert len(shown) == len(other)
    for one, two in zip(shown, other, strict=True):
        np.testing.assert_allclose(one[0], two[0], atol=1e-4)
        assert np.array_equal(one[1], two[1])
        assert one[2] == pytest.approx(two[2], abs=1e-5)
        assert one[3:] == two[3:]


@needs_jaxmarl
def test_spaces_of_three_marines():
    description = env_desc_gen("3m")
    assert description["possible_agents"] == ["ally_0", "ally_1", "ally_2"]
    assert {space.shape for space in description["observation_spaces"].values()} == {(75,)}
    assert {int(space.n) for space in description["action_spaces"].values()} == {8}
    assert SmaxEnv().state_space.shape == (72,) and SmaxEnv().state() is None


@needs_jaxmarl
@pytest.mark.parametrize("row", [0, 2])
def test_a_row_of_the_vector_form_plays_what_a_single_environment_plays(row):
    seeds = [11, 12, 13]
    venv = SmaxEnv.make_vector(seeds, max_step=12)
    env = SmaxEnv()
    step = env.begin  # an environment of the engine's, with its time limit
    env.begin = lambda seed=None: step(seed=seed, max_step=12)
    single = play(env, seeds[row], 60, key=row)
    assert_same(play_row(venv, row, 60, key=row), single)
    ends = {shown[3:] for shown in single}
    assert (False, True) in ends, "no episode was truncated"


@needs_jaxmarl
def test_the_same_seed_plays_the_same_battles_and_another_does_not():
    first, second = play(SmaxEnv(), 5, 40, key=1), play(SmaxEnv(), 5, 40, key=1)
    for one, two in zip(first, second, strict=True):
        assert np.array_equal(one[0], two[0]) and one[2:] == two[2:]
    assert not np.array_equal(first[0][0], play(SmaxEnv(), 6, 1, key=1)[0][0])
    env = SmaxEnv()
    one, two = env.begin(seed=5), env.begin()
    assert not np.array_equal(one.observations["ally_0"], two.observations["ally_0"])


@needs_jaxmarl
def test_the_dead_may_only_stop_see_nothing_and_earn_with_their_team():
    env = SmaxEnv()
    step = env.begin(seed=2)
    seen = 0
    for _ in range(300):
        if env.finished:
            step = env.begin()
        step = env.advance({agent: focus_fire(mask) for agent, mask in step.action_masks.items()})
        assert len(set(step.rewards.values())) == 1 and set(step.rewards) == set(env.possible_agents)
        for agent, info in step.infos.items():
            mask = step.action_masks[agent]
            assert mask.dtype == bool and mask[STOP]
            if not info["alive"]:
                seen += not env.finished
                assert mask.tolist() == [False] * 4 + [True] + [False] * 3
                assert not step.observations[agent].any()
    assert seen > 10


@needs_jaxmarl
def test_a_victory_is_worth_two_and_every_battle_ends_once():
    env = SmaxEnv()
    won = []
    for _ in range(25):
        step = env.begin(seed=len(won))
        while not env.finished:
            step = env.advance({agent: focus_fire(mask) for agent, mask in step.action_masks.items()})
        assert set(step.terminated.values()) == {True} and not step.truncated
        assert set(step.observations) == set(env.possible_agents)
        won.append(step.infos["ally_0"]["battle_won"])
        result = env.episode_returns["ally_1"]
        assert result == pytest.approx(2.0, abs=1e-5) if won[-1] else result <= 1.0 + 1e-5
    assert 0 < sum(won) < 25


@needs_jaxmarl
def test_the_scenarios_time_limit_truncates_in_both_forms():
    configs = {"scenario_configs": {"max_steps": 3}}
    env = SmaxEnv(**configs)
    env.begin(seed=1)
    for _ in range(3):
        assert not env.finished
        step = env.advance(dict.fromkeys(env.possible_agents, STOP))
    assert env.finished and set(step.truncated.values()) == {True} and not step.terminated
    assert step.infos["ally_0"] == {"alive": True, "battle_won": False}
    venv = SmaxEnv.make_vector([1, 2, 3], max_step=200, **configs)
    venv.reset(np.ones(3, bool))
    for _ in range(3):
        assert not venv.finished.any()
        views = venv.step(dict.fromkeys(venv.possible_agents, np.full(3, STOP)))
    view = views["ally_2"]
    assert venv.finished.all() and view.truncated.all() and not view.terminated.any() and not view.acting.any()
    views = venv.reset(np.array([False, True, False]))
    assert views["ally_2"].truncated.tolist() == [True, False, True]
    assert venv.finished.tolist() == [True, False, True]


@needs_jaxmarl
def test_state_is_the_world_and_agrees_with_what_is_seen():
    env = SmaxEnv()
    step = env.begin(seed=4)
    state = env.state()
    assert env.state_space.contains(state)
    units = state[:60].reshape(6, 10)  # health, x, y, cooldown and six bits of type
    assert np.allclose(units[:, 0], 1.0) and state[60:66].tolist() == [0, 0, 0, 1, 1, 1]
    own = step.observations["ally_1"][-10:]
    assert np.allclose(own[1:3] * 32, units[1, 1:3], atol=1e-4)
    env.advance({agent: some_action(mask, 0) for agent, mask in step.action_masks.items()})
    assert not np.array_equal(env.state(), state)


@needs_jaxmarl
def test_the_random_state_goes_on_where_it_stood():
    env = SmaxEnv()
    env.begin(seed=9)
    state = env.state_dict()
    later = env.begin().observations["ally_0"]
    other = SmaxEnv()
    other.load_state_dict(state)
    assert np.array_equal(other.begin().observations["ally_0"], later)
    venv, all_rows = SmaxEnv.make_vector([9, 1, 2], None), np.ones(3, bool)
    venv.reset(all_rows)
    state = venv.state_dict()
    assert np.allclose(venv.reset(all_rows)["ally_0"].observation[0], later, atol=1e-5)
    venv.load_state_dict(state)
    assert venv.finished.all()
    assert np.allclose(venv.reset(all_rows)["ally_0"].observation[0], later, atol=1e-5)


@needs_jaxmarl
def test_nothing_is_compiled_twice():
    """One compilation for each number of rows, however often battles begin and go on; equal settings share it."""
    battles, _ = simulator("3m")
    assert battles is simulator("3m", False, {"max_steps": 7})[0]
    for num_envs in (1, 3):
        venv = SmaxVector(battles, range(num_envs), 5)
        venv.reset(np.ones(num_envs, bool))
        compiled = battles.reset._cache_size(), None
        for _ in range(3):
            for _ in range(5):
                venv.step(dict.fromkeys(venv.possible_agents, np.full(num_envs, STOP)))
            compiled = compiled[0], compiled[1] or battles.step._cache_size()
            venv.reset(venv.finished)
        assert (battles.reset._cache_size(), battles.step._cache_size()) == compiled


@needs_jaxmarl
def test_the_engine_takes_the_vector_form_and_wrong_actions_are_refused():
    venv = vectorise(env_desc_gen("3m"), 3, seed=0)
    assert isinstance(venv, SmaxVector)
    venv.reset(np.ones(3, bool))
    good = dict.fromkeys(venv.possible_agents, np.full(3, STOP))
    with pytest.raises(ValueError, match="'ally_1' must be integers"):
        venv.step({**good, "ally_1": np.full(2, STOP)})
    with pytest.raises(ValueError, match=r"'ally_2' must be integers .* float"):
        venv.step({**good, "ally_2": np.full(3, 4.0)})
    with pytest.raises(ValueError, match="not none"):
        venv.step({"ally_0": np.full(3, STOP)})


@needs_jaxmarl
@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"env_id": "3mm"}, "did you mean '3m'"),
        ({"selfplay": True}, "unknown key 'selfplay': did you mean 'self_play'"),
        ({"self_play": 1}, "must be true"),
        ({"scenario_configs": 3}, "must map names to values"),
        ({"scenario_configs": {"max_step": 3}}, "did you mean 'max_steps'"),
        ({"scenario_configs": {"max_steps": "3"}}, "must be like the default, 100"),
        ({"scenario_configs": {"max_steps": 0}}, "at least 1"),
        ({"scenario_configs": {"num_allies": 4}}, "unknown key"),
        ({"scenario_configs": {"attack_mode": "farthest"}}, "closest or random"),
        ({"scenario_configs": {"observation_type": "round"}}, "observation_type"),
    ],
)
def test_wrong_settings_are_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        SmaxEnv(**config)


@needs_jaxmarl
def test_ids_are_all_of_jaxmarls_scenarios():
    from jaxmarl.environments.smax.smax_env import MAP_NAME_TO_SCENARIO

    assert env_ids() == list(MAP_NAME_TO_SCENARIO)


def test_jax_is_not_imported_with_the_family():
    code = (
        "import sys, malib_lite.envs.smax as s; s.env_ids(); sys.exit('jax' in sys.modules or 'jaxmarl' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=600).returncode == 0


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jaxmarl.environments.smax", None)
    _options.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install 'malib_lite\[smax\]'"):
        SmaxEnv("3m", scenario_configs={})


@needs_jaxmarl
@pytest.mark.slow
def test_self_play_is_zero_sum_and_both_teams_act():
    env = SmaxEnv("5m_vs_6m", self_play=True)
    assert env.possible_agents == [f"ally_{i}" for i in range(5)] + [f"enemy_{i}" for i in range(6)]
    assert env.action_spaces["ally_0"].n == 5 + 6 and env.action_spaces["enemy_0"].n == 5 + 5
    venv = SmaxEnv.make_vector([3, 4], None, env_id="5m_vs_6m", self_play=True)
    assert_same(play_row(venv, 1, 60, key=0), play(env, 4, 60, key=0))
    results = set()
    for seed in range(30):
        step = env.begin(seed=seed)
        while not env.finished:
            # the enemies stand still, the allies come
            step = env.advance(
                {
                    a: focus_fire(m) if a[0] == "e" else some_action(m, seed, env.cnt)
                    for a, m in step.action_masks.items()
                }
            )
            assert step.rewards["ally_0"] + step.rewards["enemy_0"] == 0.0
        won = step.infos["ally_0"]["battle_won"], step.infos["enemy_0"]["battle_won"]
        results.add((won, round(env.episode_returns["ally_0"])))
    assert results <= {((True, False), 1), ((False, True), -1), ((False, False), 0)} and len(results) > 1


@needs_jaxmarl
@pytest.mark.slow
@pytest.mark.parametrize("env_id", env_ids())
def test_every_scenario_plays(env_id):
    venv = SmaxEnv.make_vector(range(4), None, env_id=env_id)
    rng, ends = np.random.default_rng(0), 0
    views = venv.reset(np.ones(4, bool))
    for _ in range(150):
        for agent, view in views.items():
            assert view.action_mask.any(1).all() and np.isfinite(view.observation).all()
            assert view.observation.shape[1:] == venv.observation_spaces[agent].shape
        views = venv.step({a: (rng.random(v.action_mask.shape) * v.action_mask).argmax(1) for a, v in views.items()})
        assert all(np.isfinite(view.reward).all() for view in views.values())
        ends += int(venv.finished.sum())
        if venv.finished.any():
            views = venv.reset(venv.finished)
    assert ends >= 4
