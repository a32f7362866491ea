"""Two agents as one: what one of them sees, the other needs to know.

A scout sees where the prize is and can do nothing; a runner sees nothing and must go there. Apart, the runner guesses
and is right once in four times. As a group they share their observations, and are right every time.

python examples/group_wrapper.py
"""

import time

import numpy as np
from gymnasium import spaces

from malib_lite.algorithms.ppo import PPOPolicy, PPOTrainer
from malib_lite.envs import Environment, GroupWrapper, TimeStep, check_env, describe
from malib_lite.runner import run
from malib_lite.scenarios.marl_scenario import MARLScenario

PLACES = 4


class Prize(Environment):
    possible_agents = ["scout", "runner"]
    observation_spaces = {agent: spaces.Box(0.0, 1.0, (PLACES,), np.float32) for agent in possible_agents}
    action_spaces = {"scout": spaces.Discrete(1), "runner": spaces.Discrete(PLACES)}

    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.default_rng()

    def reset_episode(self, seed: int | None) -> TimeStep:
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.place = int(self.rng.integers(PLACES))
        return TimeStep(self._see())

    def time_step(self, actions) -> TimeStep:
        found = float(actions["runner"] == self.place)
        over = dict.fromkeys(self.possible_agents, True)
        return TimeStep(self._see(), {"scout": found / 2, "runner": found / 2}, over)

    def _see(self) -> dict[str, np.ndarray]:
        return {"scout": np.eye(PLACES, dtype=np.float32)[self.place], "runner": np.zeros(PLACES, np.float32)}


def together() -> GroupWrapper:
    return GroupWrapper(Prize(), aid_to_gid={"scout": "team", "runner": "team"})


if __name__ == "__main__":
    for name, creator in (("apart", Prize), ("together", together)):
        check_env(creator)
        scenario = MARLScenario(
            name=f"prize_{name}",
            log_dir=f"./logs/prize_{name}/{time.time():.0f}",
            algorithms={"default": (PPOPolicy, PPOTrainer)},
            env_description=describe(creator),
            training_config={"trainer_config": {"total_timesteps": 14_000}},
        )
        summary = run(scenario)
        team = summary["return_mean"] * len(scenario.env_description["possible_agents"])
        print(f"{name}: the prize is found in {100 * team:.0f} % of the episodes")
