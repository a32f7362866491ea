"""The array form of action spaces: what policies choose from and the rollout records, whatever an environment takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.spaces import utils

from malib_lite.config import ConfigError

ArrayActionSpace = spaces.Discrete | spaces.MultiDiscrete | spaces.Box


def array_action_space(space: spaces.Space) -> ArrayActionSpace:
    """The Discrete, MultiDiscrete or Box space whose values stand for those of ``space``.

    A Box stays as it is and a Discrete counts from 0. MultiDiscrete, MultiBinary, and Dict and Tuple of discrete parts
    become one flat MultiDiscrete that counts from 0; Dict and Tuple of Box parts one flat Box of float32. An array
    space is its own.

    Raises:
        ConfigError: discrete and continuous parts are mixed, or actions have no fixed size.
    """
    if isinstance(space, spaces.Box):
        return space
    if isinstance(space, spaces.Discrete):
        return space if space.start == 0 else spaces.Discrete(int(space.n))
    if isinstance(space, spaces.MultiDiscrete) and len(space.shape) == 1 and not space.start.any():
        return space
    choices = _choices(space)
    if choices:
        return spaces.MultiDiscrete(choices)
    if _is_box(space):
        flat = utils.flatten_space(space)
        assert isinstance(flat, spaces.Box)
        return spaces.Box(flat.low.astype(np.float32), flat.high.astype(np.float32), dtype=np.float32)
    raise ConfigError(
        f"actions of {space} have no array form: it takes Discrete, MultiDiscrete, MultiBinary or Box, or a Dict or "
        "Tuple whose parts are either all discrete or all Box"
    )


def num_choices(space: spaces.Space) -> int | None:
    """A: the length of an action mask, for an array space. For MultiDiscrete the parts' masks stand one after another.

    None where masks have no meaning (Box).
    """
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    return int(space.nvec.sum()) if isinstance(space, spaces.MultiDiscrete) else None


def leaves_a_choice(space: spaces.Space, mask: np.ndarray) -> bool:
    """Whether a mask (A,) bool allows something, in every part of a MultiDiscrete."""
    if isinstance(space, spaces.MultiDiscrete):
        starts = np.cumsum([0, *space.nvec[:-1]])
        return bool(np.logical_or.reduceat(mask, starts).all())
    return bool(mask.any())


class ActionReader:
    """From arrays of actions to what the environment of ``space`` takes."""

    def __init__(self, space: spaces.Space) -> None:
        self.array_space = array_action_space(space)
        self._space = space

    def __call__(self, actions: np.ndarray) -> Sequence[Any]:
        """A column of actions (E, *action) of the array space as E values of ``space``; Box is clipped to its bounds.

        Raises:
            ValueError: the actions are not integers where the space has choices.
        """
        space, array_space = self._space, self.array_space
        if isinstance(array_space, spaces.Box):
            clipped = np.clip(actions, array_space.low, array_space.high).astype(array_space.dtype, copy=False)
            if space is array_space:
                return clipped
            return [utils.unflatten(space, row) for row in clipped]
        if actions.dtype.kind not in "iu":
            raise ValueError(f"{actions.dtype} actions, but {space} takes integers")
        if isinstance(space, spaces.Discrete):
            return (actions + int(space.start) if space.start else actions).tolist()
        return [_unpack(space, iter(row)) for row in actions.tolist()]


def _choices(space: spaces.Space) -> list[int] | None:
    """How many choices each part has, in gymnasium's order; None if a part is not discrete."""
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, spaces.MultiDiscrete):
        return [int(n) for n in space.nvec.ravel()]
    if isinstance(space, spaces.MultiBinary):
        return [2] * prod(space.shape)
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        choices: list[int] = []
        for part in _parts(space):
            of_part = _choices(part)
            if of_part is None:
                return None
            choices += of_part
        return choices
    return None


def _is_box(space: spaces.Space) -> bool:
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        return bool(_parts(space)) and all(_is_box(part) for part in _parts(space))
    return isinstance(space, spaces.Box)


def _parts(space: spaces.Dict | spaces.Tuple) -> list[spaces.Space]:
    return list(space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces)


def _unpack(space: spaces.Space, numbers: Iterator[int]) -> Any:
    """The next value of a discrete ``space`` from a row of choices."""
    if isinstance(space, spaces.Discrete):
        return next(numbers) + int(space.start)
    if isinstance(space, spaces.Dict):
        return {name: _unpack(part, numbers) for name, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_unpack(part, numbers) for part in space.spaces)
    assert isinstance(space, (spaces.MultiDiscrete, spaces.MultiBinary)) and space.shape is not None
    values = np.array([next(numbers) for _ in range(prod(space.shape))], space.dtype).reshape(space.shape)
    return values + space.start if isinstance(space, spaces.MultiDiscrete) else values
