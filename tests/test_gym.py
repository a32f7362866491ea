"""The gymnasium adapter, single and vectorised."""

import gymnasium
import numpy as np
import pytest
from fakes import seeds

from malib_lite.config import ConfigError
from malib_lite.envs.gym import AGENT, GymEnv, GymVector, env_desc_gen, env_ids
from malib_lite.rollout.vector_env import DictVectorEnv, vectorise


def everywhere(venv):
    return np.ones(venv.num_envs, bool)


def episode(env, choose, **begin):
    """The steps of one episode of a GymEnv."""
    steps = [env.begin(**begin)]
    while not env.finished:
        steps.append(env.advance({AGENT: choose(len(steps) - 1)}))
    return steps


@pytest.mark.parametrize("env_id", ["CartPole-v1", "MountainCarContinuous-v0", "FrozenLake-v1", "Blackjack-v1"])
def test_an_episode_is_gymnasiums_own(env_id):
    bare = gymnasium.make(env_id)
    bare.action_space.seed(1)
    env = GymEnv(env_id=env_id, scenario_configs={"max_episode_steps": 40})
    observation, _ = bare.reset(seed=3)
    step = env.begin(seed=3)
    while not env.finished:
        np.testing.assert_equal(step.observations[AGENT], observation)
        action = bare.action_space.sample()
        observation, reward, terminated, _, _ = bare.step(action)
        step = env.advance({AGENT: action})
        assert step.rewards[AGENT] == reward and step.terminated.get(AGENT, False) == terminated
    np.testing.assert_equal(step.observations[AGENT], observation)
    assert step.terminated.get(AGENT, False) != step.truncated.get(AGENT, False)
    assert env.collect_info()["env_step"] == env.cnt


def test_termination_and_both_time_limits_are_told_apart():
    fallen = episode(GymEnv(), lambda t: 1, seed=0)[-1]
    assert fallen.terminated == {AGENT: True} and not fallen.truncated
    assert abs(fallen.observations[AGENT][2]) > 12 * np.pi / 180  # the final observation, not another start
    own = episode(GymEnv(scenario_configs={"max_episode_steps": 5}), lambda t: t % 2, seed=0)
    assert len(own) == 6 and own[-1].truncated == {AGENT: True} and not own[-1].terminated
    ours = episode(GymEnv(), lambda t: t % 2, seed=0, max_step=4)
    assert len(ours) == 5 and ours[-1].truncated == {AGENT: True} and not ours[-1].terminated.get(AGENT)
    length = len(episode(GymEnv(), lambda t: 1, seed=0)) - 1
    both = episode(GymEnv(scenario_configs={"max_episode_steps": length}), lambda t: 1, seed=0)[-1]
    assert both.terminated == {AGENT: True} and not both.truncated


def test_the_loop_of_the_documents():
    env = GymEnv(env_id="CartPole-v1", scenario_configs={})
    env.seed(3)
    state, observations = env.reset(max_step=7)
    dones, total = {"__all__": False}, 0.0
    while not dones["__all__"]:
        state, observations, rewards, dones, _ = env.step(dict.fromkeys(observations, env.cnt % 2))
        total += rewards[AGENT]
    assert state is None and total == 7 and env.collect_info() == {"env_step": 7, "agent_reward": {AGENT: 7.0}}


def test_description_and_ids():
    description = env_desc_gen(env_id="Acrobot-v1")
    assert description["creator"] is GymEnv and description["possible_agents"] == [AGENT]
    assert description["config"] == {"env_id": "Acrobot-v1", "scenario_configs": {}}
    assert description["action_spaces"][AGENT] == gymnasium.spaces.Discrete(3)
    assert {"CartPole-v1", "LunarLander-v3", "Pendulum-v1"} <= set(env_ids())


@pytest.mark.parametrize(
    "config, message",
    [
        ({"env_id": "CartPol-v1"}, "'env_id' = 'CartPol-v1': .*did you mean 'CartPole-v1'"),
        ({"env_id": "CartPole-v7"}, "did you mean 'CartPole-v1'"),
        ({"env_id": "zzz-v0"}, "known: .*CartPole-v1"),
        ({"env_id": "ALE/Pong-v5"}, "proper package for ALE.*module:id"),
        ({"env_id": "LunarLander-v2"}, "Please use `LunarLander-v3`"),
        ({"env_id": "a b"}, "Malformed environment ID"),
        ({"env_id": "no_such_module:Thing-v0"}, "No module named 'no_such_module'"),
        ({"env_id": 3}, "'env_id' = 3"),
        ({"scenario_configs": 3}, "'scenario_configs' = 3"),
        ({"scenarios_configs": {}}, "unknown key 'scenarios_configs': did you mean 'scenario_configs'"),
        ({"scenario_configs": {"sutton_barto_rewards": 1}}, r"scenario_configs\.sutton_.*'sutton_barto_reward'"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*out of date")
def test_mistakes_are_explained(config, message):
    for make in (GymEnv, env_desc_gen):
        with pytest.raises(ConfigError, match=message):
            make(**config)
    with pytest.raises(ConfigError, match=message):
        vectorise({"creator": GymEnv, "config": config}, 2, 0)


class NeedsBox2D:
    def __init__(self):
        raise gymnasium.error.DependencyNotInstalled("Box2D is not installed")


class NeedsJax:
    def __init__(self):
        raise ModuleNotFoundError("No module named 'jax'")


@pytest.mark.parametrize("needy, extra", [(NeedsBox2D, "box2d"), (NeedsJax, "jax")])
def test_a_missing_dependency_comes_with_its_pip_line(monkeypatch, needy, extra):
    module = {"box2d": "gymnasium.envs.box2d", "jax": "gymnasium.envs.phys2d"}[extra]
    spec = gymnasium.envs.registration.EnvSpec(id="Needy-v0", entry_point=f"{module}:Needy")
    monkeypatch.setitem(gymnasium.registry, "Needy-v0", spec)
    monkeypatch.setattr(gymnasium.envs.registration, "load_env_creator", lambda name: needy)
    with pytest.raises(ConfigError, match=rf'pip install "gymnasium\[{extra}\]"'):
        GymEnv(env_id="Needy-v0")


def test_rendering_needs_a_mode():
    env = GymEnv()
    env.begin(seed=0)
    with pytest.raises(ConfigError, match="CartPole-v1 offers 'human', 'rgb_array'"):
        env.render()
    env.close()
    env.close()
    env = GymEnv(env_id="FrozenLake-v1", scenario_configs={"render_mode": "ansi"})
    env.begin(seed=0)
    assert "S" in env.render()


# -- the vector form --------------------------------------------------------------------------------------------------


def cartpoles(num_envs, seed=0, max_step=None, **scenario_configs):
    venv = GymEnv.make_vector(seeds(num_envs, seed), max_step, env_id="CartPole-v1", scenario_configs=scenario_configs)
    assert isinstance(venv, GymVector)
    return venv


def twins(num_envs, seed, max_step=None):
    """The same episodes in both forms: the streams of the vector's rows are given to single environments."""
    native = cartpoles(num_envs, seed, max_step)
    single = DictVectorEnv(GymEnv, {"env_id": "CartPole-v1"}, seeds(num_envs, seed), max_step)
    return native, single


@pytest.mark.parametrize("max_step", [None, 15])
def test_the_vector_form_plays_the_same_episodes_as_single_environments(max_step):
    rng = np.random.default_rng(0)
    forms = twins(6, 11, max_step)
    views = [venv.reset(everywhere(venv))[AGENT] for venv in forms]
    ends = 0
    for t in range(400):
        for name in ("acting", "reward", "terminated", "truncated"):
            np.testing.assert_array_equal(getattr(views[0], name), getattr(views[1], name), err_msg=f"{name} at {t}")
        np.testing.assert_allclose(views[0].observation, views[1].observation, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(forms[0].finished, forms[1].finished)
        ends += forms[0].finished.sum()
        again = forms[0].finished & (rng.random(6) < 0.5)  # some rows wait for their reset
        actions = rng.integers(2, size=6)
        for venv in forms:
            venv.reset(again)
            venv.step({AGENT: actions})
    assert ends > 20


def test_the_vector_form_keeps_gymnasiums_time_limit_and_ours():
    for limit, venv in [
        (500, cartpoles(4)),
        (9, cartpoles(4, max_step=9)),
        (7, cartpoles(4, max_step=9, max_episode_steps=7)),
        (600, cartpoles(4, max_step=600, max_episode_steps=-1)),
        (200, GymEnv.make_vector(range(4), None, env_id="CartPole-v0")),
    ]:
        view = venv.reset(everywhere(venv))[AGENT]
        for t in range(1, limit + 1):
            # a hand-made controller that never falls: a linear policy in position, speed, angle and angular speed
            venv.step({AGENT: (view.observation @ [0.1, 0.3, 1.0, 1.0] > 0).astype(int)})
            assert venv.finished.all() == (t == limit), t
        assert view.truncated.all() and not view.terminated.any() and not view.acting.any()
        assert (np.abs(view.observation[:, 2]) < 12 * np.pi / 180).all() and view.observation.any()


def test_rows_of_the_vector_form_can_be_reset_and_parked_singly():
    venv = cartpoles(3)
    view = venv.reset(everywhere(venv))[AGENT]
    for _ in range(3):
        venv.step({AGENT: np.ones(3, int)})
    before = view.observation.copy()
    venv.reset(np.array([False, True, False]))
    assert (view.observation[[0, 2]] == before[[0, 2]]).all() and (np.abs(view.observation[1]) <= 0.05).all()
    assert view.reward.tolist() == [1, 0, 1]
    venv.finished[0] = True
    venv.step({AGENT: np.array([9, 1, 1])})  # the action of a row that is not playing does not matter
    assert (view.observation[0] == before[0]).all() and view.reward.tolist() == [0, 1, 1]
    assert venv.finished.tolist() == [True, False, False] and view.acting.tolist() == [False, True, True]


def test_finished_rows_stand_still():
    venv = cartpoles(2)
    view = venv.reset(everywhere(venv))[AGENT]
    with np.errstate(all="raise"):
        for _ in range(5000):
            venv.step({AGENT: np.zeros(2, int)})
    assert venv.finished.all() and np.isfinite(view.observation).all() and not view.terminated.any()


def test_the_vector_form_repeats_and_resumes():
    def run(venv, num_steps):
        view = venv.reset(everywhere(venv))[AGENT]
        rows = []
        for t in range(num_steps):
            venv.step({AGENT: np.full(4, t // 2 % 2)})
            rows.append(view.observation.copy())
            venv.reset(venv.finished)
        return np.array(rows)

    venv = cartpoles(4, seed=3)
    first = run(venv, 60)
    saved = venv.state_dict()
    later = run(venv, 60)
    np.testing.assert_array_equal(run(cartpoles(4, seed=3), 60), first)
    assert not (run(cartpoles(4, seed=4), 60) == first).all()
    resumed = cartpoles(4, seed=5)
    resumed.load_state_dict(saved)
    assert resumed.finished.all()
    np.testing.assert_array_equal(run(resumed, 60), later)


def test_the_vector_form_is_chosen_only_where_it_is_the_same():
    class Mine(GymEnv):
        pass

    assert isinstance(vectorise(env_desc_gen(), 3, 0), GymVector)
    for description in (
        env_desc_gen(env_id="MountainCar-v0"),
        env_desc_gen(env_id="CartPole-v1", scenario_configs={"render_mode": "rgb_array"}),
        {"creator": Mine, "config": {"env_id": "CartPole-v1"}},
    ):
        assert isinstance(vectorise(description, 3, 0), DictVectorEnv)
    venv = cartpoles(2, sutton_barto_reward=True)
    view = venv.reset(everywhere(venv))[AGENT]
    while not venv.finished.all():
        venv.step({AGENT: np.ones(2, int)})
        assert (view.reward == -view.terminated.astype(float)).all()
