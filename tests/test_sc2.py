"""SMAC and SMACv2 against a fake of their public API: a battle on a line, with SMAC's shapes, masks and rewards."""

import sys
import types

import numpy as np
import pytest

from malib_lite.config import ConfigError
from malib_lite.envs.sc2 import SC2Env, env_desc_gen, env_ids
from malib_lite.rollout.vector_env import EnvironmentFault, vectorise

NOTHING, STOP, EAST, WEST = 0, 1, 4, 5
FIRST_TARGET = 6
HEALTH, DAMAGE = 45.0, 15.0
LIMITS = {"3m": 60, "8m": 120, "10gen_terran": 200}


class FakeStarCraft2Env:
    """Allies stand about x = 0, enemies about x = 4, all in range of each other, 6; the AI shoots at the first living.

    ``difficulty`` is the damage of one shot of the AI; "1" stands for an AI that never shoots. As in SMAC, only a dead
    unit may do nothing, an illegal action is an AssertionError, a time-out is told only to who set
    ``continuing_episode``, the game starts with the first reset, and a broken connection gives ``(0, True, {})``.
    """

    made = []
    binary = True
    breaks_in_step = None

    def __init__(
        self,
        map_name="8m",
        difficulty="7",
        seed=None,
        continuing_episode=False,
        obs_own_pos=False,
        use_unit_ranges=False,
        min_attack_range=2,
        capability_config=None,
        reward_sparse=False,
    ):
        type(self).made.append(self)
        self.map_name, self.difficulty, self._seed = map_name, difficulty, seed
        self.continuing_episode, self.reward_sparse = continuing_episode, reward_sparse
        self.obs_own_pos, self.use_unit_ranges = obs_own_pos, use_unit_ranges
        self.capability_config = capability_config
        self.episode_limit = LIMITS[map_name]
        numbers = capability_config["team_gen"] if capability_config else {}
        default = 3 if map_name == "3m" else 8
        self.n_agents = numbers.get("n_units", default)
        self.n_enemies = numbers.get("n_enemies", default)
        self.n_actions = FIRST_TARGET + self.n_enemies
        self.launched = False
        self.closed = 0
        self.episodes = 0

    def get_env_info(self):
        return {
            "state_shape": 4 * self.n_agents + 3 * self.n_enemies + self.n_agents * self.n_actions,
            "obs_shape": 4 + 5 * self.n_enemies + 5 * (self.n_agents - 1) + 1,
            "n_actions": self.n_actions,
            "n_agents": self.n_agents,
            "episode_limit": self.episode_limit,
        }

    def reset(self, episode_config=None):
        if not self.launched:
            if not type(self).binary:
                raise FileNotFoundError("[Errno 2] No such file or directory: '/root/StarCraftII/Versions'")
            self.launched = True
            self.rng = np.random.default_rng(self._seed)
        self.steps = 0
        self.x = self.rng.uniform(-0.5, 0.5, self.n_agents)
        self.enemy_x = 4 + self.rng.uniform(-0.5, 0.5, self.n_enemies)
        self.health = np.full(self.n_agents, HEALTH)
        self.enemy_health = np.full(self.n_enemies, HEALTH)
        self.last_action = np.zeros((self.n_agents, self.n_actions))
        return self.get_obs(), self.get_state()

    def step(self, actions):
        actions = [int(action) for action in actions]
        assert len(actions) == self.n_agents
        for i, action in enumerate(actions):
            assert self.get_avail_agent_actions(i)[action] == 1, f"Agent {i} cannot perform action {action}"
        self.steps += 1
        if self.steps == type(self).breaks_in_step:
            return 0, True, {}
        self.last_action = np.eye(self.n_actions)[actions]
        before = self.enemy_health.copy()
        for i, action in enumerate(actions):
            self.x[i] += 2.0 * ((action == EAST) - (action == WEST))
            if action >= FIRST_TARGET:
                target = action - FIRST_TARGET
                self.enemy_health[target] = max(0.0, self.enemy_health[target] - DAMAGE)
        shot = 0.0 if self.difficulty == "1" else float(self.difficulty)
        for enemy_health in self.enemy_health:
            living = np.flatnonzero(self.health)
            if enemy_health and living.size:
                self.health[living[0]] = max(0.0, self.health[living[0]] - shot)
        killed = int(((before > 0) & (self.enemy_health == 0)).sum())
        reward = 0.0 if self.reward_sparse else float((before - self.enemy_health).sum()) + 10 * killed
        info = {
            "battle_won": False,
            "dead_allies": int((self.health == 0).sum()),
            "dead_enemies": int((self.enemy_health == 0).sum()),
        }
        terminated = False
        if not self.enemy_health.any() and self.health.any():
            terminated = info["battle_won"] = True
            reward = 1.0 if self.reward_sparse else reward + 200
        elif not self.health.any():
            terminated = True
            reward = -1.0 if self.reward_sparse else reward
        elif self.steps >= self.episode_limit:
            terminated = True
            if self.continuing_episode:
                info["episode_limit"] = True
        self.episodes += terminated
        return reward / ((10 * self.n_enemies + 200 + HEALTH * self.n_enemies) / 20), terminated, info

    def get_avail_agent_actions(self, agent_id):
        if self.health[agent_id] == 0:
            return [1] + [0] * (self.n_actions - 1)
        in_range = (self.enemy_health > 0) & (np.abs(self.enemy_x - self.x[agent_id]) <= 6)
        return [0, 1, 0, 0, int(self.x[agent_id] < 8), int(self.x[agent_id] > -8), *in_range.astype(int).tolist()]

    def get_avail_actions(self):
        return [self.get_avail_agent_actions(i) for i in range(self.n_agents)]

    def get_obs_agent(self, agent_id):
        if self.health[agent_id] == 0:
            return np.zeros(self.get_env_info()["obs_shape"], np.float32)
        avail = self.get_avail_agent_actions(agent_id)
        enemies = np.zeros((self.n_enemies, 5), np.float32)
        for e in range(self.n_enemies):
            far = self.enemy_x[e] - self.x[agent_id]
            if abs(far) < 9 and self.enemy_health[e]:
                enemies[e] = [avail[FIRST_TARGET + e], abs(far) / 9, far / 9, 0, self.enemy_health[e] / HEALTH]
        allies = np.zeros((self.n_agents, 5), np.float32)
        for a in range(self.n_agents):
            far = self.x[a] - self.x[agent_id]
            if abs(far) < 9 and self.health[a]:
                allies[a] = [1, abs(far) / 9, far / 9, 0, self.health[a] / HEALTH]
        allies = np.delete(allies, agent_id, 0)
        own = np.array([self.health[agent_id] / HEALTH], np.float32)
        return np.concatenate([np.array(avail[2:6], np.float32), enemies.ravel(), allies.ravel(), own])

    def get_obs(self):
        return [self.get_obs_agent(i) for i in range(self.n_agents)]

    def get_state(self):
        allies = np.stack([self.health / HEALTH, np.zeros(self.n_agents), self.x / 32, np.zeros(self.n_agents)], 1)
        allies[self.health == 0] = 0
        enemies = np.stack([self.enemy_health / HEALTH, self.enemy_x / 32, np.zeros(self.n_enemies)], 1)
        enemies[self.enemy_health == 0] = 0
        return np.concatenate([allies.ravel(), enemies.ravel(), self.last_action.ravel()]).astype(np.float32)

    def close(self):
        self.closed += 1
        self.launched = False


class FakeWrapper:
    """SMACv2's wrapper: it completes the given dictionary; its reset may have to try again, and then returns None."""

    def __init__(self, **kwargs):
        config = kwargs["capability_config"]
        for key in ("team_gen", "start_positions"):
            assert "env_key" not in config[key], "the dictionary of another environment"
            config[key].update(env_key=key, n_units=config["n_units"], n_enemies=config["n_enemies"])
        self.env = FakeStarCraft2Env(**kwargs)

    def __getattr__(self, name):
        return getattr(self.env, name)

    def reset(self):
        self.env.reset({})

    def get_avail_actions(self):
        raise AssertionError("some versions of SMACv2 cannot do this")


@pytest.fixture
def fake(monkeypatch):
    """The fake in the place of both packages; it is the class, with everything that was made of it."""
    monkeypatch.setattr(FakeStarCraft2Env, "made", [])
    for package in ("smac", "smacv2"):
        module = types.ModuleType(f"{package}.env")
        module.StarCraft2Env = FakeStarCraft2Env
        if package == "smacv2":
            module.StarCraftCapabilityEnvWrapper = FakeWrapper
        monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
        monkeypatch.setitem(sys.modules, f"{package}.env", module)
    return FakeStarCraft2Env


def everyone(env, action):
    """The action for the living, nothing for the dead."""
    masks = [env._game.get_avail_agent_actions(i) for i in range(len(env.possible_agents))]
    return {agent: NOTHING if mask[0] else action for agent, mask in zip(env.possible_agents, masks, strict=True)}


def focus_fire(step):
    """Shoot at the first enemy that may be shot at; nothing for the dead."""
    return {
        agent: int(np.flatnonzero(mask[FIRST_TARGET:])[0]) + FIRST_TARGET if not mask[NOTHING] else NOTHING
        for agent, mask in step.action_masks.items()
    }


def test_spaces_are_those_of_the_map_and_no_game_starts_for_them(fake):
    description = env_desc_gen("3m")
    assert description["possible_agents"] == ["ally_0", "ally_1", "ally_2"]
    assert {space.shape for space in description["observation_spaces"].values()} == {(30,)}
    assert {int(space.n) for space in description["action_spaces"].values()} == {9}
    assert SC2Env("3m").state_space.shape == (48,)
    assert not any(game.launched for game in fake.made)


def test_a_victory_terminates_and_gives_twenty_in_all_to_every_agent(fake):
    env = SC2Env("3m", scenario_configs={"difficulty": "5"})
    step = env.begin(seed=1)
    while not env.finished:
        step = env.advance(focus_fire(step))
    # three shots of 15 kill one enemy of 45 in each step
    assert env.cnt == 3 and set(step.terminated.values()) == {True} and not step.truncated
    assert env.episode_returns == pytest.approx(dict.fromkeys(env.possible_agents, 20.0))
    assert step.rewards["ally_2"] == pytest.approx((45 + 10 + 200) / (365 / 20))
    assert step.infos["ally_1"]["battle_won"] and step.infos["ally_1"]["dead_enemies"] == 3
    assert set(step.observations) == set(env.possible_agents)


def test_the_dead_do_nothing_see_nothing_and_earn_with_their_team(fake):
    env = SC2Env("3m", scenario_configs={"difficulty": "15"})
    step = env.begin(seed=1)
    assert all(step.infos[agent] == {"alive": True} for agent in env.possible_agents)
    assert not any(mask[NOTHING] for mask in step.action_masks.values())
    step = env.advance(everyone(env, FIRST_TARGET))  # kills enemy 0; the other two shots of 15 leave ally 0 with 15
    step = env.advance(everyone(env, STOP))
    assert not env.finished and not step.infos["ally_0"]["alive"] and step.infos["ally_1"]["alive"]
    assert step.action_masks["ally_0"].tolist() == [True] + [False] * 8
    assert step.action_masks["ally_1"].dtype == bool and not step.action_masks["ally_1"][NOTHING]
    assert not step.action_masks["ally_1"][FIRST_TARGET]  # dead, no target any more
    assert not step.observations["ally_0"].any() and step.observations["ally_1"].any()
    step = env.advance({"ally_0": NOTHING, "ally_1": FIRST_TARGET + 1, "ally_2": FIRST_TARGET + 1})
    assert set(step.rewards.values()) == {30 / (365 / 20)} and len(step.rewards) == 3


def test_state_is_a_copy_of_the_global_state(fake):
    env = SC2Env("3m")
    assert env.state() is None
    env.begin(seed=1)
    first = env.state()
    assert env.state_space.contains(first) and first[:4:4] == 1.0
    env.advance(everyone(env, EAST))
    assert not np.array_equal(first, env.state())
    assert np.array_equal(env.state()[-27:].reshape(3, 9).argmax(1), [EAST] * 3)  # the last actions


def test_an_illegal_action_is_refused_by_the_game(fake):
    env = SC2Env("3m")
    env.begin(seed=1)
    with pytest.raises(AssertionError, match="cannot perform action 0"):
        env.advance(dict.fromkeys(env.possible_agents, NOTHING))


def test_a_time_out_truncates(fake):
    env = SC2Env("3m", scenario_configs={"difficulty": "1"})
    env.begin(seed=1)
    while not env.finished:
        step = env.advance(everyone(env, STOP))
    assert env.cnt == 60 and set(step.truncated.values()) == {True} and not step.terminated
    assert step.infos["ally_0"]["episode_limit"]


def test_a_defeat_in_the_last_step_of_the_time_limit_terminates(fake, monkeypatch):
    monkeypatch.setitem(LIMITS, "3m", 3)
    env = SC2Env("3m", scenario_configs={"difficulty": "15"})  # nine shots, three in a step
    env.begin(seed=1)
    for _ in range(3):
        assert not env.finished
        step = env.advance(everyone(env, STOP))
    assert env.finished and set(step.terminated.values()) == {True} and not step.truncated
    assert step.infos["ally_0"] == {"battle_won": False, "dead_allies": 3, "dead_enemies": 0, "alive": False}


def test_a_game_that_broke_down_truncates(fake, monkeypatch):
    monkeypatch.setattr(fake, "breaks_in_step", 2)
    env = SC2Env("3m")
    env.begin(seed=1)
    env.advance(everyone(env, STOP))
    step = env.advance(everyone(env, STOP))
    assert env.finished and set(step.truncated.values()) == {True} and not step.terminated
    assert set(step.rewards.values()) == {0.0}


def test_a_seed_starts_the_game_anew_and_none_goes_on(fake):
    env = SC2Env("3m")
    first = env.begin(seed=5).observations["ally_0"]
    second = env.begin().observations["ally_0"]
    assert not np.array_equal(first, second)
    assert [game._seed for game in fake.made if game.launched] == [5]
    assert np.array_equal(env.begin(seed=5).observations["ally_0"], first)
    assert np.array_equal(env.begin().observations["ally_0"], second)
    assert not np.array_equal(env.begin(seed=6).observations["ally_0"], first)
    assert [game._seed for game in fake.made if game.launched] == [6], "a game was left running"
    env.close()
    assert not any(game.launched for game in fake.made)


def test_rows_of_a_vector_play_whole_episodes(fake):
    rng = np.random.default_rng(0)
    venv = vectorise(env_desc_gen("3m"), 3, seed=0)
    views = venv.reset(np.ones(3, bool))
    ends = 0
    for _ in range(300):
        assert all(view.action_mask.any(1).all() for view in views.values())
        actions = {agent: (rng.random((3, 9)) * view.action_mask).argmax(1) for agent, view in views.items()}
        views = venv.step(actions)
        ends += int(venv.finished.sum())
        if venv.finished.any():
            views = venv.reset(venv.finished)
    venv.close()
    assert ends > 10


def test_smacv2_gets_the_settings_of_its_paper(fake):
    env = SC2Env("terran_10_vs_11")
    assert len(env.possible_agents) == 10 and env.action_spaces["ally_0"].n == 6 + 11
    step = env.begin(seed=1)
    (game,) = [game for game in fake.made if game.launched]
    assert game.map_name == "10gen_terran" and game.use_unit_ranges and game.obs_own_pos and game.continuing_episode
    teams = game.capability_config["team_gen"]
    assert dict(zip(teams["unit_types"], teams["weights"], strict=True)) == {
        "marine": 0.45,
        "marauder": 0.45,
        "medivac": 0.1,
    }
    assert teams["exception_unit_types"] == ["medivac"]
    assert len(step.action_masks) == 10
    env.begin(seed=2)  # makes it anew, with dictionaries that the first one has not written into


def test_the_users_settings_reach_the_game_and_stay_as_they_are(fake):
    teams = {"dist_type": "fixed", "items": [["marine"] * 2], "test_mode": True, "observe": True}
    capabilities = {"n_units": 2, "n_enemies": 2, "team_gen": teams, "start_positions": {"dist_type": "surrounded"}}
    env = SC2Env("terran_5_vs_5", scenario_configs={"capability_config": capabilities, "reward_sparse": True})
    env.begin(seed=3)
    assert env.possible_agents == ["ally_0", "ally_1"] and "env_key" not in teams
    assert fake.made[-1].reward_sparse


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"env_id": "3mm"}, "did you mean '3m'"),
        ({"env_id": "terran_5_vs_6"}, "did you mean 'terran_5_vs_5'"),
        ({"env_idd": "3m"}, "unknown key 'env_idd': did you mean 'env_id'"),
        ({"scenario_configs": 3}, "must map names to values"),
        ({"scenario_configs": {"dificulty": "7"}}, "scenario_configs.dificulty.*did you mean 'difficulty'"),
        ({"scenario_configs": {"seed": 7}}, "scenario_configs.seed' cannot be set: the engine seeds"),
        ({"scenario_configs": {"continuing_episode": False}}, "time-out from a defeat"),
    ],
)
def test_wrong_settings_are_refused(fake, config, message):
    with pytest.raises(ConfigError, match=message):
        SC2Env(**config)


@pytest.mark.parametrize(("env_id", "package"), [("3m", "smac"), ("zerg_5_vs_5", "smacv2")])
def test_a_missing_package_is_named_with_its_address(monkeypatch, env_id, package):
    monkeypatch.setitem(sys.modules, f"{package}.env", None)
    monkeypatch.setitem(sys.modules, package, types.ModuleType(package))  # PyPI's smac is another package
    with pytest.raises(ConfigError, match=rf"pip install git\+https://github.com/oxwhirl/{package}.git .*StarCraft II"):
        SC2Env(env_id)


def test_a_missing_game_is_told_at_the_first_reset(fake, monkeypatch):
    monkeypatch.setattr(fake, "binary", False)
    env = SC2Env("3m")
    with pytest.raises(ConfigError, match=r"StarCraft II does not start .*SC2PATH"):
        env.begin(seed=1)
    venv = vectorise(env_desc_gen("3m"), 1, seed=0)
    with pytest.raises(EnvironmentFault, match="SC2PATH"):
        venv.reset(np.ones(1, bool))


def test_ids_are_the_maps_of_both_papers():
    assert len(env_ids()) == len(set(env_ids())) == 23 + 15
    assert {"3m", "MMM2", "2c_vs_64zg", "protoss_5_vs_5", "zerg_20_vs_23"} <= set(env_ids())
