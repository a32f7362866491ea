"""Neural fictitious self-play: its reservoir, who plays an episode, what each part learns from, and that it learns."""

import json

import numpy as np
import pytest
import torch
from fakes import MaskedEnv, finish
from gymnasium import spaces
from scipy.stats import chisquare
from test_algorithms import play, same
from test_learning import train

from malib_lite.algorithms import average_policy, discrete_sac, dqn
from malib_lite.backend.ring import Ring, SlotLayout
from malib_lite.backend.stores import ReservoirStore, make_store
from malib_lite.config import ConfigError, build
from malib_lite.contracts.data import Decisions, PairSpec, ReplaySpec, ReservoirSpec, Trajectories
from malib_lite.contracts.environment import describe
from malib_lite.population.nfsp import IS_BEST_RESPONSE, NFSPPolicy, NFSPTrainer, NFSPTrainerConfig, TrainerSpec
from malib_lite.rollout.inference.local import LocalInference
from malib_lite.rollout.recorder import as_trajectories, trajectory_fields
from malib_lite.rollout.rolloutworker import PolicySpec
from malib_lite.rollout.sampler import Sampler
from malib_lite.rollout.vector_env import vectorise
from malib_lite.train import TrainConfig, main, make_scenario

KUHN = {"scenario": "nfsp", "env": "open_spiel/kuhn_poker"}
SHORT = {"fragment_length": 64, "num_env_per_thread": 16}
CARDS, MOVES, GRID = spaces.Discrete(3), spaces.Discrete(4), spaces.Box(-1.0, 1.0, (2, 3), np.float32)


def numbered(first, rows, streams=1):
    """Decisions whose actions are their numbers; every third is marked."""
    action = np.arange(first, first + rows * streams).reshape(rows, streams)
    nothing = np.zeros((rows, streams))
    return Trajectories(
        observation=np.zeros((rows + 1, streams, 0), np.float32), action=action, reward=nothing.astype(np.float32),
        terminated=nothing > 0, truncated=nothing > 0, valid=nothing == 0, episode=action, policy_version=action,
        extras={"marked": action % 3 == 0},
    )  # fmt: skip


# -- the reservoir --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uniform", [True, False])
def test_every_decision_has_the_same_chance_to_be_kept(uniform, monkeypatch):
    """The twin forgets that the chance falls with the number of decisions: it keeps the newest."""
    store, start = ReservoirStore(ReservoirSpec(1000, 8), np.random.default_rng(0)), 0
    for length in (1, 999, 1, 1500, 17_499, 80_000):
        if not uniform:
            store._num_seen = min(store._num_seen, 1000)
        store.add(numbered(start, length))
        start += length
    kept = store._arrays["action"]
    assert len(store) == len(set(kept.tolist())) == 1000 and start == 100_000
    counts = np.bincount(kept // 5000, minlength=20)  # 50 each
    assert (chisquare(counts).pvalue > 0.01) == uniform


def test_a_reservoir_holds_everything_as_long_as_there_is_room_and_only_what_is_marked():
    store = ReservoirStore(ReservoirSpec(10, 5, "marked"), np.random.default_rng(0))
    assert list(store.batches()) == []
    store.add(numbered(0, 9, 2))
    assert store._arrays["action"][: len(store)].tolist() == [0, 3, 6, 9, 12, 15]
    (batch,) = store.batches()
    assert isinstance(batch, Decisions) and len(batch) == 5 and (batch.action % 3 == 0).all()


def test_a_reservoir_resumes_to_the_bit():
    store, twin = (ReservoirStore(ReservoirSpec(50, 20), np.random.default_rng(seed)) for seed in (0, 1))
    store.add(numbered(0, 70))
    twin.add(numbered(500, 9))  # to be forgotten
    twin.load_state_dict(store.state_dict())
    for each in (store, twin):
        each.add(numbered(70, 200))
    (one,), (other,) = store.batches(), twin.batches()
    assert (one.action == other.action).all() and (store._arrays["action"] == twin._arrays["action"]).all()


def test_a_pair_is_due_when_the_replay_store_has_a_batch():
    spec = PairSpec(ReplaySpec(100, 4, 10, 0.5), ReservoirSpec(100, 3, "marked"))
    store, twin = (make_store(spec, np.random.default_rng(seed)) for seed in (0, 1))
    store.add(numbered(0, 9))
    assert list(store.batches()) == []
    store.add(numbered(9, 8))
    twin.load_state_dict(store.state_dict())
    pairs, others = list(store.batches()), list(twin.batches())
    assert len(pairs) == 4
    assert all(len(pair.replay) == 4 and len(pair.reservoir) == 3 for pair in pairs)
    assert all((pair.reservoir.action % 3 == 0).all() for pair in pairs)
    assert any((pair.replay.action % 3 > 0).any() for pair in pairs)
    for one, other in zip(pairs, others, strict=True):
        assert (one.replay.action == other.replay.action).all()
        assert (one.reservoir.action == other.reservoir.action).all()


# -- who plays ------------------------------------------------------------------------------------------------------


def policy_spec(seen, done, anticipatory=0.1, best_response=dqn.ALGORITHM.policy):
    parts = {
        "best_response": PolicySpec(best_response, seen, done, {"hidden_sizes": (8,)}, {}),
        "average": PolicySpec(average_policy.AveragePolicy, seen, done, {"hidden_sizes": (8,)}, {}),
        "anticipatory": anticipatory,
    }
    return PolicySpec(NFSPPolicy, seen, done, {}, parts)


@pytest.mark.parametrize("anticipatory", [0.1, 0.5])
def test_the_share_of_best_response_episodes_is_eta(anticipatory):
    env, num_envs = describe(MaskedEnv), 100
    (agent,) = env["possible_agents"]
    seen, done = env["observation_spaces"][agent], env["action_spaces"][agent]
    policy = policy_spec(seen, done, anticipatory).make(3)
    layout = SlotLayout(trajectory_fields(seen, done, policy.recorded_fields, 10, num_envs))
    ring = Ring(bytearray(Ring.num_bytes(layout, 1)), layout, 1)
    inference = LocalInference({agent: policy})
    sampler = Sampler(vectorise(env, num_envs, seed=1), {agent: [agent]}, inference, 10, whole_episodes=False)
    modes = {}
    for _ in range(30):
        slot = ring.try_reserve()
        slot.write_meta(rows=finish(sampler.play({agent: slot}))[agent])
        t = as_trajectories(slot)
        for row, stream in zip(*np.nonzero(t.valid), strict=True):
            modes.setdefault((stream, t.episode[row, stream]), []).append(t.extras[IS_BEST_RESPONSE][row, stream])
    assert max(map(len, modes.values())) > 1 and all(len(set(mode)) == 1 for mode in modes.values())
    count, share = len(modes), np.mean([mode[0] for mode in modes.values()])
    assert count > 1000 and abs(share - anticipatory) < 3 * (anticipatory * (1 - anticipatory) / count) ** 0.5


def test_each_part_plays_its_own_episodes_and_evaluation_the_average():
    policy = policy_spec(CARDS, MOVES, 0.5).make(0)
    with torch.no_grad():
        policy.average.net[-1].bias[0] += 100.0  # plays 0, the best response 2
        policy.best_response.q_net.net[-1].bias[2] += 100.0
        policy.best_response.epsilon.fill_(0.0)
        seen, legal = torch.zeros(500, dtype=torch.int64), torch.ones(500, 4, dtype=torch.bool)
        output = policy.compute_action(seen, legal)
        best = output.extras[IS_BEST_RESPONSE]
        assert 0 < best.sum() < 500 and (output.action == torch.where(best, 2, 0)).all()
        again = policy.compute_action(seen, legal, hidden_state=output.hidden_state)
        assert (again.action == output.action).all() and (again.hidden_state == output.hidden_state).all()
        evaluated = policy.compute_action(seen, legal, evaluate=True, hidden_state=output.hidden_state)
        assert (evaluated.action == 0).all() and not evaluated.extras[IS_BEST_RESPONSE].any()
        assert (policy.action_probs(seen, legal, evaluate=True)[:, 0] > 0.99).all()
        legal[:, 0] = legal[:, 2] = False
        assert set(policy.compute_action(seen, legal).action.tolist()) <= {1, 3}


def test_evaluation_draws_from_the_average_policy_and_not_its_mode():
    policy = policy_spec(CARDS, MOVES).make(0)
    with torch.no_grad():
        drawn = policy.compute_action(torch.zeros(4000, dtype=torch.int64), None, evaluate=True).action
    probabilities = policy.action_probs(torch.zeros(1, dtype=torch.int64))[0].detach().double().numpy()
    assert chisquare(np.bincount(drawn.numpy(), minlength=4), 4000 * probabilities / probabilities.sum()).pvalue > 0.01


# -- what is learnt -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [True, False])
def test_a_tabular_average_policy_is_the_empirical_frequency(masked):
    rng = np.random.default_rng(0)
    seen, taken = rng.integers(3, size=300), rng.integers(4, size=300) * rng.integers(2, size=300)
    mask = None
    if masked:  # nobody ever took 3 on the first card because it may not be taken
        taken[(seen == 0) & (taken == 3)] = 1
        mask = np.ones((300, 4), bool)
        mask[seen == 0, 3] = False
    policy = average_policy.AveragePolicy(CARDS, MOVES, {"hidden_sizes": ()})
    trainer = average_policy.AveragePolicyTrainer({"learning_rate": 0.05}, policy)
    for _ in range(200):
        trainer.train(Decisions(seen, taken, mask))
    with torch.no_grad():
        legal = torch.ones(3, 4, dtype=torch.bool)
        legal[0, 3] = not masked
        learnt = policy.action_probs(torch.arange(3), legal).numpy()
    frequency = np.stack([np.bincount(taken[seen == card], minlength=4) / (seen == card).sum() for card in range(3)])
    np.testing.assert_allclose(learnt, frequency, atol=0.01)
    assert not masked or learnt[0, 3] == 0.0


def trainer_of(policy, best_response=dqn.ALGORITHM.trainer, learning_rate=1e-2):
    of_replay = {"batch_size": 16, "learning_starts": 20, "capacity": 500, "n_step": 1}
    settings = NFSPTrainerConfig(
        best_response=TrainerSpec(best_response, build(best_response.config_class, of_replay)),
        average=TrainerSpec(
            average_policy.AveragePolicyTrainer,
            build(average_policy.AveragePolicyConfig, {"batch_size": 16, "learning_rate": learning_rate}),
        ),
    )
    return NFSPTrainer(settings, policy, seed=5, horizon=1000)


def pairs(trainer, policy, rounds=1):
    store = make_store(trainer.data_spec(), np.random.default_rng(0))
    for number in range(rounds):
        store.add(play(policy, 24, 8, seed=number))
        yield from store.batches()


def test_the_average_policy_learns_from_the_best_responses_actions_alone():
    policy = policy_spec(CARDS, MOVES, 0.3).make(0)
    with torch.no_grad():
        policy.best_response.epsilon.fill_(0.0)
    trainer = trainer_of(policy)
    t = play(policy, 24, 8)
    t.action[:] = np.where(t.extras[IS_BEST_RESPONSE], 2, 1)
    t.action_mask[:] = True
    store = make_store(trainer.data_spec(), np.random.default_rng(0))
    store.add(t)
    batches = list(store.batches())
    assert {a for pair in batches for a in pair.replay.action.tolist()} == {1, 2}
    assert {a for pair in batches for a in pair.reservoir.action.tolist()} == {2}
    for _ in range(20):
        for pair in batches:
            metrics = trainer.train(pair)
    assert metrics["average/loss"] < 0.01
    with torch.no_grad():
        assert (policy.action_probs(torch.arange(3))[:, 2] > 0.95).all()


@pytest.mark.parametrize("algorithm", [dqn.ALGORITHM, discrete_sac.ALGORITHM], ids=["dqn", "discrete_sac"])
def test_training_resumes_exactly_and_gradients_fit_the_parameters(algorithm):
    specs = policy_spec(GRID, MOVES, 0.3, algorithm.policy)
    policy, copy = specs.make(0), specs.make(1)
    trainer, resumed = trainer_of(policy, algorithm.trainer), trainer_of(copy, algorithm.trainer)
    first, *rest = pairs(trainer, policy, 2)
    trainer.advance(300)
    trainer.train(first)
    copy.import_state(policy.export_state())
    resumed.load_state_dict(trainer.state_dict())
    assert resumed.best_response.num_updates == resumed.average.num_updates == 1
    assert resumed.average.progress() == resumed.best_response.progress() == 0.3
    for pair in rest:
        (minibatch,) = trainer.minibatches(pair)
        gradients, _ = trainer.compute_gradients(minibatch)
        assert [g.shape for g in gradients] == [p.shape for p in trainer.parameters()]
        trainer.apply_gradients(gradients)
        resumed.train(pair)
    assert len(rest) > 1 and same(policy.export_state(), copy.export_state())


def exploitability(folder, **settings):
    return train(folder, **KUHN, **settings)["exploitability"]


@pytest.mark.parametrize("learns", [True, False])
def test_average_policies_approach_the_equilibrium_of_kuhn_poker(tmp_path, learns):
    """Uniform play has exploitability 11/24."""
    twin = {"trainer": {"learning_rate": 0.0}, "nfsp": {"trainer": {"learning_rate": 0.0}}, "rollout": SHORT}
    settings = {"steps": 40_000} if learns else {"steps": 2000, **twin}
    assert (exploitability(tmp_path, **settings) <= 0.25) == learns


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_kuhn_poker_at_full_length(tmp_path, seed):
    summary = train(tmp_path, **KUHN, seed=seed, workers=1)
    assert summary["exploitability"] <= 0.10 and summary["wall_s"] <= 60


# -- whole runs -----------------------------------------------------------------------------------------------------

RUN = {"steps": 1500, "rollout": SHORT, "trainer": {"updates_per_step": 0.1}, "nfsp": {"anticipatory": 0.4}}


def lines(folder):
    parsed = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "time"} for line in parsed]


@pytest.mark.pictures
def test_one_process_and_many_agree_to_the_bit_and_the_config_repeats_it(tmp_path):
    import yaml

    serial, processes, repeated = (tmp_path / name for name in ("serial", "processes", "repeated"))
    summary = train(serial, **KUHN, **RUN)
    train(processes, **KUHN, **RUN, workers=1)
    settings = yaml.safe_load((serial / "config.yaml").read_text())
    assert settings["trainer"]["updates_per_step"] == 0.1 and settings["nfsp"]["trainer"]["capacity"] > 0
    train(repeated, **settings)
    assert lines(serial) == lines(processes) == lines(repeated) and len(lines(serial)) > 2
    assert lines(serial)[-1]["exploitability"] == summary["exploitability"] == summary["nash_conv"] / 2
    assert summary["updates"] > 0 and (serial / "plots" / "nash_conv.png").exists()
    state = json.loads((serial / "checkpoints" / "state.json").read_text())
    assert (serial / "checkpoints" / "policies" / f"{state['policies']['player_0']}.safetensors").exists()


@pytest.mark.slow
def test_an_inference_server_agrees_to_the_bit(tmp_path):
    for name in ("local", "pipe"):
        settings = {**RUN, "rollout": {**SHORT, "inference_server": name}}
        train(tmp_path / name, **KUHN, **settings, workers=2)
    assert lines(tmp_path / "local") == lines(tmp_path / "pipe")


def test_gradient_workers_share_both_parts_learning(tmp_path):
    summary = train(tmp_path, **KUHN, **{**RUN, "trainer": {"learning_starts": 50}}, learners=2)
    assert summary["updates"] > 0 and lines(tmp_path)[-1]["player_0/average/loss"] < np.log(2)


def test_without_exact_values_the_average_policies_play_each_other(tmp_path):
    summary = train(tmp_path, **{**KUHN, "env": "open_spiel/tic_tac_toe"}, **{**RUN, "steps": 400})
    assert "nash_conv" not in summary and "eval/return/player_0" in summary


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"algorithm": "ppo"}, ["best response", "replayed", "PPOTrainer"]),
        ({"algorithm": "qmix", "mapping": "separate"}, ["best response", "QMIXTrainer"]),
        ({"model": {"memory": "gru"}}, ["best response", "memory"]),
        ({"env": "gym/CartPole-v1"}, ["two players", "marl"]),
        ({"nfsp": {"anticipatry": 0.1}}, ["nfsp.anticipatry", "'nfsp.anticipatory'"]),
        ({"nfsp": {"anticipatory": 1.5}}, ["nfsp.anticipatory", "1.5"]),
        ({"nfsp": {"trainer": {"learnin_rate": 1}}}, ["nfsp.trainer.learnin_rate", "'nfsp.trainer.learning_rate'"]),
        ({"nfsp": {"model": {"hidden_sizes": [0]}}}, ["nfsp.model.hidden_sizes"]),
        ({"scenario": "marl", "nfsp": {"anticipatory": 0.1}}, ["nfsp", "marl"]),
        ({"iterations": 3}, ["iterations", "nfsp", "--steps"]),
    ],
    ids=str,
)
def test_wrong_input_is_explained_before_anything_starts(settings, words, tmp_path):
    with pytest.raises(ConfigError) as error:
        make_scenario(build(TrainConfig, {**KUHN, **settings, "logdir": str(tmp_path)}))
    for word in words:
        assert word in str(error.value)


def test_every_field_is_documented(capsys):
    assert main(["nfsp", "--help-config"]) == 0
    output = capsys.readouterr().out
    for name in ("nfsp.anticipatory", "nfsp.trainer.capacity", "nfsp.trainer.batch_size", "nfsp.model.hidden_sizes"):
        assert f"--{name} " in output
