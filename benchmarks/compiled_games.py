"""Decisions per second of compiled games on one core, random legal play, beside two loops over OpenSpiel, in one run.

    python benchmarks/compiled_games.py

A decision is one agent's action in one environment; a second is one of the process's own processor time, so that other
work on the machine counts little. Drawing the actions is part of every loop: for a compiled game, one uniform number
per agent and environment and a look-up among the legal actions of its observation; the last column tells what the same
loop does with the time of drawing left out. "pyspiel" steps bare states from Python, chance drawn from its outcomes,
and observes nothing; "rl_environment" is OpenSpiel's own environment for learners. Every way runs several times in
turn, and the medians count.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Mapping

import numpy as np
import pyspiel
from open_spiel.python import rl_environment

from malib_lite.contracts.environment import AgentID
from malib_lite.contracts.vector import AgentView, VectorEnvironment
from malib_lite.envs.open_spiel import OpenSpielEnv

GAMES = ["kuhn_poker", "leduc_poker", "goofspiel(num_cards=4,imp_info=True,points_order=descending)"]
NUM_ENVS = [64, 256, 1024, 4096]
SECONDS, REPEATS = 0.4, 5


class RandomPlay:
    """Uniformly random legal actions for all agents of a compiled game."""

    def __init__(self, environments: VectorEnvironment) -> None:
        self._generator = np.random.default_rng(0)
        self._num_envs = environments.num_envs
        self._tables = {}
        for agent in environments.possible_agents:
            table = environments.observation_table(agent)
            assert table is not None and table[1] is not None
            mask = table[1]  # (I, A)
            ordered = np.argsort(~mask, axis=1, kind="stable")  # the legal actions of an observation come first
            self._tables[agent] = mask.sum(axis=1).astype(np.float64), ordered.ravel(), mask.shape[1]

    def draw(self, views: Mapping[AgentID, AgentView]) -> dict[AgentID, np.ndarray]:
        actions = {}
        for agent, view in views.items():
            count, ordered, num_actions = self._tables[agent]
            index = view.observation_index
            assert index is not None
            entry = (self._generator.random(self._num_envs) * count.take(index)).astype(np.int64)
            entry += index * num_actions
            actions[agent] = ordered.take(entry)
        return actions


def compiled(env_id: str, num_envs: int) -> tuple[float, float]:
    """Decisions per second, with the drawing of actions and without."""
    environments = OpenSpielEnv.make_vector(range(num_envs), None, env_id=env_id, compiled=True)
    assert environments is not None
    player = RandomPlay(environments)
    views = environments.reset(np.ones(num_envs, bool))
    for _ in range(20):
        views = environments.step(player.draw(views))
        views = environments.reset(environments.finished)
    decisions, drawing, started = 0, 0.0, time.process_time()
    while time.process_time() - started < SECONDS:
        for _ in range(20):
            before = time.process_time()
            actions = player.draw(views)
            drawing += time.process_time() - before
            decisions += sum(int(np.count_nonzero(view.acting)) for view in views.values())
            views = environments.step(actions)
            if environments.finished.any():
                views = environments.reset(environments.finished)
    seconds = time.process_time() - started
    return decisions / seconds, decisions / (seconds - drawing)


def bare_pyspiel(env_id: str) -> float:
    """Decisions per second of states that are stepped from Python."""
    game, choose = pyspiel.load_game(env_id), random.Random(0)
    decisions, started = 0, time.process_time()
    while time.process_time() - started < SECONDS:
        for _ in range(100):
            state = game.new_initial_state()
            while not state.is_terminal():
                if state.is_chance_node():
                    outcomes, weights = zip(*state.chance_outcomes(), strict=True)
                    state.apply_action(choose.choices(outcomes, weights)[0])
                elif state.is_simultaneous_node():
                    legal = [state.legal_actions(player) for player in range(game.num_players())]
                    state.apply_actions([choose.choice(actions) for actions in legal])
                    decisions += len(legal)
                else:
                    state.apply_action(choose.choice(state.legal_actions()))
                    decisions += 1
    return decisions / (time.process_time() - started)


def open_spiels_environment(env_id: str) -> float:
    """Decisions per second of ``rl_environment``."""
    environment, choose = rl_environment.Environment(pyspiel.load_game(env_id)), random.Random(0)
    decisions, started = 0, time.process_time()
    while time.process_time() - started < SECONDS:
        for _ in range(20):
            step = environment.reset()
            while not step.last():
                legal = step.observations["legal_actions"]
                player = step.observations["current_player"]
                acting = legal if player < 0 else [legal[player]]
                step = environment.step([choose.choice(actions) for actions in acting])
                decisions += len(acting)
    return decisions / (time.process_time() - started)


def main() -> None:
    """Print the table."""
    for env_id in GAMES:
        runs: dict[str, list[float]] = {}
        without: dict[str, list[float]] = {}
        for _ in range(REPEATS):
            for num_envs in NUM_ENVS:
                name = f"compiled, {num_envs} environments"
                all_in, stepping = compiled(env_id, num_envs)
                runs.setdefault(name, []).append(all_in)
                without.setdefault(name, []).append(stepping)
            runs.setdefault("pyspiel", []).append(bare_pyspiel(env_id))
            runs.setdefault("rl_environment", []).append(open_spiels_environment(env_id))
        medians = {name: statistics.median(values) for name, values in runs.items()}
        print(f"\n{env_id}\n{'':32}{'million/s':>10}{'x pyspiel':>11}{'x rl_env':>10}{'not drawing':>13}")
        for name, value in medians.items():
            stepping = f"{statistics.median(without[name]) / 1e6:13.2f}" if name in without else ""
            ratios = f"{value / medians['pyspiel']:11.1f}{value / medians['rl_environment']:10.1f}"
            print(f"{name:32}{value / 1e6:10.2f}{ratios}{stepping}")


if __name__ == "__main__":
    main()
