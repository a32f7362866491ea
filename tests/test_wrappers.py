"""Wrappers and groups: every layer keeps its own books, and a group is one agent."""

import copy

import numpy as np
import pytest
from fakes import CountingEnv, CrashingEnv, LoopEnv, MaskedEnv, TurnEnv, seeds
from gymnasium import spaces

from malib_lite.config import ConfigError
from malib_lite.envs import Environment, GroupWrapper, TimeStep, Wrapper, check_env, describe
from malib_lite.envs.group_wrapper import blank
from malib_lite.envs.matrix import MatrixGame
from malib_lite.envs.mdp import MDPEnvironment
from malib_lite.envs.open_spiel import OpenSpielEnv
from malib_lite.rollout.vector_env import DictVectorEnv, EnvironmentFault, vectorise

# -- wrappers ---------------------------------------------------------------------------------------------------------


class DoublePay(Wrapper):
    def time_step(self, actions):
        step = super().time_step(actions)
        return step._replace(rewards={agent: 2 * reward for agent, reward in step.rewards.items()})


class Repeat(Wrapper):
    """Every action twice."""

    def time_step(self, actions):
        first = super().time_step(actions)
        if self.env.finished:
            return first
        second = super().time_step(actions)
        return second._replace(rewards={a: first.rewards[a] + reward for a, reward in second.rewards.items()})


class Closing(CountingEnv):
    closed = 0

    def close(self):
        self.closed += 1

    def render(self, *args, **kwargs):
        return args, kwargs


def test_a_wrapper_changes_nothing_by_itself():
    inside, outside = MatrixGame(env_id="two_step"), Wrapper(MatrixGame(env_id="two_step"))
    assert outside.possible_agents == inside.possible_agents and outside.configs == {"env_id": "two_step"}
    assert outside.action_spaces == inside.action_spaces and outside.observation_spaces == inside.observation_spaces
    assert outside.state_space == inside.state_space
    for env in (inside, outside):
        env.begin(seed=0)
    while not inside.finished:
        a, b = (env.advance({"player_0": 1, "player_1": 1}) for env in (inside, outside))
        for field, wrapped in zip(a, b, strict=True):
            assert str(field) == str(wrapped)
        np.testing.assert_array_equal(inside.state(), outside.state())
    assert outside.finished and outside.collect_info() == inside.collect_info()


def test_every_layer_keeps_its_own_books():
    env = DoublePay(DoublePay(CountingEnv(length=3)))
    env.begin()
    while not env.finished:
        env.advance({"agent": 0})
    assert [layer.episode_returns["agent"] for layer in (env, env.env, env.unwrapped)] == [24.0, 12.0, 6.0]
    assert [layer.cnt for layer in (env, env.env, env.unwrapped)] == [3, 3, 3]
    with pytest.raises(RuntimeError, match="episode is over"):
        env.advance({"agent": 0})


def test_the_time_limit_is_the_outermost_layers():
    env = Repeat(LoopEnv())
    env.begin(max_step=3)
    for _ in range(3):
        step = env.advance({"agent": 0})
    assert env.finished and step.truncated == {"agent": True} and step.rewards == {"agent": 2.0}
    assert env.cnt == 3 and env.unwrapped.cnt == 6 and env.unwrapped.max_step is None
    assert env.begin(max_step=3) and not env.finished and env.cnt == 0 and env.unwrapped.cnt == 0
    odd = Repeat(CountingEnv(length=3))  # the episode ends within a repetition
    odd.begin()
    odd.advance({"agent": 0})
    assert odd.advance({"agent": 0}).terminated == {"agent": True} and odd.finished


def test_an_end_that_only_the_environment_knows_is_passed_on():
    class Unflagged(CountingEnv):
        def env_done_check(self, step):
            return self.count >= 2

        def time_step(self, actions):
            return super().time_step(actions)._replace(terminated={})

    env = Wrapper(Unflagged())
    env.begin()
    env.advance({"agent": 0})
    assert not env.finished
    env.advance({"agent": 0})
    assert env.finished


def test_all_else_reaches_the_environment_inside():
    env = Wrapper(Wrapper(Closing()))
    assert env.render(1, mode="text") == ((1,), {"mode": "text"})
    env.close()
    assert env.unwrapped.closed == 1
    game = Wrapper(MDPEnvironment(env_id="multi_round_nmdp"))
    game.begin(seed=5)
    state = copy.deepcopy(game.state_dict())

    def lengths():
        found = []
        for _ in range(20):
            game.begin()
            while not game.finished:
                game.advance({"agent": 0})
            found.append(game.cnt)
        return found

    before = lengths()
    game.load_state_dict(state)
    assert lengths() == before and len(set(before)) > 1
    game.seed(5)
    again = lengths()
    game.seed(5)
    assert lengths() == again


def test_a_wrapped_environment_runs_in_the_rollout_one_by_one():
    def make(env_id):
        return DoublePay(MatrixGame(env_id=env_id))

    venv = vectorise(describe(make, env_id="coordination"), 3, seed=0)
    assert isinstance(venv, DictVectorEnv)
    venv.reset(venv.finished)
    views = venv.step({agent: np.array([0, 1, 0]) for agent in venv.possible_agents})
    assert views["player_1"].reward.tolist() == [4.0, 2.0, 4.0]
    with pytest.raises(EnvironmentFault, match="boom"):
        faulty = DictVectorEnv(lambda **config: Wrapper(CrashingEnv(**config)), {"at": 1}, seeds(1, 0))
        faulty.reset(faulty.finished)
        faulty.step({"agent": np.zeros(1, int)})


# -- groups -----------------------------------------------------------------------------------------------------------


class LeavingEnv(Environment):
    """Three agents at once with unlike spaces; agent k leaves after ``leaves[k]`` steps, a negative one by truncation.

    Agent k sees [k, t] and earns (k + 1) * action; "b" has masks: action t % 3 is not legal.
    """

    possible_agents = ["a", "b", "c"]
    observation_spaces = {
        "a": spaces.Box(-1.0, 99.0, (2,), np.float32),
        "b": spaces.Dict(tag=spaces.Discrete(4, start=1), time=spaces.Box(1.0, 99.0, (1,), np.float32)),
        "c": spaces.Box(-1.0, 99.0, (2,), np.float32),
    }
    action_spaces = {"a": spaces.Discrete(2), "b": spaces.Discrete(3, start=5), "c": spaces.MultiDiscrete([2, 3])}

    def __init__(self, leaves=(2, 4, -3), flagged=True):
        super().__init__(leaves=leaves, flagged=flagged)
        self.leaves = dict(zip(self.possible_agents, leaves, strict=True))
        self.flagged = flagged
        self.count = 0
        self.taken = []

    def see(self, agents):
        index = {agent: self.possible_agents.index(agent) for agent in agents}
        return {
            a: {"tag": 2, "time": np.array([1 + self.count], np.float32)}
            if a == "b"
            else np.array([k, self.count], np.float32)
            for a, k in index.items()
        }

    def here(self, count):
        return [agent for agent, leave in self.leaves.items() if count < abs(leave)]

    def reset_episode(self, seed):
        self.count = 0
        return TimeStep(self.see(self.here(0)), action_masks=self.masks(self.here(0)))

    def masks(self, agents):
        return {"b": np.arange(3) != self.count % 3} if "b" in agents else {}

    def env_done_check(self, step):
        return not self.here(self.count)

    def time_step(self, actions):
        before = self.here(self.count)
        assert sorted(actions) == sorted(before)
        self.taken.append(dict(actions))
        self.count += 1
        gone = [agent for agent in before if abs(self.leaves[agent]) == self.count] if self.flagged else []
        return TimeStep(
            self.see(before),
            {agent: (k + 1.0) * float(np.sum(actions[agent])) for k, agent in enumerate("abc") if agent in actions},
            {agent: True for agent in gone if self.leaves[agent] > 0},
            {agent: True for agent in gone if self.leaves[agent] < 0},
            {agent: {"step": self.count} for agent in before},
            self.masks(self.here(self.count)),
        )


GROUPS = {"b": "right", "a": "left", "c": "left"}
ACTIONS = {"left": {"c": np.array([1, 2]), "a": 1}, "right": {"b": 6}}


def grouped(**config):
    return GroupWrapper(LeavingEnv(**config), GROUPS, {"left": ["c", "a"], "right": ["b"]})


def masks_of(step):
    return {group: mask.astype(int).tolist() for group, mask in step.action_masks.items()}


def test_groups_have_the_spaces_of_their_members_in_order():
    env = grouped()
    assert env.possible_agents == ["left", "right"] and env.agent_groups == {"left": ["c", "a"], "right": ["b"]}
    assert [env.agent_to_group(agent) for agent in "abc"] == ["left", "right", "left"]
    assert list(env.observation_spaces["left"].spaces) == list(env.action_spaces["left"].spaces) == ["c", "a"]
    assert env.action_spaces["left"]["c"] == LeavingEnv.action_spaces["c"]
    by_itself = GroupWrapper(LeavingEnv(), GROUPS)
    assert by_itself.agent_groups == {"left": ["a", "c"], "right": ["b"]}


def test_a_group_plays_through_its_members():
    env = grouped()
    steps = [env.begin(seed=0)]
    while not env.finished:
        steps.append(env.advance({group: ACTIONS[group] for group in steps[-1].observations}))
    for step in steps:
        for group, observation in step.observations.items():
            assert env.observation_spaces[group].contains(observation)
    seen = [sorted(step.observations) for step in steps]
    assert seen == [["left", "right"], ["left", "right"], ["left", "right"], ["left", "right"], ["right"]]
    # a leaves after step 2 and c after step 3, of which the group's end is the last; b after step 4
    left = [{a: o.tolist() for a, o in step.observations["left"].items()} for step in steps[:4]]
    assert left == [
        {"c": [2, 0], "a": [0, 0]},
        {"c": [2, 1], "a": [0, 1]},
        {"c": [2, 2], "a": [0, 2]},  # a's final observation
        {"c": [2, 3], "a": [0, 0]},  # c's; a is gone, which is zeros
    ]
    assert [step.rewards for step in steps[1:]] == [
        {"left": 1.0 + 9.0, "right": 12.0},
        {"left": 1.0 + 9.0, "right": 12.0},
        {"left": 9.0, "right": 12.0},
        {"right": 12.0},
    ]
    assert [(dict(step.terminated), dict(step.truncated)) for step in steps[1:]] == [
        ({}, {}),
        ({}, {}),
        ({}, {"left": True}),
        ({"right": True}, {}),
    ]
    assert steps[1].infos == {"left": {"a": {"step": 1}, "c": {"step": 1}}, "right": {"b": {"step": 1}}}
    assert [sorted(taken) for taken in env.unwrapped.taken] == [["a", "b", "c"], ["a", "b", "c"], ["b", "c"], ["b"]]
    # once a has left, its part of the mask allows its first action alone; c's has all of both its parts
    assert [masks_of(step) for step in steps] == [
        {"right": [0, 1, 1]},
        {"right": [1, 0, 1]},
        {"right": [1, 1, 0], "left": [1, 1, 1, 1, 1, 1, 0]},
        {"right": [0, 1, 1], "left": [1, 1, 1, 1, 1, 1, 0]},  # cut off, which leaves what could still have been done
        {},
    ]


@pytest.mark.parametrize(
    "leaves, flags",
    [
        ((3, 3, 3), ({"left": True, "right": True}, {})),
        ((3, 3, -3), ({"right": True}, {"left": True})),
        ((-2, 3, 3), ({"left": True, "right": True}, {})),  # what ends last decides
        ((2, 3, -3), ({"right": True}, {"left": True})),
    ],
)
def test_how_a_group_ends(leaves, flags):
    env = grouped(leaves=leaves)
    step = env.begin()
    while not env.finished:
        step = env.advance({group: ACTIONS[group] for group in step.observations})
    assert (step.terminated, step.truncated) == flags and set(step.observations) == {"left", "right"}


def test_members_without_a_flag_end_with_the_episode():
    env = grouped(leaves=(3, 3, 3), flagged=False)
    step = env.begin()
    while not env.finished:
        step = env.advance({group: ACTIONS[group] for group in step.observations})
    assert step.terminated == {"left": True, "right": True} and not step.truncated


def test_the_engines_time_limit_truncates_groups():
    env = grouped(leaves=(9, 9, 9))
    env.begin(max_step=1)
    step = env.advance(ACTIONS)
    assert env.finished and step.truncated == {"left": True, "right": True}
    assert sorted(step.observations) == ["left", "right"]


def test_states_are_the_members_observations_by_default():
    env = grouped()
    env.begin()
    assert {group: space.shape for group, space in env.state_spaces.items()} == {"left": (4,), "right": (5,)}
    assert env.state_spaces["left"].low.tolist() == [-1.0] * 4 and env.state_spaces["left"].dtype == np.float32
    for _ in range(3):
        assert env.state_space.contains(env.state())
        env.advance(ACTIONS)
    assert {group: state.tolist() for group, state in env.state().items()} == {
        "left": [2, 3, 0, 0],
        "right": [0, 1, 0, 0, 4],
    }
    env.advance({"right": ACTIONS["right"]})
    assert env.state()["left"].tolist() == [0, 0, 0, 0]
    assert check_env(env, num_episodes=2)


def test_states_masks_and_rewards_can_be_ones_own():
    class Team(GroupWrapper):
        def build_state_spaces(self):
            return dict.fromkeys(self.possible_agents, spaces.Box(0.0, 9.0, (1,), np.float32))

        def build_state_from_observation(self, agent_observation):
            assert sorted(agent_observation) == ["a", "b", "c"]
            return dict.fromkeys(self.possible_agents, agent_observation["a"][1:])

        def action_mask_extract(self, raw_observations, action_masks):
            return {"left": np.array([1, 0, 1, 1, 0, 0, 1], bool)} if "a" in raw_observations else {}

        def group_rewards(self, rewards):
            return {group: min(rewards[agent] for agent in self.agent_groups[group]) for group in self.possible_agents}

    env = Team(LeavingEnv(), GROUPS, {"left": ["c", "a"], "right": ["b"]})
    step = env.begin()
    assert masks_of(step) == {"left": [1, 0, 1, 1, 0, 0, 1]}
    step = env.advance(ACTIONS)
    assert step.rewards == {"left": 1.0, "right": 12.0} and env.state()["right"].tolist() == [1.0]


def test_turn_based_agents_in_one_group():
    env = GroupWrapper(TurnEnv(length=5), dict.fromkeys(["player_0", "player_1"], "both"))
    step = env.begin()
    played = [2, 0, 1, 1, 2]
    for move, action in enumerate(played):
        mover = f"player_{move % 2}"
        idle = f"player_{1 - move % 2}"
        assert not step.observations["both"][idle].any()
        masks = step.action_masks["both"].reshape(2, 3)
        assert masks[move % 2].all() and masks[1 - move % 2].tolist() == [True, False, False]
        step = env.advance({"both": {mover: action, idle: 0}})
    assert env.unwrapped.played == played and env.finished and step.terminated == {"both": True}
    everything = sum(reward for rows in TurnEnv.decisions(played).values() for _, _, reward in rows)
    assert env.episode_returns == {"both": everything}
    apart = GroupWrapper(TurnEnv(length=5), {"player_0": "x", "player_1": "y"})
    assert list(apart.begin().observations) == ["x"]
    assert list(apart.advance({"x": {"player_0": 0}}).observations) == ["y"]


def test_a_group_in_the_rollout_acts_by_one_array():
    def make():
        return GroupWrapper(OpenSpielEnv(env_id="tic_tac_toe"), {"player_0": "both", "player_1": "both"})

    venv = DictVectorEnv(make, {}, seeds(4, 0), max_step=6)
    assert venv.action_spaces["both"] == spaces.MultiDiscrete([9, 9])
    rng, num_ended, cut = np.random.default_rng(0), 0, 0
    view = venv.reset(venv.finished)["both"]
    for _ in range(60):
        assert view.action_mask.shape == (4, 18)
        masks = view.action_mask.reshape(4, 2, 9)
        actions = (rng.random(masks.shape) * masks).argmax(axis=2)
        view = venv.step({"both": actions})["both"]
        assert (view.reward == 0).all()  # what one wins, the other loses
        num_ended, cut = num_ended + int(view.terminated.sum()), cut + int(view.truncated.sum())
        view = venv.reset(venv.finished)["both"]
    assert num_ended > 3 and cut > 3


def test_leaving_members_in_the_rollout():
    venv = DictVectorEnv(grouped, {}, seeds(2, 0))
    assert venv.action_spaces["left"] == spaces.MultiDiscrete([2, 3, 2])
    views = venv.reset(venv.finished)
    ended = []
    while not venv.finished.all():
        actions = {"left": np.array([[1, 2, 1], [0, 0, 0]]), "right": np.array([[1], [1]])}
        views = venv.step(actions)
        ended.append([bool(views["left"].truncated[0]), bool(views["right"].terminated[0])])
    assert ended == [[False, False], [False, False], [True, False], [False, True]]
    assert venv._envs[0].episode_returns == {"left": 29.0, "right": 48.0}


def test_groups_of_masked_agents_without_discrete_actions_have_no_mask():
    class Continuous(MaskedEnv):
        action_spaces = {"agent": spaces.Box(-1.0, 1.0, (2,), np.float32)}

        def reset_episode(self, seed):
            return super().reset_episode(seed)._replace(action_masks={})

    env = GroupWrapper(Continuous(), {"agent": "team"})
    assert not env.begin().action_masks


@pytest.mark.parametrize(
    "aid_to_gid, agent_groups, message",
    [
        ({"a": "x", "b": "x"}, None, "agent 'c' is in no group"),
        ({"a": "x", "b": "x", "c": "x", "d": "x"}, None, "there is no agent 'd'"),
        (GROUPS, {"left": ["a", "c"]}, "must hold every agent once; look at 'b'"),
        (GROUPS, {"left": ["a", "c", "a"], "right": ["b"]}, "once; look at 'a'"),
        (GROUPS, {"left": ["a"], "right": ["b", "c"]}, "'c' is in group 'right' by 'agent_groups', in 'left'"),
    ],
)
def test_groups_that_contradict_each_other_are_refused(aid_to_gid, agent_groups, message):
    with pytest.raises(ConfigError, match=message):
        GroupWrapper(LeavingEnv(), aid_to_gid, agent_groups)


def test_blank_values_are_in_their_spaces():
    space = spaces.Dict(
        box=spaces.Box(2.0, 3.0, (2, 2), np.float32),
        image=spaces.Box(0, 255, (2,), np.uint8),
        number=spaces.Discrete(3, start=-1),
        numbers=spaces.MultiDiscrete([2, 3]),
        bits=spaces.MultiBinary(3),
        pair=spaces.Tuple([spaces.Discrete(2), spaces.Box(-5.0, -1.0, (1,), np.float32)]),
    )
    assert space.contains(blank(space)) and blank(space)["pair"][1].tolist() == [-1.0]
    with pytest.raises(ConfigError, match="no fixed size"):
        blank(spaces.Sequence(spaces.Discrete(2)))
