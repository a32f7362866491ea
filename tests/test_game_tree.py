"""Game trees and the exact values made from them. Second opinions come from OpenSpiel's own algorithms."""

import dataclasses

import numpy as np
import pyspiel
import pytest
from open_spiel.python.algorithms import expected_game_score, exploitability, policy_aggregator
from open_spiel.python.policy import TabularPolicy

from malib_lite.config import ConfigError
from malib_lite.envs.open_spiel import OpenSpielEnv
from malib_lite.envs.open_spiel.exact import SequenceFormGame
from malib_lite.envs.open_spiel.game_tree import BUDGET, CHANCE, TERMINAL, GameTree, _Expansion, expand_game
from malib_lite.envs.open_spiel.games import load_game
from malib_lite.envs.open_spiel.observers import make_observer
from malib_lite.envs.open_spiel.tables import ChanceTable, MoveTable

GOOFSPIEL_3 = "goofspiel(num_cards=3,imp_info=True,points_order=descending)"
GOOFSPIEL_RANDOM = "goofspiel(num_cards=3,imp_info=True)"  # chance turns the point cards up
REPEATED_GAME = "repeated_game(stage_game=matrix_rps(),num_repetitions=2)"
GOOFSPIEL_4 = "goofspiel(num_cards=4,imp_info=True,points_order=descending)"


def expand(env_id, budget=BUDGET):
    """A tree of its own, that nobody has expanded before."""
    game = load_game(env_id)
    return GameTree.expand(game, make_observer(game, env_id, None), budget)


def make(env_id):
    game = OpenSpielEnv.make_exact(env_id=env_id)
    assert game is not None
    return game


def uniform(game):
    masks = [game.information_sets(agent)[1] for agent in game.agents]
    return [(mask / mask.sum(axis=1, keepdims=True))[None] for mask in masks]


def first_legal(game):
    masks = [game.information_sets(agent)[1] for agent in game.agents]
    return [np.eye(mask.shape[1])[mask.argmax(axis=1)][None] for mask in masks]


def random_pools(game, sizes, seed=0, greedy=False):
    rng = np.random.default_rng(seed)
    pools = []
    for agent, size in zip(game.agents, sizes, strict=True):
        mask = game.information_sets(agent)[1]
        weight = rng.exponential(size=(size, *mask.shape)) * mask
        if greedy:
            weight = np.eye(mask.shape[1])[weight.argmax(axis=2)]
        pools.append(weight / weight.sum(axis=2, keepdims=True))
    return pools


def alone(game):
    return [np.ones(1) for _ in game.agents]


def turn_based(tree):
    """The game in a form that OpenSpiel's algorithms take: moves at once become moves in turn, as in the tree."""
    simultaneous = tree.game.get_type().dynamics == pyspiel.GameType.Dynamics.SIMULTANEOUS
    return pyspiel.convert_to_turn_based(tree.game) if simultaneous else tree.game


def tabular(tree, tables):
    """OpenSpiel's form of one (I, A) table per player."""
    game = turn_based(tree)
    policy = TabularPolicy(game)
    for player, (keys, table) in enumerate(zip(tree.keys, tables, strict=True)):
        head = "" if game is tree.game else f"Current player: {player}\n"
        for key, infoset in keys.items():
            policy.policy_for_key(head + key)[:] = table[infoset]
    return policy


# -- published anchors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "env_id, nash_conv",
    [
        ("kuhn_poker", 11 / 12),
        ("leduc_poker", 4.7472222222),
        ("kuhn_poker(players=3)", 2.0625),
        (GOOFSPIEL_4, 1.4166666667),
        ("matrix_rps", 0.0),
    ],
)
def test_nash_conv_of_uniform_play(env_id, nash_conv):
    game = make(env_id)
    assert game.nash_conv(uniform(game), alone(game)) == pytest.approx(nash_conv, abs=1e-9)


@pytest.mark.parametrize("env_id", ["kuhn_poker", "leduc_poker"])
def test_nash_conv_of_the_first_legal_action(env_id):
    game = make(env_id)
    assert game.nash_conv(first_legal(game), alone(game)) == pytest.approx(2.0, abs=1e-12)


def kuhn_policy(pass_bet_by_key, keys):
    table = np.zeros((6, 2))
    for key, bet in pass_bet_by_key.items():
        table[keys[key]] = [1 - bet, bet]
    return table[None]


def test_kuhn_equilibrium():
    alpha = 0.2
    tree, game = expand_game("kuhn_poker"), make("kuhn_poker")
    first = {"0": alpha, "0pb": 0, "1": 0, "1pb": alpha + 1 / 3, "2": 3 * alpha, "2pb": 1}
    second = {"0p": 1 / 3, "0b": 0, "1p": 0, "1b": 1 / 3, "2p": 1, "2b": 1}
    pools = [kuhn_policy(first, tree.keys[0]), kuhn_policy(second, tree.keys[1])]
    assert game.nash_conv(pools, alone(game)) == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(game.payoffs(pools).ravel(), [-1 / 18, 1 / 18], atol=1e-12)
    first["0"] = 0.5  # bluffs too often now
    assert game.nash_conv([kuhn_policy(first, tree.keys[0]), pools[1]], alone(game)) > 0.01


def test_rock_paper_scissors():
    game = make("matrix_rps")
    pools = [np.eye(3)[:, None, :]] * 2
    np.testing.assert_array_equal(game.payoffs(pools)[0], [[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    np.testing.assert_allclose(game.gains(pools, [np.eye(3)[0], np.eye(3)[2]]), [0, 2], atol=1e-12)


# -- second opinions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id, sizes", [("kuhn_poker", (3, 4)), ("leduc_poker", (2, 1)), (GOOFSPIEL_3, (2, 3))])
def test_payoffs_are_open_spiels(env_id, sizes):
    game, tree = make(env_id), expand_game(env_id)
    pools = random_pools(game, sizes)
    payoffs = game.payoffs(pools)
    assert payoffs.shape == (2, *sizes)
    for member in np.ndindex(*sizes):
        policy = tabular(tree, [pool[i] for pool, i in zip(pools, member, strict=True)])
        values = expected_game_score.policy_value(turn_based(tree).new_initial_state(), [policy] * 2)
        np.testing.assert_allclose(payoffs[(slice(None), *member)], values, atol=1e-12)


def test_payoffs_of_three_players_are_open_spiels():
    env_id, sizes = "kuhn_poker(players=3)", (2, 3, 2)
    game, tree = make(env_id), expand_game(env_id)
    pools = random_pools(game, sizes)
    payoffs = game.payoffs(pools)
    assert payoffs.shape == (3, *sizes)
    for member in np.ndindex(*sizes):
        policy = tabular(tree, [pool[i] for pool, i in zip(pools, member, strict=True)])
        values = expected_game_score.policy_value(turn_based(tree).new_initial_state(), [policy] * 3)
        np.testing.assert_allclose(payoffs[(slice(None), *member)], values, atol=1e-12)


@pytest.mark.parametrize(
    "env_id, sizes",
    [
        ("kuhn_poker", (4, 3)),
        ("leduc_poker", (2, 2)),
        ("kuhn_poker(players=3)", (3, 2, 2)),
        (GOOFSPIEL_3, (2, 3)),
        ("matching_pennies_3p", (2, 1, 3)),
    ],
)
@pytest.mark.parametrize("greedy", [False, True])
def test_nash_conv_of_mixtures_is_that_of_the_aggregated_policy(env_id, sizes, greedy):
    """Greedy members leave information sets out, where an aggregation by behaviour would differ from one by plans."""
    game, tree = make(env_id), expand_game(env_id)
    pools = random_pools(game, sizes, seed=1, greedy=greedy)
    rng = np.random.default_rng(2)
    mixtures = [rng.dirichlet(np.ones(size)) for size in sizes]
    num_players = len(sizes)
    members = [[tabular(tree, [pool[min(i, len(pool) - 1)] for pool in pools]) for i in range(size)] for size in sizes]
    aggregate = policy_aggregator.PolicyAggregator(turn_based(tree)).aggregate(range(num_players), members, mixtures)
    expected = exploitability.nash_conv(turn_based(tree), aggregate, return_only_nash_conv=False)
    assert game.nash_conv(pools, mixtures) == pytest.approx(expected.nash_conv, abs=1e-9)
    np.testing.assert_allclose(game.gains(pools, mixtures), expected.player_improvements, atol=1e-9)


@pytest.mark.parametrize("env_id", ["kuhn_poker", "leduc_poker", "kuhn_poker(players=3)", GOOFSPIEL_3])
def test_best_responses_earn_their_value(env_id):
    game = make(env_id)
    pools = random_pools(game, range(2, 2 + len(game.agents)), seed=3)
    mixtures = [np.random.default_rng(4).dirichlet(np.ones(len(pool))) for pool in pools]
    for player, agent in enumerate(game.agents):
        value, policy = game.best_response(agent, [*pools[:player], None, *pools[player + 1 :]], mixtures)
        mask = game.information_sets(agent)[1]
        assert np.array_equal(policy.sum(axis=1), np.ones(len(mask))) and not policy[~mask].any()
        assert set(np.unique(policy)) == {0.0, 1.0}
        payoffs = game.payoffs([*pools[:player], policy[None], *pools[player + 1 :]])[player]
        for other, mixture in enumerate(mixtures):
            payoffs = np.tensordot(mixture if other != player else np.ones(1), payoffs, axes=1)
        assert payoffs == pytest.approx(value, abs=1e-12)
    # gains() mixes plans; by the whole table of payoffs it is the same.
    values = game.payoffs(pools)
    for mixture in mixtures:
        values = np.tensordot(values, mixture, axes=([1], [0]))
    best = [game.best_response(agent, pools, mixtures)[0] for agent in game.agents]
    np.testing.assert_allclose(game.gains(pools, mixtures), best - values, atol=1e-12)


def test_ties_go_to_the_lowest_action():
    game = make("matrix_rps")
    _, policy = game.best_response("player_0", uniform(game), alone(game))
    assert policy.tolist() == [[1, 0, 0]]


def test_single_precision_is_good_enough():
    game = make("leduc_poker")
    pools = random_pools(game, (2, 2))
    rough = game.payoffs([pool.astype(np.float32) for pool in pools])
    assert rough.dtype == np.float64
    np.testing.assert_allclose(rough, game.payoffs(pools), atol=1e-5)


def test_what_is_no_policy_is_refused():
    game = make("leduc_poker")
    pools = uniform(game)
    everywhere = np.full_like(pools[0], 1 / 3)  # also on illegal actions
    with pytest.raises(ValueError, match="player_0"):
        game.payoffs([everywhere, pools[1]])
    with pytest.raises(ValueError, match="player_1"):
        game.payoffs([pools[0], np.full_like(pools[1], np.nan)])
    with pytest.raises(ValueError, match="shape"):
        game.payoffs([pools[0][0], pools[1]])
    with pytest.raises(ValueError, match="mixture of player_1"):
        game.nash_conv(pools, [np.ones(1), np.ones(2) / 2])
    with pytest.raises(ValueError, match="2 agents"):
        game.payoffs(pools[:1])


# -- equilibria ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "env_id, value", [("kuhn_poker", -1 / 18), ("leduc_poker", -0.085606424078), (GOOFSPIEL_4, 0.0)]
)
def test_values_of_the_games(env_id, value):
    """Equilibria of the whole games have no NashConv and the payoff that is published; uniform play has neither."""
    game = make(env_id)
    tables = restricted(game, [game.information_sets(agent)[1] for agent in game.agents])
    assert game.payoffs(tables).ravel() == pytest.approx([value, -value], abs=1e-9)
    assert game.nash_conv(tables, alone(game)) == pytest.approx(0.0, abs=1e-9)
    assert game.nash_conv(uniform(game), alone(game)) > 0.9


def restricted(game, allowed):
    return [table[None] for table in game.restricted_equilibrium(allowed)]


def test_restricted_equilibria():
    """Nobody gains by what is allowed: best responses within the restricted game are those to the same policies."""
    game, rng = make("leduc_poker"), np.random.default_rng(6)
    legal = [game.information_sets(agent)[1] for agent in game.agents]
    first = [table[0] > 0 for table in first_legal(game)]
    allowed = [first[0], (rng.random(legal[1].shape) < 0.5) & legal[1] | first[1]]
    tables = restricted(game, allowed)
    for table, mask in zip(tables, allowed, strict=True):
        assert not table[0][~mask].any() and np.allclose(table[0].sum(axis=1), 1.0)
    assert np.array_equal(tables[0][0], first[0])  # nothing else was left to it
    # The other's equilibrium is a best response to that, among 300 deterministic policies that it may play.
    weight = rng.random((300, *legal[1].shape)) * allowed[1]
    others = np.eye(legal[1].shape[1])[weight.argmax(axis=2)]
    value = game.payoffs(tables)[1, 0, 0]
    assert game.payoffs([tables[0], others])[1].max() <= value + 1e-9
    # With all actions allowed to one of them, its equilibrium is an unrestricted best response.
    tables = restricted(game, [legal[0], allowed[1]])
    best, _ = game.best_response("player_0", tables, alone(game))
    assert game.payoffs(tables)[0, 0, 0] == pytest.approx(best, abs=1e-9)
    assert game.nash_conv(tables, alone(game)) > 0.1  # the other one, though, would like to do more


def test_what_is_no_restricted_game_is_refused():
    game = make("kuhn_poker")
    nothing = [np.zeros((6, 2), bool)] * 2
    with pytest.raises(ValueError, match="allowed"):
        game.restricted_equilibrium(nothing)
    with pytest.raises(ValueError, match="2 agents"):
        game.restricted_equilibrium(nothing[:1])
    for env_id in ("kuhn_poker(players=3)", "tiny_hanabi"):
        other = make(env_id)
        with pytest.raises(ConfigError, match="zero-sum"):
            other.restricted_equilibrium([other.information_sets(agent)[1] for agent in other.agents])


# -- plans -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", ["kuhn_poker", "leduc_poker", "kuhn_poker(players=3)", GOOFSPIEL_3, "tiny_hanabi"])
@pytest.mark.parametrize("greedy", [False, True])
def test_one_policy_is_worth_what_a_mixture_is_worth(env_id, greedy):
    """Whatever the others play; a policy that mixes probabilities regardless of which member gets where is not."""
    game = make(env_id)
    pools = random_pools(game, [4] * len(game.agents), seed=7, greedy=greedy)
    mixture = np.array([0.5, 0.3, 0.0, 0.2])
    differs = False
    for player, agent in enumerate(game.agents):
        plans = game.plans(agent, pools[player])
        one = game.behaviour(agent, mixture @ plans)
        mask = game.information_sets(agent)[1]
        np.testing.assert_allclose(one.sum(axis=1), 1.0, atol=1e-12)
        assert not one[~mask].any()
        np.testing.assert_allclose(game.plans(agent, one[None])[0], mixture @ plans, atol=1e-12)
        mixed = np.tensordot(mixture, game.payoffs(pools), axes=([0], [1 + player]))
        alone_it = game.payoffs([*pools[:player], one[None], *pools[player + 1 :]])
        np.testing.assert_allclose(np.take(alone_it, 0, 1 + player), mixed, atol=1e-12)
        naive = np.tensordot(mixture, pools[player], axes=1)[None]
        worth = np.take(game.payoffs([*pools[:player], naive, *pools[player + 1 :]]), 0, 1 + player)
        differs |= not np.allclose(worth, mixed, atol=1e-3)
    assert differs == (env_id not in ("tiny_hanabi",))  # everybody moves once there


def test_where_a_policy_never_goes_all_legal_actions_are_alike():
    game, tree = make("kuhn_poker"), expand_game("kuhn_poker")
    bets = np.tile([0.0, 1.0], (6, 1))
    one = game.behaviour("player_0", game.plans("player_0", bets[None])[0])
    for key, infoset in tree.keys[0].items():
        assert one[infoset].tolist() == ([0.5, 0.5] if key.endswith("pb") else [0.0, 1.0])


# -- trees -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "env_id, num_nodes, num_infosets", [("kuhn_poker", 58, [6, 6]), ("leduc_poker", 9457, [468, 468])]
)
def test_sizes(env_id, num_nodes, num_infosets):
    tree = expand(env_id)
    assert tree.num_nodes == num_nodes and [len(legal) for legal in tree.legal] == num_infosets


@pytest.mark.parametrize(
    "env_id", ["kuhn_poker(players=3)", "leduc_poker", GOOFSPIEL_3, GOOFSPIEL_RANDOM, "tiny_hanabi", "blotto"]
)
def test_the_arrays_are_a_tree(env_id):
    tree = expand_game(env_id)
    nodes = np.arange(tree.num_nodes)
    inner = nodes[tree.num_children > 0]
    assert np.array_equal(inner, nodes[tree.player != TERMINAL])
    children = np.concatenate([tree.first_child[node] + np.arange(tree.num_children[node]) for node in inner])
    assert np.array_equal(np.sort(children), nodes[1:])  # every node but the root is somebody's child, once
    assert np.array_equal(tree.parent[1:], np.repeat(nodes, tree.num_children))
    assert np.all(tree.parent[1:] < nodes[1:])
    sums = np.bincount(tree.parent[1:], weights=tree.probability[1:], minlength=tree.num_nodes)
    np.testing.assert_allclose(sums[tree.player == CHANCE], 1.0, atol=1e-12)
    decisions = nodes[tree.player >= 0]
    for node in decisions:
        legal = np.flatnonzero(tree.legal[tree.player[node]][tree.infoset[node]])
        first = tree.first_child[node]
        assert np.array_equal(tree.action[first : first + tree.num_children[node]], legal)
    assert not tree.returns[tree.player != TERMINAL].any()


@pytest.mark.parametrize("env_id", ["leduc_poker", GOOFSPIEL_3, GOOFSPIEL_RANDOM, "tiny_hanabi", "matching_pennies_3p"])
def test_nodes_are_open_spiels_states(env_id):
    tree, rng = expand_game(env_id), np.random.default_rng(0)
    for node in rng.choice(tree.num_nodes, min(tree.num_nodes, 300), replace=False):
        state = tree.state(node)
        player = tree.player[node]
        assert (player == TERMINAL) == state.is_terminal() and (player == CHANCE) == state.is_chance_node()
        if player == TERMINAL:
            assert tree.returns[node].tolist() == state.returns()
        elif player >= 0:
            infoset = tree.infoset[node]
            assert state.is_simultaneous_node() or player == state.current_player()
            assert infoset == tree.keys[player][state.information_state_string(player)]
            assert np.array_equal(tree.observation[player][infoset], tree.observer(state, player))
            assert np.flatnonzero(tree.legal[player][infoset]).tolist() == state.legal_actions(player)


@pytest.mark.parametrize(
    "env_id",
    [
        "kuhn_poker",
        GOOFSPIEL_4,
        *(
            pytest.param(i, marks=pytest.mark.slow)
            for i in ("leduc_poker", "first_sealed_auction", "blotto", "sheriff")
        ),
    ],
)
def test_the_budget_counts_histories(env_id):
    """To the last one: guesses at the size of a tree must not turn a game away that fits."""
    size = expand_game(env_id).num_nodes
    assert expand(env_id, budget=size) is not None
    assert expand(env_id, budget=size - 1) is None


@pytest.mark.parametrize(
    "env_id",
    [
        "bridge",
        "battleship",
        "dark_hex",
        "goofspiel",
        "tic_tac_toe",  # 549,946 histories: a tenth too many
        "python_tic_tac_toe",
        "liars_dice(dice_sides=7)",  # most random descents see little of it
        "oshi_zumo(coins=6,size=1)",
        "leduc_poker(players=3)",
    ],
)
def test_what_is_too_large_is_soon_given_up(env_id, monkeypatch):
    visited = 0
    visit = _Expansion._visit

    def count(*args):
        nonlocal visited
        visited += 1
        return visit(*args)

    monkeypatch.setattr(_Expansion, "_visit", count)
    assert expand(env_id) is None
    assert visited < BUDGET / 8


@pytest.mark.parametrize(
    "env_id", ["catch", REPEATED_GAME, "bridge_uncontested_bidding", "tarok", "misere(game=negotiation())"]
)
def test_games_without_information_states_or_open_chance_have_no_tree(env_id):
    assert expand(env_id) is None


@pytest.mark.parametrize("env_id", ["python_dynamic_routing", "dark_hex_ir(num_rows=2,num_cols=2)"])
def test_games_whose_views_are_not_those_of_their_strings_have_no_tree(env_id):
    assert expand(env_id) is None


def test_moves_at_once_are_unseen_and_one_step():
    tree = expand_game("matrix_rps")
    assert tree.num_nodes == 1 + 3 + 9
    assert len(tree.legal[1]) == 1  # the second player does not see the first one's move
    assert tree.inner.tolist() == [False] + [True] * 3 + [False] * 9
    assert tree.num_steps().tolist() == [0] + [0] * 3 + [1] * 9
    assert tree.observation[0].shape[1] == load_game("matrix_rps").information_state_tensor_size()


def test_where_moves_at_once_lead():
    tree = expand_game("blotto(players=3,coins=3,fields=2)")
    moves = MoveTable(tree)
    assert moves.at_once and [infoset[0] for infoset in moves.infoset] == [0, 0, 0]
    for ranks in np.ndindex(4, 4, 4):
        node = moves.first[0] + sum(rank * stride[0] for rank, stride in zip(ranks, moves.stride, strict=True))
        assert tree.player[node] == TERMINAL
        path = []
        while node:
            path.insert(0, tree.action[node])
            node = tree.parent[node]
        assert path == list(ranks)


def test_players_who_forget_have_no_sequence_form():
    tree = expand_game("liars_dice_ir(dice_sides=3)")
    assert tree is not None
    assert SequenceFormGame.build(tree) is None
    assert OpenSpielEnv.make_exact(env_id="liars_dice_ir(dice_sides=3)") is None
    assert SequenceFormGame.build(expand_game("dark_hex(num_rows=2,num_cols=2)")) is not None


def test_a_tree_is_shared_and_cannot_be_changed():
    tree = expand_game("kuhn_poker")
    assert expand_game("kuhn_poker") is tree
    with pytest.raises(ValueError):
        tree.returns[0] = 1.0
    with pytest.raises(ValueError):
        tree.observation[0][0] = 1.0
    observations, mask = make("kuhn_poker").information_sets("player_0")
    observations[:], mask[:] = 7, False  # the caller's own
    assert tree.legal[0].all() and tree.observation[0].max() == 1.0


def test_uneven_chance_is_drawn_and_weighed():
    """The poker games deal evenly; here the first card is not."""
    tree = expand_game("kuhn_poker")
    probability = tree.probability.copy()
    probability[1:4] = 0.7, 0.1, 0.2
    uneven = dataclasses.replace(tree, probability=probability)
    num_draws = 200_000
    drawn = ChanceTable(uneven).draw_first(np.random.default_rng(0).random(num_draws))
    first_card = tree.action[tree.parent[drawn]]
    np.testing.assert_allclose(np.bincount(first_card) / num_draws, [0.7, 0.1, 0.2], atol=0.005)
    second_card = tree.action[drawn]
    assert np.all(first_card != second_card)
    assert np.mean(second_card[first_card == 0] == 1) == pytest.approx(0.5, abs=0.01)
    game = SequenceFormGame.build(uneven)
    by_card = [
        SequenceFormGame.build(dataclasses.replace(tree, probability=np.r_[1.0, np.eye(3)[card], probability[4:]]))
        for card in range(3)
    ]
    pools = random_pools(game, (2, 2))
    expected = sum(p * part.payoffs(pools) for p, part in zip((0.7, 0.1, 0.2), by_card, strict=True))
    np.testing.assert_allclose(game.payoffs(pools), expected, atol=1e-12)


def test_chance_inside_the_game_is_drawn_from_the_right_node():
    tree = expand_game("leduc_poker")
    table = ChanceTable(tree)
    inside = np.flatnonzero(tree.player == CHANCE)
    inside = inside[tree.player[tree.parent[inside]] >= 0]
    nodes = np.repeat(inside, 2000)
    drawn = table.draw(nodes, np.random.default_rng(0).random(len(nodes)))
    assert np.array_equal(tree.parent[drawn], nodes)
    counts = np.bincount(drawn, minlength=tree.num_nodes)
    children = np.flatnonzero(np.isin(tree.parent, inside))
    z = (counts[children] - 500) / np.sqrt(2000 * 0.25 * 0.75)
    assert np.abs(z).max() < 5 and np.mean(z**2) == pytest.approx(1.0, abs=0.2)
