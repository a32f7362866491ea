"""DQN's options: each by hand, as part of the contract, and learning what is known exactly."""

import copy
import pickle

import numpy as np
import pytest
import torch
from gymnasium import spaces

from malib_lite.algorithms.dqn import ALGORITHM, importance_weights, q_loss, td_error
from malib_lite.backend.stores import make_store
from malib_lite.config import ConfigError
from malib_lite.contracts.data import Trajectories
from malib_lite.contracts.environment import Environment, TimeStep
from malib_lite.models.noisy import parameter_noise
from malib_lite.runner import run
from malib_lite.runtime.console import Console
from malib_lite.train import TrainConfig, build, make_scenario

T = torch.tensor

# What each option is called, in the trainer's and in the model's configuration.
OPTIONS = {
    "plain": ({}, {}),
    "prioritised": ({"priority_exponent": 0.6}, {}),
    "dueling": ({}, {"dueling": True}),
    "noisy": ({}, {"noisy": True}),
    "single": ({"double": False}, {}),
    "all": ({"priority_exponent": 0.6}, {"dueling": True, "noisy": True, "layer_norm": True}),
}
options = pytest.mark.parametrize("option", OPTIONS)
# Each option with a learning rate, and two without: more of nothing changes nothing.
options_and_twins = pytest.mark.parametrize(
    ("option", "learns"), [*((option, True) for option in OPTIONS), ("plain", False), ("all", False)]
)


def make(option="plain", observation_space=None, num_actions=3, seed=0, horizon=1000, model=None, **training):
    of_trainer, of_model = OPTIONS[option]
    space = spaces.Box(-1.0, 1.0, (4,), np.float32) if observation_space is None else observation_space
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        policy = ALGORITHM.policy(space, spaces.Discrete(num_actions), {**of_model, **(model or {})}, {})
    policy.seed(seed)
    return policy, ALGORITHM.trainer({**of_trainer, **training}, policy, seed=seed, horizon=horizon)


def noise(rows=10, streams=4, seed=0):
    """Trajectories that mean nothing, of observations (4,) and three actions of which some are illegal."""
    rng = np.random.default_rng(seed)
    mask = rng.random((rows + 1, streams, 3)) < 0.6
    mask[..., 1] = True
    zeros = np.zeros((rows, streams), np.int64)
    return Trajectories(
        observation=rng.uniform(-1, 1, (rows + 1, streams, 4)).astype(np.float32),
        action=zeros + 1,
        reward=rng.normal(size=(rows, streams)).astype(np.float32),
        terminated=rng.random((rows, streams)) < 0.1,
        truncated=zeros > 0,
        valid=zeros == 0,
        episode=zeros,
        policy_version=zeros,
        action_mask=mask,
    )


def batches(trainer, seed=0):
    """What a store of the kind that the trainer asks for gives of :func:`noise`, learnt from by whoever iterates."""
    spec = trainer.data_spec()._replace(learning_starts=1, batch_size=16, updates_per_step=0.1)
    store = make_store(spec, np.random.default_rng(seed))
    store.add(noise(seed=seed))
    return store.batches()


def same(left, right):
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


# -- by hand -----------------------------------------------------------------------------------------------------


def test_weighted_loss_by_hand():
    q, action, target = T([[0.5, 7.0], [7.0, 3.0]]), T([0, 1]), T([0.0, 1.0])
    assert td_error(q, action, target).tolist() == [0.5, 2.0]
    assert q_loss(q, action, target).item() == pytest.approx((0.25 / 2 + 4.0 / 2) / 2)
    weight = T([0.2, 1.0])
    assert q_loss(q, action, target, weight_t=weight).item() == pytest.approx((0.2 * 0.25 / 2 + 4.0 / 2) / 2)
    assert q_loss(q, action, target, True, weight).item() == pytest.approx((0.2 * 0.25 / 2 + 2.0 - 0.5) / 2)


def test_importance_weights_by_hand():
    ratio = T([0.25, 1.0, 4.0])  # N P
    assert importance_weights(ratio, 0.5).tolist() == pytest.approx([1.0, 0.5, 0.25])
    assert importance_weights(ratio, 1.0).tolist() == pytest.approx([1.0, 0.25, 0.0625])
    assert importance_weights(ratio, 0.0).tolist() == [1.0, 1.0, 1.0]


def test_full_weights_undo_the_bias_of_priorities():
    """The expected gradient of weighted, prioritised draws is that of uniform ones, up to its scale."""
    error, weight_of_draw = T([1.0, -2.0, 0.5, 3.0]), T([4.0, 1.0, 2.0, 3.0])
    probability = weight_of_draw / weight_of_draw.sum()
    weight = importance_weights(4 * probability, 1.0)
    expected = probability * weight * error
    torch.testing.assert_close(expected / expected.sum(), error / error.sum())
    assert not torch.allclose(probability * error / (probability * error).sum(), error / error.sum())


def test_beta_rises_over_the_horizon():
    _, trainer = make("prioritised", horizon=100, importance_initial=0.4, importance_final=1.0)
    seen = []
    for _ in range(4):
        seen.append(trainer.beta)
        trainer.advance(50)
    assert seen == pytest.approx([0.4, 0.7, 1.0, 1.0])
    assert make("prioritised", horizon=None)[1].beta == 1.0


def test_the_trainer_tells_its_errors_and_weighs_its_loss():
    policy, trainer = make("prioritised", importance_initial=0.5, double=False, discount=0.9)
    batch = next(batches(trainer))
    batch.sampling_ratio = np.linspace(0.5, 2.0, 16, dtype=np.float32)
    with torch.no_grad():
        q = policy.q_net.net(torch.from_numpy(batch.observation)).numpy()[np.arange(16), batch.action]
        following = trainer.target_net.net(torch.from_numpy(batch.next_observation)).numpy()
    best = np.where(batch.next_action_mask, following, -np.inf).max(1)
    error = q - (batch.reward + np.where(batch.terminated, 0.0, batch.discount * best))
    _, metrics = trainer.compute_gradients(*trainer.minibatches(batch))
    np.testing.assert_allclose(batch.td_error, error, atol=1e-5)
    weight = (batch.sampling_ratio / 0.5) ** -0.5
    assert metrics["loss"] == pytest.approx((weight * error**2 / 2).mean(), rel=1e-4)


def test_without_priorities_there_is_nothing_to_tell():
    _, trainer = make()
    (*_, batch) = batches(trainer)
    trainer.train(batch)
    assert batch.td_error is None


def test_own_networks_go_without_heads_and_noise():
    for option in ("dueling", "noisy"):
        with pytest.raises(ConfigError, match="neither dueling nor noisy"):
            make(option, model={"net": torch.nn.Linear})


# -- noisy networks ----------------------------------------------------------------------------------------------


def test_noise_explores_in_place_of_epsilon():
    policy, trainer = make("noisy")
    trainer.advance(1)
    assert policy.epsilon == 0.0
    observation = torch.rand(64, 4, generator=torch.Generator().manual_seed(0))
    draws = [policy.compute_action(observation).action for _ in range(20)]
    assert any(not torch.equal(draw, draws[0]) for draw in draws)
    quiet = [policy.compute_action(observation, evaluate=True).action for _ in range(3)]
    assert all(torch.equal(draw, quiet[0]) for draw in quiet)
    assert torch.equal(policy.action_probs(observation, evaluate=True).argmax(-1), quiet[0])
    with pytest.raises(NotImplementedError, match="noise"):
        policy.action_probs(observation)


def test_online_and_target_networks_have_noise_of_their_own():
    """Each of three evaluations draws anew: the target network's, and the online one's of both observations."""
    policy, trainer = make("noisy", seed=3)
    batch, stream = next(batches(trainer)), torch.Generator().manual_seed(3)
    trainer.compute_gradients(*trainer.minibatches(batch))
    for _ in range(3):
        with parameter_noise(policy.q_net, stream):
            pass
    assert torch.equal(trainer.generator.get_state(), stream.get_state())
    for noisy in ((), (trainer.target_net,), (policy.q_net,)):
        for net in (trainer.target_net, policy.q_net):
            for name, parameter in net.named_parameters():
                if name.endswith("sigma"):
                    parameter.data.fill_(float(net in noisy))
        losses = {trainer.compute_gradients(*trainer.minibatches(batch))[1]["loss"] for _ in range(3)}
        assert len(losses) == (3 if noisy else 1)


def test_environments_explore_apart():
    """Rows of a batch have their own noise, all rows that are learnt from share one draw."""
    policy, trainer = make("noisy", model={"noisy_sigma": 3.0})
    action = policy.compute_action(torch.ones(50, 4)).action
    assert len(action.unique()) > 1
    with parameter_noise(policy.q_net, trainer.generator):
        assert (policy.q_net.net(torch.ones(50, 4)).std(0) == 0).all()


# -- the contract ------------------------------------------------------------------------------------------------


@options
def test_every_option_is_legal_seeded_and_portable(option):
    policy, twin = make(option)[0], make(option)[0]
    stream = torch.Generator().manual_seed(0)
    observation = torch.rand(10, 4, generator=stream).repeat(1000, 1)
    mask = torch.rand(10, 3, generator=stream) < 0.5
    mask[:, 2] = True
    mask = mask.repeat(1000, 1)
    before = torch.get_rng_state()
    for evaluate in (False, True):
        with torch.inference_mode():
            action = policy.compute_action(observation, mask, evaluate).action
            assert torch.equal(twin.compute_action(observation, mask, evaluate).action, action)
        assert mask.gather(1, action[:, None]).all()
    assert torch.equal(torch.get_rng_state(), before)
    clone = pickle.loads(pickle.dumps(policy))
    assert same(clone.export_state(), policy.export_state())
    assert torch.equal(clone.compute_action(observation).action, policy.compute_action(observation).action)
    other, _ = make(option, seed=5)
    other.import_state(policy.export_state())
    assert torch.equal(*(p.compute_action(observation, mask, True).action for p in (other, policy)))


@options
def test_every_option_trains_all_of_itself_and_nothing_else(option):
    (policy, trainer), (twin, by_hand) = (make(option) for _ in range(2))
    batch = next(batches(trainer))
    other = copy.deepcopy(batch)
    trained = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    before = policy.export_state()
    metrics = trainer.train(batch)
    after = policy.export_state()
    followers = {name for name in after if name.startswith("mean_net.")}
    changed = {name for name in after if not np.array_equal(after[name], before[name])}
    assert changed == trained | followers and metrics["grad_norm"] > 0
    for minibatch in by_hand.minibatches(other):
        gradients, _ = by_hand.compute_gradients(minibatch)
        assert same(twin.export_state(), before)
        by_hand.apply_gradients(gradients)
    assert same(twin.export_state(), after)


@options
def test_every_option_resumes_exactly(option):
    policy, trainer = make(option)
    for batch in batches(trainer):
        trainer.advance(10)
        trainer.train(batch)
    state, parameters = trainer.state_dict(), policy.export_state()

    def go_on(trainer):
        for batch in batches(trainer, seed=1):
            trainer.advance(10)
            trainer.train(batch)

    go_on(trainer)
    for _ in range(2):
        twin, resumed = make(option, seed=8)
        twin.import_state(parameters)
        resumed.load_state_dict(state)
        go_on(resumed)
        assert same(twin.export_state(), policy.export_state())


# -- exact answers -----------------------------------------------------------------------------------------------

NUM_STATES, NUM_ACTIONS, DISCOUNT = 6, 3, 0.9
LEGAL = np.ones((NUM_STATES, NUM_ACTIONS), bool)
LEGAL[[1, 4], [0, 2]] = False
_RNG = np.random.default_rng(4)
NEXT_STATE = _RNG.integers(NUM_STATES, size=LEGAL.shape)
REWARD = _RNG.uniform(-1, 1, LEGAL.shape).astype(np.float32)
ENDS = _RNG.random(LEGAL.shape) < 0.2


def q_star():
    q = np.zeros(LEGAL.shape)
    for _ in range(500):
        best = np.where(LEGAL, q, -np.inf).max(1)
        q = REWARD + DISCOUNT * np.where(ENDS, 0.0, best[NEXT_STATE])
    return q


def all_transitions():
    """Every legal decision once, each a stream of one row."""
    state, action = np.nonzero(LEGAL)
    following = NEXT_STATE[state, action]
    row = np.zeros((1, len(state)), np.int64)
    return Trajectories(
        observation=np.stack([state, following]),
        action=action[None],
        reward=REWARD[state, action][None],
        terminated=ENDS[state, action][None],
        truncated=row > 0,
        valid=row == 0,
        episode=row,
        policy_version=row,
        action_mask=np.stack([LEGAL[state], LEGAL[following]]),
    )


@options_and_twins
def test_every_option_finds_q_star(option, learns):
    """Value iteration's answer to 1e-2 through the store that the option asks for, and not without learning."""
    updates = 1500 if learns else 50
    training = {"discount": DISCOUNT, "tau": 0.1, "batch_size": 16, "learning_starts": 1}
    training |= {"learning_rate": 0.05 if learns else 0.0, "learning_rate_final": 0.001}
    policy, trainer = make(
        option, spaces.Discrete(NUM_STATES), NUM_ACTIONS, horizon=updates, model={"hidden_sizes": ()}, **training
    )
    spec = trainer.data_spec()._replace(updates_per_step=updates / LEGAL.sum())
    store = make_store(spec, np.random.default_rng(0))
    store.add(all_transitions())
    for batch in store.batches():
        trainer.advance(1)
        trainer.train(batch)
    assert trainer.num_updates >= updates - 1
    with torch.no_grad():
        q = policy.mean_net.net(torch.arange(NUM_STATES)).numpy()
    error = np.abs(q - q_star())[LEGAL].max()
    assert error < 1e-2 if learns else error > 0.1


# -- in an environment -------------------------------------------------------------------------------------------


class IdentityEnv(Environment):
    """Pays 1 for the action that has the number that is shown, as a number or as a lit quarter of an image."""

    def __init__(self, image: bool = False) -> None:
        super().__init__(image=image)
        self.image = image
        self.rng = np.random.default_rng()

    @property
    def possible_agents(self):
        return ["agent"]

    @property
    def observation_spaces(self):
        return {"agent": spaces.Box(0, 255, (10, 8, 1), np.uint8) if self.image else spaces.Discrete(4)}

    @property
    def action_spaces(self):
        return {"agent": spaces.Discrete(4)}

    def reset_episode(self, seed):
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.count = 0
        return TimeStep({"agent": self.show()})

    def time_step(self, actions):
        reward = float(actions["agent"] == self.number)
        self.count += 1
        return TimeStep({"agent": self.show()}, {"agent": reward}, truncated={"agent": self.count == 100})

    def show(self):
        self.number = int(self.rng.integers(4))
        if not self.image:
            return self.number
        picture = np.zeros((10, 8, 1), np.uint8)
        top, left = divmod(self.number, 2)
        picture[5 * top : 5 * top + 5, 4 * left : 4 * left + 4] = 200
        return picture


def train(folder, **settings):
    settings = {"scenario": "marl", "algorithm": "dqn", "workers": 0, "logdir": str(folder), **settings}
    return run(make_scenario(build(TrainConfig, settings)), Console(quiet=True))


@options_and_twins
def test_every_option_solves_the_identity(tmp_path, option, learns):
    of_trainer, model = OPTIONS[option]
    """A hundred decisions are worth 90 and more after 1,200; 25 by chance."""
    trainer = {"discount": 0.4, "learning_starts": 100, "updates_per_step": 0.4, "batch_size": 64}
    summary = train(
        tmp_path,
        env=f"{__name__}:IdentityEnv",
        steps=1200 if learns else 200,
        model={**model, "hidden_sizes": [32]},
        trainer={**trainer, "learning_rate": 4e-3 if learns else 0.0, **of_trainer},
        rollout={"eval_interval": 100, "num_eval_episodes": 20, "fragment_length": 20},
    )
    assert (summary["return_mean"] >= 90) == learns


@pytest.mark.parametrize("learns", [True, False])
def test_images_are_told_apart(tmp_path, learns):
    summary = train(
        tmp_path,
        env=f"{__name__}:IdentityEnv",
        env_config={"image": True},
        steps=1200 if learns else 200,
        model={"hidden_sizes": [32], "activation": "relu"},
        trainer={"discount": 0.4, "batch_size": 32, "learning_starts": 100, "learning_rate": 1e-3 if learns else 0.0},
        rollout={"eval_interval": 100, "num_eval_episodes": 10, "fragment_length": 10},
    )
    assert (summary["return_mean"] >= 90) == learns


@pytest.mark.parametrize("learns", [True, False])
def test_dqn_balances_the_pole(tmp_path, learns):
    """Random play lasts 22.7 steps."""
    summary = train(
        tmp_path,
        env="gym/CartPole-v1",
        steps=20_000 if learns else 1000,
        trainer={"updates_per_step": 0.125} if learns else {"updates_per_step": 0.125, "learning_rate": 0.0},
        rollout={"eval_interval": 100},
    )
    assert (summary["return_mean"] >= 150) == learns
