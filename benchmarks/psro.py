"""PSRO with learnt best responses on Kuhn and Leduc poker beside OpenSpiel's psro_v2 with its torch DQN, in one run.

    pip install dm-tree                      # OpenSpiel's psro_v2 needs it
    python benchmarks/psro.py                # both games
    python benchmarks/psro.py --limit 60     # seconds that either side gets for each seed

Ours is the command line in processes of its own: on Leduc with its defaults, on Kuhn with half of the environment steps
for a best response. Its time runs from the first environment step to the report of a NashConv at most as large as the
bound, evaluation included; with start-up, from the start of the command. OpenSpiel's is the time inside
``solver.iteration()``: making games and networks, and NashConv (computed in C++), are left out.

Three seeds each, and the ratio of the medians. OpenSpiel's settings: networks of two layers of 64 (its example's four
of 256 are slower), 2,000 episodes for each best response, 200 per entry of the payoff table, Nash mixtures by
malib_lite's solver, since its own fails under numpy 2.
Wall seconds; run it on an idle machine.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyspiel
import torch
from open_spiel.python import policy as policies
from open_spiel.python import rl_environment
from open_spiel.python.algorithms import policy_aggregator

from malib_lite.population.meta_solvers import nash

# name, NashConv bounds, and what is added to our command
GAMES: dict[str, tuple[tuple[float, ...], list[str]]] = {
    "kuhn_poker": ((0.10, 0.05), ["--steps", "15000"]),
    "leduc_poker": ((3.0, 2.0), []),
}
SEEDS = (0, 1, 2)
EPISODES_PER_RESPONSE = 2000
EPISODES_PER_ENTRY = 200


def ours(
    game: str, bounds: tuple[float, ...], options: list[str], limit: float, seed: int
) -> tuple[dict[float, float], dict[float, float]]:
    """Seconds to each bound, from the first environment step and from the start of the command."""
    iterating: dict[float, float] = {}
    whole: dict[float, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "malib_lite.train", "psro", "--env", f"open_spiel/{game}", "--quiet",
            "--iterations", "200", "--psro.target", str(min(bounds)), "--logdir", folder, "--seed", str(seed), *options,
        ]  # fmt: skip
        started = time.perf_counter()
        process = subprocess.Popen(command)
        metrics = Path(folder) / "metrics.jsonl"
        seen = 0
        while time.perf_counter() - started < limit and min(bounds) not in whole and process.poll() is None:
            time.sleep(0.005)
            lines = metrics.read_text().splitlines() if metrics.exists() else []
            for line in lines[seen:]:
                with contextlib.suppress(json.JSONDecodeError):
                    report = json.loads(line)
                    seen += 1
                    if report["step"] == 0:
                        first = report["time"]["wall_s"]  # nothing has been played before this report
                    for bound in bounds:
                        if report["nash_conv"] <= bound and bound not in whole:
                            iterating[bound] = report["time"]["wall_s"] - first
                            whole[bound] = time.perf_counter() - started
        process.terminate()
        process.wait()
    return iterating, whole


def open_spiels(game_name: str, seed: int) -> Iterator[tuple[float, float]]:
    """NashConv after each iteration, and the seconds spent iterating."""
    from open_spiel.python.pytorch import dqn

    # psro_v2 imports its agents from jax, and a solver that needs cvxpy.
    for name, content in {
        "open_spiel.python.jax": {},
        "open_spiel.python.jax.dqn": {"DQN": dqn.DQN},
        "open_spiel.python.jax.policy_gradient": {"PolicyGradient": object},
        "open_spiel.python.algorithms.lp_solver": {},
    }.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        sys.modules[name] = module
    vars(sys.modules["open_spiel.python.jax"]).update(
        dqn=sys.modules["open_spiel.python.jax.dqn"],
        policy_gradient=sys.modules["open_spiel.python.jax.policy_gradient"],
    )
    from open_spiel.python.algorithms.psro_v2 import psro_v2, rl_oracle, rl_policy

    def mix(solver: psro_v2.PSROSolver, return_joint: bool = False) -> object:
        first, _ = solver.get_meta_game()
        mixtures = nash(np.stack([first, -first]))
        return (mixtures, np.outer(*mixtures).ravel()) if return_joint else mixtures

    np.random.seed(seed)  # noqa: NPY002 (OpenSpiel draws from numpy's global stream)
    torch.manual_seed(seed)
    env = rl_environment.Environment(game_name)
    settings = {
        "state_representation_size": env.observation_spec()["info_state"][0],
        "num_actions": env.action_spec()["num_actions"],
        "hidden_layers_sizes": [64, 64],
        "batch_size": 32,
        "learning_rate": 1e-2,
        "update_target_network_every": 500,
        "learn_every": 5,
        "epsilon_decay_duration": EPISODES_PER_RESPONSE,
        "optimizer_str": "adam",
    }
    with contextlib.redirect_stdout(io.StringIO()):
        oracle = rl_oracle.RLOracle(
            env, rl_policy.DQNPolicy, settings, number_training_episodes=EPISODES_PER_RESPONSE, sigma=0.0
        )
        agents = [rl_policy.DQNPolicy(env, player, **settings) for player in range(2)]
        for agent in agents:
            agent.freeze()
        solver = psro_v2.PSROSolver(
            env.game, oracle, initial_policies=agents, sims_per_entry=EPISODES_PER_ENTRY, meta_strategy_method=mix,
            training_strategy_selector="probabilistic", sample_from_marginals=True,
        )  # fmt: skip
    spent = 0.0
    while True:
        started = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            solver.iteration()
        spent += time.perf_counter() - started
        mixture = policy_aggregator.PolicyAggregator(env.game).aggregate(
            range(2), solver.get_policies(), solver.get_meta_strategies()
        )
        table = policies.tabular_policy_from_callable(env.game, mixture)
        yield pyspiel.nash_conv(env.game, policies.python_policy_to_pyspiel_policy(table)), spent


def theirs(game: str, bounds: tuple[float, ...], limit: float, seed: int) -> dict[float, float]:
    """Seconds to each bound as far as the time allows."""
    times: dict[float, float] = {}
    for nash_conv, spent in open_spiels(game, seed):
        for bound in bounds:
            if nash_conv <= bound and bound not in times:
                times[bound] = spent
        if len(times) == len(bounds) or spent > limit:
            break
    return times


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description="PSRO with DQN on Kuhn and Leduc poker beside OpenSpiel's psro_v2.")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for each game and side")
    parser.add_argument("games", nargs="*", help="; ".join(GAMES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'':28}{'malib_lite':>22}{'start-up included':>22}{'OpenSpiel':>22}{'ratio':>8}")
    for game in options.games or GAMES:
        bounds, added = GAMES[game]
        iterating, whole, other = [], [], []
        for seed in SEEDS:
            from_first_step, from_command = ours(game, bounds, added, options.limit, seed)
            iterating.append(from_first_step)
            whole.append(from_command)
            other.append(theirs(game, bounds, options.limit, seed))
        for bound in bounds:
            columns = [[times.get(bound, math.inf) for times in side] for side in (iterating, whole, other)]
            shown = "".join(
                f"{', '.join(show(seconds, options.limit) for seconds in column):>22}" for column in columns
            )
            mine, that = statistics.median(columns[0]), statistics.median(columns[2])
            ratio = f"{'> ' if that > options.limit else ''}{min(that, options.limit) / mine:.1f}"
            print(f"{game + ', NashConv ' + str(bound):28}{shown}{ratio:>8}")


def show(seconds: float, limit: float) -> str:
    """Seconds, or that there were not enough of them."""
    return f"{seconds:.1f}" if seconds < math.inf else f"> {limit:.0f}"


if __name__ == "__main__":
    main()
