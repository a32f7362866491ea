"""Trajectories, and the stores that learners read from."""

import numpy as np
import pytest

from malib_lite.backend.stores import OnPolicyStore, ReplayStore
from malib_lite.contracts.data import ReplaySpec, Trajectories


def trajectories(rows, streams, start=0, masks=False):
    count = rows * streams
    values = np.arange(start, start + count, dtype=np.float32).reshape(rows, streams)
    observation = np.concatenate([values, values[-1:] + streams])[..., None]
    return Trajectories(
        observation=observation,
        action=values.astype(np.int64) % 3,
        reward=values,
        terminated=np.zeros((rows, streams), bool),
        truncated=np.zeros((rows, streams), bool),
        valid=np.ones((rows, streams), bool),
        episode=np.zeros((rows, streams), np.int64),
        policy_version=np.zeros((rows, streams), np.int64),
        action_mask=np.zeros((rows + 1, streams, 3), bool) if masks else None,
    )


def test_transitions_skip_what_is_not_valid_and_never_have_an_empty_mask():
    t = trajectories(4, 2, masks=True)
    t.action_mask[..., 0] = True
    t.action_mask[2, 0] = False  # below a terminated decision: void
    t.terminated[1, 0] = True
    t.valid[3, 1] = False
    flat = t.transitions()
    assert len(flat) == 7 and flat.next_action_mask.any(-1).all()
    assert flat.observation[:, 0].tolist() == flat.reward.tolist()
    following = flat.next_observation[:, 0] - flat.observation[:, 0]
    assert (following == 2).all()


def test_n_step_transitions_by_hand():
    """One stream of rewards 0 1 2 3 4 5; the episode terminates at row 1, another is truncated at row 3."""
    t = trajectories(6, 1)
    t.terminated[1] = t.truncated[3] = True
    t.valid[4] = False  # the final observation of the truncated episode
    flat = t.transitions(n_step=3, discount=0.5)
    assert flat.reward.tolist() == [0 + 0.5, 1, 2 + 1.5, 3, 5]
    assert flat.next_observation[:, 0].tolist() == [2, 2, 4, 4, 6]
    assert flat.terminated.tolist() == [True, True, False, False, False]
    assert flat.discount.tolist() == [0.25, 0.5, 0.25, 0.5, 0.5]
    whole = trajectories(6, 2).transitions(n_step=2, discount=1.0)
    assert whole.reward[:2].tolist() == [0 + 2, 1 + 3] and whole.reward[-2:].tolist() == [10, 11]
    one = t.transitions()
    assert one.reward.tolist() == [0, 1, 2, 3, 5] and one.discount.tolist() == [1] * 5


def test_concatenation_pads_with_rows_that_do_not_count():
    joined = Trajectories.concatenate([trajectories(4, 2, masks=True), trajectories(2, 3, 100, masks=True)])
    assert joined.observation.shape == (5, 5, 1) and joined.reward.shape == (4, 5)
    assert joined.num_decisions == 14 and not joined.valid[2:, 2:].any()
    assert joined.action_mask[3:, 2:].all()


def test_on_policy_data_is_given_out_once():
    store = OnPolicyStore()
    store.add(trajectories(3, 2))
    store.add(trajectories(3, 1))
    (batch,) = store.batches()
    assert batch.num_decisions == 9 and not list(store.batches())


def replay(**spec):
    defaults = {"capacity": 10, "batch_size": 4, "learning_starts": 1, "updates_per_step": 1.0}
    return ReplayStore(ReplaySpec(**{**defaults, **spec}), np.random.default_rng(0))


def test_replay_keeps_the_newest():
    store = replay(updates_per_step=100)
    for start in range(0, 24, 4):
        store.add(trajectories(2, 2, start))
    rewards = {int(r) for batch in store.batches() for r in batch.reward}
    assert len(store) == 10 and rewards == set(range(14, 24))


def test_replay_of_a_fragment_longer_than_the_store():
    store = replay(updates_per_step=10)
    store.add(trajectories(10, 3))
    assert len(store) == 10 and min(r for batch in store.batches() for r in batch.reward) >= 20


@pytest.mark.parametrize(("ratio", "updates"), [(1.0, 12), (0.25, 3), (2.0, 24)])
def test_replay_gives_its_number_of_updates(ratio, updates):
    store = replay(updates_per_step=ratio)
    count = 0
    for start in range(3):
        store.add(trajectories(2, 2, start))
        count += sum(1 for _ in store.batches())
    assert count == updates


def test_replay_waits_for_its_start_and_does_not_catch_up():
    store = replay(learning_starts=6)
    store.add(trajectories(2, 2))
    assert not list(store.batches())
    store.add(trajectories(2, 2))
    assert len(list(store.batches())) == 4


def test_replay_resumes_to_the_bit():
    store, twin = replay(), replay()
    store.add(trajectories(4, 2))
    list(store.batches())
    twin.load_state_dict(store.state_dict())
    for s in (store, twin):
        s.add(trajectories(4, 2, 50))
    for a, b in zip(store.batches(), twin.batches(), strict=True):
        assert np.array_equal(a.reward, b.reward) and np.array_equal(a.next_observation, b.next_observation)
