"""Mutated files given to the commands that read files of others: ``python tests/fuzz.py FOLDER SEED FIRST COUNT``.

FOLDER holds run folders, which :func:`make_runs` makes, and is written to. Each case is named by SEED and its number.
What is wrong is printed, one line of JSON for each case: an exception, an exit code that is neither 0 nor 2, a refusal
that is no sentence or does not name the file, a warning, memory far beyond the files.
"""

from __future__ import annotations

import contextlib
import io
import json
import resource
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import yaml
from mutations import mutate_folder, mutated_yaml

from malib_lite import evaluate, train

LIMIT_S = 120  # against what never ends
MEMORY = 512 * 2**20  # bytes that one case may add
ROCK = ["--env", "matrix/rock_paper_scissors", "--workers", "0", "--steps", "64", "--model.hidden_sizes", "[4]"]
RUNS = {
    "solved": ["psro", "--env", "open_spiel/kuhn_poker", "--psro.oracle", "exact", "--iterations", "2"],
    "psro": ["psro", *ROCK, "--iterations", "2"],
    "marl": ["marl", *ROCK],
    "self_play": ["self_play", *ROCK, "--iterations", "2"],
    "nfsp": ["nfsp", *ROCK],
    "league": ["league", *ROCK, "--iterations", "1"],
}
CONFIGS: list[dict[str, Any]] = [
    {"scenario": "psro", "env": "open_spiel/kuhn_poker", "iterations": 2, "psro": {"oracle": "exact"}},
    {
        "scenario": "psro", "env": "open_spiel/leduc_poker(players=2)", "algorithm": "dqn",
        "psro": {"meta_solver": "prd", "payoffs": "sampled"},
    },
    {
        "scenario": "marl", "env": "matrix/custom", "steps": 100, "seed": 3, "algorithm": "ppo", "mapping": "shared",
        "env_config": {
            "payoffs": [[[3, 3], [0, 4]], [[4, 0], [1, 1]]], "rounds": 10, "observe": ["last_actions", "round"],
        },
    },
    {
        "scenario": "marl", "env": "gym/CartPole-v1", "workers": 2, "learners": 2, "sync": "bsp", "logdir": "logs/x",
        "trainer": {"learning_rate": 1e-3, "clip_ratio": 0.2}, "model": {"hidden_sizes": [64, 64], "memory": "gru"},
        "stopping": {"training": {"max_iteration": 3}, "rollout": {"minimum_reward_improvement": 0.1}},
        "rollout": {"num_env_per_thread": 4, "use_subproc_env": True, "inference_server": "pipe"},
    },
    {"scenario": "league", "env": "matrix/rock_paper_scissors", "league": {"main_exploiters": 1}},
    {"scenario": "xdo", "env": "open_spiel/kuhn_poker", "xdo": {"max_iteration": 2}},
    {"scenario": "nfsp", "env": "open_spiel/kuhn_poker", "nfsp": {"anticipatory": 0.1, "model": {"hidden_sizes": [8]}}},
]  # fmt: skip


class Hung(BaseException):
    """A case has taken too long."""


def make_runs(folder: Path, names: list[str]) -> None:
    """Run folders to be mutated."""
    for name in names:
        assert train.main([*RUNS[name], "--logdir", str(folder / name), "--quiet"]) == 0


def prepare(folder: Path, seed: int, number: int) -> tuple[str, list[str], Path]:
    """Write the files of a case into ``folder / "case"``.

    Returns:
        What was changed, the command and its arguments, and the file or folder that a refusal must name.
    """
    rng = Random(f"{seed} {number}")
    case = folder / "case"
    shutil.rmtree(case, ignore_errors=True)
    runs = sorted(path for path in folder.iterdir() if (path / "config.yaml").exists())
    source = rng.choice(runs)
    if rng.random() < 0.65:
        shutil.copytree(source, case)
        what = f"{source.name}: {mutate_folder(rng, case)}"
        options = ["--episodes", "5", *["--sampled"] * (rng.random() < 0.2)]
        return what, ["evaluate", str(case) + rng.choice(["", "", "@average", "@best", "@latest"]), *options], case
    case.mkdir()
    file = case / "theirs.yaml"
    config = rng.choice([*CONFIGS, yaml.safe_load((source / "config.yaml").read_text())])
    file.write_bytes(mutated_yaml(rng, yaml.safe_dump(config).encode()))
    return f"--config: {config['scenario']}", ["train", "--config", str(file)], file


def problem_of(named: Path, code: Any, error: str) -> str | None:
    """What is wrong with the end of a command."""
    if code not in (0, 2):
        return f"exit code {code}"
    if "Traceback" in error or len(error) > 2000:
        return "what it says is no sentence"
    if code == 2 and not error.startswith("error: "):
        return "the refusal does not say that it is an error"
    if code == 2 and str(named) not in error:
        return "the refusal does not name the file"
    return None


def try_in_process(command: list[str], named: Path) -> tuple[int | None, str, str | None]:
    """Exit code, what is on stderr, and what is wrong. A training is stopped where it would begin."""
    main = {"evaluate": evaluate.main, "train": train.main}[command[0]]
    before, error = _most_memory(), io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()), _limit(), _nothing_begins():
        try:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                code = main(command[1:])
        except (Exception, SystemExit, Hung) as raised:
            places = [f"{at.filename[-30:]}:{at.lineno}" for at in traceback.extract_tb(raised.__traceback__)[-6:]]
            return None, error.getvalue(), f"{type(raised).__name__}: {str(raised)[:300]} at {places}"
    problem = problem_of(named, code, error.getvalue())
    if problem is None and _most_memory() - before > MEMORY:
        problem = f"{(_most_memory() - before) / 2**20:.0f} MiB were taken"
    if problem is None and warned:
        first = warned[0]
        problem = f"it warns: {first.category.__name__}: {first.message} ({first.filename[-40:]}:{first.lineno})"
    return code, error.getvalue(), problem


def try_cases(folder: Path, seed: int, numbers: Iterable[int]) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """How often each exit code came, and what is wrong."""
    codes: dict[str, int] = {}
    wrong = []
    for number in numbers:
        what, command, named = prepare(folder, seed, number)
        code, error, problem = try_in_process(command, named)
        codes[str(code)] = codes.get(str(code), 0) + 1
        if problem is not None:
            wrong.append({"number": number, "what": what, "problem": problem, "error": error[:600]})
    return codes, wrong


def main() -> None:
    """Exit code 1 where anything is wrong."""
    folder, seed, first, count = Path(sys.argv[1]), *map(int, sys.argv[2:])
    resource.setrlimit(resource.RLIMIT_DATA, (6 * 2**30, resource.RLIM_INFINITY))
    codes, wrong = try_cases(folder, seed, range(first, first + count))
    for case in wrong:
        print(json.dumps(case))
    print(json.dumps(codes))
    sys.exit(bool(wrong))


def _most_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextlib.contextmanager
def _limit() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hung

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _nothing_begins() -> Iterator[None]:
    with (
        mock.patch.object(train, "_run", lambda scenario, quiet, started: 0),
        mock.patch.object(train, "_start_fork_server", lambda settings: None),
        mock.patch("malib_lite.runtime.run_folder.make_folder", lambda path: path),
    ):
        yield


if __name__ == "__main__":
    main()
