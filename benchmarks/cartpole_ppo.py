"""CartPole with PPO: environment steps per second with learning, beside the bare environment loop, in one run.

    python benchmarks/cartpole_ppo.py

Three bare loops bound what is possible in one process: single gymnasium environments stepped one by one with random
actions, the vector form that the trainings use with random actions, and the same with a forward pass of the policy for
every step. The trainings are whole commands' worth: start-up excluded, evaluation excluded, learning included.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import gymnasium
import numpy as np
import torch

from malib_lite.algorithms.ppo import ALGORITHM
from malib_lite.envs.gym import env_desc_gen
from malib_lite.rollout.vector_env import vectorise
from malib_lite.runner import run
from malib_lite.runtime.console import Console
from malib_lite.scenarios.marl_scenario import MARLScenario

NUM_ENVS, SECONDS, STEPS = 16, 3.0, 100_000
ENV = env_desc_gen(env_id="CartPole-v1")


def bare_single() -> float:
    """Steps per second of one gymnasium environment."""
    env, random = gymnasium.make("CartPole-v1"), np.random.default_rng(0)
    actions = random.integers(2, size=100_000).tolist()
    env.reset(seed=0)
    steps, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        for action in actions[:1000]:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
        steps += 1000
    return steps / (time.perf_counter() - started)


def bare_vector(with_policy: bool) -> float:
    """Steps per second of the vector form, with random actions or the policy's."""
    venv, random = vectorise(ENV, NUM_ENVS, seed=0), np.random.default_rng(0)
    policy = ALGORITHM.policy(ENV["observation_spaces"]["agent"], ENV["action_spaces"]["agent"])
    views = venv.reset(np.ones(NUM_ENVS, bool))
    steps, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        for _ in range(100):
            if with_policy:
                with torch.inference_mode():
                    action = policy.compute_action(torch.from_numpy(views["agent"].observation)).action.numpy()
            else:
                action = random.integers(2, size=NUM_ENVS)
            views = venv.step({"agent": action})
            if venv.finished.any():
                views = venv.reset(venv.finished.copy())
        steps += 100 * NUM_ENVS
    return steps / (time.perf_counter() - started)


def training(workers: int) -> float:
    """Steps per second of a training, from its second report to its last."""
    with tempfile.TemporaryDirectory() as folder:
        scenario = MARLScenario(
            "benchmark", folder, {"default": ALGORITHM}, ENV,
            {"trainer_config": {"total_timesteps": STEPS}},
            {"num_threads": workers, "num_env_per_thread": NUM_ENVS, "eval_interval": 10_000},
        )  # fmt: skip
        run(scenario, Console(quiet=True))
        lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()][1:]
    return (lines[-1]["step"] - lines[0]["step"]) / (lines[-1]["time"]["wall_s"] - lines[0]["time"]["wall_s"])


def main() -> None:
    """Measure and print the table."""
    torch.set_num_threads(1)
    bare = bare_single()
    rows = {
        "bare gymnasium loop, random actions": bare,
        f"vector of {NUM_ENVS}, random actions": bare_vector(False),
        f"vector of {NUM_ENVS}, policy's actions": bare_vector(True),
        "PPO, serial mode": training(0),
        "PPO, 1 worker process": training(1),
        "PPO, 2 worker processes": training(2),
    }
    for name, speed in rows.items():
        print(f"{name:40} {speed:>12,.0f} steps/s {speed / bare:>8.2f} of the bare loop")


if __name__ == "__main__":
    main()
