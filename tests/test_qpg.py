"""QPG, RPG and RMPG: when the policy steps, time limits, and that they learn, with twins that cannot."""

import itertools

import numpy as np
import pytest
import torch
from gymnasium import spaces
from test_algorithms import TABULAR, Chain, make, play, time_limited_loop

from malib_lite.evaluate import evaluate
from malib_lite.runner import run
from malib_lite.runtime.console import Console
from malib_lite.train import TrainConfig, build, make_scenario

every_gradient = pytest.mark.parametrize("gradient", ["qpg", "rpg", "rmpg"])
learns_or_not = pytest.mark.parametrize("learns", [True, False])


def test_the_policy_steps_with_every_third_gradient():
    policy, trainer = make("qpg", spaces.Discrete(5), spaces.Discrete(4), {"critic_updates": 3, "minibatch_size": 48})
    moved = []
    for minibatch in trainer.minibatches(play(policy, rows=24, streams=4)):
        before = policy.export_state()
        trainer.apply_gradients(trainer.compute_gradients(minibatch)[0])
        after = policy.export_state()
        moved.append({key.split(".")[0] for key in after if not np.array_equal(before[key], after[key])})
    assert moved == [{"critic"}, {"critic"}, {"actor", "critic"}] * 2


def test_the_critic_sees_the_same_decisions_before_the_policy_does():
    policy, trainer = make("qpg", spaces.Discrete(5), spaces.Discrete(4), {"critic_updates": 3, "minibatch_size": 30})
    batch = play(policy, rows=24, streams=4)
    parts = [
        list(part) for _, part in itertools.groupby(trainer.minibatches(batch), lambda minibatch: id(minibatch.target))
    ]
    assert [len(part) for part in parts] == [3, 3, 3]
    targets = torch.cat([part[0].target for part in parts])
    assert len(targets) == batch.num_decisions and len(targets.unique()) > batch.num_decisions * 0.9


def test_what_is_not_finite_is_found_before_parts_that_are_sound_are_learnt_from():
    policy, trainer = make("qpg", spaces.Discrete(5), spaces.Discrete(4), {"minibatch_size": 5})
    before, batch = policy.export_state(), play(policy)
    batch.reward[0, 0] = np.nan  # of 96 decisions
    with pytest.raises(FloatingPointError, match="qpg"):
        trainer.train(batch)
    assert all(np.array_equal(before[key], after) for key, after in policy.export_state().items())


def test_targets_are_the_returns_that_were_seen():
    """One decision, or the sum of two; where the fragment ends v stands in for the rest."""
    policy, trainer = make("qpg", spaces.Discrete(1), spaces.Discrete(2), {"discount": 0.5}, TABULAR)
    with torch.no_grad():
        policy.critic[-1].weight.zero_()
        policy.critic[-1].bias.copy_(torch.tensor([2.0, 6.0]))
        policy.actor.net[-1].weight.zero_()  # v = 4
    batch = play(policy, rows=3, streams=1)
    batch.reward[:, 0], batch.action_mask[:] = [1.0, 3.0, 7.0], True
    batch.terminated[:, 0], batch.truncated[:, 0], batch.valid[:, 0] = [False, True, False], False, True
    minibatch = next(trainer.minibatches(batch))
    assert sorted(minibatch.target.tolist()) == pytest.approx(sorted([1 + 0.5 * 3, 3.0, 7 + 0.5 * 4]))


@pytest.mark.parametrize(("cut", "value"), [(True, 10.0), (False, 1 / (1 - 0.81))])
def test_a_time_limit_is_no_end(cut, value):
    """10 at discount 0.9 where the limit truncates; 1 / (1 - 0.81) from one-step errors where it terminates."""
    one, training = spaces.Discrete(1), {"discount": 0.9, "td_lambda": 0.0, "critic_learning_rate": 0.3}
    training |= {"learning_rate_final": 0.001, "critic_updates": 1, "max_grad_norm": 100.0}
    policy, trainer = make("qpg", one, one, training, TABULAR, horizon=200)
    for _ in range(200):
        trainer.advance(1)
        trainer.train(time_limited_loop(cut))
    assert policy.critic(torch.zeros(1, dtype=torch.int64)).item() == pytest.approx(value, abs=0.05)


@every_gradient
@learns_or_not
def test_the_optimal_actions_of_a_chain(gradient, learns):
    training = {"discount": 0.9, "gradient": gradient, "entropy_coef": 0.0}
    training |= {"learning_rate": 0.1 if learns else 0.0, "critic_learning_rate": 0.1}
    chain, rounds = Chain(copies=16, seed=0), 25
    policy, trainer = make("qpg", chain.observation_space, chain.action_space, training, TABULAR, horizon=rounds)
    for _ in range(rounds if learns else 3):
        trainer.advance(1)
        trainer.train(chain.collect(policy, rows=40))
    probs = policy.action_probs(torch.arange(5), torch.from_numpy(Chain.legal))
    chance_of_best = probs.gather(1, torch.from_numpy(Chain.q_star().argmax(1))[:, None])
    assert (chance_of_best.min().item() > 0.8) == learns


def train(folder, **settings):
    common = {"env": "open_spiel/kuhn_poker", "algorithm": "qpg", "workers": 0, "logdir": str(folder)}
    return run(make_scenario(build(TrainConfig, common | settings)), Console(quiet=True))


@learns_or_not
def test_both_players_of_kuhn_poker_become_harder_to_exploit(tmp_path, learns):
    """The uniform policies' NashConv is 0.917."""
    trainer = {"learning_rate": 2e-3 if learns else 0.0}
    steps = 8_000 if learns else 1_000  # with a learning rate of zero more of the same changes nothing
    train(tmp_path / "run", scenario="marl", steps=steps, trainer=trainer, rollout={"eval_interval": 1000})
    (nash_conv,) = evaluate([str(tmp_path / "run")]).nash_convs
    assert (nash_conv < 0.75) == learns


@pytest.mark.parametrize("sync", ["bsp", "asp", "bap", "ssp"])
def test_gradient_workers_in_every_mode(tmp_path, sync):
    rollout, trainer = {"fragment_length": 64, "eval_interval": 1000}, {"critic_updates": 2}
    summary = train(
        tmp_path / "run", scenario="marl", steps=600, learners=2, sync=sync, rollout=rollout, trainer=trainer
    )
    assert summary["status"] == "completed" and summary["updates"] > 4


@pytest.mark.parametrize("scenario", ["psro", "self_play"])
def test_populations(tmp_path, scenario):
    summary = train(tmp_path / "run", scenario=scenario, steps=300, iterations=2, rollout={"fragment_length": 128})
    assert summary["iteration"] == 2 and 0 < summary["nash_conv"] < 3
