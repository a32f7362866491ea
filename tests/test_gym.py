"""The gymnasium adapter, single and vectorised."""

import copy

import gymnasium
import numpy as np
import pytest
from fakes import seeds
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from malib_lite.config import ConfigError
from malib_lite.envs.gym import AGENT, CartPoleVector, GymEnv, GymVector, adapt, env_desc_gen, env_ids
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
        ({"env_id": "a:b:c"}, "'env_id' = 'a:b:c': must be the id"),
        ({"scenario_configs": 3}, "'scenario_configs' = 3"),
        ({"scenarios_configs": {}}, "unknown key 'scenarios_configs': did you mean 'scenario_configs'"),
        ({"scenario_configs": {"sutton_barto_rewards": 1}}, r"scenario_configs\.sutton_.*'sutton_barto_reward'"),
        ({"scenario_configs": {"max_episode_steps": "many"}}, "'many'.*CartPole-v1 refuses it: .*an integer"),
        ({"env_id": "FrozenLake-v1", "scenario_configs": {"map_name": "9x9"}}, "FrozenLake-v1 refuses it: '9x9'$"),
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


class SpacesEnv(gymnasium.Env):
    """Gives samples of any observation space and refuses actions that are not in its action space."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = copy.deepcopy(observation_space), action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        return self.observation_space.sample(), 1.0, False, False, {}


EVERY_KIND = [
    spaces.Discrete(3, start=2),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiBinary(4),
    spaces.Box(-1, 1, (2, 3), np.float64),
    spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Tuple([spaces.MultiBinary(2), spaces.Discrete(3, start=-1)])}),
    spaces.Tuple([spaces.Box(0, 1, (2,)), spaces.Dict({"c": spaces.Box(-2, 2, (1,))})]),
]


@pytest.mark.parametrize("space", EVERY_KIND, ids=lambda space: type(space).__name__)
def test_every_kind_of_space_can_be_seen_and_acted_in(space):
    venv = vectorise({"creator": lambda: adapt(SpacesEnv(space, space))}, 3, 0, max_step=5)
    view = venv.reset(everywhere(venv))[AGENT]
    assert view.observation.shape[1:] == venv.observation_spaces[AGENT].shape
    for _ in range(5):
        actions = np.stack([venv.action_spaces[AGENT].sample() for _ in range(3)])
        venv.step({AGENT: actions})
        assert view.reward.tolist() == [1, 1, 1]
    assert view.truncated.all()


def test_taxis_masks_are_the_action_masks():
    bare = gymnasium.make("Taxi-v4")
    _, info = bare.reset(seed=7)
    env = GymEnv(env_id="Taxi-v4")
    step = env.begin(seed=7, max_step=50)
    rng = np.random.default_rng(0)
    while not env.finished:
        mask = step.action_masks[AGENT]
        assert mask.dtype == bool and mask.tolist() == info["action_mask"].astype(bool).tolist()
        action = int(rng.choice(np.flatnonzero(mask)))
        *_, info = bare.step(action)
        step = env.advance({AGENT: action})
    venv = vectorise({"creator": GymEnv, "config": {"env_id": "Taxi-v4"}}, 2, 0)
    assert venv.reset(everywhere(venv))[AGENT].action_mask.shape == (2, 6)


class OwnChance(gymnasium.Env):
    """Draws from a generator of its own, which reset restarts with the seed; without one, from the system's entropy."""

    observation_space = spaces.Box(0, 1, (1,), np.float64)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.own = np.random.default_rng(seed)
        return self.own.random(1), {}

    def step(self, action):
        return self.own.random(1), 0.0, False, False, {}


def test_any_gymnasium_object_is_adapted_and_repeats():
    def play(env, num_episodes, **begin):
        seen = []
        for _ in range(num_episodes):
            step = env.begin(max_step=2, **begin)
            begin = {}
            while not env.finished:
                seen.append(step.observations[AGENT].item())
                step = env.advance({AGENT: 0})
        return seen

    env = adapt(OwnChance())
    first = play(env, 3, seed=5)
    assert len(set(first)) == 6 and play(adapt(OwnChance()), 3, seed=5) == first
    assert first[0] == np.random.default_rng(5).random()  # the first episode is the environment's own with this seed
    saved = env.state_dict()
    later = play(env, 2)
    resumed = adapt(OwnChance())
    resumed.load_state_dict(saved)
    assert play(resumed, 2) == later


def test_what_is_no_gymnasium_environment_is_not_adapted():
    with pytest.raises(ConfigError, match="many of them are stepped all the same"):
        adapt(gymnasium.make_vec("CartPole-v1", num_envs=2))
    with pytest.raises(ConfigError, match=r"but its class: give OwnChance\(...\)"):
        adapt(OwnChance)
    with pytest.raises(ConfigError, match=r"3 is no gymnasium\.Env"):
        adapt(3)


@pytest.mark.parametrize("env_id", ["phys2d/CartPole-v1", "phys2d/Pendulum-v0", "tabular/Blackjack-v0"])
@pytest.mark.slow
def test_environments_in_jax_are_spoken_to_in_numpy(env_id):
    pytest.importorskip("jax")
    env = GymEnv(env_id=env_id)
    runs = []
    for _ in range(2):
        env.action_spaces[AGENT].seed(0)
        steps = [env.begin(seed=3, max_step=4)]
        while not env.finished:
            steps.append(env.advance({AGENT: env.action_spaces[AGENT].sample()}))
        assert all(type(step.observations[AGENT]) is np.ndarray for step in steps)
        runs.append([step.observations[AGENT].tolist() for step in steps])
    assert runs[0] == runs[1]
    assert isinstance(vectorise({"creator": GymEnv, "config": {"env_id": env_id}}, 2, 0), DictVectorEnv)


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


# -- the vector form of CartPole ---------------------------------------------------------------------------------------


def cartpoles(num_envs, seed=0, max_step=None, **scenario_configs):
    venv = GymEnv.make_vector(seeds(num_envs, seed), max_step, env_id="CartPole-v1", scenario_configs=scenario_configs)
    assert isinstance(venv, CartPoleVector)
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

    assert isinstance(vectorise(env_desc_gen(), 3, 0), CartPoleVector)
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


def test_cartpole_resumes_where_a_single_environment_does():
    """The generator's state is that of the single environment, though the vector form has drawn ahead."""
    native, single = twins(1, 3)
    for venv in (native, single):
        for _ in range(40):  # more episodes than are drawn ahead
            venv.reset(everywhere(venv))
    assert native.state_dict()["generators"][0] == single.state_dict()["envs"][0]["np_random"]


# -- the vector forms of others ---------------------------------------------------------------------------------------


class CountEnv(gymnasium.Env):
    """Sees ``first + t`` after t steps, ``first`` a random multiple of 100; earns its action; ends after ``length``."""

    observation_space = spaces.Box(0, np.inf, (1,), np.float64)
    action_space = spaces.Discrete(3, start=5)

    def __init__(self, length=4):
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.first, self.count = 100.0 * self.np_random.integers(1000), 0
        return np.array([self.first]), {}

    def step(self, action):
        self.count += 1
        return np.array([self.first + self.count]), float(action), self.count >= self.length, False, {}


class CountVector(VectorEnv):
    """Many CountEnvs; the mode is the class's. In DISABLED a row that ended must not be stepped."""

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}
    single_observation_space, single_action_space = CountEnv.observation_space, CountEnv.action_space

    def __init__(self, num_envs, max_episode_steps=None, length=4):
        self.num_envs, self.length, self.limit = num_envs, length, max_episode_steps or np.inf
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)
        self.generators = [None] * num_envs
        self.first, self.count, self.done = np.zeros(num_envs), np.zeros(num_envs), np.zeros(num_envs, bool)

    def begin(self, row):
        self.first[row], self.count[row] = 100.0 * self.generators[row].integers(1000), 0
        self.done[row] = False

    def seen(self):
        return (self.first + self.count)[:, None]

    def reset(self, *, seed=None, options=None):
        mask = np.ones(self.num_envs, bool) if options is None else options["reset_mask"]
        for row in np.flatnonzero(mask):
            if seed is not None:
                self.generators[row] = np.random.default_rng(seed[row])
            self.begin(row)
        return self.seen(), {}

    def step(self, actions):
        assert self.action_space.contains(actions)
        mode, before, info = self.metadata["autoreset_mode"], self.done.copy(), {}
        assert not (mode is AutoresetMode.DISABLED and before.any())
        self.count += 1
        terminated = self.count >= self.length
        truncated = ~terminated & (self.count >= self.limit)
        reward = actions.astype(float)
        self.done = terminated | truncated
        if mode is AutoresetMode.SAME_STEP and self.done.any():
            info = {"final_obs": np.full(self.num_envs, None, object), "_final_obs": self.done.copy()}
            for row in np.flatnonzero(self.done):
                info["final_obs"][row] = self.seen()[row]
                self.begin(row)
        if mode is AutoresetMode.NEXT_STEP:
            for row in np.flatnonzero(before):
                self.begin(row)
                terminated[row] = truncated[row] = False
                reward[row] = 0.0
        return self.seen(), reward, terminated, truncated, info


class SameStep(CountVector):
    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}


class NextStep(CountVector):
    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}


class Selectable(CountVector):
    def __init__(self, num_envs, autoreset_mode=AutoresetMode.NEXT_STEP, **kwargs):
        super().__init__(num_envs, **kwargs)
        self.metadata = {"autoreset_mode": autoreset_mode}


class Unsaid(CountVector):
    metadata = {}


class IgnoresTheMask(CountVector):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)


class OneStream(CountVector):
    def reset(self, *, seed=None, options=None):
        return super().reset(
            seed=None if seed is None else [seed[0] + i for i in range(self.num_envs)], options=options
        )


class OneSeed(CountVector):
    def reset(self, *, seed=None, options=None):
        if seed is not None and not isinstance(seed, int):
            raise TypeError("one seed, please")
        return super().reset(seed=seed, options=options)


class SeesElse(CountVector):
    single_observation_space = spaces.Box(0, np.inf, (2,), np.float64)

    def seen(self):
        return np.repeat(super().seen(), 2, axis=1)


class Broken(CountVector):
    def __init__(self, num_envs):
        super().__init__(num_envs)


@pytest.fixture
def register():
    """Registers environments, and forgets them again."""
    names = []

    def add(vector_entry_point, entry_point=CountEnv, **spec):
        names.append(f"Fake{len(names)}-v0")
        gymnasium.register(names[-1], entry_point, vector_entry_point=vector_entry_point, **spec)
        return names[-1]

    yield add
    for name in names:
        del gymnasium.registry[name]


@pytest.mark.parametrize("form", [CountVector, SameStep, Selectable])
@pytest.mark.parametrize("max_step, limit", [(None, 4), (3, 3)])
def test_a_registered_vector_form_is_used_with_its_final_observations(register, form, max_step, limit):
    env_id = register(form)
    venv = GymEnv.make_vector(range(3), max_step, env_id=env_id)
    assert isinstance(venv, GymVector) and venv.action_spaces[AGENT] == spaces.Discrete(3)
    view = venv.reset(everywhere(venv))[AGENT]
    for _ in range(3):
        first = view.observation.copy()
        assert (first % 100 == 0).all() and len(np.unique(first)) == 3 and view.acting.all()
        for t in range(1, limit + 1):
            venv.step({AGENT: np.array([0, 1, 2])})
            assert view.reward.tolist() == [5, 6, 7]  # the environment counts its actions from 5
            assert (view.observation == first + t).all()  # final observations, not first ones of other episodes
            assert (venv.finished == (t == limit)).all() and (view.acting == (t < limit)).all()
            assert (view.terminated == (t == 4)).all() and (view.truncated == (t == limit == 3)).all()
        venv.reset(venv.finished)
        assert not venv.finished.any() and not view.reward.any() and not view.terminated.any()
    venv.close()


@pytest.mark.parametrize("form", [CountVector, SameStep])
def test_the_limit_of_the_registration_is_kept(register, form):
    env_id = register(form, max_episode_steps=3)
    for max_step, scenario_configs, limit in [(None, {}, 3), (2, {}, 2), (9, {"max_episode_steps": 1, "length": 2}, 1)]:
        venv = GymEnv.make_vector(range(2), max_step, env_id=env_id, scenario_configs=scenario_configs)
        view = venv.reset(everywhere(venv))[AGENT]
        for _ in range(limit):
            assert not venv.finished.any()
            venv.step({AGENT: np.zeros(2, int)})
        assert view.truncated.all() and not view.terminated.any() and (view.observation[:, 0] % 100 == limit).all()


@pytest.mark.parametrize("form", [CountVector, SameStep])
def test_a_rows_episodes_depend_on_its_seed_alone(register, form):
    env_id = register(form)

    def firsts(seeds, reset_when, num_steps=60):
        """What each row sees first, episode by episode; rows that ended wait until ``reset_when(finished, t)``."""
        venv = GymEnv.make_vector(seeds, None, env_id=env_id)
        view = venv.reset(everywhere(venv))[AGENT]
        seen = [[row] for row in view.observation[:, 0].tolist()]
        for t in range(num_steps):
            venv.step({AGENT: np.zeros(len(seeds), int)})
            mask = reset_when(venv.finished, t)
            venv.reset(mask)
            for row in np.flatnonzero(mask):
                seen[row].append(view.observation[row, 0])
        return [row[:5] for row in seen]

    rng = np.random.default_rng(0)
    together = firsts([3, 4, 5], lambda finished, t: finished.copy())
    assert len(set(np.ravel(together))) == 15
    assert firsts([5, 9], lambda finished, t: finished.copy())[0] == together[2]
    assert firsts([3, 4, 5], lambda finished, t: finished & (rng.random(3) < 0.3), 200) == together
    # resumption
    venv = GymEnv.make_vector([3, 4, 5], None, env_id=env_id)
    venv.reset(everywhere(venv))
    venv.reset(np.array([True, False, True]))
    resumed = GymEnv.make_vector([3, 4, 5], None, env_id=env_id)
    resumed.load_state_dict(venv.state_dict())
    view = resumed.reset(everywhere(resumed))[AGENT]
    assert view.observation[:, 0].tolist() == [together[0][2], together[1][1], together[2][2]]


def test_rows_that_are_parked_stand_still(register):
    venv = GymEnv.make_vector(range(3), None, env_id=register(CountVector))
    view = venv.reset(everywhere(venv))[AGENT]
    venv.finished[1] = True
    before = view.observation.copy()
    for t in range(1, 4):
        venv.step({AGENT: np.array([0, 99, 2])})  # the action of a row that does not play does not matter
        assert (view.observation - before).ravel().tolist() == [t, 0, t] and view.reward.tolist() == [5, 0, 7]
    assert not venv.finished[[0, 2]].any()


@pytest.mark.parametrize("form", [NextStep, Unsaid, IgnoresTheMask, OneStream, OneSeed, SeesElse, None])
def test_forms_that_cannot_be_held_to_the_contract_are_left_alone(register, form, recwarn):
    env_id = register(form)
    venv = vectorise({"creator": GymEnv, "config": {"env_id": env_id}}, 2, 0)
    assert isinstance(venv, DictVectorEnv) and not recwarn.list
    view = venv.reset(everywhere(venv))[AGENT]
    venv.step({AGENT: np.array([0, 1])})
    assert view.reward.tolist() == [5, 6]


def test_a_form_that_cannot_be_made_is_left_alone_with_a_warning(register):
    env_id = register(Broken, max_episode_steps=9)
    with pytest.warns(UserWarning, match=f"vector form of {env_id} cannot be used.*max_episode_steps"):
        assert GymEnv.make_vector([0, 1], None, env_id=env_id) is None


def sync(single):
    """Gymnasium's own vector environment over copies of ``single()``, as a vector entry point."""
    return lambda num_envs, autoreset_mode=AutoresetMode.NEXT_STEP, max_episode_steps=None: SyncVectorEnv(
        [single] * num_envs, autoreset_mode=autoreset_mode
    )


def test_masks_pass_through_a_vector_form(register):
    env_id = register(sync(lambda: gymnasium.make("Taxi-v4")), lambda: gymnasium.make("Taxi-v4"))
    venv = GymEnv.make_vector([7, 8], 300, env_id=env_id)
    assert isinstance(venv, GymVector)
    single = [gymnasium.make("Taxi-v4") for _ in range(2)]
    infos = [env.reset(seed=seed)[1] for env, seed in zip(single, (7, 8), strict=True)]
    rng = np.random.default_rng(0)
    view = venv.reset(everywhere(venv))[AGENT]
    for _ in range(200):
        assert view.action_mask.tolist() == [info["action_mask"].astype(bool).tolist() for info in infos]
        actions = [int(rng.choice(np.flatnonzero(mask))) for mask in view.action_mask]
        seen, _, *_, infos = zip(*(env.step(action) for env, action in zip(single, actions, strict=True)), strict=True)
        venv.step({AGENT: np.array(actions)})
        if venv.finished.any():  # gymnasium's own limit of 200
            break
        assert view.observation.tolist() == list(seen)


@pytest.mark.parametrize("space", EVERY_KIND, ids=lambda space: type(space).__name__)
def test_every_kind_of_space_passes_through_a_vector_form(register, space):
    env_id = register(sync(lambda: SpacesEnv(space, space)), lambda: SpacesEnv(space, space))
    native = GymEnv.make_vector([1, 2, 3], 5, env_id=env_id)
    single = DictVectorEnv(GymEnv, {"env_id": env_id}, [1, 2, 3], 5)
    assert isinstance(native, GymVector)
    for attribute in ("observation_spaces", "action_spaces"):
        assert getattr(native, attribute) == getattr(single, attribute)
    views = [venv.reset(everywhere(venv))[AGENT] for venv in (native, single)]
    for _ in range(5):
        np.testing.assert_array_equal(views[0].observation, views[1].observation)
        assert views[0].observation.dtype == views[1].observation.dtype
        actions = np.stack([native.action_spaces[AGENT].sample() for _ in range(3)])
        for venv in (native, single):
            venv.step({AGENT: actions})
    assert views[0].truncated.all()
