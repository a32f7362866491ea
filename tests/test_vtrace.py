"""V-trace in A2C and PPO: nothing where the policy is the one that played, a correction where it is not."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from on_policy import Ring, make, noise
from test_learning import train

from malib_lite.algorithms import a2c, ppo
from malib_lite.config import ConfigError
from malib_lite.contracts.data import Trajectories

BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
BOTH = pytest.mark.parametrize("module", [a2c, ppo], ids=["a2c", "ppo"])
PLAIN = {"a2c": {}, "ppo": {"normalise_advantages": False, "num_epochs": 1, "minibatch_size": 10_000}}


def settings(module, **more):
    name = module.__name__.rpartition(".")[2]
    return {"discount": 0.9, "gae_lambda": 1.0, "learning_rate_final": 1.0, **PLAIN[name], **more}


def gradients(trainer, batch):
    (minibatch,) = trainer.minibatches(batch)
    return minibatch, trainer.compute_gradients(minibatch)[0]


@BOTH
@pytest.mark.parametrize("world", ["ring", "noise"])
def test_for_the_policy_that_played_it_changes_nothing(module, world):
    """With discrete actions and a mask, and with continuous ones."""
    space = {"ring": (Ring.observation_space, Ring.action_space), "noise": (BOX, BOX)}[world]
    results = []
    for vtrace in (False, True):
        policy, trainer = make(module.ALGORITHM, *space, settings(module, vtrace=vtrace))
        batch = Ring(copies=8, seed=0).collect(policy, rows=12) if world == "ring" else noise(policy)
        results.append(gradients(trainer, batch))
    (plain, of_plain), (corrected, of_corrected) = results
    torch.testing.assert_close(corrected.advantage, plain.advantage, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(corrected.value_target, plain.value_target, atol=1e-4, rtol=1e-4)
    for ours, theirs in zip(of_corrected, of_plain, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@BOTH
def test_with_a_memory_too(module):
    """Over a round that begins in the middle of what is remembered; the actions are as likely as the policy says."""
    model = {"memory": "gru", "memory_size": 6}
    policy, trainer = make(module.ALGORITHM, BOX, BOX, settings(module), model)
    batch = noise(policy, rows=8, streams=4)
    batch.extras["memory"] = np.random.default_rng(0).normal(size=(8, 4, 6)).astype(np.float32)
    _, log_prob = policy.estimates(batch, np.ones((9, 4), bool), with_log_prob=True, device=trainer.device)
    batch.extras["log_prob"] = log_prob
    features = policy.recall(*map(torch.from_numpy, (batch.observation, batch.extras["memory"][0], batch.begins)))
    expected = policy.distribution(features[:-1].flatten(0, 1), None).log_prob(
        torch.from_numpy(batch.action).flatten(0, 1)
    )
    np.testing.assert_allclose(log_prob, expected.detach().numpy().reshape(8, 4), atol=1e-5)
    _, corrected = make(module.ALGORITHM, BOX, BOX, settings(module, vtrace=True), model)
    plain, corrected = gradients(trainer, batch)[0], gradients(corrected, batch)[0]
    torch.testing.assert_close(corrected.advantage, plain.advantage, atol=1e-4, rtol=1e-4)


def bandit(behaviour, rows=64, seed=0):
    """One-step episodes in which the first of four actions pays 1; ``behaviour`` (4,) are the probabilities."""
    rng = np.random.default_rng(seed)
    action = rng.choice(4, size=(1, rows), p=behaviour)
    ones, zeros = np.ones((1, rows), bool), np.zeros((1, rows), np.int64)
    return Trajectories(
        np.zeros((2, rows), np.int64), action, (action == 0).astype(np.float32), ones, ~ones, ones, zeros, zeros,
        extras={"log_prob": np.log(np.float32(behaviour))[action]},
    )  # fmt: skip


@BOTH
def test_what_another_policy_played_counts_by_how_likely_it_is_now(module):
    """Equation 1 for one decision: the weight min(1, pi/mu) on the error, and on the advantage."""
    behaviour = np.array([0.1, 0.2, 0.3, 0.4])
    policy, trainer = make(module.ALGORITHM, spaces.Discrete(2), spaces.Discrete(4), settings(module, vtrace=True))
    batch = bandit(behaviour)
    seen = torch.zeros(1, dtype=torch.int64)
    with torch.no_grad():
        features = policy.recall(seen[None], torch.zeros(1, 0), torch.zeros(1, 1, dtype=bool))[0]
        value, probs = policy.value(features).item(), policy.distribution(features, None).probs[0].numpy()
    weight = np.minimum(1.0, probs / behaviour)[batch.action[0]]
    minibatch, _ = gradients(trainer, batch)
    error = weight * (batch.reward[0] - value)
    order = np.lexsort((minibatch.advantage, minibatch.action))  # PPO shuffles
    expected = np.lexsort((error, batch.action[0]))
    np.testing.assert_allclose(minibatch.advantage[order], error[expected], atol=1e-5)
    np.testing.assert_allclose(minibatch.value_target[order], (value + error)[expected], atol=1e-5)
    assert np.ptp(weight) > 0.3


@BOTH
@pytest.mark.parametrize("vtrace", [True, False])
def test_the_critic_of_a_learner_that_has_moved_on_values_the_learner(module, vtrace):
    """What plays stays uniform and earns 1/4; the learner comes to earn 1, and only V-trace's critic sees it."""
    policy, trainer = make(
        module.ALGORITHM, spaces.Discrete(2), spaces.Discrete(4), settings(module, vtrace=vtrace, learning_rate=0.02),
        {"hidden_sizes": ()},
    )  # fmt: skip
    for seed in range(300):
        trainer.train(bandit(np.full(4, 0.25), seed=seed))
    seen = torch.zeros(1, 1, dtype=torch.int64)
    with torch.no_grad():
        features = policy.recall(seen, torch.zeros(1, 0), torch.zeros(1, 1, dtype=bool))[0]
        value, best = policy.value(features).item(), policy.distribution(features, None).probs[0, 0].item()
    assert value == pytest.approx(1.0 if vtrace else 0.25, abs=0.15)
    assert best > (0.9 if vtrace else 0.3)


def test_steps_and_traces_exclude_each_other():
    with pytest.raises(ConfigError, match="'n_step' = 5 and 'vtrace'"):
        make(a2c.ALGORITHM, BOX, BOX, {"n_step": 5, "vtrace": True})


@pytest.mark.parametrize("algorithm", [pytest.param("a2c"), pytest.param("ppo", marks=pytest.mark.slow)])
@pytest.mark.parametrize("learns", [True, False])
def test_learners_that_wait_for_nobody_learn_with_it(tmp_path, algorithm, learns):
    """Saying what is seen pays 100; guessing 25."""
    summary = train(
        tmp_path, scenario="marl", env="on_policy:Identity", algorithm=algorithm, sync="asp", learners=2, workers=0,
        steps=8000 if learns else 1000, rollout={"eval_interval": 1000, "num_eval_episodes": 10},
        trainer={"discount": 0.4, "vtrace": True, "learning_rate": 5e-3 if learns else 0.0},
    )  # fmt: skip
    assert (summary["return_mean"] >= 90) == learns
