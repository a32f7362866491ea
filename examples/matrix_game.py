"""A game given by its payoffs: rock-paper-scissors in which rock against scissors counts double.

PSRO finds its equilibrium, which plays rock 1/4, paper 1/2 and scissors 1/4. The same from the command line:

python examples/matrix_game.py
python -m malib_lite.train psro --env matrix/custom --env_config.form zero_sum \\
    --env_config.payoffs "[[0, -1, 2], [1, 0, -1], [-2, 1, 0]]" --iterations 4 --steps 3000
"""

import time

from malib_lite.algorithms.dqn import DQNPolicy, DQNTrainer
from malib_lite.envs.matrix import MatrixGame, env_desc_gen
from malib_lite.runner import run
from malib_lite.scenarios.psro_scenario import PSROScenario

PAYOFFS = [[0, -1, 2], [1, 0, -1], [-2, 1, 0]]  # what the first player gets; the second pays it

if __name__ == "__main__":
    scenario = PSROScenario(
        name="matrix_game",
        log_dir=f"./logs/matrix_game/{time.time():.0f}",
        algorithms={"default": (DQNPolicy, DQNTrainer)},
        env_description=env_desc_gen(payoffs=PAYOFFS, form="zero_sum"),
        training_config={"trainer_config": {"total_timesteps": 3_000}},
        global_stopping_conditions={"max_iteration": 4},
    )
    summary = run(scenario)
    print(f"NashConv {summary['nash_conv']:.4f} after {summary['iteration']} iterations")

    # The game's exact form knows what each strategy is worth: a pool of one policy here, with one observation.
    game = MatrixGame.make_exact(payoffs=PAYOFFS, form="zero_sum")
    for name, strategy in {"uniform": [1 / 3, 1 / 3, 1 / 3], "equilibrium": [1 / 4, 1 / 2, 1 / 4]}.items():
        pools = [[[strategy]], [[strategy]]]
        print(f"{name}: a best response gains {game.gains(pools, [[1.0], [1.0]])[0]:.3f}")
