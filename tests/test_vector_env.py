"""The vectorised view of single environments: rows, flags, masks, seeds and faults."""

import copy
import functools
import pickle

import numpy as np
import pytest
from fakes import CountingEnv, CrashingEnv, LoopEnv, MaskedEnv, TurnEnv, seeds
from gymnasium import spaces

from malib_lite.config import ConfigError
from malib_lite.contracts.environment import Environment, TimeStep, describe
from malib_lite.envs.gym import GymEnv
from malib_lite.envs.mdp import MDPEnvironment
from malib_lite.models.actions import array_action_space
from malib_lite.models.preprocessor import array_space, to_array
from malib_lite.rollout.vector_env import DictVectorEnv, EnvironmentFault, vectorise


def everywhere(venv):
    return np.ones(venv.num_envs, bool)


def play(venv, num_steps, choose=lambda t, venv: 0, agent="agent"):
    """Steps of all environments, restarted as they finish: copies of (observation, reward, terminated, truncated)."""
    view = venv.reset(everywhere(venv))[agent]
    rows = [(view.observation.copy(),)]
    for t in range(num_steps):
        actions = np.broadcast_to(choose(t, venv), venv.num_envs)
        view = venv.step({agent: actions})[agent]
        rows.append(tuple(a.copy() for a in (view.observation, view.reward, view.terminated, view.truncated)))
        if venv.finished.any():
            rows.append((venv.reset(venv.finished)[agent].observation.copy(),))
    return rows


class SpacesEnv(Environment):
    """Spaces of every kind; it keeps the actions it was given."""

    possible_agents = ["dict", "tuple", "offset"]
    observation_spaces = {
        "dict": spaces.Dict({"a": spaces.Discrete(3, start=1), "b": spaces.Box(-1, 1, (2,), np.float64)}),
        "tuple": spaces.Tuple((spaces.MultiBinary(2), spaces.MultiDiscrete([2, 3]))),
        "offset": spaces.Discrete(4, start=-2),
    }
    action_spaces = {
        "dict": spaces.Box(np.array([-1, 0], np.float32), np.array([1, 2], np.float32)),
        "tuple": spaces.Discrete(2),
        "offset": spaces.Discrete(3, start=5),
    }

    def observe(self):
        return TimeStep(
            {"dict": {"a": 2, "b": np.array([0.5, -0.5])}, "tuple": (np.array([1, 0]), np.array([1, 2])), "offset": 1}
        )

    def reset_episode(self, seed):
        return self.observe()

    def time_step(self, actions):
        self.received = actions
        return self.observe()


# -- array spaces -----------------------------------------------------------------------------------------------------


def test_array_space_of_every_kind():
    box = spaces.Box(0, 255, (2, 2), np.uint8)
    assert array_space(box) is box
    assert array_space(spaces.Discrete(4, start=-2)) == spaces.Discrete(4)
    for space in (*SpacesEnv.observation_spaces.values(), spaces.MultiBinary([2, 3]), spaces.MultiDiscrete([2, 4])):
        flat = array_space(space)
        assert array_space(flat) is flat
        for _ in range(5):
            array = to_array(space, space.sample())
            assert array.dtype == flat.dtype and flat.contains(array if flat.shape else array[()])
    assert array_space(SpacesEnv.observation_spaces["dict"]).dtype == np.float32
    with pytest.raises(ConfigError, match="no fixed size"):
        array_space(spaces.Sequence(spaces.Discrete(2)))


def test_to_array_refuses_what_is_not_in_the_space():
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        to_array(spaces.Box(0, 1, (2,)), np.zeros(3))
    with pytest.raises(ValueError, match="not in Discrete"):
        to_array(spaces.Discrete(3, start=1), 0)


def test_observations_are_flattened_and_actions_are_what_the_environment_wants():
    venv = DictVectorEnv(SpacesEnv, {}, range(2))
    views = venv.reset(everywhere(venv))
    np.testing.assert_array_equal(views["dict"].observation, [[0, 1, 0, 0.5, -0.5]] * 2)
    np.testing.assert_array_equal(views["tuple"].observation, [[1, 0, 0, 1, 0, 0, 1]] * 2)
    np.testing.assert_array_equal(views["offset"].observation, [3, 3])
    assert venv.action_spaces["offset"] == spaces.Discrete(3) and venv.observation_spaces["dict"].shape == (5,)
    actions = {"dict": np.array([[9, 9], [-9, 1]], np.float64), "tuple": np.array([0, 1]), "offset": np.array([0, 2])}
    venv.step(actions)
    received = [env.received for env in venv._envs]
    assert [type(r["tuple"]) for r in received] == [int, int] and [r["offset"] for r in received] == [5, 7]
    np.testing.assert_array_equal([r["dict"] for r in received], [[1, 2], [-1, 1]])
    assert received[0]["dict"].dtype == np.float32


@pytest.mark.parametrize(
    "actions, message",
    [
        ({"agent": np.zeros(3, int)}, "shape"),
        ({"agent": np.zeros(2)}, "takes integers"),
        ({}, "no actions for 'agent'"),
    ],
)
def test_wrong_actions_are_the_callers_error(actions, message):
    venv = DictVectorEnv(CountingEnv, {}, range(2))
    venv.reset(everywhere(venv))
    with pytest.raises(ValueError, match=message):
        venv.step(actions)


MIXED = spaces.Dict({"go": spaces.Discrete(2), "how": spaces.Box(0, 1)})
PILOT = spaces.Dict(
    {
        "gear": spaces.Discrete(3, start=-1),
        "lamps": spaces.MultiBinary(2),
        "pair": spaces.Tuple([spaces.MultiDiscrete([[2], [4]], start=[[1], [0]])]),
    }
)


def test_array_action_space_keeps_what_is_one():
    for space in (spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), spaces.Box(-1, 1, (2,))):
        assert array_action_space(space) is space
    assert array_action_space(PILOT) == spaces.MultiDiscrete([3, 2, 2, 2, 4])
    assert array_action_space(spaces.Tuple([spaces.Box(-1, 1), spaces.Box(0, 2, (2,))])) == spaces.Box(
        np.float32([-1, 0, 0]), np.float32([1, 2, 2])
    )
    with pytest.raises(ConfigError, match="either all discrete or all Box"):
        array_action_space(MIXED)


def test_combined_actions_reach_the_environment_in_its_own_form():
    class Pilot(CountingEnv):
        action_spaces = {"agent": PILOT}

        def time_step(self, actions):
            assert PILOT.contains(actions["agent"]), actions
            self.received = actions["agent"]
            return super().time_step(actions)

    venv = DictVectorEnv(Pilot, {}, range(2))
    venv.reset(everywhere(venv))
    venv.step({"agent": np.array([[0, 1, 0, 0, 3], [2, 0, 0, 1, 0]])})
    first, second = (env.received for env in venv._envs)
    assert (first["gear"], second["gear"]) == (-1, 1)
    assert (first["lamps"].tolist(), second["lamps"].tolist()) == ([1, 0], [0, 0])
    assert (first["pair"][0].tolist(), second["pair"][0].tolist()) == ([[1], [3]], [[2], [0]])

    class Arms(Pilot):
        action_spaces = {"agent": spaces.Tuple([spaces.Box(-1, 1), spaces.Box(0, 2, (2,))])}

        def time_step(self, actions):
            assert self.action_spaces["agent"].contains(actions["agent"]), actions
            self.received = actions["agent"]
            return CountingEnv.time_step(self, actions)

    venv = DictVectorEnv(Arms, {}, range(1))
    venv.reset(everywhere(venv))
    venv.step({"agent": np.float32([[0.5, -3, 1.5]])})
    assert [part.tolist() for part in venv._envs[0].received] == [[0.5], [0, 1.5]]


def test_masks_of_combined_actions_stand_side_by_side():
    class Masked(CountingEnv):
        action_spaces = {"agent": spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3)])}
        mask = [False, True, True, False, True]

        def reset_episode(self, seed):
            return super().reset_episode(seed)._replace(action_masks={"agent": np.array(self.mask)})

    venv = DictVectorEnv(Masked, {}, range(1))
    assert venv.reset(everywhere(venv))["agent"].action_mask.tolist() == [Masked.mask]
    Masked.mask = [True, False, False, False, False]
    with pytest.raises(EnvironmentFault, match="leaves it no choice"):
        venv.reset(everywhere(venv))


# -- episodes ---------------------------------------------------------------------------------------------------------


def test_termination_delivers_the_final_observation_and_waits_for_the_reset():
    venv = DictVectorEnv(CountingEnv, {"length": 2}, range(2))
    view = venv.reset(np.array([True, False]))["agent"]
    assert view.acting.tolist() == [True, False] and venv.finished.tolist() == [False, True]
    actions = {"agent": np.zeros(2, int)}
    venv.step(actions)
    venv.reset(np.array([False, True]))
    assert view.reward.tolist() == [1, 0] and view.acting.all()  # row 0 keeps what its last step brought
    venv.step(actions)
    assert view.observation[:, 0].tolist() == [2, 1] and view.reward.tolist() == [2, 1]
    assert view.terminated.tolist() == venv.finished.tolist() == [True, False]
    assert not view.truncated.any() and view.acting.tolist() == [False, True]
    venv.step(actions)  # row 0 is ignored, and its flag was of the step before
    assert view.observation[:, 0].tolist() == [2, 2] and view.reward.tolist() == [0, 2]
    assert view.terminated.tolist() == [False, True] and venv.finished.all()
    venv.reset(venv.finished)
    assert not view.terminated.any() and not view.reward.any() and not view.observation.any() and view.acting.all()
    assert venv.episode.tolist() == [1, 1]


def test_a_time_limit_truncates_and_termination_in_the_same_step_wins():
    venv = DictVectorEnv(LoopEnv, {}, range(3), max_step=4)
    rows = play(venv, 4)
    assert rows[4][3].all() and not rows[4][2].any() and (rows[4][0] == 1).all()
    venv = DictVectorEnv(CountingEnv, {"length": 4}, range(1), max_step=4)
    rows = play(venv, 4)
    assert rows[4][2].all() and not rows[4][3].any()


def test_episodes_can_be_given_up_and_rows_parked():
    venv = DictVectorEnv(CountingEnv, {"length": 9}, range(2))
    view = venv.reset(everywhere(venv))["agent"]
    actions = {"agent": np.zeros(2, int)}
    venv.step(actions)
    venv.reset(np.array([True, False]))
    venv.finished[1] = True
    venv.step(actions)
    assert view.observation[:, 0].tolist() == [1, 1]
    venv.reset(np.array([False, True]))
    venv.step(actions)
    assert view.observation[:, 0].tolist() == [2, 1]


@pytest.mark.parametrize("length", [1, 2, 5, 6])
def test_turns_become_each_agents_own_trajectory(length):
    rng = np.random.default_rng(length)
    venv = DictVectorEnv(TurnEnv, {"length": length}, range(3))
    views = venv.reset(everywhere(venv))
    played = [[] for _ in range(3)]
    rows = [{agent: [] for agent in venv.possible_agents} for _ in range(3)]
    while not venv.finished.all():
        actions = {agent: rng.integers(3, size=3) for agent in venv.possible_agents}
        for i in range(3):
            (mover,) = (agent for agent in venv.possible_agents if views[agent].acting[i])
            rows[i][mover].append([views[mover].observation[i].tolist(), int(actions[mover][i]), 0.0])
            played[i].append(int(actions[mover][i]))
        venv.step(actions)
        for i in range(3):
            for agent, view in views.items():
                if rows[i][agent]:
                    rows[i][agent][-1][2] += view.reward[i]
    assert all(view.terminated.all() and not view.truncated.any() for view in views.values())
    for i in range(3):
        assert {a: [tuple(row) for row in r] for a, r in rows[i].items()} == TurnEnv.decisions(played[i])
        assert views["player_1"].observation[i].tolist() == [length, played[i][0 if length == 1 else -2 + length % 2]]


def test_a_time_limit_between_turns_truncates_both_players():
    venv = DictVectorEnv(TurnEnv, {"length": 9}, range(1), max_step=3)
    views = venv.reset(everywhere(venv))
    for _ in range(3):
        venv.step({agent: np.ones(1, int) for agent in venv.possible_agents})
    assert all(view.truncated.all() and not view.terminated.any() for view in views.values())
    assert views["player_1"].observation[0].tolist() == [3, 1]  # the one to move next
    assert views["player_0"].observation[0].tolist() == [2, 1]  # what it saw last: the environment gave no other


class LeavingEnv(Environment):
    """ "early" ends in step 1 and is flagged ever after; the end comes in step 3 without a flag for "late"."""

    possible_agents = ["early", "late"]
    observation_spaces = {agent: spaces.Box(0, 9, (1,)) for agent in possible_agents}
    action_spaces = {agent: spaces.Discrete(2) for agent in possible_agents}

    def reset_episode(self, seed):
        return TimeStep({agent: [0] for agent in self.possible_agents})

    def time_step(self, actions):
        assert set(actions) == ({"early", "late"} if self.cnt == 0 else {"late"})
        observations = {"late": [self.cnt + 1]} | ({"early": [7]} if self.cnt == 0 else {})
        return TimeStep(observations, {"early": 1.0, "late": 1.0}, {"early": True})

    def env_done_check(self, step):
        return self.cnt == 3


def test_agents_that_leave_are_flagged_once_and_nobody_is_left_without_a_flag():
    venv = DictVectorEnv(LeavingEnv, {}, range(1))
    views = venv.reset(everywhere(venv))
    flags = []
    for _ in range(3):
        venv.step({agent: np.zeros(1, int) for agent in venv.possible_agents})
        flags.append((bool(views["early"].terminated[0]), bool(views["late"].terminated[0])))
    assert flags == [(True, False), (False, False), (False, True)]
    assert views["early"].observation[0, 0] == 7 and not views["early"].acting[0]


# -- masks ------------------------------------------------------------------------------------------------------------


def test_masks_are_shown_and_every_row_has_a_legal_action():
    venv = DictVectorEnv(MaskedEnv, {"length": 4}, range(2))
    view = venv.reset(everywhere(venv))["agent"]
    for count in range(4):
        expected = [k != count % 3 for k in range(3)]
        assert view.action_mask.dtype == bool and view.action_mask.tolist() == [expected] * 2
        venv.step({"agent": view.action_mask.argmax(axis=1)})
    assert venv.finished.all() and view.action_mask.any(axis=1).all()


def test_masks_may_come_later():
    venv = DictVectorEnv(MaskedEnv, {"length": 4, "first_mask": 2}, range(2))
    view = venv.reset(everywhere(venv))["agent"]
    assert view.action_mask is None
    for _ in range(2):
        venv.step({"agent": np.zeros(2, int)})
    assert view.action_mask.tolist() == [[True, True, False]] * 2
    venv.reset(np.array([True, False]))
    assert view.action_mask.tolist() == [[True, True, True], [True, True, False]]
    venv.step({"agent": np.zeros(2, int)})
    assert view.action_mask.tolist() == [[True, True, True], [False, True, True]]


def test_no_legal_action_is_a_fault_but_not_in_the_end():
    venv = DictVectorEnv(MaskedEnv, {"length": 5, "empty_at": 1}, range(1))
    venv.reset(everywhere(venv))
    with pytest.raises(EnvironmentFault, match="leaves it no choice"):
        venv.step({"agent": np.ones(1, int)})
    venv = DictVectorEnv(MaskedEnv, {"length": 1, "empty_at": 1}, range(1))
    view = venv.reset(everywhere(venv))["agent"]
    venv.step({"agent": np.ones(1, int)})
    assert venv.finished.all() and view.action_mask.all()


# -- faults -----------------------------------------------------------------------------------------------------------


def test_a_fault_names_environment_step_and_episode():
    venv = DictVectorEnv(CrashingEnv, {"at": 3, "episode": 1, "length": 3}, range(2), first_env_index=6)
    with pytest.raises(EnvironmentFault) as caught:
        play(venv, 9)
    message = "environment 6 (CrashingEnv) failed in step 3 of episode 1: ValueError: boom"
    assert str(caught.value) == message
    assert isinstance(caught.value.__cause__, ValueError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == message


def test_a_fault_names_the_env_id():
    venv = DictVectorEnv(MDPEnvironment, {"env_id": "two_round_dmdp"}, range(2))
    venv.reset(everywhere(venv))
    with pytest.raises(EnvironmentFault, match=r"environment 1 \(MDPEnvironment 'two_round_dmdp'\) failed in step 1"):
        venv.step({"agent": np.array([0, 5])})


@pytest.mark.parametrize(
    "step, message",
    [
        (TimeStep({"agent": [1.0, 2.0]}), "shape"),
        (TimeStep({"nobody": [1.0]}), "nobody"),
        (TimeStep({}), "none can act"),
        (TimeStep({"agent": [1.0]}, action_masks={"agent": np.ones(5, bool)}), "mask of 'agent' has shape"),
    ],
)
def test_broken_contracts_are_faults(step, message):
    class Broken(CountingEnv):
        def time_step(self, actions):
            return step

    venv = DictVectorEnv(Broken, {}, range(1))
    venv.reset(everywhere(venv))
    with pytest.raises(EnvironmentFault, match=message):
        venv.step({"agent": np.zeros(1, int)})


def test_a_failing_reset_is_a_fault_and_a_failing_constructor_closes_the_others():
    class Sick(CountingEnv):
        made, closed = 0, 0

        def __init__(self):
            super().__init__()
            Sick.made += 1
            if Sick.made == 3:
                raise OSError("no more")

        def reset_episode(self, seed):
            raise OSError("ill")

        def close(self):
            Sick.closed += 1

    venv = DictVectorEnv(Sick, {}, range(1))
    with pytest.raises(EnvironmentFault, match="at the beginning of episode 0: OSError: ill"):
        venv.reset(everywhere(venv))
    with pytest.raises(OSError, match="no more"):
        DictVectorEnv(Sick, {}, range(3))
    assert Sick.closed == 1


# -- seeds ------------------------------------------------------------------------------------------------------------

SEEDED = [
    (MDPEnvironment, {"env_id": "multi_round_nmdp"}),
    (GymEnv, {"env_id": "CartPole-v1"}),
]


@pytest.mark.parametrize("creator, config", SEEDED)
@pytest.mark.parametrize("seed", [7, np.random.SeedSequence([7, 1], spawn_key=(2,))])
def test_episodes_do_not_depend_on_how_environments_are_spread_over_workers(creator, config, seed):
    def choose(t, venv):
        return (np.arange(venv.num_envs) + venv._first_env_index + t) % 2

    def episodes(num_envs, first):
        """All rows of each environment, one list each."""
        venv = vectorise({"creator": functools.partial(creator), "config": config}, num_envs, seed, 30, first)
        view = venv.reset(everywhere(venv))["agent"]
        rows = [[view.observation[i].tolist()] for i in range(num_envs)]
        for t in range(60):
            venv.step({"agent": choose(t, venv)})
            for i in range(num_envs):
                rows[i].append((view.observation[i].tolist(), float(view.reward[i])))
            venv.reset(venv.finished)
        return rows

    together = episodes(8, 0)
    assert together == episodes(4, 0) + episodes(4, 4) == episodes(8, 0)
    assert together[0] != together[2]  # streams differ, though the actions are the same


def test_the_seed_matters_and_is_used_once():
    noted = []

    class Noting(CountingEnv):
        def reset_episode(self, seed):
            noted.append(seed)
            return super().reset_episode(seed)

    play(DictVectorEnv(Noting, {"length": 1}, range(2)), 3)
    assert all(type(seed) is int and 0 <= seed < 2**31 for seed in noted[:2]) and noted[0] != noted[1]
    assert noted[2:] == [None] * 6
    first = noted[:2]
    noted.clear()
    play(DictVectorEnv(Noting, {"length": 1}, seeds(2, 1)), 1)
    assert not set(first) & set(noted)


@pytest.mark.parametrize("creator, config", SEEDED)
def test_a_saved_state_goes_on_exactly_between_episodes(creator, config):
    def make():
        return DictVectorEnv(creator, config, seeds(3, 5), 20)

    venv = make()
    play(venv, 25)
    saved = pickle.loads(pickle.dumps(venv.state_dict()))
    straight = play(venv, 40)
    resumed = make()
    resumed.load_state_dict(saved)
    np.testing.assert_equal(play(resumed, 40), straight)
    np.testing.assert_array_equal(resumed.episode, venv.episode)


def test_without_a_state_of_their_own_environments_resume_alike():
    class Random(CountingEnv):
        def reset_episode(self, seed):
            if seed is not None:
                self.rng = np.random.default_rng(seed)
            return super().reset_episode(seed)._replace(observations={"agent": self.rng.random(1).astype(np.float32)})

    venv = DictVectorEnv(Random, {}, seeds(2, 5))
    play(venv, 7)
    saved = copy.deepcopy(venv.state_dict())
    runs = []
    for _ in range(2):
        resumed = DictVectorEnv(Random, {}, seeds(2, 5))
        resumed.load_state_dict(saved)
        runs.append(play(resumed, 7))
    np.testing.assert_equal(runs[0], runs[1])
    with pytest.raises(ValueError, match="does not fit 3"):
        DictVectorEnv(Random, {}, seeds(3, 5)).load_state_dict(saved)


# -- vectorise --------------------------------------------------------------------------------------------------------


def test_vectorise_prefers_the_native_form():
    native = DictVectorEnv(CountingEnv, {}, range(2))
    calls = []

    class Native(CountingEnv):
        @classmethod
        def make_vector(cls, seeds, max_step, **configs):
            calls.append((seeds, max_step, configs))
            return native if configs["length"] == 1 else None

    assert vectorise(describe(Native, length=1), 2, 3, 9) is native
    fallback = vectorise(describe(Native, length=2), 2, 3, 9, first_env_index=2)
    assert isinstance(fallback, DictVectorEnv) and fallback.max_step == 9
    (of_first, max_step, configs), (of_second, *_) = calls
    assert (len(of_first), max_step, configs) == (2, 9, {"length": 1}) and not set(of_first) & set(of_second)


def test_vectorise_refuses_nonsense():
    with pytest.raises(ConfigError, match="creator"):
        vectorise({"config": {}}, 1, 0)
    with pytest.raises(ConfigError, match="num_envs"):
        vectorise(describe(CountingEnv), 0, 0)
    with pytest.raises(ConfigError, match="did you mean 'env_id'"):
        vectorise({"creator": GymEnv, "config": {"envid": "CartPole-v1"}}, 1, 0)
