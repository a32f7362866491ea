"""The five MDPs of MALib's documents, as specified by the public package ``blackhc.mdp``, and their optima."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SCENARIOS: Mapping[str, Mapping[str, Any]] = {
    # optimum 1
    "one_round_dmdp": {
        "states": {
            "start": {"a0": {"reward": 0, "next": "end"}, "a1": {"reward": 1, "next": "end"}},
            "end": {},
        },
    },
    # optimum 3: the first step earns nothing, but opens the better second one
    "two_round_dmdp": {
        "states": {
            "start": {"a0": {"next": "better"}, "a1": {"next": "worse"}},
            "better": {"a0": {"reward": 0, "next": "end"}, "a1": {"reward": 3, "next": "end"}},
            "worse": {"a0": {"reward": 1, "next": "end"}, "a1": {"reward": 2, "next": "end"}},
            "end": {},
        },
    },
    # optimum 2.5 by a0, which may earn nothing
    "one_round_nmdp": {
        "states": {
            "start": {"a0": {"reward": {0: 1, 5: 1}, "next": "end"}, "a1": {"reward": {1: 1, 3: 1}, "next": "end"}},
            "end": {},
        },
    },
    # optimum 3 by a0, then a1
    "two_round_nmdp": {
        "states": {
            "start": {"a0": {"next": "A"}, "a1": {"next": "B"}},
            "A": {"a0": {"reward": {-1: 1, 1: 1}, "next": "end"}, "a1": {"reward": {0: 2, 9: 1}, "next": "end"}},
            "B": {"a0": {"reward": {0: 1, 2: 1}, "next": "end"}, "a1": {"reward": {2: 1, 3: 1}, "next": "end"}},
            "end": {},
        },
    },
    # optimum 6 by a0, where a1 earns 4.5; undiscounted the order turns: 7.5 against 9
    "multi_round_nmdp": {
        "states": {
            "start": {
                "a0": {"reward": 5, "next": {"start": 1, "end": 2}},
                "a1": {"reward": 3, "next": {"start": 2, "end": 1}},
            },
            "end": {},
        },
        "discount": 0.5,
    },
}
