"""Every scenario of PettingZoo's five domains with its settings, as they are by default.

The keys are values of ``env_id``; the values fit ``scenario_configs`` as they are, and show what can be set. Beside
``parallel_simulate`` they are keyword arguments of PettingZoo's constructors, whose pages at
https://pettingzoo.farama.org/environments/ and https://mpe2.farama.org say what they mean. Left out are those
about drawing (``render_mode`` and the like) and a few that only some releases know.
"""

from __future__ import annotations

from typing import Any

# Agents of these games can only move in turn.
_TURNS: dict[str, Any] = {"parallel_simulate": False}

_PARALLEL: dict[str, Any] = {"parallel_simulate": True}
_MPE: dict[str, Any] = {**_PARALLEL, "max_cycles": 25, "continuous_actions": False}
_ATARI: dict[str, Any] = {
    **_PARALLEL,
    "obs_type": "rgb_image",  # or "grayscale_image", or "ram"
    "full_action_space": False,
    "max_cycles": 100_000,
}

SCENARIO_CONFIGS: dict[str, dict[str, Any]] = {
    "atari.basketball_pong_v3": {**_ATARI, "num_players": 2},
    "atari.boxing_v2": {**_ATARI},
    "atari.combat_plane_v2": {**_ATARI, "game_version": "bi-plane", "guided_missile": True},
    "atari.combat_tank_v2": {**_ATARI, "has_maze": True, "is_invisible": False, "billiard_hit": True},
    "atari.double_dunk_v3": {**_ATARI},
    "atari.entombed_competitive_v3": {**_ATARI},
    "atari.entombed_cooperative_v3": {**_ATARI},
    "atari.flag_capture_v2": {**_ATARI},
    "atari.foozpong_v3": {**_ATARI, "num_players": 4},
    "atari.ice_hockey_v2": {**_ATARI},
    "atari.joust_v3": {**_ATARI},
    "atari.mario_bros_v3": {**_ATARI},
    "atari.maze_craze_v3": {**_ATARI, "game_version": "robbers", "visibilty_level": 0},  # spelt so by PettingZoo
    "atari.othello_v3": {**_ATARI},
    "atari.pong_v3": {**_ATARI, "num_players": 2, "game_version": "classic"},
    "atari.quadrapong_v4": {**_ATARI},
    "atari.space_invaders_v2": {
        **_ATARI,
        "alternating_control": False,
        "moving_shields": True,
        "zigzaging_bombs": False,
        "fast_bomb": False,
        "invisible_invaders": False,
    },
    "atari.space_war_v2": {**_ATARI},
    "atari.surround_v2": {**_ATARI},
    "atari.tennis_v3": {**_ATARI},
    "atari.video_checkers_v4": {**_ATARI},
    "atari.volleyball_pong_v3": {**_ATARI, "num_players": 4},
    "atari.warlords_v3": {**_ATARI},
    "atari.wizard_of_wor_v3": {**_ATARI},
    "butterfly.cooperative_pong_v6": {
        **_PARALLEL,
        "max_cycles": 900,
        "ball_speed": 9,
        "left_paddle_speed": 12,
        "right_paddle_speed": 12,
        "cake_paddle": True,
        "bounce_randomness": False,
        "max_reward": 100,
        "off_screen_penalty": -10,
    },
    "butterfly.knights_archers_zombies_v11": {
        **_PARALLEL,
        "max_cycles": 900,
        "spawn_delay": 20,
        "num_archers": 2,
        "num_knights": 2,
        "max_zombies": 10,
        "max_arrows": 10,
        "killable_knights": True,
        "killable_archers": True,
        "line_death": False,
        "obs_method": "vector",
    },
    "butterfly.pistonball_v6": {
        **_PARALLEL,
        "max_cycles": 125,
        "n_pistons": 20,
        "time_penalty": -0.1,
        "continuous": True,
        "random_drop": True,
        "random_rotate": True,
        "ball_mass": 0.75,
        "ball_friction": 0.3,
        "ball_elasticity": 1.5,
    },
    "classic.chess_v6": {**_TURNS},
    "classic.connect_four_v3": {**_TURNS},
    "classic.go_v5": {**_TURNS, "board_size": 19, "komi": 7.5},  # one board size per process
    "classic.hanabi_v5": {
        **_TURNS,
        "colors": 5,
        "ranks": 5,
        "players": 2,
        "hand_size": 5,
        "max_information_tokens": 8,
        "max_life_tokens": 3,
        "observation_type": "card_knowledge",
        "random_start_player": False,
    },
    "classic.leduc_holdem_v4": {**_TURNS},
    "classic.rps_v2": {**_PARALLEL, "num_actions": 3, "max_cycles": 15},
    "classic.texas_holdem_no_limit_v6": {**_TURNS, "num_players": 2},
    "classic.texas_holdem_v4": {**_TURNS, "num_players": 2},
    "classic.tictactoe_v3": {**_TURNS},
    "mpe.collect_treasure_v1": {**_MPE, "num_collectors": 6, "num_deposits": 2, "num_treasures": 6},
    "mpe.simple_adversary_v3": {**_MPE, "N": 2},
    "mpe.simple_crypto_v3": {**_MPE},
    "mpe.simple_formation_v1": {**_MPE, "N": 4},
    "mpe.simple_line_v1": {**_MPE, "N": 4},
    "mpe.simple_push_v3": {**_MPE},
    "mpe.simple_reference_v3": {**_MPE, "local_ratio": 0.5},
    "mpe.simple_speaker_listener_v4": {**_MPE},
    "mpe.simple_spread_v3": {**_MPE, "N": 3, "local_ratio": 0.5},
    "mpe.simple_tag_v3": {**_MPE, "num_good": 1, "num_adversaries": 3, "num_obstacles": 2},
    "mpe.simple_v3": {**_MPE},
    "mpe.simple_world_comm_v3": {
        **_MPE,
        "num_good": 2,
        "num_adversaries": 4,
        "num_obstacles": 1,
        "num_food": 2,
        "num_forests": 2,
    },
    "sisl.multiwalker_v9": {
        **_PARALLEL,
        "max_cycles": 500,
        "n_walkers": 3,
        "position_noise": 1e-3,
        "angle_noise": 1e-3,
        "forward_reward": 1.0,
        "terminate_reward": -100.0,
        "fall_reward": -10.0,
        "shared_reward": True,
        "terminate_on_fall": True,
        "remove_on_fall": True,
        "terrain_length": 200,
    },
    "sisl.pursuit_v5": {
        **_PARALLEL,
        "max_cycles": 500,
        "x_size": 16,
        "y_size": 16,
        "shared_reward": True,
        "n_evaders": 30,
        "n_pursuers": 8,
        "obs_range": 7,
        "n_catch": 2,
        "freeze_evaders": False,
        "tag_reward": 0.01,
        "catch_reward": 5.0,
        "urgency_reward": -0.1,
        "surround": True,
        "constraint_window": 1.0,
    },
}
