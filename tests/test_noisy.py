"""Noisy layers: the noise worked out by hand, where it comes from, and where there is none."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn

from malib_lite.models.noisy import NoisyLinear, parameter_noise


def layer(inputs=3, outputs=2, sigma=0.5):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return NoisyLinear(inputs, outputs, sigma)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_initial_values_of_the_paper():
    wide = layer(400, 50, sigma=0.7)
    for mean in (wide.weight, wide.bias):
        assert mean.abs().max() <= 1 / 20
    assert wide.weight.std().item() == pytest.approx(1 / 20 / math.sqrt(3), rel=0.02)  # uniform
    for sigma in (wide.weight_sigma, wide.bias_sigma):
        assert torch.allclose(sigma, torch.tensor(0.7 / 20))


def test_noise_by_hand():
    """One number for each input and output; f keeps its sign and takes the root of its size."""
    noisy, x = layer(), torch.tensor([[1.0, -2.0, 3.0]])
    draws = generator()
    drawn = [torch.randn(3, generator=draws).tolist(), torch.randn(2, generator=draws).tolist()]
    eps_in, eps_out = ([math.copysign(math.sqrt(abs(e)), e) for e in eps] for eps in drawn)
    with parameter_noise(noisy, generator()), torch.no_grad():
        y = noisy(x)[0].tolist()
    for i in range(2):
        expected = noisy.bias[i].item() + noisy.bias_sigma[i].item() * eps_out[i]
        for j in range(3):
            weight = noisy.weight[i, j].item() + noisy.weight_sigma[i, j].item() * eps_out[i] * eps_in[j]
            expected += weight * x[0, j].item()
        assert y[i] == pytest.approx(expected, abs=1e-6)


def test_rows_with_noise_of_their_own():
    """A batch of B draws is what B rows give one by one, whose noise is its rows."""
    net, stream = layer(), generator()
    x = torch.randn(4, 3, generator=stream)
    with parameter_noise(net, stream, rows=4):
        together, noise = net(x), net.noise
        for row in range(4):
            net.noise = noise[0][row : row + 1], noise[1][row : row + 1]
            torch.testing.assert_close(net(x[row : row + 1])[0], together[row])
        assert len(noise[0].unique()) == 12 and len(noise[1].unique()) == 8


def test_one_draw_within_and_none_outside():
    net, stream = nn.Sequential(layer(), nn.Tanh(), layer(2, 2)), generator()
    x = torch.ones(5, 3)
    quiet = net(x)
    assert torch.equal(quiet, net[2](net[0](x).tanh())) and torch.equal(quiet, net(x))
    with parameter_noise(net, stream):
        first, again = net(x), net(x)
    with parameter_noise(net, stream):
        second = net(x)
    assert torch.equal(first, again) and (first[0] == first[4]).all()
    assert not torch.equal(first, quiet) and not torch.equal(first, second)
    assert torch.equal(net(x), quiet)
    with pytest.raises(KeyError), parameter_noise(net, stream):
        raise KeyError
    assert torch.equal(net(x), quiet)


def test_noise_comes_from_the_generator_alone():
    net, x = layer(), torch.ones(1, 3)
    before = torch.get_rng_state()
    with parameter_noise(net, generator(4)):
        one = net(x)
    with parameter_noise(net, generator(4)):
        other = net(x)
    assert torch.equal(one, other) and torch.equal(torch.get_rng_state(), before)
    stream = generator()
    with parameter_noise(nn.Linear(3, 2), stream):
        pass
    assert torch.equal(stream.get_state(), generator().get_state())  # nothing noisy, nothing drawn


def test_the_means_are_the_mean_of_noisy_outputs():
    net, x, stream = layer(), torch.tensor([[1.0, -2.0, 3.0]]), generator()
    outputs = []
    with torch.no_grad():
        for _ in range(4000):
            with parameter_noise(net, stream):
                outputs.append(net(x))
        outputs = torch.cat(outputs)
        # factors f have variance E|eps| = sqrt(2 / pi), and its square where two are multiplied; sigma is 0.5 / sqrt(3)
        factor = math.sqrt(2 / math.pi)
        deviation = 0.5 / math.sqrt(3) * math.sqrt(factor**2 * 14 + factor)
        torch.testing.assert_close(outputs.mean(0), net(x)[0], atol=4 * deviation / math.sqrt(4000), rtol=0)
        torch.testing.assert_close(outputs.std(0), torch.full((2,), deviation), atol=0, rtol=0.1)


def test_the_noise_is_learnt():
    """Where noise does nothing but harm, its deviation falls; without noise nothing reaches it."""
    net, stream = layer(), generator()
    x, target = torch.randn(64, 3, generator=stream), torch.zeros(64, 2)
    optimiser = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(150):
        with parameter_noise(net, stream):
            loss = (net(x) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert net.weight_sigma.abs().max() < 0.1 * 0.5 / math.sqrt(3) and net.weight.abs().max() < 0.05
    optimiser.zero_grad()
    net(x).sum().backward()
    assert net.weight_sigma.grad is None and net.weight.grad is not None


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_clones_are_quiet_and_noise_is_not_saved(clone):
    net = layer()
    with torch.inference_mode(), parameter_noise(net, generator()):
        net(torch.ones(1, 3))
    twin = clone(net)
    assert torch.equal(twin(torch.ones(1, 3)), net(torch.ones(1, 3)))
    assert set(net.state_dict()) == {"weight", "bias", "weight_sigma", "bias_sigma"}
