"""The battles: SMAC's maps by their names, SMACv2's by race and numbers, with the settings of its paper."""

from __future__ import annotations

from typing import Any

# https://arxiv.org/abs/1902.04043
SMAC = (
    "3m",
    "8m",
    "25m",
    "5m_vs_6m",
    "8m_vs_9m",
    "10m_vs_11m",
    "27m_vs_30m",
    "MMM",
    "MMM2",
    "2s3z",
    "3s5z",
    "3s5z_vs_3s6z",
    "3s_vs_3z",
    "3s_vs_4z",
    "3s_vs_5z",
    "1c3s5z",
    "2m_vs_1z",
    "corridor",
    "6h_vs_8z",
    "2s_vs_1sc",
    "so_many_baneling",
    "bane_vs_bane",
    "2c_vs_64zg",
)

# https://arxiv.org/abs/2212.07489: each unit is of one of three types, drawn with these weights; no team consists
# of the types in the last column alone.
_RACES: dict[str, tuple[list[str], list[float], list[str]]] = {
    "protoss": (["stalker", "zealot", "colossus"], [0.45, 0.45, 0.1], []),
    "terran": (["marine", "marauder", "medivac"], [0.45, 0.45, 0.1], ["medivac"]),
    "zerg": (["zergling", "hydralisk", "baneling"], [0.45, 0.45, 0.1], ["baneling"]),
}
_NUMBERS = ((5, 5), (10, 10), (10, 11), (20, 20), (20, 23))

SMACV2 = {f"{race}_{units}_vs_{enemies}": (race, units, enemies) for race in _RACES for units, enemies in _NUMBERS}


def smacv2_configs(env_id: str) -> dict[str, Any]:
    """The arguments of SMACv2's class for a battle of ``SMACV2``; fresh ones, for the class writes into them."""
    race, units, enemies = SMACV2[env_id]
    types, weights, never_alone = _RACES[race]
    return {
        "map_name": f"10gen_{race}",
        "obs_own_pos": True,
        "use_unit_ranges": True,
        "min_attack_range": 2,
        "capability_config": {
            "n_units": units,
            "n_enemies": enemies,
            "team_gen": {
                "dist_type": "weighted_teams",
                "unit_types": list(types),
                "weights": list(weights),
                "exception_unit_types": list(never_alone),
                "observe": True,
            },
            "start_positions": {"dist_type": "surrounded_and_reflect", "p": 0.5, "map_x": 32, "map_y": 32},
        },
    }
