"""Random streams: one seed for the run, split by what the stream is for."""

from __future__ import annotations

import zlib

import numpy as np


def derive(seed: int, *key: str | int) -> np.random.SeedSequence:
    """The seed sequence of one stream, e.g. ``derive(seed, "worker", 3, "player_0", "opponents")``.

    Equal keys give equal streams whatever else the run does; different keys give independent ones.
    """
    words = [part if isinstance(part, int) else zlib.crc32(part.encode()) for part in key]
    return np.random.SeedSequence([seed, *words])


def derive_int(seed: int, *key: str | int) -> int:
    """The same stream as one integer in [0, 2**63), for libraries that take a number."""
    return int(derive(seed, *key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(seed: int, *key: str | int) -> np.random.Generator:
    """The same stream as numpy's generator."""
    return np.random.default_rng(derive(seed, *key))
