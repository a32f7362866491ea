"""Trajectories, and the stores that learners read from."""

import numpy as np
import pytest
from scipy.stats import chisquare

from malib_lite.backend.stores import OnPolicyStore, PrioritisedReplayStore, ReplayStore, make_store
from malib_lite.backend.sum_tree import SumTree
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


# -- prioritised replay ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [1, 2, 3, 8, 13, 100])
def test_the_sum_tree_against_a_linear_scan(capacity):
    rng = np.random.default_rng(capacity)
    tree, weights = SumTree(capacity), np.zeros(capacity)
    for _ in range(50):
        rows = rng.integers(capacity, size=rng.integers(1, 9))
        new = np.where(rng.random(len(rows)) < 0.3, 0.0, rng.integers(1, 9, size=len(rows)))  # sums without rounding
        tree.set(rows, new)
        for row, weight in zip(rows, new, strict=True):  # a row that is named twice: the last one holds
            weights[row] = weight
        assert tree[:].tolist()[:capacity] == weights.tolist() and tree.total == weights.sum()
        assert tree[rows].tolist() == weights[rows].tolist()
        if tree.total:
            points = rng.random(64) * tree.total
            points[:2] = 0.0, np.floor(points[2])  # the border of two stretches belongs to the upper one
            found = tree.find(points)
            assert found.tolist() == np.searchsorted(weights.cumsum(), points, side="right").tolist()
            assert (weights[found] > 0).all()


def test_the_sum_tree_finds_no_row_of_weight_zero_at_the_end_of_all():
    tree = SumTree(6)
    tree.set(np.array([1, 3]), np.array([0.1, 0.2]))
    end = tree.total
    assert tree.find(np.array([0.0, np.nextafter(end, 0.0), end, 2 * end])).tolist() == [1, 3, 3, 3]


def prioritised(seed=0, **spec):
    defaults = {"capacity": 10, "batch_size": 4, "learning_starts": 1, "updates_per_step": 1.0}
    spec = ReplaySpec(**{**defaults, "priority_exponent": 0.7, **spec})
    store = make_store(spec, np.random.default_rng(seed))
    assert isinstance(store, PrioritisedReplayStore)
    return store


def learn(store, errors):
    """Every batch of the store, with the error of each transition by its reward; returns rewards and ratios."""
    rewards, ratios = [], []
    for batch in store.batches():
        batch.td_error = errors[batch.reward.astype(int)].astype(np.float32)
        rewards.append(batch.reward.astype(int))
        ratios.append(batch.sampling_ratio)
    return np.concatenate(rewards), np.concatenate(ratios)


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_transitions_are_drawn_in_proportion_to_their_priority(exponent):
    """Chi-square of 20,000 draws against p^alpha; against uniform frequencies it must fail."""
    errors = np.array([0.1, -0.2, 0.5, 1.0, -2.0, 4.0])
    store = prioritised(priority_exponent=exponent, capacity=8, batch_size=1, updates_per_step=20_300 / 6)
    store.add(trajectories(3, 2))
    drawn, ratios = (column[-20_000:] for column in learn(store, errors))  # all have been seen by then
    counts = np.bincount(drawn, minlength=6)
    expected = (np.abs(errors) + 1e-6) ** exponent
    expected /= expected.sum()
    assert chisquare(counts, 20_000 * expected).pvalue > 0.01
    assert chisquare(counts).pvalue < 1e-6
    np.testing.assert_allclose(ratios, 6 * expected[drawn], rtol=1e-5)


def test_each_stretch_of_the_total_gives_one_transition():
    store = prioritised(batch_size=8, capacity=8, updates_per_step=5)
    store.add(trajectories(4, 2))
    for batch in store.batches():  # all alike: stratified draws take each exactly once
        assert batch.reward.tolist() == list(range(8)) and batch.sampling_ratio.tolist() == [1.0] * 8


def test_new_transitions_have_the_highest_priority_so_far():
    store = prioritised(priority_exponent=1.0, batch_size=6, capacity=8)
    store.add(trajectories(3, 2))
    learn(store, np.full(6, 0.5))  # below the 1 that stands at the beginning
    assert store._tree[:6] == pytest.approx(np.full(6, 0.5), abs=1e-5)
    store.add(trajectories(1, 1))
    assert store._tree[6] == 1.0
    for batch in store.batches():
        batch.td_error = np.full(6, -3.0, np.float32)
    store.add(trajectories(2, 2))  # goes round: overwrites rows 0 to 2, and theirs is the highest again
    assert store._tree[np.array([7, 0, 1, 2])] == pytest.approx(np.full(4, 3.0), abs=1e-5)
    assert store._tree.total == pytest.approx(store._tree[:].sum()) and len(store) == 8


def test_priorities_stay_where_nothing_was_learnt():
    store = prioritised()
    store.add(trajectories(4, 2))
    before = store._tree[:]
    assert len(list(store.batches())) == 8
    assert (store._tree[:] == before).all()


def test_without_an_exponent_replay_is_uniform_and_asks_for_nothing():
    store = make_store(ReplaySpec(10, 4, 1, 1.0), np.random.default_rng(0))
    assert type(store) is ReplayStore
    store.add(trajectories(2, 2))
    assert all(batch.sampling_ratio is None and batch.td_error is None for batch in store.batches())


def test_prioritised_replay_resumes_to_the_bit():
    errors = np.random.default_rng(1).normal(size=60)
    store, twin = prioritised(), prioritised(seed=9)
    store.add(trajectories(4, 2))
    learn(store, errors)
    twin.add(trajectories(3, 3))  # something else, to be forgotten
    state = store.state_dict()
    resumed = []
    for s in (twin, prioritised(seed=8), store):  # the state is taken up twice: that may leave no references in it
        if s is not store:
            s.load_state_dict(state)
        s.add(trajectories(4, 2, 50))
        resumed.append((*learn(s, errors), s._tree[:], s._tree.total, s._highest))
    for other in resumed[:2]:
        for one, expected in zip(other, resumed[2], strict=True):
            assert np.array_equal(one, expected)
