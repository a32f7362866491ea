"""Level-based foraging and RWARE, against the bare packages."""

import copy
import subprocess
import sys

import gymnasium
import numpy as np
import pytest

from malib_lite.config import ConfigError
from malib_lite.envs import check_env, lbf, rware
from malib_lite.envs.lbf import LBFEnv
from malib_lite.envs.rware import RWAREEnv
from malib_lite.rollout.vector_env import DictVectorEnv

pytest.importorskip("lbforaging")
pytest.importorskip("rware")

CASES = [
    (LBFEnv, "Foraging-8x8-2p-3f-v3", {}),
    (LBFEnv, "Foraging-2s-5x5-5p-2f-coop-v3", {"penalty": 0.1}),
    (RWAREEnv, "rware-tiny-2ag-v2", {"max_steps": 40}),
    (RWAREEnv, "rware-small-4ag-hard-v2", {"max_steps": 40, "sensor_range": 2, "msg_bits": 2}),
]


def begin_bare(bare, **seed):
    """Reset, where foraging forgets where its players stood in the last episode."""
    for player in getattr(bare.unwrapped, "players", ()):
        player.position = None
    return bare.reset(**seed)[0]


def random_actions(env, rng):
    return {
        agent: rng.integers(space.n) if isinstance(space, gymnasium.spaces.Discrete) else rng.integers(space.nvec)
        for agent, space in env.action_spaces.items()
    }


def play(env, num_steps, seed=None):
    """Observations, rewards and flags of so many random steps, over as many episodes as it takes."""
    rng, seen = np.random.default_rng(5), []
    for _ in range(num_steps):
        if env.finished:
            seen.append(np.concatenate([*env.begin(seed=seed).observations.values()]))
            seed = None
        step = env.advance(random_actions(env, rng))
        ends = [bool(step.terminated), bool(step.truncated)]
        seen.append(np.concatenate([*step.observations.values(), list(step.rewards.values()), ends]))
    return seen


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("cls, env_id, scenario_configs", CASES)
def test_an_episode_is_the_packages_own(cls, env_id, scenario_configs):
    env = cls(env_id=env_id, scenario_configs=scenario_configs)
    bare = gymnasium.make(env_id, disable_env_checker=True, **scenario_configs)
    assert tuple(env.observation_spaces.values()) == tuple(bare.observation_space)
    assert tuple(env.action_spaces.values()) == tuple(bare.action_space)
    assert env.possible_agents == [f"agent_{i}" for i in range(bare.unwrapped.n_agents)]
    rng = np.random.default_rng(2)
    for episode in range(3):
        step, expected = env.begin(seed=3 if episode == 0 else None), begin_bare(bare, seed=3 if episode == 0 else None)
        while True:
            assert list(step.observations) == env.possible_agents and not step.action_masks
            for part, value in zip(step.observations.values(), expected, strict=True):
                np.testing.assert_array_equal(part, value)
            np.testing.assert_array_equal(env.state(), np.concatenate(expected))
            assert env.state_space.contains(env.state())
            if env.finished:
                break
            actions = random_actions(env, rng)
            step = env.advance(actions)
            expected, rewards, over, _, _ = bare.step(tuple(actions.values()))
            assert list(step.rewards.values()) == rewards and env.finished == over
    assert episode == 2 and env.cnt <= 50


@pytest.mark.parametrize("cls, env_id, scenario_configs", CASES)
def test_seeds_fix_all_episodes_that_follow(cls, env_id, scenario_configs):
    env = cls(env_id=env_id, scenario_configs=scenario_configs)
    first = play(env, 120, seed=3)
    assert_same(play(cls(env_id=env_id, scenario_configs=scenario_configs), 120, seed=3), first)
    for other in range(8):  # whatever was played before
        play(env, other, seed=other)
        env.finished = True
        assert_same(play(env, 3, seed=3), first[:4])
    assert not np.array_equal(env.begin(seed=4).observations["agent_0"], env.begin(seed=3).observations["agent_0"])


@pytest.mark.parametrize("cls, env_id, scenario_configs", CASES)
def test_going_on_from_a_random_state(cls, env_id, scenario_configs):
    env = cls(env_id=env_id, scenario_configs=scenario_configs)
    play(env, 60, seed=3)
    env.finished = True
    state = copy.deepcopy(env.state_dict())
    resumed = cls(env_id=env_id, scenario_configs=scenario_configs)
    resumed.load_state_dict(state)
    assert_same(play(resumed, 60), play(env, 60))


@pytest.mark.parametrize("cls, env_id, scenario_configs", CASES)
def test_the_contract_is_kept(cls, env_id, scenario_configs):
    assert check_env(cls, config={"env_id": env_id, "scenario_configs": scenario_configs}) == []


def test_foraging_terminates_when_the_food_is_gone_and_is_truncated_when_time_is_up():
    env, ends = LBFEnv(env_id="Foraging-5x5-3p-1f-v3"), []
    rng = np.random.default_rng(0)
    for seed in range(30):
        env.begin(seed=seed)
        while not env.finished:
            step = env.advance(random_actions(env, rng))
        total = sum(env.collect_info()["agent_reward"].values())
        if total:  # rewards are shares of all the food
            assert total == pytest.approx(1.0) and step.terminated == dict.fromkeys(env.possible_agents, True)
            assert not step.truncated
        else:
            assert env.cnt == 50 and step.truncated == dict.fromkeys(env.possible_agents, True)
            assert not step.terminated
        ends.append(bool(step.terminated))
    assert {True, False} == set(ends)


@pytest.mark.parametrize(
    "cls, scenario_configs, length",
    [
        (LBFEnv, {"max_episode_steps": 70}, 70),  # more than the id's own 50
        (LBFEnv, {"max_episode_steps": 5}, 5),
        (RWAREEnv, {}, 500),
        (RWAREEnv, {"max_steps": 7}, 7),
        (RWAREEnv, {"max_inactivity_steps": 9}, 9),
    ],
)
def test_limits_of_time_truncate(cls, scenario_configs, length):
    env = cls(scenario_configs=scenario_configs)
    env.begin(seed=1)
    while not env.finished:
        step = env.advance(dict.fromkeys(env.possible_agents, 0))
    assert env.cnt == length
    assert step.truncated == {"agent_0": True, "agent_1": True} and not step.terminated


def test_a_delivery_is_paid_as_the_reward_type_says():
    """A robot with the shelf that is asked for, a step above the goal, moves down."""
    paid = {}
    for reward_type in ("individual", "global", "two_stage"):
        env = RWAREEnv(scenario_configs={"reward_type": reward_type})
        env.begin(seed=0)
        warehouse = env._env.unwrapped
        enums = sys.modules["rware.warehouse"]
        (x, y), robot = warehouse.goals[0], warehouse.agents[0]
        warehouse.agents[1].x, warehouse.agents[1].y = 0, 0
        robot.x, robot.y, robot.dir = x, y - 1, enums.Direction.DOWN
        robot.carrying_shelf = warehouse.request_queue[0]
        robot.carrying_shelf.x, robot.carrying_shelf.y = robot.x, robot.y
        warehouse._recalc_grid()
        paid[reward_type] = list(env.advance({"agent_0": 1, "agent_1": 0}).rewards.values())
    assert paid == {"individual": [1.0, 0.0], "global": [1.0, 1.0], "two_stage": [0.5, 0.0]}
    assert all(type(reward) is float for rewards in paid.values() for reward in rewards)


@pytest.mark.parametrize("observation_type", ["flattened", "image", "image_dict"])
def test_observation_types_of_the_warehouse(observation_type):
    env = RWAREEnv(scenario_configs={"observation_type": observation_type})
    step = env.begin(seed=0)
    step = env.advance({"agent_0": 1, "agent_1": 2})
    for agent, observation in step.observations.items():
        assert env.observation_spaces[agent].contains(observation)
    assert env.state_space.contains(env.state())
    state = gymnasium.spaces.unflatten(gymnasium.spaces.Tuple(env.observation_spaces.values()), env.state())
    np.testing.assert_equal(state, tuple(step.observations.values()))


@pytest.mark.parametrize("cls", [LBFEnv, RWAREEnv])
def test_rows_do_not_depend_on_how_they_are_spread(cls):
    def roll(seeds):
        venv = DictVectorEnv(cls, {}, seeds, max_step=6)
        views, seen = venv.reset(np.ones(len(seeds), bool)), []
        for t in range(20):
            seen.append(np.stack([views[agent].observation for agent in venv.possible_agents], axis=1))
            views = venv.step({agent: np.full(len(seeds), t % 5) for agent in venv.possible_agents})
            views = venv.reset(venv.finished) if venv.finished.any() else views
        return np.stack(seen, axis=1)  # (E, T, agents, features)

    together = roll([11, 12, 13])
    np.testing.assert_array_equal(together[:1], roll([11]))
    np.testing.assert_array_equal(together[1:], roll([12, 13]))
    assert not np.array_equal(together[0], together[1])


@pytest.mark.parametrize(
    "cls, config, message",
    [
        (LBFEnv, {"env_id": "Foraging-8x8-2p-3f-v2"}, "did you mean 'Foraging-8x8-2p-3f-v3'"),
        (LBFEnv, {"env_id": "CartPole-v1"}, "known: Foraging-.*, ..."),
        (LBFEnv, {"env_id": 3}, "'env_id' = 3"),
        (LBFEnv, {"env": "x"}, "unknown key 'env': did you mean 'env_id'"),
        (LBFEnv, {"scenario_configs": 3}, "'scenario_configs' = 3"),
        (LBFEnv, {"scenario_configs": {"penalties": 1}}, r"did you mean 'scenario_configs\.penalty'"),
        (LBFEnv, {"scenario_configs": {"max_player_level": 0}}, "refuses it: min_player_level must be less"),
        (LBFEnv, {"scenario_configs": {"grid_observation": True}}, "refuses it: Box low.shape"),
        (RWAREEnv, {"env_id": "rware-tiny-2agents-v2"}, "did you mean 'rware-tiny-2ag-v2'"),
        (RWAREEnv, {"env_id": "rware-tiny-16ag-easy-v2"}, "asks for 32 shelves at once.* has 32"),
        (RWAREEnv, {"scenario_configs": {"max_step": 9}}, r"did you mean 'scenario_configs\.max_steps'"),
        (RWAREEnv, {"scenario_configs": {"reward_type": "globl"}}, r"reward_type' = 'globl': did you mean 'global'"),
        (RWAREEnv, {"scenario_configs": {"shelf_columns": 2}}, "refuses it: Only odd number"),
        (RWAREEnv, {"scenario_configs": {"n_agents": "x"}}, "by non-int of type 'list'$"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*precision lowered")
def test_mistakes_are_explained(cls, config, message):
    for creator in (cls, lbf.env_desc_gen if cls is LBFEnv else rware.env_desc_gen):
        with pytest.raises(ConfigError, match=message):
            creator(**config)


@pytest.mark.parametrize("family, package", [(lbf, "lbforaging"), (rware, "rware")])
def test_a_missing_package_comes_with_its_pip_line(monkeypatch, family, package):
    monkeypatch.setitem(sys.modules, package, None)
    extra = family.__name__.split(".")[-1]
    for call in (family.env_ids, family.env_desc_gen):
        with pytest.raises(ConfigError, match=rf"{package}.*pip install 'malib_lite\[{extra}\]'"):
            call()


def test_descriptions_and_ids():
    assert len(lbf.env_ids()) >= 1920 and "Foraging-8x8-2p-3f-v3" in lbf.env_ids()
    assert len(rware.env_ids()) >= 228 and "rware-tiny-2ag-v2" in rware.env_ids()
    for family, cls in ((lbf, LBFEnv), (rware, RWAREEnv)):
        description = family.env_desc_gen(env_id=family.env_ids()[5])
        assert description["creator"] is cls and description["config"] == {"env_id": family.env_ids()[5]}
        assert list(description["action_spaces"]) == description["possible_agents"]


def test_the_packages_are_imported_when_they_are_used():
    code = "import sys, malib_lite.envs.lbf, malib_lite.envs.rware; print({'lbforaging', 'rware'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
