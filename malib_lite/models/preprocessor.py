"""The array form of spaces: what the rollout records and the networks read, whatever an environment's spaces are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.spaces import utils

from malib_lite.config import ConfigError, suggest


class Mode:
    """What :func:`get_preprocessor` makes of a space."""

    FLATTEN = "flatten"  # one flat float32 vector
    STACK = "stack"  # a Box as it is, a Discrete as its number; what has no shape of its own is flattened all the same


class Preprocessor(ABC):
    """Turns values of a space into arrays::

        preprocessor = get_preprocessor(env.observation_spaces[agent])
        array = preprocessor.transform(observation)                    # preprocessor.shape
        arrays = preprocessor.transform(observations, nested=True)     # (B, *preprocessor.shape)

    Args:
        space: whose values are to be transformed.
    """

    def __init__(self, space: spaces.Space) -> None:
        self._space = space

    @property
    def original_space(self) -> spaces.Space:
        """The space of the values."""
        return self._space

    @property
    @abstractmethod
    def observation_space(self) -> spaces.Box | spaces.Discrete:
        """The space of the arrays."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of one array."""

    @property
    def size(self) -> int:
        """How many numbers one array holds."""
        return prod(self.shape)

    @abstractmethod
    def transform(self, data: Any, nested: bool = False) -> np.ndarray:
        """A value as an array of :attr:`shape`; with ``nested``, a batch of values as (B, *shape).

        A batch is stacked in its leaves, as gymnasium's vector environments do it: B values of a Dict are a dictionary
        of arrays (B, ...), of a Tuple a tuple of them.

        Raises:
            ValueError: the value is not of the space: another shape, not among the choices, a part is missing.
        """

    @abstractmethod
    def write(self, array: np.ndarray, offset: int, data: Any) -> None:
        """Put a value into ``array`` at ``offset``; errors as of :meth:`transform`."""


class FlattenPreprocessor(Preprocessor):
    """One flat vector of float32, in gymnasium's order of flattening."""

    @cached_property
    def observation_space(self) -> spaces.Box:
        """Box of shape (size,)."""
        low, high = self.bounds()
        return spaces.Box(low, high, dtype=np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        """(size,)."""
        return (self.size,)

    @property
    @abstractmethod
    def size(self) -> int:
        """The length of the vector."""

    def transform(self, data: Any, nested: bool = False) -> np.ndarray:
        """A value as (size,) float32; with ``nested``, a batch of values as (B, size)."""
        array = np.zeros((*((self.batch_size(data),) if nested else ()), self.size), np.float32)
        self.write(array, 0, data)
        return array

    @abstractmethod
    def write(self, array: np.ndarray, offset: int, data: Any) -> None:
        """Put a value into ``array[offset : offset + size]``, or a batch of them into such columns of (B, n)."""

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The least and the greatest vector, (size,) float32 each."""
        return np.zeros(self.size, np.float32), np.ones(self.size, np.float32)

    def batch_size(self, data: Any) -> int:
        """B, the number of values in a batch."""
        return len(data)


class BoxFlattenPreprocessor(FlattenPreprocessor):
    """The numbers of a Box one after another."""

    def __init__(self, space: spaces.Box) -> None:
        super().__init__(space)
        self._shape, self._size = space.shape, prod(space.shape)
        self._low, self._high = space.low, space.high

    @property
    def size(self) -> int:
        """The product of the Box's shape."""
        return self._size

    def write(self, array: np.ndarray, offset: int, data: Any) -> None:
        """Put a value into ``array[offset : offset + size]``, or a batch of them into such columns of (B, n)."""
        data, batch = np.asarray(data), array.shape[:-1]
        if data.shape != batch + self._shape:
            raise ValueError(f"an observation of shape {data.shape[len(batch) :]} is not in {self.original_space}")
        array[..., offset : offset + self._size] = data.reshape(*batch, self._size)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The Box's own."""
        with np.errstate(over="ignore"):  # a bound beyond float32 becomes infinite, which it was in all but name
            return self._low.ravel().astype(np.float32), self._high.ravel().astype(np.float32)


class MultiBinaryFlattenPreprocessor(FlattenPreprocessor):
    """The zeros and ones of a MultiBinary one after another."""

    def __init__(self, space: spaces.MultiBinary) -> None:
        super().__init__(space)
        self._shape, self._size = tuple(space.shape), prod(space.shape)

    @property
    def size(self) -> int:
        """The product of the space's shape."""
        return self._size

    def write(self, array: np.ndarray, offset: int, data: Any) -> None:
        """Put a value into ``array[offset : offset + size]``, or a batch of them into such columns of (B, n)."""
        data, batch = np.asarray(data), array.shape[:-1]
        if data.shape != batch + self._shape:
            raise ValueError(f"an observation of shape {data.shape[len(batch) :]} is not in {self.original_space}")
        array[..., offset : offset + self._size] = data.reshape(*batch, self._size)


class MultiDiscreteFlattenPreprocessor(FlattenPreprocessor):
    """A one-hot vector for each part of a MultiDiscrete, one after another."""

    def __init__(self, space: spaces.MultiDiscrete) -> None:
        super().__init__(space)
        self._shape = tuple(space.shape)
        self._choices = space.nvec.ravel()
        self._first = space.start.ravel()
        self._size = int(self._choices.sum())
        self._places = np.cumsum(self._choices) - self._choices  # of each part's first choice

    @property
    def size(self) -> int:
        """The number of choices of all parts."""
        return self._size

    def write(self, array: np.ndarray, offset: int, data: Any) -> None:
        """Put a value into ``array[offset : offset + size]``, or a batch of them into such columns of (B, n)."""
        data, batch = np.asarray(data), array.shape[:-1]
        if data.shape != batch + self._shape:
            raise ValueError(f"an observation of shape {data.shape[len(batch) :]} is not in {self.original_space}")
        index = data.reshape(*batch, -1).astype(np.int64) - self._first
        if not ((index >= 0) & (index < self._choices)).all():
            raise ValueError(f"{data} is not in {self.original_space}")
        array[..., offset : offset + self._size] = 0.0
        np.put_along_axis(array, index + (self._places + offset), 1.0, axis=-1)


class DiscreteFlattenPreprocessor(FlattenPreprocessor):
    """A Discrete's number as a one-hot vector."""

    def __init__(self, space: spaces.Discrete) -> None:
        super().__init__(space)
        self._size, self._first = int(space.n), int(space.start)

    @property
    def size(self) -> int:
        """The number of choices."""
        return self._size

    def write(self, array: np.ndarray, offset: int, data: Any) -> None:
        """Put a value into ``array[offset : offset + size]``, or a batch of them into such columns of (B, n)."""
        index = _index(self.original_space, self._first, self._size, data, array.shape[:-1])
        array[..., offset : offset + self._size] = 0.0
        if array.ndim == 1:
            array[offset + int(index)] = 1.0
        else:
            np.put_along_axis(array, index[..., None] + offset, 1.0, axis=-1)


class _CompositePreprocessor(FlattenPreprocessor):
    """The parts of a Dict or Tuple one after another."""

    def __init__(self, space: spaces.Space, parts: Sequence[tuple[Any, spaces.Space]]) -> None:
        super().__init__(space)
        self._parts = [(key, _flatten(part)) for key, part in parts]
        self._size = sum(part.size for _, part in self._parts)

    @property
    def size(self) -> int:
        """The sum of the parts' sizes."""
        return self._size

    def write(self, array: np.ndarray, offset: int, data: Any) -> None:
        """Put a value into ``array[offset : offset + size]``, or a batch of them into such columns of (B, n)."""
        for key, part in self._parts:
            try:
                value = data[key]
            except (LookupError, TypeError):
                raise ValueError(f"{data!r} has no part {key!r}, and is not in {self.original_space}") from None
            part.write(array, offset, value)
            offset += part.size

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The parts' own."""
        bounds = [part.bounds() for _, part in self._parts]
        none = np.zeros(0, np.float32)
        return np.concatenate([none, *(low for low, _ in bounds)]), np.concatenate(
            [none, *(high for _, high in bounds)]
        )

    def batch_size(self, data: Any) -> int:
        """B, as the first part has it."""
        if not self._parts:
            raise ValueError(f"{self.original_space} is empty: a batch of its values has no length")
        key, part = self._parts[0]
        return part.batch_size(data[key])


class DictFlattenPreprocessor(_CompositePreprocessor):
    """The parts of a Dict one after another, in the order of the space; they may be of any kind, Dicts too."""

    def __init__(self, space: spaces.Dict) -> None:
        super().__init__(space, list(space.spaces.items()))

    def write(self, array: np.ndarray, offset: int, data: Mapping[str, Any]) -> None:
        """Put a value into ``array[offset : offset + size]``, or a batch of them into such columns of (B, n)."""
        super().write(array, offset, data)


class TupleFlattenPreprocessor(_CompositePreprocessor):
    """The parts of a Tuple one after another; they may be of different kinds, Tuples and Dicts too."""

    def __init__(self, space: spaces.Tuple) -> None:
        super().__init__(space, list(enumerate(space.spaces)))

    def write(self, array: np.ndarray, offset: int, data: Sequence[Any]) -> None:
        """Put a value into ``array[offset : offset + size]``, or a batch of them into such columns of (B, n)."""
        super().write(array, offset, data)


class OtherFlattenPreprocessor(FlattenPreprocessor):
    """Any other kind that gymnasium can flatten to a fixed size (Text, OneOf); a batch is a sequence of values.

    Raises:
        ConfigError: the values have no fixed size (Graph, Sequence).
    """

    def __init__(self, space: spaces.Space) -> None:
        super().__init__(space)
        try:
            flat = utils.flatten_space(space)
        except NotImplementedError:  # a kind that is not gymnasium's
            flat = None
        if not isinstance(flat, spaces.Box):
            raise ConfigError(f"{space} has no array form: its values have no fixed size")
        self._flat = flat

    @property
    def size(self) -> int:
        """The length of gymnasium's flat vector."""
        return self._flat.shape[0]

    def write(self, array: np.ndarray, offset: int, data: Any) -> None:
        """Put a value into ``array[offset : offset + size]``, or a batch of them into such columns of (B, n)."""
        if array.ndim > 1:
            for row, value in zip(array, data, strict=True):
                self.write(row, offset, value)
        else:
            array[offset : offset + self.size] = utils.flatten(self.original_space, data)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Gymnasium's."""
        with np.errstate(over="ignore"):
            return self._flat.low.astype(np.float32), self._flat.high.astype(np.float32)


class BoxStackedPreprocessor(Preprocessor):
    """A Box as it is, with its shape and dtype."""

    def __init__(self, space: spaces.Box) -> None:
        super().__init__(space)
        self._box, self._shape, self._dtype = space, space.shape, space.dtype

    @property
    def observation_space(self) -> spaces.Box:
        """The Box itself."""
        return self._box

    @property
    def shape(self) -> tuple[int, ...]:
        """The Box's."""
        return self._shape

    def transform(self, data: Any, nested: bool = False) -> np.ndarray:
        """A value as an array, not copied where it is one of this dtype; with ``nested``, a batch (B, *shape)."""
        array = np.asarray(data, dtype=self._dtype)
        if (array.shape[1:] if nested else array.shape) != self._shape or (nested and array.ndim == 0):
            raise ValueError(f"an observation of shape {array.shape[nested:]} is not in {self.original_space}")
        return array

    def write(self, array: np.ndarray, offset: int, data: Any) -> None:
        """Put a value into ``array[offset]`` of a stack (N, *shape)."""
        array[offset] = self.transform(data)


class DiscreteIndexPreprocessor(Preprocessor):
    """A Discrete's number, counted from 0."""

    def __init__(self, space: spaces.Discrete) -> None:
        super().__init__(space)
        self._num_choices, self._first = int(space.n), int(space.start)

    @cached_property
    def observation_space(self) -> spaces.Discrete:
        """Discrete(n), the space itself if it starts at 0."""
        assert isinstance(self._space, spaces.Discrete)
        return spaces.Discrete(self._num_choices) if self._first else self._space

    @property
    def shape(self) -> tuple[int, ...]:
        """()."""
        return ()

    def transform(self, data: Any, nested: bool = False) -> np.ndarray:
        """A number as an int64 scalar array; with ``nested``, a batch of them (B,)."""
        batch = (len(data),) if nested else ()
        return _index(self.original_space, self._first, self._num_choices, data, batch)

    def write(self, array: np.ndarray, offset: int, data: Any) -> None:
        """Put a number into ``array[offset]`` of a stack (N,)."""
        array[offset] = self.transform(data)


def get_preprocessor(space: spaces.Space, mode: str = Mode.FLATTEN) -> Preprocessor:
    """The preprocessor of a space.

    Raises:
        ConfigError: there is no such mode, or values of ``space`` have no fixed size (Graph, Sequence).
    """
    if mode == Mode.STACK:
        if isinstance(space, spaces.Box):
            return BoxStackedPreprocessor(space)
        if isinstance(space, spaces.Discrete):
            return DiscreteIndexPreprocessor(space)
    elif mode != Mode.FLATTEN:
        raise ConfigError(f"'mode' = {mode!r}: {suggest(str(mode), [Mode.FLATTEN, Mode.STACK])}")
    return _flatten(space)


def array_space(space: spaces.Space) -> spaces.Box | spaces.Discrete:
    """The Box or Discrete space whose values stand for those of ``space``, as :attr:`Mode.STACK` has it.

    A Box stays as it is, with its dtype; a Discrete counts from 0; everything else (Dict, Tuple, MultiDiscrete,
    MultiBinary, Text) becomes one flat Box of float32, in gymnasium's order of flattening. An array space is its own.

    Raises:
        ConfigError: values of ``space`` have no fixed size (Graph, Sequence).
    """
    return get_preprocessor(space, Mode.STACK).observation_space


def to_array(space: spaces.Space, value: Any) -> np.ndarray:
    """One value of ``space`` as a value of ``array_space(space)``. For many values, keep the preprocessor.

    Returns:
        The Box's shape and dtype (not copied where it is such an array already), or for Discrete a scalar int64 array.

    Raises:
        ValueError: the value does not have the space's shape, or is not among the Discrete's.
    """
    return get_preprocessor(space, Mode.STACK).transform(value)


def _flatten(space: spaces.Space) -> FlattenPreprocessor:
    if isinstance(space, spaces.Box):
        return BoxFlattenPreprocessor(space)
    if isinstance(space, spaces.Discrete):
        return DiscreteFlattenPreprocessor(space)
    if isinstance(space, spaces.Dict):
        return DictFlattenPreprocessor(space)
    if isinstance(space, spaces.Tuple):
        return TupleFlattenPreprocessor(space)
    if isinstance(space, spaces.MultiDiscrete):
        return MultiDiscreteFlattenPreprocessor(space)
    if isinstance(space, spaces.MultiBinary):
        return MultiBinaryFlattenPreprocessor(space)
    return OtherFlattenPreprocessor(space)


def _index(space: spaces.Space, first: int, num_choices: int, data: Any, batch: tuple[int, ...]) -> np.ndarray:
    """Numbers of a Discrete counted from 0: int64 of shape ``batch``."""
    if not batch:
        number = int(data) - first
        if not 0 <= number < num_choices:
            raise ValueError(f"{data!r} is not in {space}")
        return np.asarray(number, dtype=np.int64)
    index = np.asarray(data).astype(np.int64) - first
    if index.shape != batch or not ((index >= 0) & (index < num_choices)).all():
        raise ValueError(f"{data!r} are not {batch[0]} numbers in {space}")
    return index
