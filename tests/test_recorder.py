"""The rollout against a slow and obvious record: random schedules of turns, rewards, ends and fragments."""

import numpy as np
import pytest
import torch
from fakes import finish
from gymnasium import spaces

from malib_lite.backend.ring import Ring, SlotLayout
from malib_lite.contracts.data import Field
from malib_lite.contracts.policy import Policy, PolicyOutput
from malib_lite.contracts.vector import AgentView, VectorEnvironment
from malib_lite.models.actions import num_choices
from malib_lite.rollout.inference.local import LocalInference
from malib_lite.rollout.recorder import as_trajectories, trajectory_fields
from malib_lite.rollout.sampler import Sampler, fragment_capacity

NOISE = 7.7e7  # what stands where nothing has a meaning


class Chance(VectorEnvironment):
    """Whoever acts, earns, leaves or is cut off is drawn at random; ``diary`` says what each agent's record must be.

    Every observation is a number that never comes again. Rows that no flag vouches for hold noise.
    """

    def __init__(self, rng, num_envs, agents, action_space, turns, masks, mean_length):
        self.num_envs, self.possible_agents = num_envs, agents
        self.observation_spaces = {a: spaces.Box(0.0, np.inf, (1,), np.float64) for a in agents}
        self.action_spaces = dict.fromkeys(agents, action_space)
        self.finished = np.ones(num_envs, bool)
        self.rng, self.turns, self.masks, self.mean_length = rng, turns, masks, mean_length
        self.choices = num_choices(action_space)
        self.clock = 0.0
        self.diary = {(a, i): [] for a in agents for i in range(num_envs)}
        self.over = {(a, i): True for a in agents for i in range(num_envs)}  # the agent's part in the episode
        self.episode = np.full(num_envs, -1)
        self.length, self.returns, self.books = np.zeros(num_envs, int), {}, []

        def flags():
            return np.zeros(num_envs, bool)

        self.views = {
            a: AgentView(flags(), np.zeros((num_envs, 1)), None, np.zeros(num_envs, np.float32), flags(), flags())
            for a in agents
        }

    def reset(self, mask):
        for i in np.flatnonzero(mask):
            self.finished[i] = False
            self.episode[i] += 1
            self.length[i] = 0
            for a, view in self.views.items():
                self.over[a, i] = False
                self.returns[a, i] = 0.0
                view.reward[i] = view.terminated[i] = view.truncated[i] = 0
            self._turn(i)
        return self.views

    def step(self, actions):
        for i in range(self.num_envs):
            if self.finished[i]:
                for view in self.views.values():  # whoever believes this is wrong
                    view.reward[i], view.observation[i] = NOISE, NOISE
                    view.acting[i] = view.terminated[i] = view.truncated[i] = True
                continue
            for a, view in self.views.items():
                if view.acting[i]:
                    legal = None if view.action_mask is None else view.action_mask[i].tolist()
                    seen, action = view.observation[i].item(), np.array(actions[a][i]).tolist()
                    self._note(a, i, seen, legal, action)
                view.reward[i] = view.terminated[i] = view.truncated[i] = 0
            self._happen(i)
        return self.views

    def _happen(self, i):
        """Rewards and ends of a step."""
        self.length[i] += 1
        last = self.rng.random() < 1 / self.mean_length
        cut = self.rng.random() < 0.5
        for a, view in self.views.items():
            if self.rng.random() < 0.6:
                view.reward[i] = self.rng.integers(1, 9)
                self.returns[a, i] += view.reward[i]
                open_ = self.diary[a, i] and self.diary[a, i][-1]["open"]
                if open_:
                    self.diary[a, i][-1]["reward"] += view.reward[i]
            leaves = self.rng.random() < 0.1
            if (last or leaves) and not self.over[a, i]:
                self.over[a, i] = True
                terminated = not cut if last else self.rng.random() < 0.5
                view.terminated[i], view.truncated[i] = terminated, not terminated
                self._see(view, i)
                if self.diary[a, i] and self.diary[a, i][-1]["open"]:
                    self.diary[a, i][-1] |= {
                        "open": False, "terminated": terminated, "truncated": not terminated,
                        "next": None if terminated else view.observation[i].item(),
                    }  # fmt: skip
        if all(self.over[a, i] for a in self.possible_agents):
            self.finished[i] = True
            self.books.append((self.length[i], *(self.returns[a, i] for a in self.possible_agents)))
            for view in self.views.values():
                view.acting[i] = self.rng.random() < 0.5
        else:
            self._turn(i)

    def _turn(self, i):
        """Who acts next: everybody, one, some or nobody."""
        alive = [a for a in self.possible_agents if not self.over[a, i]]
        kind = self.rng.choice(["all", "one", "some"], p=self.turns)
        acting = alive if kind == "all" else [self.rng.choice(alive)]
        if kind == "some":
            acting = [a for a in alive if self.rng.random() < 0.5]
        for a, view in self.views.items():
            view.acting[i] = a in acting
            if a in acting:
                self._see(view, i)
            elif not (view.terminated[i] or view.truncated[i]):
                view.observation[i] = NOISE

    def _see(self, view, i):
        self.clock += 1.0
        view.observation[i] = self.clock
        if self.masks and self.clock > 20:  # the first masks come in mid-play
            if view.action_mask is None:
                view.action_mask = np.ones((self.num_envs, self.choices), bool)
            legal = self.rng.random(self.choices) < 0.5
            legal[self.rng.integers(self.choices)] = True
            view.action_mask[i] = legal

    def _note(self, a, i, seen, legal, action):
        entries = self.diary[a, i]
        if entries and entries[-1]["open"]:
            entries[-1] |= {"open": False, "next": seen}
        entry = {"seen": seen, "legal": legal, "action": action, "reward": 0.0, "terminated": False, "truncated": False}
        entries.append(entry | {"next": None, "episode": int(self.episode[i]), "open": True})


class Anything(Policy):
    """Draws from the legal actions; notes what it saw as an extra field."""

    @property
    def extra_fields(self):
        return {"echo": Field((2,), np.dtype(np.float32))}

    def compute_action(self, observation, act_mask=None, evaluate=False, hidden_state=None):
        if isinstance(self.action_space, spaces.MultiDiscrete):
            high = torch.tensor(self.action_space.nvec)
            action = (torch.rand((len(observation), len(high)), generator=self.generator) * high).long()
        else:
            legal = torch.ones(len(observation), int(self.action_space.n)) if act_mask is None else act_mask.float()
            action = torch.multinomial(legal, 1, generator=self.generator)[:, 0]
        return PolicyOutput(action, None, {"echo": observation.float().expand(-1, 2)}, None)


def random_rollout(seed):
    """A sampler of random shape with its rings, and the environment that keeps the diary."""
    rng = np.random.default_rng(seed)
    num_agents, num_envs = int(rng.integers(1, 4)), int(rng.integers(1, 5))
    agents = [f"agent_{n}" for n in range(num_agents)]
    turns = [[1, 0, 0], [0, 1, 0], [0.9, 0, 0.1], [0.3, 0.3, 0.4]][rng.integers(4)]
    multi = rng.random() < 0.3
    action_space = spaces.MultiDiscrete([2, 3]) if multi else spaces.Discrete(3)
    masks = not multi and rng.random() < 0.5
    venv = Chance(rng, num_envs, agents, action_space, turns, masks, mean_length=rng.choice([1, 3, 12]))
    groups = {"all": agents} if rng.random() < 0.5 else {f"team_{a}": [a] for a in agents}
    policies = {}
    for rid in groups:
        policies[rid] = Anything(venv.observation_spaces[agents[0]], action_space)
        policies[rid].seed(seed)
    num_decisions, whole = int(rng.integers(1, 9)), bool(rng.random() < 0.4)
    max_step = int(rng.choice([1, 4, 200]))  # episodes may well be longer: then whole ones are split after all
    sampler = Sampler(venv, groups, LocalInference(policies), num_decisions, whole, max_step)
    rings = {}
    for rid, members in groups.items():
        capacity = fragment_capacity(num_decisions, whole, max_step)
        fields = trajectory_fields(
            venv.observation_spaces[agents[0]], action_space, policies[rid].extra_fields, capacity,
            num_envs * len(members),
        )  # fmt: skip
        layout = SlotLayout(fields)
        memory = bytearray(b"\x01" * Ring.num_bytes(layout, 1))  # slots are never clean
        memory[: 8 * 24] = bytes(8 * 24)
        rings[rid] = Ring(memory, layout, 1)
    return venv, sampler, rings, groups


def rows_of(t, stream):
    """The valid rows of a stream, as the diary has them."""
    for i in np.flatnonzero(t.valid[:, stream]):
        seen = t.observation[i, stream].item()
        assert (t.extras["echo"][i, stream] == np.float32(seen)).all()
        yield {
            "seen": seen,
            "legal": None if t.action_mask is None else t.action_mask[i, stream].tolist(),
            "action": t.action[i, stream].tolist(),
            "reward": float(t.reward[i, stream]),
            "terminated": bool(t.terminated[i, stream]),
            "truncated": bool(t.truncated[i, stream]),
            "next": None if t.terminated[i, stream] else t.observation[i + 1, stream].item(),
            "episode": int(t.episode[i, stream]),
        }


@pytest.mark.parametrize("seed", range(60))
def test_what_is_recorded_is_what_happened(seed):
    venv, sampler, rings, groups = random_rollout(seed)
    recorded = {key: [] for key in venv.diary}
    for _ in range(8):
        slots = {rid: ring.try_reserve() for rid, ring in rings.items()}
        rows = finish(sampler.play(slots))
        for rid, slot in slots.items():
            slot.write_meta(rows=rows[rid])
            t = as_trajectories(slot)
            for n, agent in enumerate(groups[rid]):
                for i in range(venv.num_envs):
                    recorded[agent, i] += rows_of(t, n * venv.num_envs + i)
    total = 0
    for key, entries in venv.diary.items():
        expected = [{name: value for name, value in e.items() if name != "open"} for e in entries]
        for entry in expected:
            if entry["legal"] is None:
                entry["legal"] = [True] * venv.choices
        if expected and entries[-1]["open"]:  # held back, unless its agent is to act again already
            last = expected.pop()
            if len(recorded[key]) > len(expected):
                assert recorded[key].pop() == last | {"next": venv.views[key[0]].observation[key[1]].item()}
        assert recorded[key] == expected
        total += len(expected)
    assert total
    books = sampler.take_books()
    assert books.length.count == len(venv.books) and books.length.total == sum(b[0] for b in venv.books)
    for n, agent in enumerate(venv.possible_agents):
        assert not venv.books or books.returns[agent].total == sum(b[n + 1] for b in venv.books)
