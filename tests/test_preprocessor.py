"""From values of spaces to arrays, one by one and in batches."""

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.spaces import utils
from gymnasium.vector.utils import batch_space

from malib_lite.config import ConfigError
from malib_lite.models.preprocessor import (
    BoxFlattenPreprocessor,
    BoxStackedPreprocessor,
    DictFlattenPreprocessor,
    DiscreteFlattenPreprocessor,
    DiscreteIndexPreprocessor,
    Mode,
    MultiBinaryFlattenPreprocessor,
    MultiDiscreteFlattenPreprocessor,
    TupleFlattenPreprocessor,
    array_space,
    get_preprocessor,
    to_array,
)

BOX = spaces.Box(np.array([[-1, -2], [-3, -np.inf]]), np.array([[1, 2], [3, np.inf]]), dtype=np.float64)
DISCRETE = spaces.Discrete(3, start=-1)
MULTI_DISCRETE = spaces.MultiDiscrete([[2, 3], [1, 4]], start=[[0, 5], [0, -1]])
MULTI_BINARY = spaces.MultiBinary((2, 2))
DICT = spaces.Dict({"z": DISCRETE, "a": spaces.Tuple([MULTI_BINARY, spaces.Dict({"inner": BOX})])})
TUPLE = spaces.Tuple([DICT, MULTI_DISCRETE, DISCRETE])
NESTED = [BOX, DISCRETE, MULTI_DISCRETE, MULTI_BINARY, DICT, TUPLE]


def name(space):
    return type(space).__name__


@pytest.mark.parametrize(
    "space, kind, value, array",
    [
        (BOX, BoxFlattenPreprocessor, [[0.5, 2], [-3, 7]], [0.5, 2, -3, 7]),
        (DISCRETE, DiscreteFlattenPreprocessor, -1, [1, 0, 0]),
        (DISCRETE, DiscreteFlattenPreprocessor, np.int64(1), [0, 0, 1]),
        (MULTI_DISCRETE, MultiDiscreteFlattenPreprocessor, [[1, 5], [0, 2]], [0, 1, 1, 0, 0, 1, 0, 0, 0, 1]),
        (MULTI_BINARY, MultiBinaryFlattenPreprocessor, [[1, 0], [0, 1]], [1, 0, 0, 1]),
        (
            spaces.Dict({"b": DISCRETE, "a": spaces.Box(0, 9, (2,))}),
            DictFlattenPreprocessor,
            {"b": 0, "a": np.array([3, 4])},
            [3, 4, 0, 1, 0],  # gymnasium's order: by name
        ),
        (spaces.Tuple([DISCRETE, MULTI_BINARY]), TupleFlattenPreprocessor, (1, np.eye(2)), [0, 0, 1, 1, 0, 0, 1]),
    ],
)
def test_flattening_in_numbers(space, kind, value, array):
    preprocessor = get_preprocessor(space)
    assert type(preprocessor) is kind and preprocessor.original_space is space
    assert preprocessor.size == len(array) and preprocessor.shape == (len(array),)
    flat = preprocessor.transform(value)
    assert flat.dtype == np.float32 and flat.tolist() == array
    around = np.full(preprocessor.size + 4, 9.0)
    preprocessor.write(around, 3, value)
    assert around.tolist() == [9, 9, 9, *array, 9]


@pytest.mark.parametrize("space", NESTED, ids=name)
def test_flattening_is_gymnasiums(space):
    space.seed(0)
    preprocessor = get_preprocessor(space, mode="flatten")
    assert preprocessor.observation_space.shape == preprocessor.shape == utils.flatten_space(space).shape
    for _ in range(20):
        value = space.sample()
        array = preprocessor.transform(value)
        np.testing.assert_array_equal(array, utils.flatten(space, value).astype(np.float32))
        assert preprocessor.observation_space.contains(array)


@pytest.mark.parametrize("mode", [Mode.FLATTEN, Mode.STACK])
@pytest.mark.parametrize("space", NESTED, ids=name)
def test_a_batch_is_as_its_values_one_by_one(space, mode):
    batched = batch_space(space, 5)
    batched.seed(1)
    batch = batched.sample()
    preprocessor = get_preprocessor(space, mode)
    arrays = preprocessor.transform(batch, nested=True)
    assert arrays.shape == (5, *preprocessor.shape) and arrays.dtype == preprocessor.observation_space.dtype

    def row(values, i):
        if isinstance(values, dict):
            return {key: row(part, i) for key, part in values.items()}
        return tuple(row(part, i) for part in values) if isinstance(values, tuple) else values[i]

    for i in range(5):
        np.testing.assert_array_equal(arrays[i], preprocessor.transform(row(batch, i)))


def test_stacking_keeps_boxes_and_numbers_as_they_are():
    box, number = get_preprocessor(BOX, Mode.STACK), get_preprocessor(DISCRETE, Mode.STACK)
    assert type(box) is BoxStackedPreprocessor and type(number) is DiscreteIndexPreprocessor
    assert box.observation_space is BOX and (box.shape, box.size) == ((2, 2), 4)
    assert number.observation_space == spaces.Discrete(3) and (number.shape, number.size) == ((), 1)
    value = np.ones((2, 2))
    assert box.transform(value) is value and box.transform([[1, 2], [3, 4]]).dtype == np.float64
    assert number.transform(-1) == 0 and number.transform(-1).dtype == np.int64
    assert number.transform([1, 0], nested=True).tolist() == [2, 1]
    stack, numbers = np.zeros((3, 2, 2)), np.zeros(3, int)
    box.write(stack, 1, value)
    number.write(numbers, 2, 1)
    assert stack.sum(axis=(1, 2)).tolist() == [0, 4, 0] and numbers.tolist() == [0, 0, 2]
    assert type(get_preprocessor(DICT, Mode.STACK)) is DictFlattenPreprocessor


@pytest.mark.parametrize("space", [*NESTED, spaces.Text(4), spaces.OneOf([BOX, DISCRETE])], ids=name)
def test_the_array_form_is_that_of_stacking(space):
    preprocessor = get_preprocessor(space, Mode.STACK)
    assert array_space(space) == preprocessor.observation_space
    space.seed(2)
    for _ in range(5):
        value = space.sample()
        np.testing.assert_array_equal(to_array(space, value), preprocessor.transform(value))
        assert array_space(space).contains(to_array(space, value))
    values = [space.sample() for _ in range(3)]
    if isinstance(space, (spaces.Text, spaces.OneOf)):
        arrays = preprocessor.transform(values, nested=True)
        np.testing.assert_array_equal(arrays, [preprocessor.transform(value) for value in values])


def test_bounds_are_the_parts_own_and_infinite_beyond_float32():
    box = spaces.Box(np.array([-1e300, -2]), np.array([3, 1e300]), dtype=np.float64)
    space = get_preprocessor(spaces.Tuple([DISCRETE, box])).observation_space
    assert space.dtype == np.float32
    assert space.low.tolist() == [0, 0, 0, -np.inf, -2] and space.high.tolist() == [1, 1, 1, 3, np.inf]


@pytest.mark.parametrize(
    "space, value, nested, message",
    [
        (BOX, np.zeros(4), False, r"shape \(4,\)"),
        (BOX, np.zeros((2, 2)), True, r"shape \(2,\)"),
        (DISCRETE, 2, False, "2 is not in"),
        (DISCRETE, np.array([0, 2]), True, "not 2 numbers in"),
        (MULTI_DISCRETE, [[2, 5], [0, 2]], False, "is not in"),
        (MULTI_DISCRETE, [2, 5], False, r"shape \(2,\)"),
        (MULTI_BINARY, np.zeros(3), False, r"shape \(3,\)"),
        (DICT, {"z": 0}, False, "no part 'a'"),
        (TUPLE, (0,), False, "no part"),
        (spaces.Tuple([DISCRETE, DISCRETE]), (0,), False, "no part 1"),
    ],
)
@pytest.mark.parametrize("mode", [Mode.FLATTEN, Mode.STACK])
def test_what_is_not_in_the_space_is_refused(space, value, nested, message, mode):
    with pytest.raises(ValueError, match=message):
        get_preprocessor(space, mode).transform(value, nested)


def test_what_has_no_fixed_size_and_unknown_modes_are_refused():
    for space in (spaces.Sequence(DISCRETE), spaces.Dict({"a": spaces.Sequence(DISCRETE)})):
        with pytest.raises(ConfigError, match="no array form"):
            get_preprocessor(space)
    with pytest.raises(ConfigError, match="'mode' = 'flaten': did you mean 'flatten'"):
        get_preprocessor(BOX, mode="flaten")
