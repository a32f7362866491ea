"""PSRO on Leduc poker grown to 1,000 policies of each player: memory, seconds per iteration, disk.

    python benchmarks/many_policies.py                          (Linux: reads /proc)
    python benchmarks/many_policies.py --members 300 --meta-solver nash

Runs the command line as a user would, with one rollout worker and two learners in processes of their own. Best
responses are learnt by DQN with its default network, by a few hundred environment steps each, just enough to make
every policy another one. ``uniform`` mixtures are the hardest case: all members play in every iteration.

Once a second the proportional set size (pages that processes share count once) of the command's processes is summed.
The shared memory's files are counted in full instead of what is mapped of them. Afterwards entries of the saved payoff
table are computed anew by OpenSpiel's own traversal of the game, state by state from the members' files, and the run is
evaluated by ``malib_lite.evaluate``, its memory sampled alike.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyspiel
import torch
from footprint import tree
from open_spiel.python import policy as policies
from open_spiel.python.algorithms import expected_game_score

from malib_lite.algorithms.dqn import DQNPolicy, DQNTrainer
from malib_lite.envs.open_spiel import OpenSpielEnv
from malib_lite.population.saved import SavedPopulation

GAME = "leduc_poker"
SHARED = Path("/dev/shm")


class Peak:
    """The most memory that a command's processes held at a time, in MiB."""

    def __init__(self) -> None:
        self.total = self.shared = 0.0
        self.by_process: dict[int, float] = {}  # at that time

    def sample(self, root: int) -> None:
        """Look once."""
        sizes: dict[int, float] = {}
        for pid in tree(root):
            try:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            except OSError:
                continue  # it has just ended
            kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith("kB")}
            sizes[pid] = (kib["Pss"] - kib["Pss_Shmem"]) / 1024
        files = [file.stat() for folder in SHARED.glob(f"malib_lite-{root}-*") for file in folder.iterdir()]
        shared = sum(512 * of_file.st_blocks for of_file in files) / 2**20
        if sum(sizes.values()) + shared > self.total:
            self.total, self.shared, self.by_process = sum(sizes.values()) + shared, shared, sizes

    def describe(self, logs: Path | None = None) -> str:
        """The sum and its parts; actors are called what their ``logs`` call them."""
        names = {next(iter(self.by_process)): "main"}
        for log in logs.glob("*.log") if logs else ():
            names[int(log.read_text().partition("process ")[2].partition(",")[0])] = log.stem
        parts = [f"{names[pid]} {size:.0f}" for pid, size in self.by_process.items() if pid in names]
        others = sum(size for pid, size in self.by_process.items() if pid not in names)
        return f"at most {self.total:.0f} MiB: {', '.join(parts)}, other {others:.0f}, shared memory {self.shared:.0f}"


def run(arguments: Sequence[str]) -> Peak:
    """Run one of our commands; returns its memory."""
    started, peak = time.monotonic(), Peak()
    process = subprocess.Popen([sys.executable, "-m", *arguments], stdout=subprocess.DEVNULL)
    pids: set[int] = set()
    while process.poll() is None:
        pids.update(tree(process.pid))
        peak.sample(process.pid)
        time.sleep(1.0)
    wall = time.monotonic() - started
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with exit code {process.returncode}")
    left, patience = pids, 10.0
    while left and patience > 0.0:  # the fork server ends when it sees that the main process has ended
        time.sleep(0.5)
        left, patience = {pid for pid in left if Path(f"/proc/{pid}").exists()}, patience - 0.5
    files = [str(folder) for folder in SHARED.glob(f"malib_lite-{process.pid}-*")]
    print(f"  exit code 0 after {wall:.0f} s; left: {len(left)} processes, {len(files)} folders of shared memory")
    return peak


class Network(policies.Policy):
    """Two members as OpenSpiel's algorithms take them: asked at one state at a time."""

    def __init__(self, game: pyspiel.Game, networks: Sequence[DQNPolicy]) -> None:
        super().__init__(game, list(range(game.num_players())))
        self._networks = networks

    def action_probabilities(self, state: pyspiel.State, player_id: int | None = None) -> dict[int, float]:
        player = state.current_player() if player_id is None else player_id
        observation = torch.tensor(state.information_state_tensor(player))[None]
        mask = torch.tensor(state.legal_actions_mask(player), dtype=torch.bool)[None]
        with torch.inference_mode():
            action = int(self._networks[player].compute_action(observation, mask, evaluate=True).action)
        return {legal: float(legal == action) for legal in state.legal_actions(player)}


def check(saved: SavedPopulation, num_entries: int) -> float:
    """Largest difference between entries of the saved payoff table and what OpenSpiel makes of the same members."""
    assert saved.payoffs is not None
    env, game, random = OpenSpielEnv(env_id=GAME), pyspiel.load_game(GAME), np.random.default_rng(0)
    model = DQNTrainer.best_response_defaults["model"]
    worst = 0.0
    for _ in range(num_entries):
        choice = [int(random.integers(len(members))) for members in saved.members.values()]
        networks = []
        for (agent, members), number in zip(saved.members.items(), choice, strict=True):
            network = DQNPolicy(env.observation_spaces[agent], env.action_spaces[agent], model)
            network.import_state(saved.folder.load(members[number].digest))
            networks.append(network.eval())
        state, players = game.new_initial_state(), Network(game, networks)
        value = expected_game_score.policy_value(state, [players, players])
        worst = max(worst, float(np.abs(saved.payoffs[:, choice[0], choice[1]] - value).max()))
    return worst


def size_mib(folder: Path) -> float:
    """What the files of a folder take on disk."""
    return sum(512 * path.stat().st_blocks for path in folder.rglob("*") if path.is_file()) / 2**20


def main() -> None:
    """Run, measure, check and print."""
    parser = argparse.ArgumentParser(description="PSRO on Leduc poker with many policies.")
    parser.add_argument("--members", type=int, default=1000, help="policies of each player")
    parser.add_argument("--meta-solver", default="uniform", help="as --psro.meta_solver")
    parser.add_argument("--steps", type=int, default=256, help="environment steps of each best response")
    parser.add_argument("--checks", type=int, default=10, help="payoffs that are computed anew")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        print(f"psro, {options.meta_solver} mixtures, {options.steps} steps for each best response")
        peak = run([
            "malib_lite.train", "psro", "--env", f"open_spiel/{GAME}", "--quiet", "--logdir", str(path),
            "--workers", "1", "--iterations", str(options.members - 1), "--steps", str(options.steps),
            "--psro.meta_solver", options.meta_solver,
            "--rollout.fragment_length", "256", "--rollout.num_env_per_thread", "32",
            "--trainer.learning_starts", "64", "--trainer.updates_per_step", "0.05",
        ])  # fmt: skip
        reports = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        summary = json.loads((path / "summary.json").read_text())
        walls = [report["time"]["wall_s"] for report in reports]
        seconds = [after - before for before, after in itertools.pairwise(walls)]
        part = min(100, len(seconds))
        saved = SavedPopulation.read(path)
        pools = {player: (len(members), len(set(members))) for player, members in saved.members.items()}
        print(f"  members (of these different): {', '.join(f'{p} {n} ({d})' for p, (n, d) in pools.items())}")
        print(f"  environment steps {summary['env_steps']:,}, updates {summary['updates']:,}", end="")
        print(f", NashConv {reports[0]['nash_conv']:.3f} at first, {summary['nash_conv']:.3f} in the end")
        print(f"  seconds per iteration: first {part} {statistics.mean(seconds[:part]):.3f}", end="")
        print(f", last {part} {statistics.mean(seconds[-part:]):.3f}, longest {max(seconds):.2f}")
        print(f"  memory {peak.describe(path / 'logs')}")
        parts = {name: size_mib(path / name) for name in ("checkpoints", "checkpoints/policies")}
        print(f"  disk: {', '.join(f'{name} {size:.0f} MiB' for name, size in parts.items())}", end="")
        print(f", metrics.jsonl {(path / 'metrics.jsonl').stat().st_size / 2**20:.0f} MiB")
        print(f"  {options.checks} payoffs differ from OpenSpiel's by at most {check(saved, options.checks):.1e}")
        print("evaluate, all members alike")
        peak = run(["malib_lite.evaluate", f"{path}@average", "--out", str(Path(folder) / "out")])
        print(f"  memory {peak.describe()}")


if __name__ == "__main__":
    main()
