"""Four gradient workers, one of them slow: what bulk synchronous, asynchronous and bounded asynchronous training do.

Worker 3 takes five times as long as the others for every gradient. In lockstep (BSP) all wait for it; asynchronously
(ASP) nobody does; bounded (BAP) the others run ahead by two iterations, and then wait, too, unless iterations that
last too long are interrupted. The figures of each run's timeline are in its folder.

python examples/sync_modes.py
"""

import time

from malib_lite.algorithms.ppo import PPOPolicy, PPOTrainer
from malib_lite.envs.gym import env_desc_gen
from malib_lite.runner import run
from malib_lite.scenarios.marl_scenario import MARLScenario

FAST_S, SLOW_S = 0.02, 0.1
MODES = {
    "bsp": {},
    "asp": {},
    "bap": {"staleness": 2},
    "bap, interrupted": {"staleness": 2, "longest_iteration_s": 0.06},
}


def train(mode: str, settings: dict, steps: int = 20_000) -> dict:
    """Train PPO on CartPole in one mode; returns the run's summary."""
    scenario = MARLScenario(
        name=f"sync modes: {mode}",
        log_dir=f"./logs/sync_modes/{mode.replace(', ', '-')}-{time.time():.0f}",
        algorithms={"default": (PPOPolicy, PPOTrainer, {}, {})},
        env_description=env_desc_gen(env_id="CartPole-v1", scenario_configs={}),
        training_config={
            "learners": 4,
            "sync": mode[:3],
            "delays": [FAST_S, FAST_S, FAST_S, SLOW_S],
            "trainer_config": {"total_timesteps": steps, "num_epochs": 4, "minibatch_size": 128},
            **settings,
        },
        rollout_config={"num_threads": 4, "fragment_length": 512, "eval_interval": 1000},
    )
    return {**run(scenario), "log_dir": scenario.log_dir}


def main() -> None:
    print(f"{'mode':18} {'seconds':>8} {'gradients':>10} {'per second':>11} {'ignored':>8} {'staleness':>10}")
    for mode, settings in MODES.items():
        summary = train(mode, settings)
        counts = next(iter(summary["sync"].values()))
        applied, seconds = counts["gradients_applied"], counts["wall_s"]
        print(
            f"{mode:18} {seconds:8.1f} {applied:10} {applied / seconds:11.1f} {counts['gradients_ignored']:8} "
            f"{counts['max_staleness']:10}   {summary['log_dir']}/plots/timeline-agent.png"
        )


if __name__ == "__main__":
    main()
