"""What every algorithm must do, and what each must learn where the answer is known exactly."""

import contextlib
import copy
import dataclasses
import importlib
import importlib.metadata
import pickle
import re

import far_device
import numpy as np
import pytest
import torch
from gymnasium import spaces

from malib_lite.config import ConfigError, build
from malib_lite.contracts.data import MEMORY, ReplaySpec, Trajectories, Transitions
from malib_lite.contracts.joint import JointTrajectories
from malib_lite.contracts.trainer import TeamShape
from malib_lite.models.recurrent import MemoryConfig
from malib_lite.registry import check_spaces

MODULES = {
    e.name: importlib.import_module(e.module) for e in importlib.metadata.entry_points(group="malib_lite.algorithms")
}
LEARNING = [name for name in MODULES if name != "random"]
JOINT = [name for name in MODULES if MODULES[name].ALGORITHM.trainer.joint]
# those that may remember are tried once more as "ppo+gru"
MEMORIES = [f"{name}+gru" for name in LEARNING if issubclass(MODULES[name].ALGORITHM.policy.model_class, MemoryConfig)]
TEAM = TeamShape(num_agents=3, state_size=5)  # whom joint trainers train

GRID = spaces.Box(-1.0, 1.0, (2, 3), np.float32)
IMAGE = spaces.Box(0, 255, (8, 8, 1), np.uint8)
CARDS = spaces.Discrete(5)
MOVES = spaces.Discrete(4)
COMBINATIONS = spaces.MultiDiscrete([3, 2])
FORCES = spaces.Box(np.float32([-1, -3]), np.float32([1, 1]))


def plain(name):
    return name.removesuffix("+gru")


def fits(name, observation_space, action_space):
    try:
        MODULES[plain(name)].ALGORITHM.policy.check_spaces(observation_space, action_space)
    except ConfigError:
        return False
    return True


def actions_of(name):
    """A space of actions that the algorithm takes."""
    return MOVES if fits(name, GRID, MOVES) else FORCES


def cases(names, images=False):
    """Every kind of observation with every kind of action; images, which take longer, and memories with one."""
    pairs = [(seen, done) for seen in (GRID, CARDS) for done in (MOVES, COMBINATIONS, FORCES)]
    return [
        pytest.param(
            name, observation_space, action_space, id=f"{name}-{observation_space}-{type(action_space).__name__}"
        )
        for name in names
        for observation_space, action_space in pairs + [(IMAGE, actions_of(name))] * images
        if fits(name, observation_space, action_space) and (name in MODULES or action_space is actions_of(name))
    ]


everywhere = pytest.mark.parametrize(("name", "observation_space", "action_space"), cases([*MODULES, *MEMORIES]))
images_as_well = pytest.mark.parametrize(
    ("name", "observation_space", "action_space"), cases([*MODULES, *MEMORIES], images=True)
)
learners_everywhere = pytest.mark.parametrize(
    ("name", "observation_space", "action_space"), cases([*LEARNING, *MEMORIES])
)
learners_from_images_as_well = pytest.mark.parametrize(
    ("name", "observation_space", "action_space"), cases([*LEARNING, *MEMORIES], images=True)
)
teams_everywhere = pytest.mark.parametrize(
    ("name", "observation_space", "action_space"),
    cases([name for name in [*MODULES, *MEMORIES] if plain(name) in JOINT]),
)


def make(name, observation_space, action_space, training=None, model=None, seed=0, horizon=1000):
    algorithm = MODULES[plain(name)].ALGORITHM
    model = {**(model or {}), **({"memory": "gru", "memory_size": 6} if name in MEMORIES else {})}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        custom_config = {"team": TEAM} if plain(name) in JOINT else {}
        policy = algorithm.policy(observation_space, action_space, model, custom_config)
    policy.seed(seed)
    return policy, algorithm.trainer(training or {}, policy, seed=seed, horizon=horizon)


def observe(space, shape, rng):
    if isinstance(space, spaces.Discrete):
        return rng.integers(space.n, size=shape)
    if space.dtype == np.uint8:
        return rng.integers(256, size=(*shape, *space.shape), dtype=np.uint8)
    return rng.uniform(-1, 1, (*shape, *space.shape)).astype(np.float32)


def masks(space, shape, rng):
    if isinstance(space, spaces.Box):
        return None
    parts = []
    for n in [space.n] if isinstance(space, spaces.Discrete) else space.nvec:
        part = rng.random((*shape, int(n))) < 0.5
        np.put_along_axis(part, rng.integers(n, size=(*shape, 1)), True, axis=-1)
        parts.append(part)
    return np.concatenate(parts, -1)


def tensor(array):
    return None if array is None else torch.from_numpy(array)


def play(policy, rows=24, streams=4, seed=0):
    """Trajectories of the right form from an environment that is nothing but noise: joint ones, if it plays a team."""
    rng = np.random.default_rng(seed)
    if "team" in policy.custom_config:
        return play_together(policy, rows, streams, rng)
    observation = observe(policy.observation_space, (rows + 1, streams), rng)
    mask = masks(policy.action_space, (rows + 1, streams), rng)
    with torch.inference_mode():
        outputs = [
            policy.compute_action(tensor(observation[t]), tensor(mask[t] if mask is not None else None))
            for t in range(rows)
        ]
    terminated = rng.random((rows, streams)) < 0.1
    truncated = ~terminated & (rng.random((rows, streams)) < 0.1)
    valid = np.ones((rows, streams), bool)
    valid[1:] &= ~truncated[:-1]
    return Trajectories(
        observation=observation,
        action=np.stack([o.action.numpy() for o in outputs]),
        reward=rng.normal(size=(rows, streams)).astype(np.float32),
        terminated=terminated & valid,
        truncated=truncated & valid,
        valid=valid,
        episode=np.zeros((rows, streams), np.int64),
        policy_version=np.zeros((rows, streams), np.int64),
        action_mask=mask,
        extras={name: np.stack([o.extras[name].numpy() for o in outputs]) for name in policy.extra_fields}
        | remembered(policy, (rows, streams), rng),
    )


def remembered(policy, shape, rng):
    """Something that was remembered, recorded before each decision."""
    size = policy.memory_size
    return {MEMORY: rng.normal(size=(*shape, size)).astype(np.float32)} if size else {}


def play_together(policy, rows, streams, rng):
    """The same for a team whose agents do not always act; what those are shown that do not means nothing."""
    shape = (rows + 1, streams, TEAM.num_agents)
    observation = observe(policy.observation_space, shape, rng)
    mask = masks(policy.action_space, shape, rng)

    def flat(array, t):
        return None if array is None else tensor(array[t].reshape(-1, *array.shape[3:]))

    with torch.inference_mode():
        outputs = [policy.compute_action(flat(observation, t), flat(mask, t)) for t in range(rows)]

    def together(values):
        return np.stack([value.numpy().reshape(*shape[1:], *value.shape[1:]) for value in values])

    acting = rng.random(shape) < 0.7
    np.put_along_axis(acting, rng.integers(TEAM.num_agents, size=(*shape[:2], 1)), True, axis=-1)
    terminated = rng.random((rows, streams)) < 0.1
    truncated = ~terminated & (rng.random((rows, streams)) < 0.1)
    valid = np.ones((rows, streams), bool)
    valid[1:] &= ~truncated[:-1]
    return JointTrajectories(
        observation=observation,
        acting=acting,
        action=together([o.action for o in outputs]),
        reward=rng.normal(size=(rows, *shape[1:])).astype(np.float32),
        terminated=terminated & valid,
        truncated=truncated & valid,
        valid=valid,
        episode=np.zeros((rows, streams), np.int64),
        policy_version=np.zeros((rows, streams), np.int64),
        action_mask=mask,
        state=rng.normal(size=(*shape[:2], TEAM.state_size)).astype(np.float32),
        extras={name: together([o.extras[name] for o in outputs]) for name in policy.extra_fields}
        | remembered(policy, (rows, *shape[1:]), rng),
    )


def batch_for(trainer, trajectories):
    spec = trainer.data_spec()
    if not isinstance(spec, ReplaySpec):
        return trajectories
    if spec.sequence_length:
        return trajectories.sequences(spec.sequence_length)
    return trajectories.transitions(1, spec.discount)


def same(left, right):
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


# -- every algorithm ---------------------------------------------------------------------------------------------


@images_as_well
def test_actions_have_their_shapes(name, observation_space, action_space):
    policy, _ = make(name, observation_space, action_space)
    rng = np.random.default_rng(0)
    for size in (1, 7):
        for evaluate in (False, True):
            observation = tensor(observe(observation_space, (size,), rng))
            mask = tensor(masks(action_space, (size,), rng))
            with torch.inference_mode():
                hidden = torch.zeros(size, policy.memory_size) if policy.memory_size else "hidden"
                output = policy.compute_action(observation, mask, evaluate, hidden)
            continuous = isinstance(action_space, spaces.Box)
            assert output.action.dtype == (torch.float32 if continuous else torch.int64)
            assert output.action.shape == (size, *action_space.shape)
            assert output.log_prob is None or (output.log_prob.shape, output.log_prob.dtype) == ((size,), torch.float32)
            if policy.memory_size:
                assert output.hidden_state.shape == hidden.shape and output.hidden_state.dtype == torch.float32
            else:
                assert output.hidden_state == "hidden"
            extras = {key: (tuple(e.shape[1:]), e.numpy().dtype) for key, e in output.extras.items()}
            assert extras == {key: (field.shape, field.dtype) for key, field in policy.extra_fields.items()}


@everywhere
def test_streams_are_the_policys_own_and_repeat(name, observation_space, action_space):
    observation = tensor(observe(observation_space, (200,), np.random.default_rng(1)))
    twins = [make(name, observation_space, action_space, seed=3)[0] for _ in range(2)]
    assert same(twins[0].export_state(), twins[1].export_state())
    before = torch.get_rng_state()
    first, second = (policy.compute_action(observation).action for policy in twins)
    assert torch.equal(first, second)
    assert not torch.equal(twins[0].compute_action(observation).action, first)
    twins[0].seed(3)
    assert torch.equal(twins[0].compute_action(observation).action, first)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", [name for name in MODULES if fits(name, GRID, COMBINATIONS)])
@pytest.mark.parametrize("evaluate", [False, True])
def test_every_part_of_a_combination_is_legal(name, evaluate):
    policy, _ = make(name, GRID, COMBINATIONS, seed=5)
    rng = np.random.default_rng(5)
    observation = tensor(observe(GRID, (10,), rng)).repeat(10_000, 1, 1)
    mask = tensor(masks(COMBINATIONS, (10,), rng)).repeat(10_000, 1)
    with torch.inference_mode():
        output = policy.compute_action(observation, mask, evaluate)
    first, second = output.action.unbind(-1)
    assert mask[:, :3].gather(1, first[:, None]).all() and mask[:, 3:].gather(1, second[:, None]).all()
    if not evaluate and output.log_prob is not None:  # how often the combination is drawn for the same observation
        for row in range(10):
            here = (output.action[row::10] == output.action[row]).all(-1)
            assert here.float().mean() == pytest.approx(output.log_prob[row].exp().item(), abs=0.02)


@pytest.mark.parametrize("name", [name for name in MODULES if fits(name, GRID, MOVES)])
@pytest.mark.parametrize("evaluate", [False, True])
def test_draws_are_legal_and_as_announced(name, evaluate):
    """Never an illegal action in 1e5 draws, and each action as often as ``action_probs`` says."""
    policy, _ = make(name, GRID, MOVES, seed=5)
    rng = np.random.default_rng(5)
    observation = tensor(observe(GRID, (10,), rng)).repeat(10_000, 1, 1)
    mask = tensor(masks(MOVES, (10,), rng)).repeat(10_000, 1)
    with torch.inference_mode():
        action = policy.compute_action(observation, mask, evaluate).action
        probs = policy.action_probs(observation[:10], mask[:10], evaluate)
        free = policy.action_probs(observation[:10], None, evaluate)
    assert mask.gather(1, action[:, None]).all()
    assert (probs[~mask[:10]] == 0).all()
    for p in (probs, free):
        torch.testing.assert_close(p.sum(-1), torch.ones(10))
    frequency = torch.nn.functional.one_hot(action.view(-1, 10), 4).float().mean(0)
    torch.testing.assert_close(frequency, probs, atol=0.03, rtol=0)


@everywhere
def test_exported_states_are_copies(name, observation_space, action_space):
    policy, trainer = make(name, observation_space, action_space)
    state = policy.export_state()
    kept = copy.deepcopy(state)
    trainer.advance(10)
    trainer.train(batch_for(trainer, play(policy)))
    assert same(state, kept), "a snapshot moved with its policy"
    other, _ = make(name, observation_space, action_space, seed=9)
    other.import_state(state)
    assert same(other.export_state(), state)
    observation = tensor(observe(observation_space, (5,), np.random.default_rng(2)))
    policy.import_state(state)
    actions = [p.compute_action(observation, None, True).action for p in (policy, other)]
    assert name == "random" or torch.equal(*actions)


@everywhere
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda policy: pickle.loads(pickle.dumps(policy))])
def test_policies_can_be_cloned(name, observation_space, action_space, clone):
    policy, trainer = make(name, observation_space, action_space)
    trainer.train(batch_for(trainer, play(policy)))
    twin = clone(policy)
    observation = tensor(observe(observation_space, (50,), np.random.default_rng(2)))
    assert same(twin.export_state(), policy.export_state())
    assert all(p.grad is None for p in twin.parameters())
    assert torch.equal(twin.compute_action(observation).action, policy.compute_action(observation).action)


@images_as_well
def test_one_update_changes_all_that_is_trained_and_nothing_else(name, observation_space, action_space):
    policy, trainer = make(name, observation_space, action_space)
    batch = batch_for(trainer, play(policy))
    trained = {key for key, parameter in policy.named_parameters() if parameter.requires_grad}
    before, kept = policy.export_state(), copy.deepcopy(batch)
    metrics = trainer.train(batch)
    after = policy.export_state()
    followers = {key for key in after if key.startswith("mean_net.")}  # follow what is trained
    assert {key for key in after if not np.array_equal(after[key], before[key])} == trained | followers
    assert all(isinstance(value, float) and np.isfinite(value) for value in metrics.values())
    for key, array in vars(kept).items():
        np.testing.assert_array_equal(getattr(batch, key), array) if isinstance(array, np.ndarray) else None
    assert name == "random" or (trainer.num_updates > 0 and metrics["grad_norm"] > 0)


@learners_from_images_as_well
def test_train_is_gradients_then_steps(name, observation_space, action_space):
    """The three parts called by hand, as gradient workers do, give what ``train`` gives."""
    (policy, trainer), (twin, hand) = (make(name, observation_space, action_space) for _ in range(2))
    batch = batch_for(trainer, play(policy))
    play(twin)  # draws from the twin's stream as often
    trainer.train(batch)
    for minibatch in hand.minibatches(batch):
        before = twin.export_state()
        gradients, _ = hand.compute_gradients(minibatch)
        assert [g.shape for g in gradients] == [p.shape for p in hand.parameters()]
        assert same(twin.export_state(), before)
        hand.apply_gradients([torch.from_numpy(g.numpy().copy("K")) for g in gradients])
    assert same(policy.export_state(), twin.export_state())


@learners_everywhere
def test_training_resumes_exactly(name, observation_space, action_space):
    policy, trainer = make(name, observation_space, action_space)
    for seed in range(2):
        trainer.advance(50)
        trainer.train(batch_for(trainer, play(policy, seed=seed)))
    state, parameters = trainer.state_dict(), policy.export_state()
    batch = batch_for(trainer, play(policy, seed=7))
    trainer.advance(50)
    trainer.train(batch)
    for _ in range(2):  # twice from the same state: neither taking nor giving it may leave references behind
        twin, resumed = make(name, observation_space, action_space, seed=8)
        twin.import_state(parameters)
        resumed.load_state_dict(state)
        resumed.advance(50)
        resumed.train(batch)
        assert same(twin.export_state(), policy.export_state())
        assert (resumed.num_steps, resumed.num_updates) == (trainer.num_steps, trainer.num_updates)


@learners_everywhere
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_stop_training(name, observation_space, action_space, bad):
    policy, trainer = make(name, observation_space, action_space)
    trajectories = play(policy)
    trajectories.reward[3, 0] = bad
    before = policy.export_state()
    with pytest.raises(FloatingPointError, match=plain(name)), np.errstate(invalid="ignore"):
        trainer.train(batch_for(trainer, trajectories))
    assert same(policy.export_state(), before)


@learners_everywhere
def test_rows_that_are_not_valid_count_nowhere(name, observation_space, action_space):
    (policy, trainer), (twin, other) = (make(name, observation_space, action_space) for _ in range(2))
    clean = play(policy)
    clean.valid[20:, 1] = False
    clean.terminated[~clean.valid] = clean.truncated[~clean.valid] = False
    dirty = copy.deepcopy(clean)
    dirty.reward[~clean.valid] = np.nan
    dirty.action[~clean.valid] = np.nan if isinstance(action_space, spaces.Box) else 1
    for extra in dirty.extras.values():
        extra[~clean.valid] = np.nan
    trainer.train(batch_for(trainer, clean))
    other.train(batch_for(other, dirty))
    assert same(policy.export_state(), twin.export_state())


@teams_everywhere
def test_agents_that_do_not_act_count_nowhere(name, observation_space, action_space):
    (policy, trainer), (twin, other) = (make(name, observation_space, action_space) for _ in range(2))
    clean = play(policy)
    play(twin)  # draws from the twin's stream as often
    dirty = copy.deepcopy(clean)
    absent = ~clean.acting
    dirty.observation[absent] = np.nan if observation_space is GRID else 99
    dirty.action[absent[:-1]] = np.nan if isinstance(action_space, spaces.Box) else 99
    for field, extra in dirty.extras.items():
        extra[absent[:-1]] = extra[absent[:-1]] if field == MEMORY else np.nan  # they remember all the same
    if dirty.action_mask is not None:
        dirty.action_mask[absent] = False
    trainer.train(batch_for(trainer, clean))
    other.train(batch_for(other, dirty))
    assert same(policy.export_state(), twin.export_state())


@pytest.mark.parametrize("name", MODULES)
def test_an_empty_round_is_no_update(name):
    policy, trainer = make(name, GRID, actions_of(name))
    trajectories = play(policy)
    if isinstance(trainer.data_spec(), ReplaySpec):
        pytest.skip("a replay store gives no empty batches")
    trajectories.valid[:] = False
    assert trainer.train(trajectories) == {} and trainer.num_updates == 0


@pytest.mark.parametrize("name", MODULES)
def test_defaults_are_complete_and_mistakes_are_named(name):
    module = MODULES[name]
    policy_class, trainer_class = module.ALGORITHM
    settings = build(trainer_class.config_class, module.DEFAULT_CONFIG["training_config"])
    assert settings == trainer_class.config_class() and settings.total_timesteps is None
    assert build(policy_class.model_class, module.DEFAULT_CONFIG["model_config"]) == policy_class.model_class()
    custom_config = module.DEFAULT_CONFIG["custom_config"]
    if name in JOINT:
        with pytest.raises(ConfigError, match=rf"{name} trains teams.*TeamShape\("):
            policy_class(GRID, actions_of(name), module.DEFAULT_CONFIG["model_config"], custom_config)
        custom_config = {**custom_config, "team": TEAM}
    policy_class(GRID, actions_of(name), module.DEFAULT_CONFIG["model_config"], custom_config)
    with pytest.raises(ConfigError, match=r"total_timestep'.*did you mean 'trainer.total_timesteps'"):
        make(name, GRID, actions_of(name), {"total_timestep": 3})
    if name in LEARNING:
        with pytest.raises(ConfigError, match="activation"):
            make(name, GRID, actions_of(name), model={"activation": "tan"})


def test_spaces_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"dqn needs Discrete actions.*Box\("):
        make("dqn", GRID, FORCES)
    for name in ("pg", "ppo"):
        with pytest.raises(ConfigError, match=rf"{name} needs Box, Discrete or MultiDiscrete.*MultiBinary"):
            make(name, GRID, spaces.MultiBinary(2))
    with pytest.raises(ConfigError, match=r"observations.*Tuple"):
        make("ppo", spaces.Tuple([CARDS]), MOVES)
    with pytest.raises(ConfigError, match=r"random needs.*finite bounds"):
        make("random", GRID, spaces.Box(-np.inf, np.inf, (2,)))


SEEN = (GRID, CARDS, IMAGE, spaces.Discrete(5, start=1), spaces.Tuple([CARDS]))
DONE = (
    MOVES, COMBINATIONS, FORCES, spaces.Discrete(4, start=1), spaces.MultiBinary(2), spaces.Box(-np.inf, np.inf, (2,)),
    spaces.Box(0, 3, (2,), np.int64), spaces.Box(1.0, 1.0, (2,)),
)  # fmt: skip


@pytest.mark.parametrize("observation_space", SEEN, ids=str)
@pytest.mark.parametrize("action_space", DONE, ids=str)
def test_what_is_refused_is_told_what_fits(observation_space, action_space):
    """Every algorithm that is named can be made for these spaces, and none that is not."""
    fitting = []
    for name in sorted(MODULES):
        try:
            make(name, observation_space, action_space)
            fitting.append(name)
        except ConfigError:
            pass
    refused = [name for name in MODULES if name not in fitting]
    for name in fitting[:1]:
        check_spaces(MODULES[name].ALGORITHM.policy, observation_space, action_space)
    for name in refused[:1]:
        with pytest.raises(ConfigError, match=rf"; algorithms that fit: {', '.join(fitting) or 'none'}$"):
            check_spaces(MODULES[name].ALGORITHM.policy, observation_space, action_space)
    for name in refused:
        with pytest.raises(ConfigError) as error:
            MODULES[name].ALGORITHM.policy.check_spaces(observation_space, action_space)
        reason = str(error.value)
        assert str(action_space) in reason or str(observation_space) in reason
        assert not any(re.search(rf"\b{other}\b", reason) for other in set(MODULES) - {name})


# what else networks may be made of, with what is trained on it
VARIANTS = [
    pytest.param(name, GRID, actions, training, model, id=f"{name}-{'-'.join([*training, *model])}")
    for name, actions, training, model in (
        ("a2c", FORCES, {}, {"exploration": "state_dependent"}),
        ("a2c", FORCES, {"vtrace": True}, {}),
        ("a2c", MOVES, {"n_step": 3, "optimiser": "adam"}, {"normalise_observations": True, "normalise_rewards": True}),
        ("dqn", MOVES, {"priority_exponent": 0.6}, {"noisy": True, "dueling": True}),
        ("mappo", MOVES, {}, {"agent_values": True, "normalise_values": True, "normalise_observations": True}),
        ("mappo", FORCES, {}, {"normalise_rewards": True, "exploration": "state_dependent"}),
        ("ppo", MOVES, {}, {"memory": "lstm", "normalise_observations": True, "normalise_rewards": True}),
        ("ppo", MOVES, {"vtrace": True}, {"memory": "gru"}),
    )
]
ROUGHLY = {"rtol": 1e-2, "atol": 1e-2}  # a GPU sums in another order, and Adam makes much of small gradients' signs
DEVICES = [
    pytest.param("far", marks=pytest.mark.skipif(not far_device.AVAILABLE, reason="torch is too old for it")),
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("name", "observation_space", "action_space", "training", "model"),
    [
        pytest.param(*case.values, {}, {}, id=case.id)
        for case in cases([*MODULES, *MEMORIES])
        if case.values[1] is not CARDS
    ]
    + VARIANTS,
)
def test_acts_and_learns_on_a_device(name, observation_space, action_space, training, model, device):
    """Decisions and updates of a policy that was moved there; recorded arrays stay where they are. What is random is
    the same as on the CPU, so nothing but rounding tells where a policy has learnt."""
    trainer_class = MODULES[plain(name)].ALGORITHM.trainer
    if hasattr(trainer_class.config_class, "num_epochs"):
        training = {**training, "num_epochs": 1}
    rng = np.random.default_rng(0)
    seen, legal = observe(observation_space, (7,), rng), masks(action_space, (7,), rng)
    policy, trainer = make(name, observation_space, action_space, training, model)
    before, batch = policy.export_state(), batch_for(trainer, play(policy, rows=6))
    if "priority_exponent" in training:
        batch = dataclasses.replace(batch, sampling_ratio=np.linspace(0.5, 2, batch.num_samples, dtype=np.float32))

    def on(device):
        policy = make(name, observation_space, action_space, training, model)[0].to(device)
        trainer = trainer_class(training, policy, horizon=1000)
        trainer.train(batch)
        trainer.load_state_dict(trainer.state_dict())
        metrics = trainer.train(batch)
        shown = tensor(seen).to(device), None if legal is None else tensor(legal).to(device)
        memory = torch.zeros(7, policy.memory_size).to(device) if policy.memory_size else None
        outputs = [policy.compute_action(shown[0], mask, mask is None, memory) for mask in (shown[1], None)]
        told = [part for output in outputs for part in (output.action, output.log_prob) if part is not None]
        with contextlib.suppress(NotImplementedError):
            told.append(policy.action_probs(*shown))
        assert all(part.device.type == device for part in (*policy.parameters(), *told))
        return policy.export_state(), metrics, [part.detach().cpu() for part in told]

    with far_device.FarDevice() if device == "far" else contextlib.nullcontext():
        there = on(device)
    assert name == "random" or not same(there[0], before)
    torch.testing.assert_close(there, on("cpu"), **({"rtol": 1e-4, "atol": 1e-5} if device == "far" else ROUGHLY))


@pytest.mark.skipif(not far_device.AVAILABLE, reason="torch is too old for it")
def test_the_far_device_refuses_what_a_gpu_refuses():
    near = torch.ones(2, 3)
    with far_device.FarDevice():
        far = near.to("far")
        for mix in (lambda: far + near, lambda: far @ near.T, lambda: torch.cat([far, near]), lambda: far[near > 0]):
            with pytest.raises(RuntimeError, match="on the CPU"):
                mix()
        with pytest.raises((RuntimeError, TypeError), match="numpy"):
            far.numpy()
        with pytest.raises(RuntimeError, match="generator"):
            far.exponential_(generator=torch.Generator())
        assert (far + torch.tensor(1.0)).device.type == torch.zeros(1, device="far").device.type == "far"
        assert far.cpu().numpy().tolist() == near.tolist()


# -- schedules ---------------------------------------------------------------------------------------------------


def test_epsilon_travels_with_the_parameters():
    settings = {"epsilon_initial": 1.0, "epsilon_final": 0.2, "exploration_fraction": 0.5}
    policy, trainer = make("dqn", CARDS, MOVES, settings, horizon=100)
    seen = []
    for _ in range(4):
        seen.append(float(policy.export_state()["epsilon"]))
        trainer.advance(25)
    assert seen == pytest.approx([1.0, 0.6, 0.2, 0.2])
    assert float(make("dqn", CARDS, MOVES, settings, horizon=None)[0].epsilon) == pytest.approx(0.2)
    _, own = make("dqn", CARDS, MOVES, {**settings, "total_timesteps": 40}, horizon=None)
    own.advance(10)
    assert float(own.policy.epsilon) == pytest.approx(0.6)


@pytest.mark.parametrize("name", LEARNING)
def test_the_learning_rate_falls_to_its_share(name):
    _, trainer = make(name, CARDS, actions_of(name), {"learning_rate": 0.1, "learning_rate_final": 0.2}, horizon=100)
    seen = []
    for _ in range(3):
        seen.append(trainer.optimiser.param_groups[0]["lr"])
        trainer.advance(50)
    assert seen == pytest.approx([0.1, 0.06, 0.02])


@pytest.mark.parametrize("name", LEARNING)
def test_no_update_of_a_round_that_is_the_whole_horizon_is_without_effect(name):
    """Schedules run through a round: they begin at 0, end below 1, and parameters move at every update."""
    settings = {"learning_rate_final": 0.0}
    policy, trainer = make(name, CARDS, actions_of(name), settings, horizon=96)
    seen, apply = [], trainer.apply_gradients

    def watched(gradients):
        before = [parameter.detach().clone() for parameter in trainer.parameters()]
        metrics = apply(gradients)
        moved = any(not torch.equal(old, new) for old, new in zip(before, trainer.parameters(), strict=True))
        seen.append((trainer.progress(), moved))
        return metrics

    trainer.apply_gradients = watched
    batch = batch_for(trainer, play(policy))
    for _ in range(4):
        trainer.train(batch, 24)
    progress = [share for share, _ in seen]
    assert all(moved for _, moved in seen)
    assert progress[0] == 0.0 and progress == sorted(progress) and progress[-1] < 1.0
    assert len(progress) % 4 == 0 and progress[len(progress) // 4] == 0.25
    assert trainer.num_steps == 96 and trainer.progress() == 1.0


@pytest.mark.parametrize("tau", [1.0, 0.25])
def test_the_target_network_follows(tau):
    policy, trainer = make("dqn", CARDS, MOVES, {"tau": tau, "target_update_interval": 2, "learning_rate": 0.1})
    batch = play(policy).transitions()
    start = copy.deepcopy(trainer.target_net.state_dict())
    trainer.train(batch)
    assert all(torch.equal(start[key], value) for key, value in trainer.target_net.state_dict().items())
    trainer.train(batch)
    for key, value in trainer.target_net.state_dict().items():
        torch.testing.assert_close(value, start[key] + tau * (policy.q_net.state_dict()[key] - start[key]))


def test_ppo_stops_with_a_round_at_target_kl():
    settings = {"learning_rate": 0.05, "num_epochs": 20}
    policy, free = make("ppo", CARDS, MOVES, settings)
    free.train(play(policy))
    policy, held = make("ppo", CARDS, MOVES, {**settings, "target_kl": 0.01})
    held.train(play(policy))
    assert held.num_updates < free.num_updates == 20


# -- exact answers -----------------------------------------------------------------------------------------------

TABULAR = {"hidden_sizes": ()}


class Chain:
    """States 0..4 in a row, E copies. Action 1 goes right, 0 goes left, 2 is illegal but in the middle, where it stays.

    Leaving at the right pays 1 and at the left 0.2, staying costs 0.1. Starts anywhere; cut after 15 steps.
    """

    num_states, discount = 5, 0.9
    observation_space, action_space = spaces.Discrete(5), spaces.Discrete(3)
    legal = np.array([[True, True, s == 2] for s in range(5)])

    def __init__(self, copies, seed):
        self.rng = np.random.default_rng(seed)
        self.state, self.clock = self.rng.integers(5, size=copies), np.zeros(copies, int)

    @staticmethod
    def model(state, action):
        """Next state, reward and whether the episode ended there."""
        following = state + np.array([-1, 1, 0])[action]
        reward = np.where(following > 4, 1.0, np.where(following < 0, 0.2, 0.0)) - 0.1 * (action == 2)
        over = (following < 0) | (following > 4)
        return np.where(over, 0, following), reward.astype(np.float32), over

    @classmethod
    def q_star(cls):
        """Value iteration; -inf where illegal."""
        state, action = np.mgrid[0:5, 0:3]
        following, reward, over = cls.model(state, action)
        q = np.zeros((5, 3))
        for _ in range(500):
            best = np.where(cls.legal, q, -np.inf).max(1)
            q = reward + cls.discount * np.where(over, 0.0, best[following])
        return np.where(cls.legal, q, -np.inf)

    def collect(self, policy, rows):
        """Trajectories; a truncated copy spends the next row showing its final observation."""
        copies, columns = len(self.state), []
        showing = np.zeros(copies, bool)
        for _ in range(rows):
            observation, mask = self.state.copy(), self.legal[self.state]
            with torch.inference_mode():
                output = policy.compute_action(tensor(observation), tensor(mask))
            following, reward, terminated = self.model(observation, output.action.numpy())
            self.clock += 1
            terminated &= ~showing
            truncated = (self.clock >= 15) & ~terminated & ~showing
            columns.append(
                (observation, mask, output.action.numpy(), reward, terminated, truncated, ~showing, output.extras)
            )
            over = terminated | showing
            self.state = np.where(over, self.rng.integers(5, size=copies), following)
            self.clock[over] = 0
            showing = truncated
        observation, mask, action, reward, terminated, truncated, valid, extras = zip(*columns, strict=True)
        zeros = np.zeros((rows, copies), np.int64)
        return Trajectories(
            observation=np.stack([*observation, self.state]),
            action=np.stack(action),
            reward=np.stack(reward),
            terminated=np.stack(terminated),
            truncated=np.stack(truncated),
            valid=np.stack(valid),
            episode=zeros,
            policy_version=zeros,
            action_mask=np.stack([*mask, self.legal[self.state]]),
            extras={name: np.stack([e[name].numpy() for e in extras]) for name in policy.extra_fields},
        )


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("learning_rate", [0.05, 0.0])
def test_dqn_finds_q_star(double, learning_rate):
    """Tabular features and all transitions of the chain: value iteration's answer to 1e-2, and not without learning."""
    training = {"discount": 0.9, "learning_rate": learning_rate, "double": double, "tau": 0.1}
    updates = 800
    policy, trainer = make("dqn", Chain.observation_space, Chain.action_space, training, TABULAR, horizon=updates)
    with torch.no_grad():
        policy.q_net.net[-1].bias[2] = 5.0  # what is illegal looks best: masks must keep it out of every target
    state, action = np.nonzero(Chain.legal)
    following, reward, over = Chain.model(state, action)
    next_mask = Chain.legal[following] | over[:, None]
    discount = np.full(len(state), 0.9, np.float32)
    batch = Transitions(state, action, reward, following, over, discount, Chain.legal[state], next_mask)
    for _ in range(updates):
        trainer.advance(1)
        trainer.train(batch)
    q = policy.q_net.net(torch.arange(5)).detach().numpy()
    error = np.abs(q - Chain.q_star())[Chain.legal].max()
    if learning_rate:
        assert error < 1e-2
        best = policy.compute_action(torch.arange(5), tensor(Chain.legal), evaluate=True).action
        assert best.tolist() == Chain.q_star().argmax(1).tolist()
    else:
        assert error > 0.1


@pytest.mark.parametrize(("name", "rounds"), [("pg", 80), ("ppo", 25)])
@pytest.mark.parametrize("learns", [True, False])
def test_policy_gradients_find_the_optimal_actions(name, rounds, learns):
    training = {"discount": 0.9, "learning_rate": 0.05 if learns else 0.0}
    chain = Chain(copies=16, seed=0)
    policy, trainer = make(name, chain.observation_space, chain.action_space, training, TABULAR, horizon=rounds)
    for _ in range(rounds if learns else 3):  # with a learning rate of zero more of the same changes nothing
        trainer.advance(1)
        trainer.train(chain.collect(policy, rows=40))
    probs = policy.action_probs(torch.arange(5), tensor(Chain.legal))
    chance_of_best = probs.gather(1, torch.from_numpy(Chain.q_star().argmax(1))[:, None])
    assert (chance_of_best.min().item() > 0.8) == learns


@pytest.mark.parametrize(("name", "rounds"), [("pg", 150), ("ppo", 15)])
@pytest.mark.parametrize("learns", [True, False])
def test_policy_gradients_find_continuous_actions(name, rounds, learns):
    """One decision, paid by minus its squared distance from a goal that the observation tells."""
    goals, box = np.float32([-1.5, 0.0, 0.7]), spaces.Box(-2.0, 2.0, (1,))
    training = {"learning_rate": 0.02 if learns else 0.0}
    policy, trainer = make(name, spaces.Discrete(3), box, training, TABULAR, horizon=rounds)
    observation = np.arange(3).repeat(200)[None].repeat(2, 0)
    flags = np.ones((1, 600), bool)
    for _ in range(rounds):
        with torch.inference_mode():
            output = policy.compute_action(torch.from_numpy(observation[0]))
        action = output.action.numpy()[None]
        reward = -np.square(action[..., 0] - goals[observation[:1]])
        extras = {key: extra.numpy()[None] for key, extra in output.extras.items()}
        trainer.advance(1)
        trainer.train(
            Trajectories(
                observation, action, reward, flags, ~flags, flags, observation[:1], observation[:1], None, extras
            )
        )
    action = policy.compute_action(torch.arange(3), evaluate=True).action[:, 0].detach().numpy()
    assert (np.abs(action - goals).max() < 0.2) == learns


@pytest.mark.parametrize("name", ["ddpg", "discrete_sac", "dqn", "sac"])
@pytest.mark.parametrize("learns", [True, False])
def test_replay_finds_the_actions_that_images_ask_for(name, learns):
    """One of four parts of an image is bright: the choice that pays; or the force, to the left or to the right."""
    forces, updates = fits(name, IMAGE, FORCES), 60
    actions = spaces.Box(-1.0, 1.0, (1,)) if forces else MOVES
    training = {"learning_rate": 2e-3 if learns else 0.0, "discount": 0.0}
    if "sac" in name:
        training["temperature"] = 0.05
    policy, trainer = make(name, IMAGE, actions, training, horizon=updates)
    rng = np.random.default_rng(0)
    images = np.zeros((4, *IMAGE.shape), np.uint8)
    for part in range(4):
        images[part, :, 2 * part : 2 * part + 2] = 255
    for _ in range(updates if learns else 3):
        bright, done = rng.integers(4, size=64), np.ones(64, bool)
        action = rng.uniform(-1, 1, (64, 1)).astype(np.float32) if forces else rng.integers(4, size=64)
        reward = np.where(bright < 2, -action[:, 0], action[:, 0]) if forces else action == bright
        trainer.advance(1)
        trainer.train(
            Transitions(
                images[bright], action, reward.astype(np.float32), images[bright], done, np.zeros(64, np.float32)
            )
        )
    with torch.inference_mode():
        found = policy.compute_action(tensor(images), evaluate=True).action.numpy()
    right = (found[:, 0] * [-1, -1, 1, 1] > 0.5) if forces else found == np.arange(4)
    assert right.all() == learns


def time_limited_loop(cut):
    """One state, one action, reward 1, ten decisions; the limit truncates (``cut``) or terminates."""
    last = np.arange(11)[:, None] == 9
    valid = np.arange(11)[:, None] < 10
    zeros = np.zeros((11, 1), np.int64)
    return Trajectories(
        observation=np.zeros((12, 1), np.int64),
        action=zeros,
        reward=np.ones((11, 1), np.float32),
        terminated=last & (not cut),
        truncated=last & cut,
        valid=valid,
        episode=zeros,
        policy_version=zeros,
        extras={"log_prob": np.zeros((11, 1), np.float32)},
    )


@pytest.mark.parametrize(("cut", "value"), [(True, 10.0), (False, 1 / (1 - 0.81))])
def test_a_time_limit_is_no_end(cut, value):
    """V = 10 at discount 0.9 where the limit truncates; 1 / (1 - 0.81) from one-step errors where it terminates."""
    common = {"discount": 0.9, "learning_rate": 0.3, "learning_rate_final": 0.001}
    one = spaces.Discrete(1)
    policy, trainer = make("ppo", one, one, {**common, "gae_lambda": 0.0, "max_grad_norm": 100.0}, TABULAR, horizon=100)
    for _ in range(100):
        trainer.advance(1)
        trainer.train(time_limited_loop(cut))
    assert policy.critic(torch.zeros(1, dtype=torch.int64)).item() == pytest.approx(value, abs=0.05)
    policy, trainer = make("dqn", one, one, {**common, "tau": 0.3}, TABULAR, horizon=600)
    for _ in range(600):
        trainer.advance(1)
        trainer.train(time_limited_loop(cut).transitions(1, 0.9))
    q = policy.q_net.net(torch.zeros(1, dtype=torch.int64)).item()
    assert q == pytest.approx(value, abs=0.05)
