"""What the rollout costs: CartPole through all of it against the bare vector environment, and dictionaries of agents.

python benchmarks/rollout.py

Every ratio is of two loops in this run. One core, one torch thread.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from pettingzoo import ParallelEnv

from malib_lite.algorithms.random_policy import RandomPolicy
from malib_lite.backend.ring import Slot, SlotLayout
from malib_lite.contracts.vector import VectorEnvironment
from malib_lite.environments import describe_environment
from malib_lite.rollout.inference.local import LocalInference
from malib_lite.rollout.recorder import trajectory_fields
from malib_lite.rollout.sampler import Sampler
from malib_lite.rollout.subproc_env import SubprocVectorEnv
from malib_lite.rollout.vector_env import vectorise

FRAGMENT = 128  # decisions of every environment between two hand-overs to the learner
REPEATS = 5


def seconds(run: Callable[[], None]) -> float:
    """The shortest of some runs: what it takes when nothing disturbs."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def bare_cartpole(num_envs: int, num_steps: int) -> float:
    """Steps per second of gymnasium's own vector environment with random actions."""
    venv = gymnasium.make_vec("CartPole-v1", num_envs=num_envs, vectorization_mode="vector_entry_point")
    venv.reset(seed=0)
    rng = np.random.default_rng(0)

    def run() -> None:
        for _ in range(num_steps):
            venv.step(rng.integers(0, 2, num_envs))

    return num_envs * num_steps / seconds(run)


def rollout_cartpole(num_envs: int, num_steps: int) -> float:
    """Steps per second of the rollout: a random policy, episodes begun anew, every decision recorded for a learner."""
    venv = vectorise(describe_environment("gym/CartPole-v1"), num_envs, seed=0)
    observation_space, action_space = venv.observation_spaces["agent"], venv.action_spaces["agent"]
    policy = RandomPolicy(observation_space, action_space)
    sampler = Sampler(venv, {"agent": ["agent"]}, LocalInference({"agent": policy}), FRAGMENT, whole_episodes=False)
    layout = SlotLayout(trajectory_fields(observation_space, action_space, policy.extra_fields, FRAGMENT, num_envs))
    slot = Slot(bytearray(layout.num_bytes), 0, layout)
    deque(sampler.play({"agent": slot}))  # the first fragment pays for pages that were never touched
    num_fragments = max(1, num_steps // FRAGMENT)
    sampler.take_books()
    elapsed = seconds(lambda: [deque(sampler.play({"agent": slot})) for _ in range(num_fragments)] and None)
    return sampler.take_books().env_steps / REPEATS / elapsed


class Still(ParallelEnv):
    """Three agents to whom nothing happens: all that is measured is the way there and back."""

    metadata = {"name": "still"}
    possible_agents = ["red", "green", "blue"]

    def __init__(self, length: int = 100) -> None:
        self.length = length
        self.observation = np.zeros(8, np.float32)

    def observation_space(self, agent: str) -> spaces.Space:
        return spaces.Box(-1, 1, (8,))

    def action_space(self, agent: str) -> spaces.Space:
        return spaces.Discrete(5)

    def reset(self, seed=None, options=None):
        self.agents, self.at = list(self.possible_agents), 0
        return dict.fromkeys(self.agents, self.observation), {agent: {} for agent in self.agents}

    def step(self, actions):
        self.at += 1
        acted, cut = self.agents, self.at == self.length
        if cut:
            self.agents = []
        each = dict.fromkeys
        return (
            each(acted, self.observation), each(acted, 0.0), each(acted, False), each(acted, cut),
            {agent: {} for agent in acted},
        )  # fmt: skip


def dictionary_overhead(make: Callable[[], ParallelEnv], num_steps: int, num_envs: int = 16) -> tuple[float, float]:
    """Microseconds of one bare step (all agents) of as many environments in turn, and what the engine adds to it."""
    bare = [make() for _ in range(num_envs)]  # as many: caches that are cold for the one must be so for the other
    for env in bare:
        env.reset(seed=0)
    agents = list(bare[0].possible_agents)
    rng = np.random.default_rng(0)
    actions = rng.integers(0, 5, (num_steps, len(agents), num_envs))
    choices = actions[: num_steps // num_envs].transpose(0, 2, 1).tolist()

    def run_bare() -> None:
        for rows in choices:
            for env, row in zip(bare, rows, strict=True):
                if not env.agents:
                    env.reset()
                env.step(dict(zip(agents, row, strict=True)))

    venv = vectorise(describe_environment(make), num_envs, seed=0)
    venv.reset(np.ones(num_envs, bool))

    def run_ours() -> None:
        for row in actions[: num_steps // num_envs]:
            venv.step(dict(zip(agents, row, strict=True)))
            if venv.finished.any():
                venv.reset(venv.finished)

    bare_us = seconds(run_bare) / (num_steps // num_envs * num_envs) * 1e6
    ours_us = seconds(run_ours) / (num_steps // num_envs * num_envs) * 1e6
    return bare_us, ours_us - bare_us


class Slow(Still):
    """Still agents whose simulator computes for half a millisecond."""

    def step(self, actions):
        end = time.perf_counter() + 0.5e-3
        while time.perf_counter() < end:
            pass
        return super().step(actions)


def processes(num_processes: int, num_envs: int = 16, num_steps: int = 50) -> tuple[float, float]:
    """Milliseconds of a step of all environments in this process, and in processes of their own."""
    description = describe_environment(Slow)
    plain = vectorise(description, num_envs, seed=0)
    ours = SubprocVectorEnv(description, num_envs, seed=0, num_processes=num_processes)
    actions = {agent: np.zeros(num_envs, int) for agent in plain.possible_agents}

    def play(venv: VectorEnvironment) -> None:
        venv.reset(np.ones(num_envs, bool))
        for _ in range(num_steps):
            venv.step(actions)

    try:
        return seconds(lambda: play(plain)) / num_steps * 1e3, seconds(lambda: play(ours)) / num_steps * 1e3
    finally:
        ours.close()


def main() -> None:
    torch.set_num_threads(1)
    print("CartPole-v1, random actions, million steps/s")
    print(f"{'environments':>12} {'bare':>8} {'rollout':>8} {'ratio':>6}")
    for num_envs in (64, 1024, 4096, 16384):
        num_steps = max(2 * FRAGMENT, 1_000_000 // num_envs)
        bare, ours = bare_cartpole(num_envs, num_steps), rollout_cartpole(num_envs, num_steps)
        print(f"{num_envs:12,} {bare / 1e6:8.2f} {ours / 1e6:8.2f} {ours / bare:6.2f}")
    print("\nthree agents by dictionary, microseconds per environment step")
    print(f"{'':24} {'bare':>8} {'added':>8}")
    environments: list[tuple[str, Callable[[], ParallelEnv], int]] = [("nothing happens", Still, 20_000)]
    try:
        from mpe2 import simple_spread_v3
    except ImportError:
        print("mpe2 is not installed: pip install 'malib_lite[pettingzoo]'")
    else:
        environments.append(("mpe.simple_spread_v3", simple_spread_v3.parallel_env, 3_200))
    for name, make, num_steps in environments:
        bare_us, added_us = dictionary_overhead(make, num_steps)
        print(f"{name:24} {bare_us:8.1f} {added_us:8.1f}")
    num_processes = os.cpu_count() or 1
    here, there = processes(num_processes)
    print(f"\n16 environments of 0.5 ms each: {here:.2f} ms a step in one process, {there:.2f} ms in {num_processes}")


if __name__ == "__main__":
    main()
