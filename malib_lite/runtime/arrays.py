"""Named arrays as one flat buffer, and the digest of what they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

_ALIGN = 16


def aligned(num_bytes: int) -> int:
    """Bytes that an array of so many takes in the buffer."""
    return -(-num_bytes // _ALIGN) * _ALIGN


def flatten(arrays: Mapping[str, np.ndarray]) -> tuple[list[list[Any]], np.ndarray]:
    """One aligned buffer (uint8) of all arrays and the rows (name, dtype, shape, offset) that describe it."""
    layout: list[list[Any]] = []
    offset = 0
    for name, array in arrays.items():
        layout.append([name, array.dtype.str, list(array.shape), offset])
        offset += aligned(array.nbytes)
    payload = np.zeros(offset, np.uint8)
    for (_, _, _, start), array in zip(layout, arrays.values(), strict=True):
        payload[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return layout, payload


def digest_of(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, types and values, whatever their order: equal arrays have equal digests."""
    header, payload = flatten(dict(sorted(arrays.items())))
    return hashlib.sha256(json.dumps(header).encode() + payload.tobytes()).hexdigest()
