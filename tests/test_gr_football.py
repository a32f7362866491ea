"""The football adapter, with the real simulator where it is installed and with a stand-in everywhere."""

import copy
import itertools
import sys
from importlib.util import find_spec

import fake_gfootball
import numpy as np
import pytest

from malib_lite.config import ConfigError
from malib_lite.envs import check_env
from malib_lite.envs.gr_football import SCENARIOS, GRFootballEnv, env_desc_gen, env_ids, features
from malib_lite.rollout.vector_env import DictVectorEnv

INSTALLED = find_spec("gfootball") is not None
needs_simulator = pytest.mark.skipif(not INSTALLED, reason="gfootball is not installed")
RIGHT, SHOT = 5, 12


@pytest.fixture(params=["fake", pytest.param("real", marks=needs_simulator)])
def simulator(request, monkeypatch):
    """Which football is played."""
    if request.param == "fake":
        fake_gfootball.install(monkeypatch)
    return request.param


@pytest.fixture
def fake(monkeypatch):
    fake_gfootball.install(monkeypatch)


def make(env_id="academy_3_vs_1_with_keeper", **scenario_configs):
    return GRFootballEnv(env_id=env_id, scenario_configs=scenario_configs)


def play(env, num_steps, seed=None, max_step=None):
    """The steps of so many random moves, over as many episodes as it takes."""
    rng, steps = np.random.default_rng(5), []
    for _ in range(num_steps):
        if env.finished:
            steps.append(env.begin(seed=seed, max_step=max_step))
            seed = None
        n = env.action_spaces[env.possible_agents[0]].n
        steps.append(env.advance({agent: rng.integers(n) for agent in env.possible_agents}))
    return steps


def stacked(steps):
    """All observations and rewards of some steps as one array."""
    return np.stack([[*o.ravel(), s.rewards.get(a, 0.0)] for s in steps for a, o in s.observations.items()])


def run_and_shoot(env, seed=0):
    """Run with the ball to the goal and shoot; the steps of the episode."""
    steps = [env.begin(seed=seed)]
    while not env.finished:
        action = SHOT if steps[-1].observations["left_0"][88] > 0.85 else RIGHT
        steps.append(env.advance({"left_0": action}))
    return steps


@pytest.mark.parametrize(
    "env_id, left, right, agents",
    [
        ("academy_3_vs_1_with_keeper", None, 0, ["left_0", "left_1", "left_2"]),
        ("academy_3_vs_1_with_keeper", 4, 2, ["left_0", "left_1", "left_2", "left_3", "right_0", "right_1"]),
        ("5_vs_5", 0, 4, ["right_0", "right_1", "right_2", "right_3"]),
        ("11_vs_11_stochastic", 1, 1, ["left_0", "right_0"]),
    ],
)
@pytest.mark.parametrize("representation, action_set", [("simple115v2", "default"), ("extracted", "v2")])
def test_agents_and_spaces(simulator, env_id, left, right, agents, representation, action_set):
    configs = {"right_players": right, "representation": representation, "action_set": action_set}
    env = make(env_id, **configs, **({} if left is None else {"left_players": left}))
    assert env.possible_agents == agents
    for step in play(env, 12, seed=1):
        assert list(step.observations) == agents and not step.action_masks
        for agent in agents:
            assert env.observation_spaces[agent].contains(step.observations[agent])
            assert env.action_spaces[agent].n == (19 if action_set == "default" else 20)
        assert env.state_space.contains(env.state())
    assert step.observations[agents[0]].max() > 0
    env.close()
    env.close()


@needs_simulator
@pytest.mark.parametrize("env_id, left, right", [("academy_3_vs_1_with_keeper", 3, 2), ("5_vs_5", 4, 4)])
def test_numbers_are_those_of_the_packages_own_environment_and_wrappers(env_id, left, right):
    from gfootball.env import config, football_env, observation_preprocessing, wrappers

    counts = {"left_players": left, "right_players": right}
    ours, ours_map = make(env_id, **counts), make(env_id, **counts, representation="extracted")
    bare_config = config.Config(
        {"level": env_id, "players": [f"agent:left_players={left},right_players={right}"], "game_engine_random_seed": 0}
    )
    bare = football_env.FootballEnv(bare_config)
    draw, rng = np.random.default_rng(7), np.random.default_rng(1)
    bare_config["episode_number"] = 0
    for episode in range(3):
        step, step_map = (env.begin(seed=7 if episode == 0 else None) for env in (ours, ours_map))
        bare_config["game_engine_random_seed"] = seed = int(draw.integers(2_000_000_000))
        bare_config["reverse_team_processing"] = bool(seed % 2)
        raw, done, reward = bare.reset(), False, np.zeros(left + right)
        for _ in range(60):
            expected = wrappers.Simple115StateWrapper.convert_observation(raw, True)
            np.testing.assert_array_equal(np.stack(list(step.observations.values())), expected)
            expected_map = observation_preprocessing.generate_smm(raw)
            np.testing.assert_array_equal(np.stack(list(step_map.observations.values())), expected_map)
            if done:
                break
            actions = rng.integers(0, 19, left + right)
            raw, reward, done, _ = bare.step(actions.tolist())
            step, step_map = (
                env.advance(dict(zip(env.possible_agents, actions, strict=True))) for env in (ours, ours_map)
            )
            assert list(step.rewards.values()) == reward.tolist() and ours.finished == done
            assert step.infos["left_0"] == {"score": tuple(raw[0]["score"]), "steps_left": raw[0]["steps_left"]}


@needs_simulator
def test_the_stand_in_speaks_like_the_simulator():
    from gfootball.env import config, football_env_core

    values = {"level": "academy_3_vs_1_with_keeper", "game_engine_random_seed": 0}
    values["players"] = ["agent:left_players=3,right_players=2"]
    real_config, fake_config = config.Config(values), fake_gfootball.Config(values)
    real, fake = football_env_core.FootballEnvCore(real_config), fake_gfootball.FootballEnvCore(fake_config)
    real.reset()
    fake.reset()
    assert real_config["episode_number"] == fake_config["episode_number"]
    for name, value in vars(fake_config.ScenarioConfig()).items():
        assert getattr(real_config.ScenarioConfig(), name) == value
    for _ in range(2):
        ours, theirs = fake.observation(), real.observation()
        assert ours.keys() == theirs.keys() and ours["steps_left"] == theirs["steps_left"]
        for key, value in theirs.items():
            assert type(ours[key]) is type(value), key
            if isinstance(value, np.ndarray):
                assert (ours[key].dtype, ours[key].shape) == (value.dtype, value.shape), key
            elif isinstance(value, list):
                assert len(ours[key]) == len(value), key
                assert [(type(a), np.shape(a)) for a in ours[key]] == [(type(b), np.shape(b)) for b in value], key
        (_, reward, done, info), (_, ours_reward, ours_done, ours_info) = real.step([0] * 5), fake.step([0] * 5)
        assert (type(reward), type(done), info) == (type(ours_reward), type(ours_done), ours_info)


@needs_simulator
def test_the_table_of_scenarios_is_the_packages():
    from gfootball.env import config, scenario_builder

    assert set(SCENARIOS) == set(scenario_builder.all_scenarios()) - {"tests"}
    for name, sides in SCENARIOS.items():
        found = config.Config({"level": name, "game_engine_random_seed": 0}).ScenarioConfig()
        assert (found.controllable_left_players, found.controllable_right_players) == (sides.left, sides.right), name
        keepers = [player for player in found.left_team if player.role == 0 and player.controllable]
        assert sides.left_field in (sides.left - len(keepers), 1), name
        assert not found.deterministic  # or a seed would not matter


def raw_observation():
    """Two players a side; the right side's player 1 has the ball at a throw-in."""
    return {
        "left_team": np.array([[-1.0, 0.0], [0.5, 0.25]]),
        "left_team_direction": np.array([[0.0, 0.0], [0.01, -0.02]]),
        "right_team": np.array([[1.0, 0.0], [0.125, -0.375]]),
        "right_team_direction": np.array([[0.0, 0.0], [-0.01, 0.03]]),
        **{f"{side}_team_tired_factor": np.array([0.0, 0.5]) for side in ("left", "right")},
        **{f"{side}_team_yellow_card": np.array([False, True]) for side in ("left", "right")},
        **{f"{side}_team_active": np.array([True, True]) for side in ("left", "right")},
        "left_agent_controlled_player": [1, -1],
        "right_agent_controlled_player": [1],
        "ball": np.array([0.125, -0.375, 0.1]),
        "ball_direction": np.array([0.01, 0.02, 0.03]),
        "ball_rotation": np.array([0.1, 0.2, 0.3]),
        "ball_owned_team": 1,
        "ball_owned_player": 1,
        "game_mode": 5,
        "score": [2, 3],
        "steps_left": 250,
    }


def test_simple115_by_hand():
    left, nobody = features.simple115(features.left_view(raw_observation()))
    np.testing.assert_allclose(left[:4], [-1, 0, 0.5, 0.25])
    np.testing.assert_allclose(left[22:26], [0, 0, 0.01, -0.02])
    np.testing.assert_allclose(left[44:48], [1, 0, 0.125, -0.375])
    np.testing.assert_allclose(left[66:70], [0, 0, -0.01, 0.03])
    for block in range(4):
        assert (left[22 * block + 4 : 22 * (block + 1)] == -1).all()
    np.testing.assert_allclose(left[88:94], [0.125, -0.375, 0.1, 0.01, 0.02, 0.03])
    assert np.flatnonzero(left[94:]).tolist() == [2, 3 + 1, 14 + 5] and left[94:].sum() == 3
    assert nobody[97:108].sum() == 0 and (nobody[:97] == left[:97]).all()


def test_the_right_side_sees_the_field_turned():
    raw = raw_observation()
    (right,) = features.simple115(features.right_view(raw))
    np.testing.assert_allclose(right[:4], [-1, 0, -0.125, 0.375])
    np.testing.assert_allclose(right[88:94], [-0.125, 0.375, 0.1, -0.01, -0.02, 0.03])
    assert np.flatnonzero(right[94:]).tolist() == [1, 3 + 1, 14 + 5]
    assert features.right_view(raw).score == (3, 2)
    turned = [features.turned_action(action) for action in range(20)]
    assert turned == [0, 5, 6, 7, 8, 1, 2, 3, 4, *range(9, 20)]
    assert [features.turned_action(action) for action in turned] == list(range(20))


def test_minimap_by_hand():
    planes, nobody = features.minimap(features.left_view(raw_observation()))
    rows = {0.0: 36, 0.25: 56, -0.375: 5}  # (y + 1 / 2.25) / (2 / 2.25) * 72, rounded down
    marks = [np.argwhere(planes[..., plane]).tolist() for plane in range(4)]
    assert marks[0] == [[rows[0.0], 0], [rows[0.25], 72]] and marks[3] == [[rows[0.25], 72]]
    assert marks[1] == [[rows[-0.375], 54], [rows[0.0], 95]]  # x = 1 is drawn on the last column
    assert marks[2] == [[rows[-0.375], 54]] and set(np.unique(planes)) == {0, 255}
    assert not nobody[..., 3].any() and (nobody[..., :3] == planes[..., :3]).all()


def test_global_state_by_hand():
    state = features.global_state(raw_observation())
    assert state.shape == (features.STATE_SIZE,) and state.dtype == np.float32
    right, rest = state[77:154], state[154:]
    np.testing.assert_allclose(right[[0, 1, 2, 3, 25, 45, 56, 66, 67]], [1, 0, 0.125, -0.375, 0.03, 0.5, 1, 1, 1])
    assert right.astype(bool).sum() == 3 + 2 + 1 + 1 + 2
    np.testing.assert_allclose(rest[:9], [0.125, -0.375, 0.1, 0.01, 0.02, 0.03, 0.1, 0.2, 0.3])
    assert np.flatnonzero(rest[9:30]).tolist() == [2, 3 + 1, 14 + 5]
    np.testing.assert_allclose(rest[30:], [2, 3, 0.25])


def test_checkpoints_by_hand():
    view = features.left_view({**raw_observation(), "ball_owned_team": 0, "ball": np.array([0.5, 0.0, 0.1])})
    assert features.checkpoints_reached(view) == 6  # 0.99, 0.901, ..., 0.546 are not less than 0.5
    assert features.checkpoints_reached(features.left_view(raw_observation())) == 0  # the others have the ball
    near = {**raw_observation(), "ball": np.array([-0.9, 0.0, 0.1])}
    assert features.checkpoints_reached(features.right_view(near)) == 10


def test_a_goal_terminates_a_drill_and_collects_all_checkpoints(simulator):
    scoring = run_and_shoot(make("academy_empty_goal_close", left_players=1))
    assert [step.rewards["left_0"] for step in scoring[1:]] == [0.0] * (len(scoring) - 2) + [1.0]
    assert scoring[-1].terminated == {"left_0": True} and not scoring[-1].truncated
    assert scoring[-1].infos["left_0"]["score"] == (1, 0)
    env = make("academy_empty_goal_close", left_players=1, right_players=1, rewards="scoring,checkpoints")
    for seed in (0, 1):  # what was collected in the last episode counts no more
        step, left, right = env.begin(seed=seed), [], []
        while not env.finished:
            action = SHOT if step.observations["left_0"][88] > 0.85 else RIGHT
            step = env.advance({"left_0": action, "right_0": 0})
            left.append(step.rewards["left_0"])
            right.append(step.rewards["right_0"])
        assert sum(left) == pytest.approx(2.0) and sum(right) == -1.0
        assert sum(reward > 0 for reward in left[:-1]) >= 2  # not all at once with the goal


@needs_simulator
def test_the_contract_is_kept():
    assert check_env(GRFootballEnv, config={"scenario_configs": {"right_players": 2}}, max_step=60) == []


def test_time_that_is_up_truncates(simulator):
    env = make("1_vs_1_easy", left_players=1, right_players=1)
    step = env.begin(seed=0)
    while not env.finished:
        assert not step.terminated and not step.truncated
        step = env.advance({"left_0": 0, "right_0": 0})
    assert env.cnt == 501 and step.infos["left_0"]["steps_left"] == 0
    assert step.truncated == {"left_0": True, "right_0": True} and not step.terminated
    ours = play(make(), 7, seed=0, max_step=7)[-1]
    assert all(ours.truncated.values()) and not ours.terminated and ours.infos["left_0"]["steps_left"] > 300


@pytest.mark.parametrize("ends_on_score, flag", [(True, "terminated"), (False, "truncated")])
def test_a_goal_in_the_last_step(fake, ends_on_score, flag, monkeypatch):
    for duration in itertools.count(1):
        _, *drill, ends = fake_gfootball._LEVELS["academy_empty_goal_close"]
        level = (duration, *drill, (ends_on_score, *ends[1:]))
        monkeypatch.setitem(fake_gfootball._LEVELS, "academy_empty_goal_close", level)
        step = run_and_shoot(make("academy_empty_goal_close", left_players=1))[-1]
        if step.rewards["left_0"]:
            break
    assert step.infos["left_0"]["steps_left"] == 0
    assert getattr(step, flag) == {"left_0": True} and bool(step.terminated) != bool(step.truncated)


def test_sides_are_paid_against_each_other(fake):
    env = make("academy_empty_goal_close", left_players=2, right_players=1)
    step = env.begin(seed=0)
    while not env.finished:
        action = SHOT if step.observations["left_0"][88] > 0.85 else RIGHT
        step = env.advance({"left_0": 0, "left_1": action, "right_0": 0})
    assert step.rewards == {"left_0": 1.0, "left_1": 1.0, "right_0": -1.0}
    assert step.infos["right_0"]["score"] == (0, 1)


def test_seeds_fix_the_game(simulator):
    make_one = lambda: make(left_players=3, right_players=1)  # noqa: E731
    env, other = make_one(), make("5_vs_5", left_players=1)
    first = stacked(play(env, 70, seed=3))
    play(other, 10, seed=9)
    other.close()  # its engine goes on to the next environment
    again = make_one()
    np.testing.assert_array_equal(stacked(play(again, 70, seed=3)), first)
    play(env, 3, seed=4)
    env.finished = True
    np.testing.assert_array_equal(stacked(play(env, 70, seed=3)), first)
    assert not np.array_equal(stacked(play(make_one(), 70, seed=4)[:8]), first[: 8 * 4])


def test_going_on_from_a_random_state(simulator):
    env = make("5_vs_5", left_players=1, right_players=1)
    for step in (env.begin(seed=3), env.begin()):
        first = step.observations["left_0"]
    state = copy.deepcopy(env.state_dict())
    third = env.begin().observations["left_0"]
    resumed = make("5_vs_5", left_players=1, right_players=1)
    resumed.load_state_dict(state)
    np.testing.assert_array_equal(resumed.begin().observations["left_0"], third)
    assert not np.array_equal(first, third)


def test_rows_do_not_depend_on_how_they_are_spread(simulator):
    config = {"env_id": "academy_3_vs_1_with_keeper", "scenario_configs": {"left_players": 2, "right_players": 1}}

    def roll(seeds):
        venv = DictVectorEnv(GRFootballEnv, config, seeds, max_step=6)
        views, seen = venv.reset(np.ones(len(seeds), bool)), []
        for t in range(14):
            seen.append(np.stack([views[agent].observation for agent in venv.possible_agents], axis=1))
            views = venv.step({agent: np.full(len(seeds), t + 1) for agent in venv.possible_agents})
            views = venv.reset(venv.finished) if venv.finished.any() else views
        venv.close()
        return np.stack(seen, axis=1)  # (E, T, agents, 115)

    together = roll([11, 12, 13])
    np.testing.assert_array_equal(together[:1], roll([11]))
    np.testing.assert_array_equal(together[1:], roll([12, 13]))


def test_pictures(fake):
    env = make()
    env.begin(seed=0)
    frame = env.render()
    assert frame.shape == (720, 1280, 3) and frame.dtype == np.uint8


@needs_simulator
@pytest.mark.slow
def test_pictures_of_the_simulator():
    env = make()
    env.begin(seed=0)
    frame = env.render()
    assert frame.shape == (720, 1280, 3) and frame.dtype == np.uint8 and frame.std() > 10
    assert len(play(env, 5)) >= 5


@needs_simulator
@pytest.mark.slow
def test_sixteen_environments_in_one_process():
    config = {"env_id": "5_vs_5", "scenario_configs": {"right_players": 4}}
    venv = DictVectorEnv(GRFootballEnv, config, list(range(16)))
    venv.reset(np.ones(16, bool))
    for t in range(50):
        venv.step({agent: np.full(16, t % 19) for agent in venv.possible_agents})
    assert not venv.finished.any()
    venv.close()


@pytest.mark.parametrize(
    "config, message",
    [
        ({"env_id": "academy_3_vs_1"}, "did you mean 'academy_3_vs_1_with_keeper'"),
        ({"env_id": ["5_vs_5"]}, r"'env_id' = \['5_vs_5'\]"),
        ({"env_ids": "5_vs_5"}, "unknown key 'env_ids': did you mean 'env_id'"),
        ({"scenario_configs": 3}, "'scenario_configs' takes a mapping"),
        ({"scenario_configs": {"left_player": 1}}, r"did you mean 'scenario_configs\.left_players'"),
        ({"scenario_configs": {"left_players": 5}}, r"'scenario_configs\.left_players' = 5: .* has 4 on that side"),
        ({"scenario_configs": {"right_players": 3}}, r"'scenario_configs\.right_players' = 3: .* has 2 on that side"),
        ({"scenario_configs": {"right_players": -1}}, r"'scenario_configs\.right_players' = -1"),
        ({"scenario_configs": {"left_players": 0}}, "there is no agent"),
        ({"scenario_configs": {"representation": "raw"}}, r"representation' = 'raw'.*'simple115v2' or 'extracted'"),
        ({"scenario_configs": {"rewards": "goals"}}, r"rewards' = 'goals'.*'scoring'"),
        ({"scenario_configs": {"action_set": "full"}}, r"action_set' = 'full'.*'default' or 'v2'"),
    ],
)
def test_mistakes_are_explained(config, message):
    for creator in (GRFootballEnv, env_desc_gen):
        with pytest.raises(ConfigError, match=message):
            creator(**config)


def test_a_missing_simulator_comes_with_the_lines_that_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gfootball", None)
    monkeypatch.setitem(sys.modules, "gfootball.env", None)
    with pytest.raises(ConfigError, match=r"(?s)apt-get install .*libboost.*pip install .*gfootball==2\.10\.2"):
        GRFootballEnv()


def test_description_and_ids(fake):
    description = env_desc_gen(env_id="5_vs_5", scenario_configs={"right_players": 4})
    assert description["creator"] is GRFootballEnv and len(description["possible_agents"]) == 8
    assert description["config"] == {"env_id": "5_vs_5", "scenario_configs": {"right_players": 4}}
    assert len(env_ids()) == 19 and {"5_vs_5", "academy_corner"} <= set(env_ids())
