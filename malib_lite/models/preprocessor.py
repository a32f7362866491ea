"""The array form of spaces: what the rollout records and the networks read, whatever an environment's spaces are."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.spaces import utils

from malib_lite.config import ConfigError


def array_space(space: spaces.Space) -> spaces.Box | spaces.Discrete:
    """The Box or Discrete space whose values stand for those of ``space``.

    A Box stays as it is, with its dtype; a Discrete counts from 0; everything else (Dict, Tuple, MultiDiscrete,
    MultiBinary, Text) becomes one flat Box of float32, in gymnasium's order of flattening. An array space is its own.

    Raises:
        ConfigError: values of ``space`` have no fixed size (Graph, Sequence).
    """
    if isinstance(space, spaces.Box):
        return space
    if isinstance(space, spaces.Discrete):
        return space if space.start == 0 else spaces.Discrete(int(space.n))
    flat = utils.flatten_space(space)
    if not isinstance(flat, spaces.Box):
        raise ConfigError(f"{space} has no array form: its values have no fixed size")
    with np.errstate(over="ignore"):  # a bound beyond float32 becomes infinite, which it was in all but name
        low, high = flat.low.astype(np.float32), flat.high.astype(np.float32)
    return spaces.Box(low, high, dtype=np.float32)


def to_array(space: spaces.Space, value: Any) -> np.ndarray:
    """One value of ``space`` as a value of ``array_space(space)``.

    Returns:
        The Box's shape and dtype (not copied where it is such an array already), or for Discrete a scalar int64 array.

    Raises:
        ValueError: the value does not have the space's shape, or is not among the Discrete's.
    """
    if isinstance(space, spaces.Box):
        array = np.asarray(value, dtype=space.dtype)
        if array.shape != space.shape:
            raise ValueError(f"an observation of shape {array.shape} is not in {space}")
        return array
    if isinstance(space, spaces.Discrete):
        index = int(value) - int(space.start)
        if not 0 <= index < space.n:
            raise ValueError(f"{value!r} is not in {space}")
        return np.asarray(index, dtype=np.int64)
    return np.asarray(utils.flatten(space, value), dtype=np.float32)
