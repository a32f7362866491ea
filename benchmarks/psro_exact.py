"""Exact double oracle on Leduc poker beside OpenSpiel's psro_v2 with exact oracles, in one run.

    OMP_NUM_THREADS=1 python benchmarks/psro_exact.py

Seconds are of the process's own processor time, so that other work on the machine counts little; the wall's stand
beside them. What counts is iterating: best responses, payoffs and mixtures. Making the game and the oracles, and
NashConv after each iteration, are left out on both sides and reported apart.

OpenSpiel samples payoffs, here 50 episodes for each entry, which is few. Its mixtures are computed by malib_lite's
``nash``: its own solver needs cvxpy and fails under numpy 2. Its NashConv is computed in C++.

Then: NashConv of one and the same neural network by both; 1,000 policies for every player; and the extensive-form
double oracle (XDO).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import resource
import statistics
import sys
import time
import types
from collections.abc import Iterator

import numpy as np
import pyspiel
import torch
from open_spiel.python import policy as policies
from open_spiel.python.algorithms import exploitability, policy_aggregator

from malib_lite.algorithms.ppo import PPOPolicy
from malib_lite.contracts.exact import ExactGame
from malib_lite.envs.open_spiel import OpenSpielEnv
from malib_lite.population.exploitability import ExactEvaluator
from malib_lite.population.meta_solvers import nash
from malib_lite.population.restricted_game import RestrictedGame

GAME = "leduc_poker"
BOUNDS = (2.0, 1.0, 0.1)
REPEATS = 3
EPISODES_PER_ENTRY = 50


class Clock:
    """Processor and wall seconds spent inside its ``with`` blocks."""

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0

    def __enter__(self) -> Clock:
        self._start = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu += time.process_time() - self._start[0]
        self.wall += time.perf_counter() - self._start[1]


def make_game() -> ExactGame:
    """Leduc poker's exact values."""
    game = OpenSpielEnv.make_exact(env_id=GAME)
    assert game is not None
    return game


def ours(game: ExactGame, spent: Clock, evaluating: Clock) -> Iterator[float]:
    """NashConv after each iteration; the first policies are uniform."""
    evaluator = ExactEvaluator(game)
    for agent in game.agents:
        mask = game.information_sets(agent)[1]
        evaluator.add_table(agent, mask / mask.sum(axis=1, keepdims=True))
    while True:
        with spent:
            mixtures = dict(zip(game.agents, nash(evaluator.payoffs()), strict=True))
        with evaluating:
            nash_conv = evaluator.nash_conv(mixtures)
        yield nash_conv
        with spent:
            responses = [evaluator.best_response(agent, mixtures)[1] for agent in game.agents]
            for agent, response in zip(game.agents, responses, strict=True):
                evaluator.add_table(agent, response)


def open_spiels(spent: Clock, evaluating: Clock) -> Iterator[float]:
    """The same of OpenSpiel's psro_v2."""
    # Its module of solvers cannot be imported without cvxpy, and is not used.
    sys.modules["open_spiel.python.algorithms.lp_solver"] = types.ModuleType("lp_solver")
    from open_spiel.python.algorithms.psro_v2 import best_response_oracle, psro_v2

    def mix(solver: psro_v2.PSROSolver, return_joint: bool = False) -> object:
        first, _ = solver.get_meta_game()
        mixtures = nash(np.stack([first, -first]))  # sampled alike for both, so the sum is zero up to rounding
        return (mixtures, np.outer(*mixtures).ravel()) if return_joint else mixtures

    # OpenSpiel draws from numpy's global stream.
    np.random.seed(0)  # noqa: NPY002
    game = pyspiel.load_game(GAME)
    with contextlib.redirect_stdout(io.StringIO()):
        solver = psro_v2.PSROSolver(
            game,
            best_response_oracle.BestResponseOracle(game=game),
            sims_per_entry=EPISODES_PER_ENTRY,
            meta_strategy_method=mix,
            training_strategy_selector="probabilistic",
            sample_from_marginals=True,
        )
    while True:
        with evaluating:
            pools, mixtures = solver.get_policies(), solver.get_meta_strategies()
            mixture = policy_aggregator.PolicyAggregator(game).aggregate(range(2), pools, mixtures)
            table = policies.tabular_policy_from_callable(game, mixture)
            nash_conv = pyspiel.nash_conv(game, policies.python_policy_to_pyspiel_policy(table))
        yield nash_conv
        with spent:
            solver.iteration()


def reached(trace: Iterator[float], spent: Clock, limit: float) -> dict[float, tuple[int, float, float]]:
    """Iterations, processor and wall seconds until NashConv is below each bound, as far as the time allows."""
    times: dict[float, tuple[int, float, float]] = {}
    for iteration, nash_conv in enumerate(trace):
        for bound in BOUNDS:
            if nash_conv < bound and bound not in times:
                times[bound] = iteration, spent.cpu, spent.wall
        if len(times) == len(BOUNDS) or spent.cpu > limit:
            break
    return times


def psro(game: ExactGame, limit: float) -> None:
    """Ours and OpenSpiel's, to each bound."""
    runs, evaluating = [], Clock()
    for _ in range(REPEATS):
        spent, evaluating = Clock(), Clock()
        runs.append(reached(ours(game, spent, evaluating), spent, limit))
    print(f"evaluation, left out: {evaluating.cpu:.2f} s of ours in all")
    spent, evaluating = Clock(), Clock()
    theirs = reached(open_spiels(spent, evaluating), spent, limit)
    print(f"                      {evaluating.cpu:.2f} s of OpenSpiel's in all")
    print(f"\n{'NashConv':10}{'malib_lite':>30}{'OpenSpiel psro_v2':>32}{'ratio':>14}")
    for bound in BOUNDS:
        iteration, cpu, wall = (statistics.median(run[bound][part] for run in runs) for part in range(3))
        line = f"< {bound:<8}{cpu:10.3f} s ({wall:6.3f} s, {iteration:3.0f})"
        if bound in theirs:
            other, their_cpu, their_wall = theirs[bound]
            print(f"{line}{their_cpu:14.1f} s ({their_wall:6.1f} s, {other:3})   {their_cpu / cpu:10.0f} x")
        else:
            print(f"{line}{f'not in {spent.cpu:.0f} s':>31}{f'> {spent.cpu / cpu:.0f} x':>15}")
    print("processor seconds (wall seconds, iterations)")


class Network(policies.Policy):
    """A policy network as OpenSpiel's algorithms take it: asked at one state at a time."""

    def __init__(self, game: pyspiel.Game, networks: list[PPOPolicy]) -> None:
        super().__init__(game, list(range(game.num_players())))
        self._networks = networks

    def action_probabilities(self, state: pyspiel.State, player_id: int | None = None) -> dict[int, float]:
        player = state.current_player() if player_id is None else player_id
        observation = torch.tensor(state.information_state_tensor(player))[None]
        mask = torch.tensor(state.legal_actions_mask(player), dtype=torch.bool)[None]
        with torch.inference_mode():
            probabilities = self._networks[player].action_probs(observation, mask)[0].tolist()
        return {action: probabilities[action] for action in state.legal_actions(player)}


def neural(game: ExactGame) -> None:
    """NashConv of the same networks, from their parameters to the number."""
    env = OpenSpielEnv(env_id=GAME)
    torch.manual_seed(0)
    networks = [PPOPolicy(env.observation_spaces[agent], env.action_spaces[agent]) for agent in game.agents]
    for parameter in (parameter for network in networks for parameter in network.parameters()):
        torch.nn.init.normal_(parameter, std=0.3)  # a fresh actor is almost uniform
    seconds = []
    for _ in range(20):
        with Clock() as spent:
            evaluator = ExactEvaluator(game)
            for agent, network in zip(game.agents, networks, strict=True):
                evaluator.add(agent, network)
            nash_conv = evaluator.nash_conv(dict.fromkeys(game.agents, np.ones(1)))
        seconds.append(spent.cpu)
    plain = pyspiel.load_game(GAME)
    with Clock() as spent:
        theirs = exploitability.nash_conv(plain, Network(plain, networks))
    ratio = spent.cpu / statistics.median(seconds)
    print(f"malib_lite {nash_conv:.6f} in {1e3 * statistics.median(seconds):.1f} ms, ", end="")
    print(f"OpenSpiel {theirs:.6f} in {spent.cpu:.2f} s: {ratio:.0f} x")


def thousand(game: ExactGame) -> None:
    """Payoffs, NashConv and a best response among 1,000 policies of each player."""
    rng = np.random.default_rng(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    evaluator = ExactEvaluator(game)
    with Clock() as adding:
        for agent in game.agents:
            mask = game.information_sets(agent)[1]
            for _ in range(1000):
                weight = rng.exponential(size=mask.shape) * mask
                evaluator.add_table(agent, weight / weight.sum(axis=1, keepdims=True))
    with Clock() as whole:
        evaluator.payoffs()
    mixtures = {agent: rng.dirichlet(np.ones(1000)) for agent in game.agents}
    with Clock() as judging:
        evaluator.nash_conv(mixtures)
    with Clock() as one_more:
        responses = [evaluator.best_response(agent, mixtures)[1] for agent in game.agents]
        for agent, response in zip(game.agents, responses, strict=True):
            evaluator.add_table(agent, response)
        evaluator.payoffs()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"adding them {adding.cpu:.2f} s, the whole table {whole.cpu:.2f} s, NashConv {1e3 * judging.cpu:.1f} ms")
    print(f"one more of each {1e3 * one_more.cpu:.0f} ms; memory {peak / 1024:.0f} MB, {before / 1024:.0f} before")


def xdo(game: ExactGame) -> None:
    """Iterations and seconds of the extensive-form double oracle, from the first legal actions."""
    masks = {agent: game.information_sets(agent)[1] for agent in game.agents}
    restricted = RestrictedGame(game, {agent: np.eye(m.shape[1])[m.argmax(axis=1)] for agent, m in masks.items()})
    spent, alone = Clock(), dict.fromkeys(game.agents, np.ones(1))
    nash_conv, iteration = np.inf, -1
    while nash_conv >= 1e-3:
        iteration += 1
        with spent:
            evaluator = ExactEvaluator(game)
            for agent, policy in restricted.equilibrium().items():
                evaluator.add_table(agent, policy)
        nash_conv = evaluator.nash_conv(alone)
        with spent:
            for agent in game.agents:
                restricted.allow(agent, evaluator.best_response(agent, alone)[1])
    print(f"NashConv {nash_conv:.1e} in {iteration} iterations, {spent.cpu:.2f} s ({spent.wall:.2f} s wall)")


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description="Exact double oracle on Leduc poker beside OpenSpiel's psro_v2.")
    parser.add_argument("--limit", type=float, default=60.0, help="processor seconds for OpenSpiel's iterations")
    limit = parser.parse_args().limit
    torch.set_num_threads(1)
    with Clock() as starting:
        game = make_game()
        nash(np.zeros((2, 1, 1)))  # imports the solver
    print(f"making the game and loading the solver, left out: {starting.cpu:.2f} s")
    psro(game, limit)
    print("\nNashConv of a neural policy")
    neural(game)
    print("\n1,000 policies of each player")
    thousand(game)
    print("\nextensive-form double oracle, to NashConv 0.001")
    xdo(game)


if __name__ == "__main__":
    main()
