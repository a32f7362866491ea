"""Proximal policy optimisation: what each option does, exact answers, and that it learns, with twins that cannot."""

import copy

import numpy as np
import pytest
import torch
from arithmetic import SAME_POLICY_KL, rounding
from gymnasium import spaces
from on_policy import Ring, make, noise, same

from malib_lite.algorithms import a2c
from malib_lite.algorithms.ppo import ALGORITHM, clipped_value_loss
from malib_lite.algorithms.returns import gae
from malib_lite.contracts.data import Trajectories
from malib_lite.runner import run
from malib_lite.runtime.console import Console
from malib_lite.train import TrainConfig, build, make_scenario

T = torch.tensor
BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
TABULAR = {"hidden_sizes": ()}
NORMALISED = {"normalise_observations": True, "normalise_rewards": True}
GSDE = {"exploration": "state_dependent", "noise_interval": 3}
OPTIONS = {
    "plain": ({}, {}),
    "clips": ({"value_clip": 0.2, "clip_ratio_final": 0.1}, {}),
    "stops": ({"target_kl": 0.01}, {}),
    "normalised": ({}, NORMALISED),
    "gsde": ({}, GSDE),
}
ROUND = {"num_epochs": 1, "minibatch_size": 10_000}  # a round is one gradient
learns_or_not = pytest.mark.parametrize("learns", [True, False])


def whole_round(trainer, batch):
    """All decisions of a round as one minibatch; the trainer is one with the settings of ROUND."""
    (minibatch,) = trainer.minibatches(batch)
    return minibatch


def agree(left, right, atol=None):
    atol = rounding(512) if atol is None else atol  # samples, whose gradients are summed
    return all(torch.allclose(a, b, atol=atol, rtol=0) for a, b in zip(left, right, strict=True))


# -- clips and stops ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "target", "loss", "slope"),
    [
        (1.1, 3.0, 1.9**2, -3.8),  # within the clip of 0.2 around 1: the plain error
        (1.5, 3.0, 1.8**2, 0.0),  # on its way to the target and far enough: no further push
        (0.5, 3.0, 2.5**2, -5.0),  # away from the target: pushed back
        (1.5, 0.9, 0.6**2, 1.2),  # beyond the target: pushed back
    ],
)
def test_clipped_values_by_hand(value, target, loss, slope):
    value = T([value], requires_grad=True)
    clipped = clipped_value_loss(value, T([1.0]), T([target]), 0.2)
    assert clipped.item() == pytest.approx(loss, abs=1e-5)
    assert torch.autograd.grad(clipped, value)[0].item() == pytest.approx(slope, abs=1e-5)


def test_the_value_clip_holds_the_critic_back():
    """Many passes over rewards of 100: values stop soon after they have moved by the clip, and far off without."""
    moved = {}
    for clip in (None, 0.5):
        training = {"num_epochs": 200, "minibatch_size": 10_000, "learning_rate": 1e-3, "learning_rate_final": 1.0}
        policy, trainer = make(ALGORITHM, BOX, BOX, {**training, "value_clip": clip, "max_grad_norm": 1e6})
        batch = noise(policy)
        batch.reward[:] = 100.0
        observation = torch.from_numpy(batch.observation[:-1]).flatten(0, 1)
        with torch.no_grad():
            before = policy.value(observation)
        trainer.train(batch)
        with torch.no_grad():
            moved[clip] = (policy.value(observation) - before).mean().item()
    assert 0.4 < moved[0.5] < 1.5 < 6.0 < moved[None], moved  # Adam's momentum carries them a little farther


def test_both_clips_shrink_with_the_horizon():
    """Half way to a final share of one half they are three quarters of what they were."""

    def gradients(clip_ratio, value_clip, final, num_steps):
        training = {"clip_ratio": clip_ratio, "value_clip": value_clip, "clip_ratio_final": final, **ROUND}
        policy, trainer = make(ALGORITHM, BOX, BOX, training, horizon=100)
        minibatch = whole_round(trainer, noise(policy))
        shift = torch.linspace(-1, 1, len(minibatch.log_prob))  # as if the policy and its values had moved so far
        trainer.advance(num_steps)
        moved = minibatch._replace(log_prob=minibatch.log_prob + shift, value=minibatch.value + shift)
        return trainer.compute_gradients(moved)[0]

    halfway = gradients(0.4, 0.8, final=0.5, num_steps=50)
    assert agree(halfway, gradients(0.3, 0.6, final=1.0, num_steps=50))
    assert agree(gradients(0.4, 0.8, final=0.5, num_steps=0), gradients(0.4, 0.8, final=1.0, num_steps=50))
    for others in [(0.4, 0.6), (0.3, 0.8)]:
        assert not agree(halfway, gradients(*others, final=1.0, num_steps=50), atol=1e-4)


def test_a_round_stops_after_the_update_that_finds_the_policy_too_far_away():
    settings = {"learning_rate": 0.01, "num_epochs": 20, "minibatch_size": 32, "target_kl": 0.02}
    policy, trainer = make(ALGORITHM, BOX, BOX, settings)
    for seed in range(2):  # the second round begins although the first ended so
        distances = []
        for minibatch in trainer.minibatches(noise(policy, seed=seed)):
            gradients, metrics = trainer.compute_gradients(minibatch)
            trainer.apply_gradients(gradients)
            distances.append(metrics["kl"])
        assert max(distances[:-1]) <= 0.02 < distances[-1]
        assert 2 < len(distances) < 80 and distances[0] < SAME_POLICY_KL


# -- advantages and learning rate --------------------------------------------------------------------------------


@pytest.mark.parametrize("normalised", [True, False])
def test_advantages_are_normalised_over_the_round(normalised):
    settings = {"discount": 0.9, "gae_lambda": 0.8, "normalise_advantages": normalised, **ROUND}
    policy, trainer = make(ALGORITHM, BOX, BOX, settings)
    batch = noise(policy)
    with torch.no_grad():
        value = (
            policy.value(torch.from_numpy(batch.observation).flatten(0, 1)).view(batch.observation.shape[:2]).numpy()
        )
    raw = gae(batch.reward, value, batch.terminated, batch.truncated, batch.valid, 0.9, 0.8).ravel()
    wanted = (raw - raw.mean()) / raw.std() if normalised else raw
    minibatch = whole_round(trainer, batch)
    np.testing.assert_allclose(np.sort(minibatch.advantage.numpy()), np.sort(wanted), atol=1e-5)
    targets = raw + value[:-1].ravel()  # of the values, which are in units of rewards either way
    np.testing.assert_allclose(np.sort(minibatch.value_target.numpy()), np.sort(targets), atol=1e-5)


def test_the_learning_rate_is_the_step_that_is_taken():
    """Adam's first step is the learning rate; at the end of the horizon the share of it that is left."""
    for final, share in ((0.25, 0.25), (1.0, 1.0)):
        training = {"learning_rate": 0.01, "learning_rate_final": final, "max_grad_norm": 1e6, **ROUND}
        policy, trainer = make(ALGORITHM, BOX, BOX, training, horizon=100)
        trainer.advance(100)
        before = policy.export_state()
        trainer.train(noise(policy))
        moved = max(np.abs(value - before[name]).max() for name, value in policy.export_state().items())
        assert moved == pytest.approx(0.01 * share, rel=1e-3)


# -- normalisation -----------------------------------------------------------------------------------------------


def test_statistics_travel_with_the_parameters():
    policy, trainer = make(ALGORITHM, BOX, BOX, {}, NORMALISED)
    batches = [noise(policy, seed=seed, scale=30.0, offset=500.0) for seed in range(2)]
    batches[1].valid[5:] = False
    batches[1].observation[6:] = np.nan  # row 5 follows a decision: it is valued, but no decision is made there
    for batch in batches:
        trainer.train(batch)
    seen = np.concatenate([batch.observation[:-1][batch.valid] for batch in batches]).astype(np.float64)
    np.testing.assert_allclose(policy.normaliser.mean.numpy(), seen.mean(0), rtol=1e-9)
    np.testing.assert_allclose(policy.normaliser.var.numpy(), seen.var(0), rtol=1e-6)
    other, _ = make(ALGORITHM, BOX, BOX, {}, NORMALISED)
    observation = torch.from_numpy(batches[0].observation[0])
    assert not torch.equal(*(p.compute_action(observation, evaluate=True).action for p in (policy, other)))
    other.import_state(policy.export_state())
    assert torch.equal(*(p.compute_action(observation, evaluate=True).action for p in (policy, other)))
    assert torch.equal(*(p.value(observation) for p in (policy, other)))


def test_statistics_rest_while_acting():
    policy, _ = make(ALGORITHM, BOX, BOX, {}, NORMALISED)
    before = policy.export_state()
    noise(policy)
    assert all(np.array_equal(value, before[name]) for name, value in policy.export_state().items())


@pytest.mark.parametrize("normalised", [True, False])
def test_normalised_rewards_have_no_unit(normalised):
    """A thousand times the rewards are the same to the critic, and so to the policy."""
    policies = []
    for unit in (1.0, 1000.0):
        settings = {"num_epochs": 3, "learning_rate_final": 1.0}
        policy, trainer = make(ALGORITHM, BOX, BOX, settings, {"normalise_rewards": normalised})
        for seed in range(3):
            batch = noise(policy, seed=seed)
            batch.reward *= unit
            trainer.train(batch)
        policies.append(policy)
    assert agree(policies[0].parameters(), policies[1].parameters(), atol=1e-4) == normalised


def test_rewards_are_summed_on_where_a_round_ends():
    """Two short rounds have the statistics of a long one, and a stream that goes on takes its sum along."""
    batch = noise(make(ALGORITHM, BOX, BOX)[0])
    statistics = []
    for parts in ([slice(0, 8)], [slice(0, 3), slice(3, 8)]):
        policy, trainer = make(ALGORITHM, BOX, BOX, {"discount": 0.9, **ROUND}, {"normalise_rewards": True})
        for rows in parts:
            columns = {
                name: {key: value[rows] for key, value in column.items()} if name == "extras" else column[rows]
                for name, column in vars(batch).items()
                if column is not None and name != "observation"
            }
            columns["observation"] = batch.observation[rows.start : rows.stop + 1]
            trainer.train(Trajectories(**columns))
        statistics.append(policy.reward_normaliser.state_dict())
    for name, value in statistics[0].items():
        torch.testing.assert_close(value, statistics[1][name])
    assert statistics[0]["count"] == 128


@pytest.mark.parametrize("normalised", [True, False])
def test_what_normalisation_is_for(normalised):
    """Observations of 500, 501 and 502: a linear policy does not tell them apart as they are."""
    seen, goals, box = np.float32([500, 501, 502]), np.float32([-1, 0, 1]), spaces.Box(-2.0, 2.0, (1,))
    model = {**TABULAR, "normalise_observations": normalised}
    policy, trainer = make(ALGORITHM, spaces.Box(400.0, 600.0, (1,)), box, {"learning_rate": 0.02}, model, horizon=15)
    observation = seen.repeat(200)[None, :, None].repeat(2, 0)
    flags, zeros = np.ones((1, 600), bool), np.zeros((1, 600), np.int64)
    for _ in range(15):
        with torch.inference_mode():
            output = policy.compute_action(torch.from_numpy(observation[0]))
        reward = -np.square(output.action.numpy()[None, :, 0] - goals.repeat(200))
        trainer.advance(1)
        trainer.train(
            Trajectories(
                observation, output.action.numpy()[None], reward, flags, ~flags, flags, zeros, zeros, None,
                {name: extra.numpy()[None] for name, extra in output.extras.items()},
            )
        )  # fmt: skip
    action = policy.compute_action(torch.from_numpy(seen[:, None]), evaluate=True).action[:, 0].detach().numpy()
    assert (np.abs(action - goals).max() < 0.2) == normalised


# -- state-dependent exploration ---------------------------------------------------------------------------------


def test_noise_of_the_state_is_held_and_counted():
    """The same for three decisions in the same state; log-probabilities are those of its distribution."""
    policy, trainer = make(ALGORITHM, BOX, BOX, ROUND, GSDE)
    observation = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        draws = [policy.compute_action(observation).action for _ in range(6)]
        assert all(torch.equal(draws[i], draws[0]) for i in (1, 2))
        assert all(torch.equal(draws[i], draws[3]) for i in (4, 5))
        assert not torch.isclose(draws[0], draws[3]).any()
        policy.seed(0)
        again = policy.compute_action(observation)
        assert torch.equal(again.action, draws[0])  # of a stream that begins anew
        torch.testing.assert_close(again.log_prob, policy.distribution(observation, None).log_prob(again.action))
        still = policy.compute_action(observation, evaluate=True).action
        assert torch.equal(still, policy.compute_action(observation, evaluate=True).action)
    assert trainer.compute_gradients(whole_round(trainer, noise(policy)))[1]["kl"] < SAME_POLICY_KL  # the ratio is 1


# -- all of them -------------------------------------------------------------------------------------------------


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
    assert same(policy, twin) and trainer.num_updates == resumed.num_updates > 2
    assert all(np.array_equal(getattr(batch, name), value) for name, value in vars(kept).items() if name != "extras")


# -- exact answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked_choices", [True, False])
def test_the_gradient_at_ratio_1_is_that_of_a2c(masked_choices):
    """Of actor and critic alike; not so when the policy has moved and clips have begun to act."""
    common = {"discount": 0.9, "gae_lambda": 0.8, "normalise_advantages": True, "entropy_coef": 0.03}
    space = (Ring.observation_space, Ring.action_space) if masked_choices else (BOX, BOX)
    policy, trainer = make(ALGORITHM, *space, {**common, **ROUND, "learning_rate": 0.05, "max_grad_norm": 1e6})
    twin, reference = make(a2c.ALGORITHM, *space, common)
    batch = Ring(copies=32, seed=0).collect(policy, rows=16) if masked_choices else noise(policy)
    twin.import_state(policy.export_state())
    (theirs,) = reference.minibatches(batch)
    ours = whole_round(trainer, batch)
    gradients, metrics = trainer.compute_gradients(ours)
    assert metrics["kl"] < SAME_POLICY_KL
    assert agree(gradients, reference.compute_gradients(theirs)[0])
    assert max(gradient.abs().max() for gradient in gradients) > 1e-2
    trainer.apply_gradients(gradients)
    twin.import_state(policy.export_state())
    assert not agree(trainer.compute_gradients(ours)[0], reference.compute_gradients(theirs)[0], atol=1e-3)


@pytest.mark.parametrize("option", ["plain", "clips"])
@learns_or_not
def test_the_critic_finds_the_values_of_a_policy(option, learns):
    """The actor is held: V^pi is the solution of a linear system."""
    settings = {**OPTIONS[option][0], "clip_ratio_final": 1.0, "discount": Ring.discount, "minibatch_size": 512}
    settings |= {"learning_rate": 0.1 if learns else 0.0, "learning_rate_final": 0.01, "max_grad_norm": 100.0}
    ring = Ring(copies=64, seed=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy = ALGORITHM.policy(ring.observation_space, ring.action_space, TABULAR, {})
    policy.seed(0)
    with torch.no_grad():
        policy.actor.net[-1].bias.copy_(T([0.5, -0.5, 0.2]))
    policy.actor.requires_grad_(False)
    rounds = 60
    trainer = ALGORITHM.trainer(settings, policy, horizon=rounds)
    for _ in range(rounds if learns else 2):
        trainer.advance(1)
        trainer.train(ring.collect(policy, rows=16))
    states = torch.arange(3)
    probs = policy.action_probs(states, torch.from_numpy(Ring.legal)).detach().numpy()
    error = np.abs(policy.value(states).detach().numpy() - Ring.values(probs)).max()
    assert error < 0.1 if learns else error > 1.0


@pytest.mark.parametrize("option", ["plain", "clips", "stops"])
@learns_or_not
def test_the_actor_finds_the_optimal_actions(option, learns):
    settings = {**OPTIONS[option][0], "discount": Ring.discount, "learning_rate": 0.05 if learns else 0.0}
    ring = Ring(copies=32, seed=0)
    policy, trainer = make(ALGORITHM, ring.observation_space, ring.action_space, settings, TABULAR, horizon=60)
    for _ in range(60 if learns else 2):
        trainer.advance(1)
        trainer.train(ring.collect(policy, rows=16))
    probs = policy.action_probs(torch.arange(3), torch.from_numpy(Ring.legal))
    assert Ring.best().tolist() == [1, 1, 0]
    assert (probs.gather(1, torch.from_numpy(Ring.best())[:, None]).min().item() > 0.8) == learns


# -- in an environment -------------------------------------------------------------------------------------------


def train(folder, **settings):
    settings = {"scenario": "marl", "algorithm": "ppo", "workers": 0, "logdir": str(folder), **settings}
    return run(make_scenario(build(TrainConfig, settings)), Console(quiet=True))


ROLLOUT = {"fragment_length": 32, "num_env_per_thread": 4, "eval_interval": 100}


@learns_or_not
def test_identity(tmp_path, learns):
    """A hundred decisions are worth 90 and more after 1,200; 25 by chance."""
    summary = train(
        tmp_path, env="on_policy:Identity", steps=1200, rollout=ROLLOUT,
        trainer={"discount": 0.4, "minibatch_size": 32, "learning_rate": 0.01 if learns else 0.0},
    )  # fmt: skip
    assert (summary["return_mean"] >= 90) == learns, summary["return_mean"]


@pytest.mark.parametrize("model", [{}, GSDE], ids=["plain", "gsde"])
@learns_or_not
def test_identity_of_real_numbers(tmp_path, model, learns):
    """90 and more after 1,000 decisions; 50 where the action is always 0."""
    summary = train(
        tmp_path, env="on_policy:Identity", env_config={"box": True}, steps=1000, model=model, rollout=ROLLOUT,
        trainer={"discount": 0.4, "minibatch_size": 32, "learning_rate": 0.01 if learns else 0.0},
    )  # fmt: skip
    assert (summary["return_mean"] >= 90) == learns, summary["return_mean"]
