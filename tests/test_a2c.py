"""Advantage actor-critic: its losses by hand, exact answers, and that it learns; each with a twin that cannot."""

import copy

import numpy as np
import pytest
import torch
from gymnasium import spaces
from on_policy import Ring, make, noise, same

from malib_lite.algorithms.a2c import ALGORITHM, policy_gradient_loss, value_loss
from malib_lite.config import ConfigError
from malib_lite.runner import run
from malib_lite.runtime.console import Console
from malib_lite.train import TrainConfig, build, make_scenario

BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
TABULAR = {"hidden_sizes": ()}
OPTIONS = {
    "plain": ({}, {}),
    "adam": ({"optimiser": "adam"}, {}),
    "n-step": ({"n_step": 3}, {}),
    "gae": ({"gae_lambda": 0.9, "normalise_advantages": True}, {}),
    "normalised": ({}, {"normalise_observations": True, "normalise_rewards": True}),
    "gsde": ({}, {"exploration": "state_dependent", "noise_interval": 3}),
}
learns_or_not = pytest.mark.parametrize("learns", [True, False])


def test_losses_by_hand():
    log_prob = torch.tensor([-1.0, -2.0], requires_grad=True)
    loss = policy_gradient_loss(log_prob, torch.tensor([3.0, -1.0]))
    assert loss.item() == pytest.approx(0.5)
    assert torch.autograd.grad(loss, log_prob)[0].tolist() == [-1.5, 0.5]
    assert value_loss(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0])).item() == pytest.approx(2.5)


def test_n_step_and_lambda_exclude_each_other():
    with pytest.raises(ConfigError, match=r"'n_step' = 5 and 'gae_lambda' = 0.9"):
        make(ALGORITHM, BOX, BOX, {"n_step": 5, "gae_lambda": 0.9})
    with pytest.raises(ConfigError, match="optimiser"):
        make(ALGORITHM, BOX, BOX, {"optimiser": "sgd"})
    with pytest.raises(ConfigError, match=r"a2c needs Box, Discrete or MultiDiscrete.*MultiBinary"):
        make(ALGORITHM, BOX, spaces.MultiBinary(2))


def test_one_gradient_for_each_round_from_these_targets():
    """Two decisions of one stream: the advantages are the returns that algorithm S3 computes, less the values."""
    policy, trainer = make(ALGORITHM, BOX, BOX, {"discount": 0.5})
    batch = noise(policy, rows=2, streams=1)
    batch.terminated[:] = False
    batch.reward[:] = [[1.0], [2.0]]
    value = policy.value(torch.from_numpy(batch.observation[:, 0])).detach()
    (minibatch,) = trainer.minibatches(batch)
    target = torch.stack([1 + 0.5 * (2 + 0.5 * value[2]), 2 + 0.5 * value[2]])
    torch.testing.assert_close(minibatch.value_target, target)
    torch.testing.assert_close(minibatch.advantage, target - value[:2])
    _, one_step = make(ALGORITHM, BOX, BOX, {"discount": 0.5, "n_step": 1})
    (minibatch,) = one_step.minibatches(batch)
    torch.testing.assert_close(minibatch.value_target, torch.stack([1 + 0.5 * value[1], 2 + 0.5 * value[2]]))


@pytest.mark.parametrize("option", OPTIONS)
def test_training_resumes_exactly(option):
    settings, model = OPTIONS[option]
    policy, trainer = make(ALGORITHM, BOX, BOX, settings, model, horizon=100)
    for seed in range(2):
        trainer.advance(10)
        trainer.train(noise(policy, seed=seed))
    twin, resumed = make(ALGORITHM, BOX, BOX, settings, model, horizon=100)
    twin.import_state(policy.export_state())
    resumed.load_state_dict(trainer.state_dict())
    batch = noise(policy, seed=5)
    kept = copy.deepcopy(batch)
    for each in (trainer, resumed):
        each.advance(10)
        each.train(batch)
    assert same(policy, twin) and trainer.num_updates == resumed.num_updates == 3
    assert all(np.array_equal(getattr(batch, name), value) for name, value in vars(kept).items() if name != "extras")


@pytest.mark.parametrize("option", ["plain", "adam", "n-step", "gae"])
@learns_or_not
def test_the_critic_finds_the_values_of_a_policy(option, learns):
    """The actor is held: V^pi is the solution of a linear system."""
    settings = {**OPTIONS[option][0], "discount": Ring.discount, "learning_rate": 0.1 if learns else 0.0}
    ring = Ring(copies=64, seed=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy = ALGORITHM.policy(ring.observation_space, ring.action_space, TABULAR, {})
    policy.seed(0)
    with torch.no_grad():
        policy.actor.net[-1].bias.copy_(torch.tensor([0.5, -0.5, 0.2]))
    policy.actor.requires_grad_(False)
    trainer = ALGORITHM.trainer({**settings, "max_grad_norm": 100.0, "learning_rate_final": 0.01}, policy, horizon=150)
    for _ in range(150 if learns else 2):
        trainer.advance(1)
        trainer.train(ring.collect(policy, rows=16))
    states = torch.arange(3)
    probs = policy.action_probs(states, torch.from_numpy(Ring.legal)).detach().numpy()
    error = np.abs(policy.value(states).detach().numpy() - Ring.values(probs)).max()
    assert error < 0.1 if learns else error > 1.0


@pytest.mark.parametrize("option", ["plain", "adam", "n-step", "gae"])
@learns_or_not
def test_the_actor_finds_the_optimal_actions(option, learns):
    settings = {**OPTIONS[option][0], "discount": Ring.discount, "learning_rate": 0.05 if learns else 0.0}
    ring = Ring(copies=32, seed=0)
    policy, trainer = make(ALGORITHM, ring.observation_space, ring.action_space, settings, TABULAR, horizon=200)
    for _ in range(200 if learns else 2):
        trainer.advance(1)
        trainer.train(ring.collect(policy, rows=16))
    probs = policy.action_probs(torch.arange(3), torch.from_numpy(Ring.legal))
    assert Ring.best().tolist() == [1, 1, 0]
    assert (probs.gather(1, torch.from_numpy(Ring.best())[:, None]).min().item() > 0.8) == learns


def train(folder, **settings):
    settings = {"scenario": "marl", "algorithm": "a2c", "workers": 0, "logdir": str(folder), **settings}
    return run(make_scenario(build(TrainConfig, settings)), Console(quiet=True))


@learns_or_not
def test_identity(tmp_path, learns):
    """A hundred decisions are worth 90 and more after 1,200; 25 by chance."""
    summary = train(
        tmp_path, env="on_policy:Identity", steps=1200,
        trainer={"discount": 0.4, "learning_rate": 0.01 if learns else 0.0},
        rollout={"fragment_length": 20, "num_env_per_thread": 4, "eval_interval": 100},
    )  # fmt: skip
    assert (summary["return_mean"] >= 90) == learns


@learns_or_not
def test_identity_of_real_numbers(tmp_path, learns):
    """90 and more after 2,000 decisions; 50 where the action is always 0."""
    summary = train(
        tmp_path, env="on_policy:Identity", env_config={"box": True}, steps=2000,
        trainer={"discount": 0.4, "learning_rate": 0.01 if learns else 0.0, "normalise_advantages": True},
        rollout={"fragment_length": 40, "num_env_per_thread": 4, "eval_interval": 100},
    )  # fmt: skip
    assert (summary["return_mean"] >= 90) == learns


@pytest.mark.slow
@learns_or_not
def test_cartpole(tmp_path, learns):
    """Random play lasts 22.7 steps."""
    trainer = {} if learns else {"learning_rate": 0.0}
    summary = train(tmp_path, env="gym/CartPole-v1", steps=200_000, trainer=trainer, rollout={"eval_interval": 1000})
    assert (summary["return_mean"] >= 300) == learns
