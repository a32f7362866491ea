"""Running statistics: as numpy has them of everything at once, whatever came in which pieces."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from malib_lite.config import build
from malib_lite.models.actors import ActorCriticConfig, make_normaliser
from malib_lite.models.normaliser import RunningNormaliser


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_pieces_add_up_to_the_whole(offset):
    """Sums of squares in float32 would lose all digits at an offset of a million."""
    values = (offset + np.random.default_rng(0).normal(size=(1000, 2, 3)) * [1.0, 0.1, 7.0]).astype(np.float32)
    normaliser = RunningNormaliser((2, 3))
    for piece in np.split(values, [1, 2, 10, 10, 500]):
        normaliser.update(piece)
    exact = values.astype(np.float64)
    assert normaliser.count == 1000
    np.testing.assert_allclose(normaliser.mean.numpy(), exact.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(normaliser.var.numpy(), exact.var(0), rtol=1e-6)
    output = normaliser(torch.from_numpy(values))
    assert output.dtype == torch.float32
    np.testing.assert_allclose(output.mean(0), 0.0, atol=1e-4)
    np.testing.assert_allclose(output.std(0, correction=0), 1.0, atol=1e-4)


def test_by_hand():
    normaliser = RunningNormaliser(())
    assert normaliser(torch.tensor([0.5, -3.0, 99.0])).tolist() == pytest.approx([0.5, -3.0, 10.0])
    normaliser.update(np.array([1.0, 3.0]))
    assert (normaliser.mean.item(), normaliser.var.item()) == (2.0, 1.0)
    normaliser.update(np.array([8.0]))  # 1, 3, 8: mean 4, squared distances 9 + 1 + 16
    assert (normaliser.mean.item(), normaliser.var.item()) == pytest.approx((4.0, 26 / 3))
    assert normaliser(torch.tensor([8.0])).item() == pytest.approx(4 / np.sqrt(26 / 3))
    rescaled = normaliser.rescale(np.array([[1.0, -2.0]]))
    assert rescaled.dtype == np.float32
    np.testing.assert_allclose(rescaled, np.array([[1.0, -2.0]]) / np.sqrt(26 / 3), rtol=1e-6)


def test_what_never_changes_is_zero_and_what_strays_far_is_clipped():
    normaliser = RunningNormaliser((2,), clip=5.0)
    normaliser.update(np.array([[3.0, 0.0], [3.0, 2.0]]))
    assert normaliser(torch.tensor([[3.0, 1e9], [3.0, -1e9]])).tolist() == [[0.0, 5.0], [0.0, -5.0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_and_changes_nothing(bad):
    normaliser = RunningNormaliser((2,))
    normaliser.update(np.ones((3, 2)))
    before = {name: value.clone() for name, value in normaliser.state_dict().items()}
    with pytest.raises(FloatingPointError, match="not finite"):
        normaliser.update(np.array([[0.0, bad]]))
    normaliser.update(np.zeros((0, 2)))
    assert all(torch.equal(value, before[name]) for name, value in normaliser.state_dict().items())


def test_statistics_are_buffers():
    normaliser, other = RunningNormaliser((2,)), RunningNormaliser((2,))
    normaliser.update(np.array([[1.0, 2.0], [3.0, 9.0]]))
    other.load_state_dict(normaliser.state_dict())
    values = torch.randn(5, 2)
    assert torch.equal(other(values), normaliser(values))
    assert not list(normaliser.parameters())


@pytest.mark.parametrize(
    ("space", "normalised"),
    [
        (spaces.Box(-1.0, 1.0, (3,)), True),
        (spaces.Box(-1.0, 1.0, (2, 3)), True),
        (spaces.Discrete(4), False),  # becomes one-hot
        (spaces.Box(0, 255, (84, 84, 4), np.uint8), False),  # images
        (spaces.Box(0.0, 1.0, (3, 40, 40)), False),
    ],
)
def test_images_and_what_becomes_one_hot_pass(space, normalised):
    settings = build(ActorCriticConfig, {"normalise_observations": True})
    assert isinstance(make_normaliser(space, settings), RunningNormaliser) == normalised
    assert isinstance(make_normaliser(space, ActorCriticConfig()), nn.Identity)
