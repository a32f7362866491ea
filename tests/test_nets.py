"""Networks: how they are found by space, what they are made of, and recurrent cores over sequences with resets."""

import copy
import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from malib_lite.config import ConfigError, build
from malib_lite.models.images import ImageEncoder, channel_order
from malib_lite.models.nets import DuelingHead, Encoder, NetConfig, linear, make_encoder, make_net
from malib_lite.models.recurrent import RecurrentCore

VECTOR = spaces.Box(-1.0, 1.0, (5,), np.float32)


def pixels(*shape, dtype=np.uint8):
    return spaces.Box(0, 255, shape, dtype)


def seeded(make, *arguments, seed=0, **keywords):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make(*arguments, **keywords)


def observe(space, batch=3, seed=0):
    rng = np.random.default_rng(seed)
    high = np.minimum(space.high.astype(np.float64), 10.0 if space.dtype != np.uint8 else 255.0)
    return torch.from_numpy(rng.uniform(0, high, (batch, *space.shape)).astype(space.dtype))


# -- perceptrons -------------------------------------------------------------------------------------------------


def test_the_perceptron_is_made_layer_by_layer():
    """Built by hand from the same random stream: runs of earlier versions repeat."""
    net = seeded(make_net, VECTOR, 2, {"hidden_sizes": (7, 6), "activation": "relu"}, 0.01)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = []
        for inputs, outputs, gain in ((5, 7, math.sqrt(2)), (7, 6, math.sqrt(2)), (6, 2, 0.01)):
            layer = nn.Linear(inputs, outputs)
            weights.append(nn.init.orthogonal_(layer.weight, gain).detach())
    x = observe(VECTOR)
    expected = (x @ weights[0].T).relu() @ weights[1].T
    torch.testing.assert_close(net(x), expected.relu() @ weights[2].T)
    assert [type(layer) for layer in net] == [Encoder, nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]


def test_no_hidden_layer_makes_a_table_of_discrete_observations():
    net = make_net(spaces.Discrete(4), 3, {"hidden_sizes": ()}, 1.0)
    assert torch.equal(net(torch.arange(4)), net[-1].weight.T + net[-1].bias)


def test_layer_norm_stands_before_the_nonlinearity():
    net = make_net(VECTOR, 2, {"hidden_sizes": (16, 8), "layer_norm": True}, 1.0)
    assert [type(layer) for layer in net[1:4]] == [nn.Linear, nn.LayerNorm, nn.Tanh]
    hidden = net[:3](observe(VECTOR))
    torch.testing.assert_close(hidden.mean(-1), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(hidden.std(-1, unbiased=False), torch.ones(3), atol=1e-2, rtol=0)


def test_dueling_by_hand():
    head = DuelingHead(nn.Linear(1, 1), nn.Linear(1, 3))
    with torch.no_grad():
        for layer, weight in ((head.value, [[2.0]]), (head.advantage, [[1.0], [5.0], [0.0]])):
            layer.weight.copy_(torch.tensor(weight))
            layer.bias.zero_()
    assert head(torch.tensor([[1.0], [-1.0]])).tolist() == [[1.0, 5.0, 0.0], [-1.0, -5.0, 0.0]]


def test_dueling_streams_have_the_last_hidden_layer_each():
    net = make_net(VECTOR, 4, {"hidden_sizes": (9, 6)}, 1.0, dueling=True)
    assert [type(layer) for layer in net] == [Encoder, nn.Linear, nn.Tanh, DuelingHead]
    assert [tuple(p.shape) for p in net[-1].value.parameters()] == [(6, 9), (6,), (1, 6), (1,)]
    assert [tuple(p.shape) for p in net[-1].advantage.parameters()] == [(6, 9), (6,), (4, 6), (4,)]
    q, features = net(observe(VECTOR)), net[:-1](observe(VECTOR))
    torch.testing.assert_close(q.mean(-1, keepdim=True), net[-1].value(features))


def test_layers_of_another_kind():
    made = []

    def layer(inputs, outputs, gain):
        made.append((inputs, outputs, round(gain, 3)))
        return linear(inputs, outputs, gain)

    make_net(VECTOR, 2, {"hidden_sizes": (4, 3)}, 0.5, linear=layer)
    assert made == [(5, 4, 1.414), (4, 3, 1.414), (3, 2, 0.5)]


# -- images ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "order"),
    [
        ((84, 84, 3), "channels_last"),
        ((3, 84, 84), "channels_first"),
        ((210, 160, 3), "channels_last"),
        ((4, 210, 160), "channels_first"),
        ((8, 8, 1), "channels_last"),
        ((1, 8, 8), "channels_first"),
        ((4, 84, 84, 3), "channels_last"),  # a stack of frames
        ((4, 3, 84, 84), "channels_first"),
        ((9, 9), "channels_first"),  # bytes without a dimension for channels
        ((6, 7, 2), None),  # too small
        ((8, 8, 111), None),  # too deep
        ((8, 84, 84, 3), None),
        ((128,), None),
        ((2, 2, 8, 8, 3), None),
    ],
)
def test_images_are_found_by_shape(shape, order):
    assert channel_order(pixels(*shape)) == order


def test_the_order_can_be_told():
    assert channel_order(pixels(84, 84, 3), "flat") is None
    assert channel_order(pixels(6, 7, 2), "channels_last") == "channels_last"
    assert channel_order(pixels(8, 8, 111), "channels_first") == "channels_first"
    assert channel_order(spaces.Discrete(4)) is None
    assert channel_order(spaces.Box(0, 1, (9, 9), np.float32)) is None
    for space in (VECTOR, spaces.Discrete(4)):
        with pytest.raises(ConfigError, match=r"'images' = 'channels_last'.*3 or 4 dimensions"):
            make_net(space, 2, {"images": "channels_last"}, 1.0)
    with pytest.raises(ConfigError, match="images"):
        make_net(VECTOR, 2, {"images": "channels_lost"}, 1.0)


@pytest.mark.parametrize("side", [8, 20, 36])
def test_both_orders_are_one_image(side):
    last, first = pixels(side, side, 3), pixels(3, side, side)
    nets = [seeded(make_net, space, 4, {}, 1.0) for space in (last, first)]
    x = observe(last)
    assert isinstance(nets[0][0], ImageEncoder)
    torch.testing.assert_close(nets[0](x), nets[1](x.permute(0, 3, 1, 2)))


def test_frames_become_channels():
    stack, flat = pixels(4, 10, 14, 3), pixels(12, 10, 14)
    nets = [seeded(make_net, space, 4, {}, 1.0) for space in (stack, flat)]
    x = observe(stack)
    channels = torch.stack([x[:, frame, :, :, c] for frame in range(4) for c in range(3)], 1)
    torch.testing.assert_close(nets[0](x), nets[1](channels))
    grey = seeded(make_net, pixels(10, 14), 4, {}, 1.0)
    one = seeded(make_net, pixels(1, 10, 14), 4, {}, 1.0)
    torch.testing.assert_close(grey(x[:, 0, :, :, 0]), one(x[:, :1, :, :, 0]))


@pytest.mark.parametrize(
    ("space", "factor", "offset"),
    [
        (pixels(8, 8, 3), 1 / 255, 0.0),
        (pixels(8, 8, 3, dtype=np.float32), 1 / 255, 0.0),
        (spaces.Box(-10.0, 30.0, (8, 8, 3), np.float32), 1 / 40, 10.0),
        (spaces.Box(0.0, 1.0, (8, 8, 3), np.float32), 1.0, 0.0),
        (spaces.Box(-1.0, 1.0, (8, 8, 3), np.float32), 1.0, 0.0),
        (spaces.Box(-np.inf, np.inf, (8, 8, 3), np.float32), 1.0, 0.0),
        (spaces.Box(-3e38, 3e38, (8, 8, 3), np.float32), 1.0, 0.0),
        (spaces.Box(np.float32(0), np.arange(1, 193, dtype=np.float32).reshape(8, 8, 3)), 1.0, 0.0),
    ],
)
def test_pixels_are_mapped_by_their_bounds(space, factor, offset):
    encoder, x = ImageEncoder(space, "channels_last"), observe(space)
    torch.testing.assert_close(encoder(x), encoder.layers((x.permute(0, 3, 1, 2).float() + offset) * factor))


@pytest.mark.parametrize(
    ("shape", "features"),
    [
        ((84, 84, 4), 3136),
        ((36, 36, 1), 64),
        ((96, 96, 3), 4096),
        ((8, 8, 1), 256),
        ((35, 35, 3), 5184),
        ((8, 40, 3), 1280),
    ],
)
def test_the_network_suits_the_size(shape, features):
    """3136 are the 64 maps of 7 x 7 of Mnih et al. 2015."""
    encoder = make_encoder(pixels(*shape), NetConfig())
    assert encoder.num_features == features == encoder(observe(pixels(*shape), 2)).shape[1]


def test_images_of_any_size_when_told():
    for shape in ((1, 1, 2), (6, 7, 2), (2, 9, 3)):
        net = make_net(pixels(*shape), 3, {"images": "channels_last"}, 1.0)
        assert net(observe(pixels(*shape))).shape == (3, 3)


# -- a user's own network ----------------------------------------------------------------------------------------


class Own(nn.Module):
    def __init__(self, observation_space, output_dim, width=4):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(observation_space.shape[0], width), nn.BatchNorm1d(width))
        self.out = nn.Linear(width, output_dim)

    def forward(self, observation):
        return self.out(self.layers(observation))


class Wrong(nn.Module):
    def __init__(self, observation_space, output_dim):
        super().__init__()

    def forward(self, observation):
        return observation


@pytest.mark.parametrize("net", [Own, f"{__name__}:Own", f"{__name__}.Own"])
def test_an_own_class_is_made(net):
    made = make_net(VECTOR, 2, {"net": net, "net_config": {"width": 9}}, 1.0)
    assert isinstance(made[0], Own) and made[0].out.in_features == 9 and made.training
    assert made[0].layers[1].num_batches_tracked == 0  # trying it out left no trace
    assert made(observe(VECTOR)).shape == (3, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"net": "nowhere:Own"}, "'net' = 'nowhere:Own'.*package.module:Class"),
        ({"net": f"{__name__}:Owm"}, "Owm.*package.module:Class"),
        ({"net": "Own"}, "package.module:Class"),
        ({"net": "math:sqrt"}, r"not a subclass of torch\.nn\.Module"),
        ({"net": 3}, r"not a subclass of torch\.nn\.Module"),
        ({"net_config": {"width": 3}}, "without 'net'"),
        ({"net": Own, "net_config": {"widht": 3}}, "widht"),
        ({"net": Wrong}, r"makes \(2, 5\) torch.float32 .*must make \(2, 2\)"),
    ],
)
def test_own_classes_that_do_not_fit_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        make_net(VECTOR, 2, settings, 1.0)


def test_own_classes_are_looked_up_when_the_configuration_is_read():
    with pytest.raises(ConfigError, match="nowhere"):
        build(NetConfig, {"net": "nowhere:Own"}, "model")


# -- recurrent cores ---------------------------------------------------------------------------------------------

cores = pytest.mark.parametrize("kind", ["gru", "lstm"])


def core(kind, features=3, hidden=4):
    made = seeded(RecurrentCore, features, hidden, kind)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "bias" in name:
                parameter.uniform_(-1, 1)
    return made


def sequence(rows=7, batch=5, features=3, seed=0):
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(rows, batch, features, generator=stream), torch.rand(rows, batch, generator=stream) < 0.3


@cores
def test_a_sequence_with_resets_is_separate_sequences(kind):
    net, (x, resets) = core(kind), sequence()
    start = torch.randn(5, net.state_size, generator=torch.Generator().manual_seed(1))
    assert resets[1:].any() and not resets.all()
    outputs, last = net(x, start, resets)
    assert outputs.shape == (7, 5, 4) and last.shape == start.shape == (5, net.state_size)
    for b in range(5):
        begins = sorted({0, *resets[:, b].nonzero().flatten().tolist()})
        for begin, end in zip(begins, [*begins[1:], 7], strict=True):
            state = net.initial_state(1) if resets[begin, b] else start[b : b + 1]
            expected, state = net(x[begin:end, b : b + 1], state, torch.zeros(end - begin, 1, dtype=torch.bool))
            torch.testing.assert_close(outputs[begin:end, b], expected[:, 0])
        torch.testing.assert_close(last[b], state[0])


@cores
def test_steps_are_the_sequence(kind):
    net, (x, resets) = core(kind), sequence()
    outputs, last = net(x, net.initial_state(5), resets)
    state = net.initial_state(5)
    for t in range(7):
        state = state.masked_fill(resets[t].unsqueeze(-1), 0.0)
        output, state = net.step(x[t], state)
        torch.testing.assert_close(outputs[t], output)
    torch.testing.assert_close(last, state)


@cores
def test_a_step_is_that_of_torchs_cell(kind):
    net, (x, _) = core(kind), sequence()
    cell = {"gru": nn.GRUCell, "lstm": nn.LSTMCell}[kind](3, 4)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in net.rnn.state_dict().items()})
    state = torch.randn(5, net.state_size, generator=torch.Generator().manual_seed(1))
    output, after = net.step(x[0], state)
    if kind == "gru":
        expected = cell(x[0], state)
        torch.testing.assert_close(after, expected)
    else:
        expected, memory = cell(x[0], (state[:, :4], state[:, 4:]))
        torch.testing.assert_close(after, torch.cat([expected, memory], -1))
    torch.testing.assert_close(output, expected)
    assert after.dtype == torch.float32 and after.shape == state.shape


@cores
def test_nothing_passes_a_reset(kind):
    """Neither a state that is not a number nor a gradient."""
    net, (x, resets) = core(kind), sequence()
    resets[:] = False
    resets[0] = resets[3] = True
    x.requires_grad_()
    outputs, _ = net(x, torch.full((5, net.state_size), math.nan), resets)
    assert outputs.isfinite().all()
    (gradient,) = torch.autograd.grad(outputs[5].sum(), x)
    nonzero = gradient.abs().sum((1, 2)) > 0
    assert nonzero.tolist() == [False, False, False, True, True, True, False]
    changed = copy.deepcopy(resets)
    changed[3] = False
    assert not torch.equal(net(x, net.initial_state(5), changed)[0][5], outputs[5])
