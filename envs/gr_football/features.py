"""What agents and critics see of a football match: arrays computed from the simulator's raw observation.

The field spans x in [-1, 1] and y in [-0.42, 0.42]; the left side attacks the goal at (1, 0). Directions are changes of
position in one step. The layouts are those of the simulator's own wrappers, https://github.com/google-research/football,
described in Kurach et al. 2020, https://arxiv.org/abs/1907.11180, so that results can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_PLAYERS = 11  # of one side
NUM_MODES = 7  # normal, kick-off, goal kick, free kick, corner, throw-in, penalty
NUM_CHECKPOINTS = 10

SIMPLE115_SIZE = 115
MINIMAP_SHAPE = (72, 96, 4)  # rows (y), columns (x), planes: own side, other side, ball, the agent's player
STATE_SIZE = 2 * 7 * MAX_PLAYERS + 9 + 3 + MAX_PLAYERS + NUM_MODES + 2 + 1

_HALF_TURN = np.array([-1.0, -1.0, 1.0])  # turns a point (x, y, z) by 180 degrees
# The minimap shows a little more than the field: y up to 1 / 2.25.
_MAP_LOW, _MAP_SIZE = np.array([-1.0, -1.0 / 2.25]), np.array([2.0, 2.0 / 2.25])
_MAP_PIXELS = np.array([MINIMAP_SHAPE[1], MINIMAP_SHAPE[0]])  # x, y
# Distances to the other side's goal, the first for entering its half.
_CHECKPOINTS = 0.99 - 0.8 / (NUM_CHECKPOINTS - 1) * np.arange(NUM_CHECKPOINTS)


@dataclass(frozen=True)
class SideView:
    """The match as one side sees it: it always attacks the goal at (1, 0)."""

    own: np.ndarray  # (n, 2) positions
    own_direction: np.ndarray  # (n, 2)
    other: np.ndarray  # (m, 2)
    other_direction: np.ndarray  # (m, 2)
    ball: np.ndarray  # (3,)
    ball_direction: np.ndarray  # (3,)
    ball_owner: int  # -1 nobody, 0 own side, 1 other side
    mode: int
    controlled: list[int]  # (agents,) which of the own players each agent controls; -1: none
    score: tuple[int, int]  # own side's goals, other side's


def left_view(raw: Mapping[str, Any]) -> SideView:
    """The left side's view, which is the simulator's own."""
    return SideView(
        raw["left_team"],
        raw["left_team_direction"],
        raw["right_team"],
        raw["right_team_direction"],
        raw["ball"],
        raw["ball_direction"],
        raw["ball_owned_team"],
        raw["game_mode"],
        raw["left_agent_controlled_player"],
        (raw["score"][0], raw["score"][1]),
    )


def right_view(raw: Mapping[str, Any]) -> SideView:
    """The right side's view: the field turned by 180 degrees, and the sides' roles exchanged."""
    owner = raw["ball_owned_team"]
    return SideView(
        -raw["right_team"],
        -raw["right_team_direction"],
        -raw["left_team"],
        -raw["left_team_direction"],
        raw["ball"] * _HALF_TURN,
        raw["ball_direction"] * _HALF_TURN,
        1 - owner if owner >= 0 else -1,
        raw["game_mode"],
        raw["right_agent_controlled_player"],
        (raw["score"][1], raw["score"][0]),
    )


def turned_action(action: int) -> int:
    """What an action of the turned field is on the simulator's: 1 to 8 are directions around the compass."""
    return (action + 3) % 8 + 1 if 1 <= action <= 8 else action


def simple115(view: SideView) -> np.ndarray:
    """The layout "simple115v2" for each of the side's agents: (agents, 115) float32.

    Four blocks of 22 numbers, x and y of up to 11 players, -1 where there is none: positions and directions of the own
    side, then of the other. Ball position (3), ball direction (3), who has the ball (nobody, own side, other side),
    which player the agent controls (11), game mode (7), the last three as one-hot codes. The clock is not in it.
    """
    features = np.full((len(view.controlled), SIMPLE115_SIZE), -1.0, dtype=np.float32)
    for i, block in enumerate((view.own, view.own_direction, view.other, view.other_direction)):
        features[:, 22 * i : 22 * i + block.size] = block.ravel()
    features[:, 88:91] = view.ball
    features[:, 91:94] = view.ball_direction
    features[:, 94:] = 0.0
    features[:, 95 + view.ball_owner] = 1.0
    features[:, 108 + view.mode] = 1.0
    for agent, player in enumerate(view.controlled):
        if player >= 0:
            features[agent, 97 + player] = 1.0
    return features


def minimap(view: SideView) -> np.ndarray:
    """The layout "extracted" for each of the side's agents: (agents, 72, 96, 4) uint8, 255 where somebody stands."""
    planes = np.zeros((len(view.controlled), *MINIMAP_SHAPE), dtype=np.uint8)
    for plane, points in enumerate((view.own, view.other, view.ball[None, :2])):
        x, y = _pixels(points)
        planes[:, y, x, plane] = 255
    for agent, player in enumerate(view.controlled):
        if player >= 0:
            x, y = _pixels(view.own[player])
            planes[agent, y, x, 3] = 255
    return planes


def global_state(raw: Mapping[str, Any]) -> np.ndarray:
    """The whole match from the left side's view: (STATE_SIZE,) float32.

    For the left and then the right side, each for 11 players with 0 where there is none: positions (22), directions
    (22), tiredness (11), yellow cards (11), being on the field (11). Ball position, direction and rotation (9), the
    side that has the ball (3) and its player (11), game mode (7), both scores (2), the steps left in thousands (1).
    """
    state = np.zeros(STATE_SIZE, dtype=np.float32)
    start = 0
    for side in ("left_team", "right_team"):
        for key, width in (("", 2), ("_direction", 2), ("_tired_factor", 1), ("_yellow_card", 1), ("_active", 1)):
            values = raw[side + key]
            state[start : start + values.size] = values.ravel()
            start += width * MAX_PLAYERS
    for key in ("ball", "ball_direction", "ball_rotation"):
        state[start : start + 3] = raw[key]
        start += 3
    state[start + 1 + raw["ball_owned_team"]] = 1.0
    if raw["ball_owned_player"] >= 0:
        state[start + 3 + raw["ball_owned_player"]] = 1.0
    start += 3 + MAX_PLAYERS
    state[start + raw["game_mode"]] = 1.0
    state[-3:] = *raw["score"], raw["steps_left"] / 1000.0
    return state


def checkpoints_reached(view: SideView) -> int:
    """How many of the ten distances to the other goal the side is within, ball at foot: 0 if it has not the ball."""
    if view.ball_owner != 0:
        return 0
    distance = np.hypot(view.ball[0] - 1.0, view.ball[1])
    return int((distance <= _CHECKPOINTS).sum())


def _pixels(points: np.ndarray) -> tuple[Any, Any]:
    """Column and row of points (..., 2); what is beyond the map's edge is drawn on it."""
    pixels = ((points - _MAP_LOW) / _MAP_SIZE * _MAP_PIXELS).astype(np.int64)
    pixels = np.clip(pixels, 0, _MAP_PIXELS - 1)
    return pixels[..., 0], pixels[..., 1]
