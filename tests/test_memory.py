"""Policies that remember: what they are taught is what they did, and they learn what nobody else can."""

import numpy as np
import pytest
import torch
from arithmetic import SAME_POLICY_KL
from cue import Cue
from fakes import finish
from gymnasium import spaces
from test_learning import train

from malib_lite.algorithms import a2c, dqn, mappo, ppo, qmix, vdn
from malib_lite.algorithms.sequences import Sequences, outputs
from malib_lite.algorithms.team_q import q_values
from malib_lite.backend.ring import Ring, SlotLayout
from malib_lite.backend.stores import SequenceReplayStore, make_store
from malib_lite.config import ConfigError
from malib_lite.contracts.data import MEMORY, ReplaySpec, Trajectories, cut, cut_and_next, piece_length
from malib_lite.contracts.trainer import TeamShape
from malib_lite.environments import describe_environment
from malib_lite.models.recurrent import Memory, MemoryConfig
from malib_lite.rollout.inference.local import LocalInference
from malib_lite.rollout.pool import PoolPlayer
from malib_lite.rollout.recorder import as_joint_trajectories, as_trajectories, trajectory_fields
from malib_lite.rollout.sampler import Sampler
from malib_lite.rollout.vector_env import vectorise

kinds = pytest.mark.parametrize("kind", ["gru", "lstm"])
# of the sequences that are trained on
lengths = pytest.mark.parametrize(
    "length", [pytest.param(1, marks=pytest.mark.slow), 3, pytest.param(7, marks=pytest.mark.slow), 100]
)


# -- cutting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 3, 5, 16])
def test_pieces_are_the_streams(length):
    for rows in range(1, 120):
        array = np.arange((rows + 1) * 3 * 2).reshape(rows + 1, 3, 2) + 1
        pieces, more = cut(array[:-1], length), cut_and_next(array, length)
        longest = piece_length(rows, length)
        count = -(-rows // longest)
        assert pieces.shape == (longest, 3 * count, 2) and more.shape == (longest + 1, 3 * count, 2)
        assert longest <= max(1, 1.5 * length) and rows > (count - 1) * longest
        for piece in range(count):
            for stream in range(3):
                for row in range(longest):
                    at, found = piece * longest + row, pieces[row, 3 * piece + stream]
                    assert (found == (array[at, stream] if at < rows else 0)).all()
                last = min(longest, rows - piece * longest)
                following = array[piece * longest + last, stream]
                assert (more[: last + 1, 3 * piece + stream][-1] == following).all()


def random_streams(rows, streams, rng, memory=2):
    """Trajectories with all kinds of ends; what nobody should look at is not a number."""
    truncated = rng.random((rows, streams)) < 0.2
    valid = np.ones((rows, streams), bool)
    for t in range(1, rows):
        valid[t] = ~(truncated[t - 1] & valid[t - 1])
    valid[rows - rng.integers(3) :, 0] = False
    numbers = np.arange(rows * streams, dtype=np.float32).reshape(rows, streams)
    observation = np.full((rows + 1, streams, 1), np.nan, np.float32)
    observation[:-1][valid] = numbers[valid][:, None]
    after = np.zeros((rows + 1, streams), bool)
    after[1:] = valid
    after[:-1] &= ~valid
    observation[after] = -1.0
    remembered = np.where(valid[..., None], numbers[..., None], np.nan).repeat(memory, -1).astype(np.float32)
    terminated = valid & ~truncated & (rng.random((rows, streams)) < 0.2)
    zeros = np.zeros((rows, streams), np.int64)
    return Trajectories(
        observation, zeros, numbers, terminated, truncated & valid, valid, zeros, zeros, extras={MEMORY: remembered}
    )


@pytest.mark.parametrize("length", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("n_step", [1, 3])
def test_sequences_hold_every_decision_once(length, n_step):
    rng = np.random.default_rng(length)
    for _ in range(20):
        whole = random_streams(int(rng.integers(1, 30)), 3, rng)
        pieces = whole.sequences(length)
        assert sorted(pieces.reward[pieces.valid]) == sorted(whole.reward[whole.valid])
        assert np.isfinite(pieces.observation).all() and np.isfinite(pieces.extras[MEMORY]).all()
        assert pieces.valid.any(0).all()
        first = pieces.valid[0]
        assert (pieces.extras[MEMORY][0][first, 0] == pieces.reward[0][first]).all()
        # what follows each decision is the same as in the whole, where a piece's end does not shorten the sum
        ours, theirs = pieces.transitions(n_step, 0.5), whole.transitions(n_step, 0.5)
        following = dict(zip(theirs.observation[:, 0], theirs.next_observation[:, 0], strict=True))
        for seen, then, discount, over in zip(
            ours.observation[:, 0], ours.next_observation[:, 0], ours.discount, ours.terminated, strict=True
        ):
            if not over and discount == 0.5**n_step:
                assert then == following[seen]


# -- the memory alone --------------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize(
    "space", [spaces.Discrete(4), spaces.Box(-1, 1, (2, 3)), spaces.Box(0, 255, (8, 8, 3), np.uint8)]
)
def test_sequences_are_steps(kind, space):
    """With episodes that begin in the middle, and with rows in which there is nothing to see."""
    torch.manual_seed(0)
    memory = Memory(space, MemoryConfig(memory=kind, memory_size=5))
    rng = np.random.default_rng(0)
    observation = torch.stack([torch.stack([torch.as_tensor(o) for o in row]) for row in _draws(space, 9, 4)])
    begins, acting = torch.from_numpy(rng.random((9, 4)) < 0.3), torch.from_numpy(rng.random((9, 4)) < 0.7)
    begins[0] = False
    start = torch.randn(4, memory.size)
    for here in (torch.ones_like(acting), acting):
        features = memory(observation, start, begins, here)
        assert features.shape == (9, 4, *memory.space.shape)
        state = start
        for t in range(9):
            state = state.masked_fill(begins[t].unsqueeze(-1), 0.0)
            now = here[t]
            expected, state_now = memory.step(observation[t][now], state[now])
            torch.testing.assert_close(features[t][now], expected)
            state = state.clone()
            state[now] = state_now


def _draws(space, rows, batch):
    space.seed(0)
    return [[space.sample() for _ in range(batch)] for _ in range(rows)]


@kinds
def test_what_is_not_seen_leaves_no_trace(kind):
    """Not even if it is not a number, and not in gradients either."""
    memory = Memory(spaces.Box(-1, 1, (2,)), MemoryConfig(memory=kind, memory_size=5))
    acting = torch.tensor([[True, True], [False, True], [True, True]])
    observation = torch.randn(3, 2, 2)
    found = []
    for nothing in (0.0, torch.nan):
        observation[1, 0] = nothing
        features = memory(observation, torch.zeros(2, memory.size), torch.zeros(3, 2, dtype=torch.bool), acting)
        found.append((features[acting], torch.autograd.grad(features[acting].sum(), list(memory.parameters()))))
    assert torch.equal(found[0][0], found[1][0]) and found[0][0].isfinite().all()
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


def test_an_episode_begins_with_nothing_in_mind():
    memory = Memory(spaces.Box(-1, 1, (2,)), MemoryConfig(memory="lstm"))
    observation = torch.randn(3, 2)
    for a, b in zip(memory.step(observation, None), memory.step(observation, torch.zeros(3, 128)), strict=True):
        assert torch.equal(a, b)


# -- what was done is what is taught -----------------------------------------------------------------------------


def play(policy, fragments, num_decisions, **config):
    """Fragments of a policy in the environment of cues, by the sampler of every training."""
    description = describe_environment(Cue, config)
    agents = description["possible_agents"]
    venv = vectorise(description, 4, seed=1, max_step=None)
    team = "team" in policy.custom_config
    sampler = Sampler(
        venv, {"team": agents}, LocalInference({"team": policy}), num_decisions, False, teams=["team"] if team else []
    )
    spaces_of = description["observation_spaces"][agents[0]], description["action_spaces"][agents[0]]
    shape = (4, len(agents)) if team else (4 * len(agents),)
    layout = SlotLayout(trajectory_fields(*spaces_of, policy.recorded_fields, num_decisions, *shape))
    ring = Ring(bytearray(Ring.num_bytes(layout, fragments)), layout, fragments)
    for _ in range(fragments):
        slot = ring.try_reserve()
        for array in slot.arrays.values():  # what nobody writes nobody may read
            array[...] = np.nan if array.dtype == np.float32 else 0
        slot.write_meta(rows=finish(sampler.play({"team": slot}))["team"])
        yield as_joint_trajectories(slot) if team else as_trajectories(slot)
        ring.commit()


def make(algorithm, kind, num_agents=1, trainer=None, seed=0):
    space = spaces.Box(0.0, 1.0, (3,))
    team = {"team": TeamShape(num_agents, 3 * num_agents)} if algorithm.ALGORITHM.trainer.joint else {}
    torch.manual_seed(seed)
    policy = algorithm.ALGORITHM.policy(space, spaces.Discrete(2), {"memory": kind, "memory_size": 6}, team)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=1.5)  # far from policies that treat all actions alike
    policy.seed(seed)
    return policy, algorithm.ALGORITHM.trainer(trainer or {}, policy, seed=seed, horizon=1000)


@kinds
@pytest.mark.parametrize("algorithm", [ppo, mappo])
@lengths
@pytest.mark.parametrize("cut_off", [False, True])
def test_the_ratio_is_1_when_a_round_arrives(algorithm, kind, length, cut_off):
    """Wherever sequences begin: the memory of then, and the episodes' beginnings, are those of acting."""
    settings = {"sequence_length": length, "num_epochs": 1, "minibatch_size": 8}
    policy, trainer = make(algorithm, kind, num_agents=2 if algorithm is mappo else 1, trainer=settings)
    uneven = {"num_agents": 2, "uneven": True} if algorithm is mappo else {}
    decisions = 0
    for batch in play(policy, 4, 17, cut=cut_off, **uneven):
        assert batch.terminated.any() != cut_off and batch.truncated.any() == cut_off
        for minibatch in trainer.minibatches(batch):
            _, metrics = trainer.compute_gradients(minibatch)
            assert metrics["kl"] < SAME_POLICY_KL
            decisions += int(minibatch.seen.valid.sum())
        decisions -= batch.num_decisions
    assert decisions == 0


@kinds
def test_another_memory_is_noticed(kind):
    """The negative of the test above: memories that are mixed up give other probabilities."""
    policy, trainer = make(ppo, kind)
    (batch,) = play(policy, 1, 17)
    batch.extras[MEMORY][...] = batch.extras[MEMORY][::-1]
    assert max(trainer.compute_gradients(m)[1]["kl"] for m in trainer.minibatches(batch)) > 1000 * SAME_POLICY_KL


@kinds
@pytest.mark.parametrize("algorithm", [dqn, qmix, vdn])
@lengths
@pytest.mark.parametrize("cut_off", [False, True])
def test_replayed_values_are_those_that_chose(algorithm, kind, length, cut_off):
    team = algorithm is not dqn
    settings = {
        "sequence_length": length, "batch_size": 40, "learning_starts": 1, "n_step": 1, "capacity": 3000,
        "epsilon_initial": 0.0, "epsilon_final": 0.0,
    }  # fmt: skip
    played = set()
    for seed in range(8):
        policy, trainer = make(algorithm, kind, num_agents=2 if team else 1, trainer=settings, seed=seed)
        store = make_store(trainer.data_spec(), np.random.default_rng(0))
        assert isinstance(store, SequenceReplayStore)
        for batch in play(policy, 3, 17, cut=cut_off, **({"num_agents": 2, "uneven": True} if team else {})):
            store.add(batch)
        for batch, _ in zip(store.batches(), range(8), strict=False):
            (minibatch,) = trainer.minibatches(batch)
            steps = minibatch.transitions
            if team:
                acting = torch.from_numpy(steps.acting)
                q = q_values(policy.q_net, steps.observation, acting, minibatch.sequences)
                assert (q.argmax(-1)[acting] == torch.from_numpy(steps.action)[acting]).all()
                assert (q[~acting] == 0).all()
            else:
                q = outputs(policy.q_net, steps.observation, minibatch.sequences, trainer.device)
                assert (q.argmax(-1) == torch.from_numpy(steps.action)).all()
            played |= set(steps.action[steps.acting if team else ...].flatten().tolist())
    assert played == {0, 1}


def test_values_of_a_round_are_those_of_acting():
    """The critic sees what the actor saw, in the final rows of truncated episodes, too."""
    policy, trainer = make(a2c, "gru")
    (batch,) = play(policy, 1, 11, cut=True)
    arrays = next(trainer.minibatches(batch))
    sequences = Sequences(batch, len(batch.valid), trainer.device)
    seen = sequences.seen(torch.arange(sequences.count))
    assert torch.equal(seen.observation, arrays.seen.observation)
    with torch.no_grad():
        value = policy.value(policy.recall(*seen[:3])[seen.valid])
        by_stream = torch.zeros(batch.valid.shape)
        for stream in range(4):
            state = torch.zeros(1, policy.memory_size)
            for t in np.flatnonzero(batch.valid[:, stream]):
                if batch.begins[t, stream]:
                    state = torch.zeros(1, policy.memory_size)
                features, state = policy.memory.step(torch.from_numpy(batch.observation[t, stream : stream + 1]), state)
                by_stream[t, stream] = policy.value(features)
    torch.testing.assert_close(value, by_stream[torch.from_numpy(batch.valid)])


# -- the store ---------------------------------------------------------------------------------------------------


def test_the_store_counts_transitions_and_resumes_exactly():
    spec = ReplaySpec(capacity=60, batch_size=20, learning_starts=50, updates_per_step=0.5, sequence_length=5)
    store, rng = make_store(spec, np.random.default_rng(0)), np.random.default_rng(1)
    store.add(random_streams(10, 4, rng))
    assert not list(store.batches())
    store.add(random_streams(10, 4, rng))
    count = sum(1 for _ in store.batches())
    assert count > 0 and len(store) == 12  # sequences
    store.add(random_streams(12, 4, rng))
    again = make_store(spec, np.random.default_rng(5))
    again.load_state_dict(store.state_dict())
    ours, theirs = list(store.batches()), list(again.batches())
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        assert a.reward.shape[1] == 4 and len(a.reward) <= 7
        assert np.array_equal(a.observation, b.observation) and np.array_equal(a.extras[MEMORY], b.extras[MEMORY])


def test_surprise_does_not_choose_sequences():
    with pytest.raises(ConfigError, match=r"priority_exponent.*memory"):
        make(dqn, "gru", trainer={"priority_exponent": 0.6})


# -- pools -------------------------------------------------------------------------------------------------------


def test_members_of_a_pool_remember_to_the_episodes_end():
    """As if each environment had the policy for itself; a new episode begins with nothing in mind."""
    policy, _ = make(ppo, "gru")
    description = describe_environment(Cue, {"delay": 2})
    venv = vectorise(description, 3, seed=0, max_step=None)
    player = PoolPlayer(venv, ["agent_0"], lambda _: policy, {"a": 1.0}, np.random.default_rng(0), greedy=True)
    states = torch.zeros(3, policy.memory_size)
    for _ in range(3):
        player.draw(np.ones(3, bool))
        views = venv.reset(np.ones(3, bool))
        states[:] = 0.0
        while not venv.finished.all():
            view = views["agent_0"]
            output = policy.compute_action(torch.from_numpy(view.observation), None, True, states)
            states = output.hidden_state.detach()
            actions = player.act("agent_0", view, np.arange(3))
            assert (actions == output.action.numpy()).all()
            views = venv.step({"agent_0": actions})


def test_a_memory_is_no_table():
    policy, _ = make(ppo, "gru")
    with pytest.raises(NotImplementedError, match="no finite action distribution"):
        policy.action_probs(torch.zeros(1, 3))


# -- it learns ---------------------------------------------------------------------------------------------------

TWO = {"num_agents": 2, "uneven": True, "delay": 2}
TRAININGS = {
    "ppo": {"steps": 8_000, "env_config": {"delay": 2}},
    "dqn": {"steps": 4_000, "env_config": {"delay": 2}},
    "a2c": {"steps": 20_000, "env_config": {"delay": 2}, "trainer": {"learning_rate": 5e-3}},
    "qmix": {"steps": 4_000, "env_config": TWO},
    "mappo": {"steps": 8_000, "env_config": TWO},
}


@pytest.mark.parametrize(
    "algorithm",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in ("dqn", "mappo", "qmix"))) for name in TRAININGS],
)
@pytest.mark.parametrize("memory", ["gru", "none"])
def test_who_remembers_the_cue_answers_right(tmp_path, algorithm, memory):
    """Half of the answers are right without a memory, however much is learnt."""
    summary = train(
        tmp_path, scenario="marl", env="cue:Cue", algorithm=algorithm, model={"memory": memory},
        rollout={"eval_interval": 1000, "num_eval_episodes": 100}, **TRAININGS[algorithm],
    )  # fmt: skip
    assert (summary["return_mean"] >= 0.9) == (memory == "gru")
