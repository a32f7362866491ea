"""Matrix and Markov games: known values, what is stepped, and how users bring their own."""

import copy
import itertools
import pickle

import numpy as np
import pyspiel
import pytest
from fakes import seeds

from malib_lite.config import ConfigError
from malib_lite.envs.matrix import GAMES, MatrixGame, env_desc_gen, env_ids
from malib_lite.population.meta_solvers import nash
from malib_lite.rollout.vector_env import DictVectorEnv, vectorise

# Chance at the start and in what follows, other numbers of actions, three players, all observations.
DRAWN = {
    "payoffs": np.random.default_rng(3).normal(size=(3, 2, 3, 1, 3)),
    "transitions": [
        {0: 1, 2: 1, "end": 1},
        [1, [0, {1: 3, "end": 1}, [[0.25, 0.25, 0.25, 0.25]]]],
        "end",
    ],
    "start": {0: 1, 1: 3},
    "rounds": 6,
    "observe": ["state", "last_actions", "round"],
}


def pure(tables, *choice):
    """What every player gets in the first round of a game with one state."""
    return tables.payoffs[(0, *choice)].tolist()


def tables_of(env_id=None, **config):
    return MatrixGame(env_id=env_id, **config).spec.tables


def one_hot(*index_and_size):
    return np.concatenate([np.eye(size + 1, size)[index] for index, size in index_and_size])


# -- the games of the literature --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "env_id, value, mixture",
    [("matching_pennies", 0.0, [1 / 2, 1 / 2]), ("rock_paper_scissors", 0.0, [1 / 3, 1 / 3, 1 / 3])],
)
def test_the_zero_sum_games_have_their_known_equilibria(env_id, value, mixture):
    payoffs = np.moveaxis(tables_of(env_id).payoffs[0], -1, 0)
    np.testing.assert_array_equal(payoffs[0], -payoffs[1])
    x, y = nash(payoffs)
    assert x == pytest.approx(mixture) and y == pytest.approx(mixture)
    assert x @ payoffs[0] @ y == pytest.approx(value)


@pytest.mark.parametrize(
    "env_id, equilibria",
    [
        ("matching_pennies", []),
        ("rock_paper_scissors", []),
        ("shapley", []),
        ("matching_pennies_3p", []),
        ("prisoners_dilemma", [(1, 1)]),
        ("stag_hunt", [(0, 0), (1, 1)]),
        ("chicken", [(0, 1), (1, 0)]),
        ("battle_of_the_sexes", [(0, 0), (1, 1)]),
        ("coordination", [(0, 0), (1, 1)]),
        ("climbing", [(0, 0), (1, 1)]),
        ("penalty", [(0, 0), (1, 1), (2, 2)]),
    ],
)
def test_the_pure_equilibria_are_those_that_are_known(env_id, equilibria):
    game = MatrixGame.make_exact(env_id=env_id)
    tables = tables_of(env_id)
    found = []
    for choice in itertools.product(*map(range, tables.num_actions)):
        pools = [np.eye(size)[action][None, None] for action, size in zip(choice, tables.num_actions, strict=True)]
        if game.nash_conv(pools, [np.ones(1)] * len(pools)) < 1e-12:
            found.append(choice)
    assert found == equilibria


@pytest.mark.parametrize(
    "env_id, strategies",
    [
        ("chicken", [[1 / 2, 1 / 2]] * 2),
        ("battle_of_the_sexes", [[2 / 3, 1 / 3], [1 / 3, 2 / 3]]),
        ("stag_hunt", [[1 / 2, 1 / 2]] * 2),
        ("shapley", [[1 / 3] * 3] * 2),
        ("matching_pennies_3p", [[1 / 2, 1 / 2]] * 3),
    ],
)
def test_the_mixed_equilibria_are_those_that_are_known(env_id, strategies):
    game = MatrixGame.make_exact(env_id=env_id)
    pools = [np.array(strategy)[None, None] for strategy in strategies]
    assert game.nash_conv(pools, [np.ones(1)] * len(pools)) == pytest.approx(0.0, abs=1e-12)
    pools[0] = np.eye(len(strategies[0]))[:1, None]
    assert game.nash_conv(pools, [np.ones(1)] * len(pools)) > 0.3


def test_optima_of_the_cooperative_games():
    assert pure(tables_of("climbing"), 0, 0) == [11, 11] == [tables_of("climbing").payoffs.max()] * 2
    assert tables_of("climbing").payoffs.min() == -30
    penalty = tables_of("penalty").payoffs[0, ..., 0]
    assert penalty[0, 0] == penalty[2, 2] == penalty.max() == 10 and penalty[0, 2] == penalty[2, 0] == -100
    assert pure(tables_of("prisoners_dilemma"), 0, 0) == [3, 3] and pure(tables_of("prisoners_dilemma"), 1, 1) == [1, 1]


@pytest.mark.parametrize(("env_id", "uniform", "best"), [("climbing", -31 / 9, 11), ("penalty", (22 - 200) / 9, 10)])
def test_what_the_cooperative_games_are_worth(env_id, uniform, best):
    """At uniform play, and at the best; per round, whatever the number of rounds."""
    payoffs = np.moveaxis(tables_of(env_id).payoffs[0], -1, 0)
    assert payoffs[0].mean() == pytest.approx(uniform) and np.array_equal(payoffs[0], payoffs[1])
    description = env_desc_gen(env_id=env_id, rounds=25)
    env = description["creator"](**description["config"])
    env.begin(seed=0)
    earned = 0.0
    while not env.finished:
        earned += env.advance(dict.fromkeys(env.possible_agents, 0)).rewards["player_0"]
    assert earned == 25 * best


@pytest.mark.parametrize(
    "env_id, openspiel",
    [("matching_pennies", "matrix_mp"), ("rock_paper_scissors", "matrix_rps"), ("shapley", "matrix_shapleys_game")],
)
def test_payoffs_agree_with_openspiel(env_id, openspiel):
    game = pyspiel.load_matrix_game(openspiel)
    ours = tables_of(env_id).payoffs[0]
    np.testing.assert_array_equal(ours[..., 0], game.row_utilities())
    np.testing.assert_array_equal(ours[..., 1], game.col_utilities())


def test_three_player_pennies_agree_with_openspiel():
    game = pyspiel.load_game("matching_pennies_3p")
    for choice in itertools.product(range(2), repeat=3):
        state = game.new_initial_state()
        state.apply_actions(list(choice))
        assert pure(tables_of("matching_pennies_3p"), *choice) == state.returns()


def returns_of(env, *rounds):
    env.begin(seed=0)
    for choice in rounds:
        env.advance(dict(zip(env.possible_agents, choice, strict=True)))
    assert env.finished
    return list(env.episode_returns.values())


def test_two_step_has_a_safe_branch_of_7_and_a_risky_one_of_8():
    env = MatrixGame(env_id="two_step")
    first, second = itertools.product(range(2), repeat=2), list(itertools.product(range(2), repeat=2))
    returns = {(a, b): returns_of(env, a, b)[0] for a in first for b in second}
    assert max(returns.values()) == 8
    assert {key for key, value in returns.items() if value == 8} == {((1, 0), (1, 1)), ((1, 1), (1, 1))}
    assert {value for (a, _), value in returns.items() if a[0] == 0} == {7}
    assert [returns[(1, 0), b] for b in second] == [0, 1, 1, 8]


# -- what is stepped --------------------------------------------------------------------------------------------------


def test_a_matrix_game_is_one_round_and_its_players_see_a_constant():
    env = MatrixGame(env_id="prisoners_dilemma")
    first = env.begin(seed=0)
    assert env.possible_agents == ["player_0", "player_1"]
    assert {agent: seen.tolist() for agent, seen in first.observations.items()} == {"player_0": [1], "player_1": [1]}
    step = env.advance({"player_0": 1, "player_1": 0})
    assert step.rewards == {"player_0": 4.0, "player_1": 0.0}
    assert env.finished and step.terminated == {"player_0": True, "player_1": True} and not step.truncated


def test_what_is_seen_of_a_repeated_game():
    env = MatrixGame(env_id="prisoners_dilemma", rounds=3, observe=["round", "last_actions"])
    step = env.begin(seed=0)
    seen = [step.observations["player_1"].tolist()]
    for choice in [(0, 1), (1, 1), (1, 0)]:
        step = env.advance({"player_0": choice[0], "player_1": choice[1]})
        seen.append(step.observations["player_1"].tolist())
    nobody = [0, 0, 0, 0]
    assert seen == [
        [*nobody, 1, 0, 0],
        [1, 0, 0, 1, 0, 1, 0],
        [0, 1, 0, 1, 0, 0, 1],
        [0, 1, 1, 0, 0, 0, 0],
    ]
    assert env.episode_returns == {"player_0": 5.0, "player_1": 5.0}
    assert env.observation_spaces["player_0"].shape == (7,)


def test_by_default_the_least_is_seen_that_makes_the_game_markov():
    seen = {
        ("stag_hunt", None): ("state",),
        ("stag_hunt", 5): ("round",),
        ("stag_hunt", float("inf")): ("state",),
        ("two_step", None): ("state",),
        ("two_step", 4): ("state", "round"),
    }
    for (env_id, rounds), parts in seen.items():
        config = {} if rounds is None else {"rounds": rounds}
        assert tables_of(env_id, **config).observe == parts


def test_the_global_state_is_there_even_if_the_players_do_not_see_it():
    env = MatrixGame(env_id="two_step", observe="last_actions", rounds=4)
    env.begin(seed=0)
    assert env.state().tolist() == one_hot((0, 3), (0, 4)).tolist()
    step = env.advance({"player_0": 1, "player_1": 0})
    assert env.state().tolist() == one_hot((2, 3), (1, 4)).tolist() and env.state_space.contains(env.state())
    assert step.observations["player_0"].tolist() == [0, 1, 1, 0]


def test_without_a_limit_of_rounds_the_engine_truncates():
    env = MatrixGame(env_id="stag_hunt", rounds=float("inf"))
    env.begin(seed=0, max_step=4)
    for _ in range(4):
        step = env.advance({"player_0": 0, "player_1": 0})
    assert env.finished and not any(step.terminated.values()) and all(step.truncated.values())
    assert env.episode_returns == {"player_0": 16.0, "player_1": 16.0}


def test_chance_draws_states_as_often_as_it_should():
    config = {
        "payoffs": [[[0.0]], [[1.0]], [[2.0]]],
        "form": "zero_sum",
        "transitions": [{1: 1, 2: 2, "end": 1}, "end", "end"],
    }
    venv = MatrixGame.make_vector(seeds(20_000, 1), None, **config)
    zeros = {agent: np.zeros(20_000, int) for agent in venv.possible_agents}
    venv.reset(venv.finished)
    views = venv.step(zeros)
    drawn = [view.copy() for view in (views["player_0"].terminated, views["player_0"].observation)]
    frequencies = [drawn[1][:, 1].mean(), drawn[1][:, 2].mean(), drawn[0].mean()]
    np.testing.assert_allclose(frequencies, [0.25, 0.5, 0.25], atol=0.015)
    views = venv.step(zeros)
    assert venv.finished.all() and views["player_0"].reward.sum() == -views["player_1"].reward.sum()
    np.testing.assert_array_equal(views["player_0"].reward, drawn[1] @ [0, 1, 2] * ~drawn[0])


@pytest.mark.parametrize(
    "config, max_step",
    [
        ({"env_id": "rock_paper_scissors"}, None),
        ({"env_id": "two_step"}, None),
        ({"env_id": "two_step"}, 1),
        ({"env_id": "prisoners_dilemma", "rounds": 4, "observe": ["last_actions", "round"]}, 3),
        ({"env_id": "matching_pennies_3p", "rounds": float("inf"), "observe": "last_actions"}, 5),
        (DRAWN, None),
        (DRAWN, 2),
        ({**DRAWN, "observe": ["last_actions"]}, 4),
    ],
)
def test_one_by_one_and_all_at_once_are_the_same_game(config, max_step):
    num_envs = 7
    both = [
        MatrixGame.make_vector(seeds(num_envs, 1), max_step, **config),
        DictVectorEnv(MatrixGame, config, seeds(num_envs, 1), max_step),
    ]
    agents = both[0].possible_agents
    for a, b in zip(both[0].observation_spaces.values(), both[1].observation_spaces.values(), strict=True):
        assert a == b
    rng = np.random.default_rng(0)
    views = [venv.reset(np.ones(num_envs, bool)) for venv in both]
    num_ended = 0
    for _ in range(40):
        here = [[view[agent] for view in views] for agent in agents]
        for a, b in here:
            np.testing.assert_array_equal(a.acting, b.acting)
            np.testing.assert_array_equal(a.terminated, b.terminated)
            np.testing.assert_array_equal(a.truncated, b.truncated)
            np.testing.assert_array_equal(a.reward, b.reward)
            seen = a.acting | a.truncated
            np.testing.assert_array_equal(a.observation[seen], b.observation[seen])
        np.testing.assert_array_equal(both[0].finished, both[1].finished)
        num_ended += both[0].finished.sum()
        waiting = both[0].finished & (rng.random(num_envs) < 0.7)  # others stay finished for a while
        if waiting.any():
            views = [venv.reset(waiting.copy()) for venv in both]
            continue
        actions = {agent: rng.integers(both[0].action_spaces[agent].n, size=num_envs) for agent in agents}
        views = [venv.step(actions) for venv in both]
    assert num_ended > 10


def test_rows_of_the_table_are_what_is_observed():
    venv = MatrixGame.make_vector(seeds(50, 2), 4, **DRAWN)
    rng = np.random.default_rng(0)
    views = venv.reset(venv.finished)
    for _ in range(20):
        for agent, view in views.items():
            table, masks = venv.observation_table(agent)
            assert masks is None and len(np.unique(table, axis=0)) == len(table)
            np.testing.assert_array_equal(table[view.observation_index], view.observation)
        views = venv.step({a: rng.integers(venv.action_spaces[a].n, size=50) for a in venv.possible_agents})
        views = venv.reset(venv.finished)


def test_without_a_small_table_observations_are_the_same():
    # 400 x 400 joint actions as the last observation: no table of them
    rng = np.random.default_rng(0)
    config = {"payoffs": rng.normal(size=(400, 400)), "form": "zero_sum", "rounds": 5, "observe": "last_actions"}
    venv = MatrixGame.make_vector(seeds(3, 0), None, **config)
    assert venv.observation_table("player_0") is None
    views = venv.reset(venv.finished)
    assert views["player_0"].observation_index is None and not views["player_0"].observation.any()
    views = venv.step({"player_0": np.array([0, 1, 399]), "player_1": np.array([7, 399, 2])})
    assert [np.flatnonzero(row).tolist() for row in views["player_1"].observation] == [[0, 407], [1, 799], [399, 402]]


def test_a_row_depends_on_its_seed_alone_and_goes_on_from_a_state_dict():
    rng = np.random.default_rng(0)
    actions = [{f"player_{i}": rng.integers(n, size=5) for i, n in enumerate((2, 3, 1))} for _ in range(30)]

    def rewards(venv, rows, actions):
        history = []
        for chosen in actions:
            venv.reset(venv.finished)
            views = venv.step({agent: column[rows] for agent, column in chosen.items()})
            history.append(np.stack([view.reward for view in views.values()]))
        return np.array(history)  # (T, n, E)

    many, rows = MatrixGame.make_vector(seeds(5, 3), None, **DRAWN), np.arange(5)
    history = rewards(many, rows, actions)
    alone = MatrixGame.make_vector(seeds(5, 3)[3:4], None, **DRAWN)
    np.testing.assert_array_equal(rewards(alone, [3], actions)[..., 0], history[..., 3])
    state = copy.deepcopy(many.state_dict())
    many.finished[:] = True
    later = rewards(many, rows, actions)
    other = MatrixGame.make_vector(seeds(5, 9), None, **DRAWN)
    other.load_state_dict(state)
    np.testing.assert_array_equal(rewards(other, rows, actions), later)
    assert (later != history).any()


def test_wrong_actions_are_refused_where_the_game_goes_on():
    venv = MatrixGame.make_vector(seeds(3, 0), None, env_id="rock_paper_scissors")
    venv.reset(np.array([True, False, True]))
    venv.step({"player_0": np.array([0, -7, 2]), "player_1": np.array([0, 99, 2])})
    venv.reset(np.array([True, True, True]))
    with pytest.raises(ValueError, match="action 3 of player_1 in environment 2 is not below 3"):
        venv.step({"player_0": np.zeros(3, int), "player_1": np.array([0, 1, 3])})
    with pytest.raises(ValueError, match="player_1 is to act"):
        venv.step({"player_0": np.zeros(3, int)})
    env = MatrixGame()
    env.begin(seed=0)
    with pytest.raises(ValueError, match="action -1 of player_0"):
        env.advance({"player_0": -1, "player_1": 0})


def test_games_travel_and_subclasses_are_stepped_singly():
    class Changed(MatrixGame):
        def time_step(self, actions):
            return super().time_step(actions)._replace(rewards={})

    assert Changed.make_vector([0], None) is None and Changed.make_exact() is None
    description = pickle.loads(pickle.dumps(env_desc_gen(**DRAWN)))
    assert vectorise(description, 2, seed=0).possible_agents == ["player_0", "player_1", "player_2"]


# -- exact values -----------------------------------------------------------------------------------------------------


def test_exact_payoffs_are_the_means_of_what_is_played():
    rng = np.random.default_rng(0)
    config = {**DRAWN, "rounds": 1, "observe": ["state"]}
    game, venv = MatrixGame.make_exact(**config), MatrixGame.make_vector(seeds(40_000, 4), None, **config)
    pools = []
    for agent in game.agents:
        observations, legal = game.information_sets(agent)
        assert legal.all() and observations.tolist() == [[1, 0, 0], [0, 1, 0]]  # the first states that are possible
        pools.append(rng.dirichlet(np.ones(legal.shape[1]), size=(2, len(legal))))
    payoffs = game.payoffs(pools)
    assert payoffs.shape == (3, 2, 2, 2)
    views = venv.reset(venv.finished)
    state = views["player_0"].observation.argmax(axis=1)
    for choice in [(0, 0, 0), (1, 0, 1)]:
        actions = {}
        for agent, pool, member in zip(game.agents, pools, choice, strict=True):
            chances = np.cumsum(pool[member], axis=1)[state]
            actions[agent] = np.minimum((rng.random(len(state))[:, None] >= chances).sum(1), chances.shape[1] - 1)
        views = venv.step(actions)
        means = [view.reward.mean() for view in views.values()]
        np.testing.assert_allclose(means, payoffs[(slice(None), *choice)], atol=0.03)
        views = venv.reset(venv.finished)
        state = views["player_0"].observation.argmax(axis=1)


@pytest.mark.parametrize("observe", ["state", "last_actions"])
def test_a_best_response_earns_what_it_says_and_nothing_earns_more(observe):
    rng = np.random.default_rng(1)
    game = MatrixGame.make_exact(**{**DRAWN, "rounds": 1, "observe": [observe]})
    num_infosets = 2 if observe == "state" else 1  # unseen, the first states are one information set
    pools, mixtures = [], []
    for agent in game.agents:
        observations, legal = game.information_sets(agent)
        assert len(observations) == num_infosets
        pools.append(rng.dirichlet(np.ones(legal.shape[1]), size=(3, num_infosets)))
        mixtures.append(rng.dirichlet(np.ones(3)))
    for player, agent in enumerate(game.agents):
        value, policy = game.best_response(agent, pools, mixtures)
        num_actions = policy.shape[1]
        every = [np.eye(num_actions)[list(c)] for c in itertools.product(range(num_actions), repeat=num_infosets)]
        values = game.payoffs([np.stack(every) if p == player else pools[p] for p in range(3)])[player]
        for other in reversed(range(3)):
            if other != player:
                values = np.tensordot(values, mixtures[other], axes=(other, 0))
        assert value == pytest.approx(values.max())
        assert any(np.array_equal(policy, each) for each in np.stack(every)[values > values.max() - 1e-12])


def test_nash_conv_of_pools_by_hand():
    game = MatrixGame.make_exact(env_id="rock_paper_scissors")
    pools = [np.eye(3)[:, None], np.eye(3)[:, None]]
    third = np.full(3, 1 / 3)
    assert game.nash_conv(pools, [third, third]) == pytest.approx(0.0)
    assert game.nash_conv(pools, [np.eye(3)[0], third]) == pytest.approx(1.0)
    assert game.nash_conv(pools, [np.eye(3)[0], np.eye(3)[1]]) == pytest.approx(2.0)
    with pytest.raises(ValueError, match=r"player_1 has shape \(1, 2\)"):
        game.payoffs([pools[0], np.ones((1, 2))])
    with pytest.raises(ValueError, match="no distribution"):
        game.payoffs([pools[0], 0.9 * pools[1]])


def test_only_games_of_one_round_are_solved():
    assert MatrixGame.make_exact(env_id="two_step") is None
    assert MatrixGame.make_exact(env_id="chicken", rounds=2) is None
    assert MatrixGame.make_exact(**{**DRAWN, "transitions": ["end"] * 3, "rounds": None, "observe": None}) is not None


# -- games of one's own -----------------------------------------------------------------------------------------------

PD = [[[3, 3], [0, 4]], [[4, 0], [1, 1]]]


@pytest.mark.parametrize(
    "config",
    [
        {"payoffs": PD},
        {"payoffs": np.array(PD), "env_id": "custom"},
        {"payoffs": [[[3, 0], [4, 1]], [[3, 4], [0, 1]]], "form": "per_player"},
        {"payoffs": [PD], "transitions": ["end"]},
        {"payoffs": [[[[3, 0], [4, 1]]], [[[3, 4], [0, 1]]]], "form": "per_player", "transitions": ["end"]},
    ],
    ids=str,
)
def test_the_forms_of_payoffs_mean_the_same(config):
    tables = tables_of(**config)
    assert tables.payoffs.tolist() == [PD] and tables.num_actions == (2, 2)
    assert returns_of(MatrixGame(**config), (1, 0)) == [4.0, 0.0]


def test_zero_sum_and_identical_payoffs():
    assert returns_of(MatrixGame(payoffs=[[5, 1, 2]], form="zero_sum"), (0, 2)) == [2.0, -2.0]
    assert returns_of(MatrixGame(payoffs=[[[5], [1]]], form="identical"), (0, 1, 0)) == [1.0] * 3
    assert returns_of(MatrixGame(payoffs=[5, 1], form="identical"), (1,)) == [1.0]


def test_a_game_in_a_yaml_file(tmp_path):
    path = tmp_path / "climb.yaml"
    path.write_text(
        "payoffs: [[[0, 0], [0, 0]], [[7, 7], [7, 7]], [[0, 1], [1, 8]]]\n"
        "form: identical\n"
        "transitions: [[1, {1: 1, 2: 1}], end, end]\n"
        "observe: [state, last_actions]\n"
    )
    env = MatrixGame(env_id=str(path))
    assert env.observation_spaces["player_0"].shape == (7,)
    probabilities = env.spec.tables.transitions[0, 1, 0]
    assert probabilities.tolist() == [0, 0.5, 0.5, 0]
    assert MatrixGame(env_id=str(path), observe="state").observation_spaces["player_0"].shape == (3,)
    for text, message in [
        ("payoffs: [[", "cannot be read"),
        ("rounds: 3", "'payoffs' is missing"),
        ("[1, 2]", "must hold a mapping"),
    ]:
        path.write_text(text)
        with pytest.raises(ConfigError, match=rf"(?s)climb\.yaml.*{message}"):
            MatrixGame(env_id=str(path))


@pytest.mark.parametrize(
    "config, message",
    [
        ({"env_id": "climbin"}, "there is no such game, did you mean 'climbing'"),
        ({"env_id": 3}, "'env_id' = 3"),
        ({"env_id": "custom"}, "'payoffs' is missing"),
        ({"env_id": "climbing", "payoffs": PD}, "with 'payoffs' of your own, it is 'custom'"),
        ({"env_id": "climbing", "round": 3}, "unknown key 'round': did you mean 'rounds'"),
        ({"env_id": "nowhere.yml"}, "nowhere.yml"),
        ({"payoffs": PD, "form": "zerosum"}, "'form' = 'zerosum': did you mean 'zero_sum'"),
        ({"payoffs": 3}, "'payoffs' = 3: must be nested lists"),
        ({"payoffs": []}, "'payoffs' is empty"),
        ({"payoffs": [[[1, 2], []]]}, r"'payoffs\[0\]\[1\]' is empty"),
        ({"payoffs": [[[1, 2], [3, "x"]]]}, r"'payoffs\[0\]\[1\]\[1\]' = 'x': must be a finite number"),
        ({"payoffs": [[[1, 2], [3, float("nan")]]]}, r"'payoffs\[0\]\[1\]\[1\]' = nan"),
        ({"payoffs": [[[1, 2], [3, True]]]}, r"'payoffs\[0\]\[1\]\[1\]' = True"),
        ({"payoffs": np.array([[1.0, np.inf]]), "form": "zero_sum"}, r"'payoffs\[0\]\[1\]' = .*inf"),
        ({"payoffs": [[[1, 2], [3, 4]], [[1, 2]]]}, r"'payoffs\[1\]' has shape \(1, 2\), but 'payoffs\[0\]'"),
        ({"payoffs": [[1, -1], [-1, 1]]}, r"shape \(2, 2\).*needs form 'zero_sum' or 'identical'"),
        ({"payoffs": PD, "form": "zero_sum"}, r"\(2, 2, 2\); form 'zero_sum' wants \(actions of player_0, actions of"),
        ({"payoffs": [[1, 2], [3, 4]], "form": "per_player"}, "one array"),
        ({"payoffs": PD, "rounds": 0}, "'rounds' = 0: must be a positive integer"),
        ({"payoffs": PD, "rounds": 1.5}, "'rounds' = 1.5"),
        ({"payoffs": PD, "rounds": True}, "'rounds' = True"),
        ({"payoffs": PD, "observe": "staet"}, "did you mean 'state'"),
        ({"payoffs": PD, "observe": []}, "must list some of state, last_actions, round"),
        ({"payoffs": PD, "rounds": float("inf"), "observe": "round"}, "there is no 'round' to see"),
        ({"payoffs": PD, "start": 1}, "'start' = 1: 1 is not a state from 0 to 0"),
        ({"payoffs": PD, "start": "end"}, "'end' is not a state"),
        ({"payoffs": PD, "start": {}}, "'start' is empty"),
        ({"payoffs": [PD], "transitions": ["end", "end"]}, "'transitions' has 2 entries, but the payoffs have 1"),
        ({"payoffs": [PD], "transitions": [[["end"], "end"]]}, r"'transitions\[0\]\[0\]' has 1 entries.* 2 there"),
        ({"payoffs": [PD], "transitions": [["end", [0, "ende"]]]}, r"'transitions\[0\]\[1\]\[1\]' = 'ende'.*or 'end'"),
        ({"payoffs": [PD], "transitions": [{0: 1, "end": -1}]}, r"'transitions\[0\].end' = -1: a weight"),
        (
            {"payoffs": [PD], "transitions": [[[[1, 1], 0], 0]]},
            r"'transitions\[0\]\[0\]\[0\]' = \[1, 1\]: must be 2 prob",
        ),
        ({"payoffs": [PD], "transitions": [[0, 0]]}, "from state 0 the game never ends"),
        ({"payoffs": [PD, PD], "transitions": [{1: 1, "end": 1}, 1]}, "from state 1 the game never ends"),
    ],
    ids=str,
)
def test_mistakes_are_named(config, message):
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        MatrixGame(**config)
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        MatrixGame.make_vector([0], None, **config)


def test_a_state_that_cannot_be_reached_need_not_end():
    assert tables_of(payoffs=[PD, PD], transitions=["end", 1]).rounds is None


def test_every_named_game_can_be_described_and_played():
    assert set(env_ids()) == set(GAMES)
    for env_id in env_ids():
        description = env_desc_gen(env_id=env_id)
        env = description["creator"](**description["config"])
        env.begin(seed=0)
        while not env.finished:
            env.advance({agent: space.n - 1 for agent, space in env.action_spaces.items()})


def test_psro_finds_the_equilibrium_of_rock_paper_scissors(tmp_path, capsys):
    from malib_lite.train import main

    arguments = ["psro", "--env", "matrix/custom", "--env_config.payoffs", "[[0,-1,1],[1,0,-1],[-1,1,0]]"]
    arguments += ["--env_config.form", "zero_sum", "--iterations", "4", "--steps", "2000", "--workers", "0"]
    assert main([*arguments, "--logdir", str(tmp_path / "run")]) == 0
    last = [
        line for line in capsys.readouterr().out.splitlines() if "iteration   4" in line
    ]  # which gesture an untrained network favours is chance
    assert last and "NashConv 0.0000" in last[0] and "support 3 x 3" in last[0]
