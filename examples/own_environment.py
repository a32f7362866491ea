"""An environment of one's own: a class, and nothing else.

python examples/own_environment.py
python -m malib_lite.train marl --env examples.own_environment:Corridor --rollout.max_step 50
"""

import time

import numpy as np
from gymnasium import spaces

from malib_lite.algorithms.ppo import PPOPolicy, PPOTrainer
from malib_lite.envs import Environment, TimeStep, check_env, describe
from malib_lite.runner import run
from malib_lite.scenarios.marl_scenario import MARLScenario


class Corridor(Environment):
    """Walk right to the end of a corridor; every step costs."""

    possible_agents = ["walker"]
    observation_spaces = {"walker": spaces.Box(0.0, 1.0, (1,), np.float32)}
    action_spaces = {"walker": spaces.Discrete(2)}

    def __init__(self, length: int = 8) -> None:
        super().__init__(length=length)
        self.length = length
        self.position = 0

    def reset_episode(self, seed: int | None) -> TimeStep:
        self.position = 0
        return TimeStep(self._see())

    def time_step(self, actions) -> TimeStep:
        self.position = max(0, self.position + (1 if actions["walker"] == 1 else -1))
        arrived = self.position == self.length
        return TimeStep(self._see(), {"walker": 10.0 * arrived - 1.0}, {"walker": arrived})

    def _see(self) -> dict[str, np.ndarray]:
        return {"walker": np.array([self.position / self.length], np.float32)}


if __name__ == "__main__":
    print("\n".join(["the environment keeps its contract", *check_env(Corridor)]))
    scenario = MARLScenario(
        name="corridor",
        log_dir=f"./logs/corridor/{time.time():.0f}",
        algorithms={"default": (PPOPolicy, PPOTrainer)},
        env_description=describe(Corridor, length=8),
        training_config={"trainer_config": {"total_timesteps": 20_000}},
        rollout_config={"max_step": 50},
    )
    print(f"mean return {run(scenario)['return_mean']:.1f}, the best is 2")
