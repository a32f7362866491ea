"""The rollout worker: plays fragments for the learners, and episodes for whoever wants to know who wins."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from gymnasium import spaces

from malib_lite.backend.parameter_server import Link, ParameterClient
from malib_lite.backend.ring import Ring, RingSpec, Slot
from malib_lite.contracts.environment import AgentID
from malib_lite.contracts.policy import Policy
from malib_lite.contracts.vector import VectorEnvironment
from malib_lite.rollout.books import Books
from malib_lite.rollout.config import Subproc
from malib_lite.rollout.pool import PoolPlayer
from malib_lite.rollout.sampler import Sampler
from malib_lite.rollout.subproc_env import SubprocVectorEnv
from malib_lite.rollout.uniform_agents import make_uniform
from malib_lite.rollout.vector_env import vectorise
from malib_lite.runtime.actors import Task
from malib_lite.runtime.board import Row
from malib_lite.runtime.seeds import derive_int, generator


class Address(Protocol):
    """Where a runtime id's parameters are to be had."""

    def connect(self) -> Link:
        """Connect, in the process that uses the link."""


@dataclass(frozen=True)
class PolicySpec:
    """How the policies of a runtime id are made."""

    policy_class: type[Policy]
    observation_space: spaces.Space  # in array form: Box or Discrete
    action_space: spaces.Space
    model_config: Mapping[str, Any]
    custom_config: Mapping[str, Any]

    @property
    def arguments(self) -> dict[str, Any]:
        """What the policy's constructor takes."""
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "model_config": self.model_config,
            "custom_config": self.custom_config,
        }

    def make(self, seed: int) -> Policy:
        """A new policy: initial parameters and random stream depend on ``seed`` alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            policy = self.policy_class(**self.arguments)
        policy.seed(seed)
        return policy


@dataclass(frozen=True)
class WorkerSpec:
    """What every rollout worker of a run has in common."""

    env_description: Mapping[str, Any]
    groups: Mapping[str, Sequence[AgentID]]  # runtime id -> the agents it governs
    policies: Mapping[str, PolicySpec]  # by runtime id
    addresses: Mapping[str, Address]  # by runtime id
    arenas: Sequence[Sequence[str]]  # runtime ids that learn together; every arena has environments of its own
    num_envs: int
    num_decisions: int
    whole_episodes: bool
    max_step: int | None
    seed: int
    subproc: Subproc | None = None
    teams: frozenset[str] = frozenset()  # runtime ids whose trajectories are joint
    agent_ids: bool = False
    lockstep: bool = True  # with the learners (BSP)


class RolloutWorker:
    """A service; its tasks are :meth:`rollout` and :meth:`simulate`."""

    def __init__(self, row: Row, spec: WorkerSpec, worker: int, rings: Mapping[str, RingSpec]) -> None:
        """
        Args:
            row: the worker's row on the board.
            worker: number of the worker, 0 to K - 1.
            rings: where this worker's trajectories go, by runtime id.
        """
        self._row = row
        self._spec = spec
        self._worker = worker
        self._rings: dict[str, Ring] = {runtime_id: ring.open() for runtime_id, ring in rings.items()}
        # A worker that takes over from one that died must not play that one's episodes again.
        self._born = min((ring.head for ring in self._rings.values()), default=0)
        self._client = ParameterClient({rid: address.connect() for rid, address in spec.addresses.items()})
        self._members: dict[tuple[str, str], Policy] = {}  # pool members by (runtime id, policy id)
        self._environments = [self._vectorise("train", number) for number in range(len(spec.arenas))]
        self._samplers = [
            self._make_sampler(environments, arena)
            for environments, arena in zip(self._environments, spec.arenas, strict=True)
        ]
        self._learners: dict[str, str] = {}  # the policies that learn now, by runtime id
        self._opposition: object = None  # whom the samplers' learners play against now
        self._examiner: Sampler | None = None  # plays simulate()'s episodes; made when first needed

    # -- tasks --------------------------------------------------------------------------------------------------

    def rollout(
        self,
        learners: Mapping[str, str],
        first_versions: Mapping[str, int],
        num_rounds: int,
        base_sequence: int,
        leg: int = 0,
        pools: Mapping[str, Mapping[str, float]] | None = None,
        evaluate: Mapping[str, bool] | None = None,
    ) -> Task:
        """Play for the learners.

        In lockstep ``num_rounds`` fragments for each, each on exactly the version of its round. Otherwise on the
        newest version that is there, until every learner has had enough.

        Args:
            learners: id of the policy that is trained, by runtime id.
            first_versions: version that the first round is played on, by runtime id; every further round waits for the
                next one.
            base_sequence: records that each ring had seen before the first round. A worker that takes over from one
                that died sees in the rings how far that one had come, and goes on from there.
            leg: number of the stretch of training.
            pools: mixtures (probability by policy id) for whoever does not learn in an arena, by runtime id.
            evaluate: how the members of each runtime id's pool act.

        Returns:
            The books of the episodes that ended.
        """
        for runtime_id, policy_id in self._learners.items():
            if learners[runtime_id] != policy_id:
                self._client.forget(runtime_id, policy_id)  # as a pool member it is asked for again, if it is drawn
        self._learners = dict(learners)
        opposition = (learners, pools, evaluate)
        if pools and opposition != self._opposition:
            for number, (sampler, arena) in enumerate(zip(self._samplers, self._spec.arenas, strict=True)):
                others = {runtime_id: pool for runtime_id, pool in pools.items() if runtime_id not in arena}
                seed = ("train", self._worker, number, base_sequence)
                players = yield from self._make_pools(self._environments[number], others, evaluate or {}, seed)
                sampler.use_pools(players)
            self._opposition = opposition
        if not self._spec.lockstep:
            yield from self._play_freely(learners, first_versions, leg)
            return Books.sum(sampler.take_books() for sampler in self._samplers).to_json()
        done = min(ring.head for ring in self._rings.values()) - base_sequence
        for number in range(done, num_rounds):
            for sampler, arena in zip(self._samplers, self._spec.arenas, strict=True):
                policies = {runtime_id: learners[runtime_id] for runtime_id in arena}
                versions = {runtime_id: first_versions[runtime_id] + number for runtime_id in arena}
                yield from self._play_round(sampler, policies, versions, base_sequence + number)
        return Books.sum(sampler.take_books() for sampler in self._samplers).to_json()

    def simulate(
        self,
        matches: Sequence[Mapping[str, str]],
        num_episodes: int,
        evaluate: Mapping[str, bool],
        versions: Mapping[str, int] | None,
        seed: int,
    ) -> Task:
        """Play ``num_episodes`` of every match; returns the books of each.

        Args:
            matches: who plays, a policy id for each runtime id.
            evaluate: how the policies of each runtime id act.
            versions: the least version that the policies of each runtime id must have; None: they are pool members.
            seed: of this simulation; no other one may have it.
        """
        if self._examiner is None:
            self._examiner = Sampler(self._vectorise("simulate", 0), self._spec.groups, {}, 1, whole_episodes=True)
        books = []
        for number, match in enumerate(matches):
            pools = {runtime_id: {policy_id: 1.0} for runtime_id, policy_id in match.items()}
            key = ("simulate", self._worker, seed, number)
            players = yield from self._make_pools(self._examiner.environments, pools, evaluate, key, versions)
            self._examiner.use_pools(players)
            self._examiner.play_episodes(num_episodes, self._row.pulse)
            books.append(self._examiner.take_books().to_json())
            self._row.add(step=1)
        return books

    # -- service ------------------------------------------------------------------------------------------------

    def idle(self) -> None: ...

    def close(self) -> None:
        self._client.close()
        examiner = [self._examiner.environments] if self._examiner else []
        for environments in [*self._environments, *examiner]:
            environments.close()

    # -- inside -------------------------------------------------------------------------------------------------

    def _vectorise(self, purpose: str, number: int) -> VectorEnvironment:
        spec = self._spec
        seed = derive_int(spec.seed, "environments", purpose, number, self._born)
        first = self._worker * spec.num_envs
        arguments = (spec.env_description, spec.num_envs, seed, spec.max_step, first)
        with_state = bool(spec.teams)
        environments: VectorEnvironment
        if spec.subproc is None:
            environments = vectorise(*arguments, with_state=with_state)
        else:
            environments = SubprocVectorEnv(*arguments, **spec.subproc._asdict(), with_state=with_state)
        return make_uniform(environments, spec.groups, spec.agent_ids)

    def _make_sampler(self, environments: VectorEnvironment, arena: Sequence[str]) -> Sampler:
        spec = self._spec
        policies = {
            runtime_id: spec.policies[runtime_id].make(
                derive_int(spec.seed, "worker", self._worker, runtime_id, "act", self._born)
            )
            for runtime_id in arena
        }
        return Sampler(
            environments, spec.groups, policies, spec.num_decisions, spec.whole_episodes, spec.max_step, spec.teams
        )

    def _play_round(
        self, sampler: Sampler, policies: Mapping[str, str], versions: Mapping[str, int], sequence: int
    ) -> Generator[None, None, None]:
        """One fragment for each learner of an arena."""
        due = {
            runtime_id: self._rings[runtime_id] for runtime_id in policies if self._rings[runtime_id].head == sequence
        }
        if not due:
            return  # whom this worker replaces had sent them before it died
        for runtime_id, policy_id in policies.items():
            snapshot = yield from self._client.wait_for(runtime_id, policy_id, versions[runtime_id])
            learner = sampler.learners[runtime_id]
            learner.policy.import_state(snapshot.arrays)
            learner.version = snapshot.version
        slots = {}
        for runtime_id, ring in self._rings.items():
            if runtime_id in policies:
                while (slot := ring.try_reserve()) is None:
                    yield
                slots[runtime_id] = slot
        self._fill(sampler, slots, sequence, due)

    def _fill(
        self, sampler: Sampler, slots: Mapping[str, Slot], sequence: int, due: Collection[str] | None = None
    ) -> None:
        """Play a fragment into ``slots`` and send those of the runtime ids that are ``due``; None: all."""
        steps, episodes = sampler.books.env_steps, sampler.books.length.count
        rows = sampler.play(slots, self._row.pulse)
        steps, episodes = sampler.books.env_steps - steps, sampler.books.length.count - episodes
        for runtime_id, slot in slots.items():
            if due is None or runtime_id in due:
                slot.write_meta(
                    sequence=sequence, rows=rows[runtime_id], worker=self._worker,
                    policy_version=sampler.learners[runtime_id].version, env_steps=steps,
                )  # fmt: skip
                self._rings[runtime_id].commit()
        self._row.add(step=1, env_steps=steps, episodes=episodes)

    def _play_freely(
        self, learners: Mapping[str, str], first_versions: Mapping[str, int], leg: int
    ) -> Generator[None, None, None]:
        """Fragments on the newest parameters, for as long as anybody wants them."""
        while not all(ring.is_closed(leg) for ring in self._rings.values()):
            for sampler, arena in zip(self._samplers, self._spec.arenas, strict=True):
                if all(self._rings[runtime_id].is_closed(leg) for runtime_id in arena):
                    continue
                for runtime_id in arena:
                    newest = self._client.newest(runtime_id, learners[runtime_id])
                    if newest is None or newest.version < first_versions[runtime_id]:
                        newest = yield from self._client.wait_for(
                            runtime_id, learners[runtime_id], first_versions[runtime_id]
                        )
                    learner = sampler.learners[runtime_id]
                    learner.policy.import_state(newest.arrays)
                    learner.version = newest.version
                slots = {}
                for runtime_id in arena:
                    ring = self._rings[runtime_id]
                    while (slot := ring.try_reserve(drop=ring.is_closed(leg))) is None:
                        yield
                    slots[runtime_id] = slot
                self._fill(sampler, slots, leg)
            yield

    def _make_pools(
        self,
        environments: VectorEnvironment,
        pools: Mapping[str, Mapping[str, float]],
        evaluate: Mapping[str, bool],
        seed: tuple[str | int, ...],
        versions: Mapping[str, int] | None = None,
    ) -> Generator[None, None, dict[str, PoolPlayer]]:
        """Players for ``pools``; waits for members that have not arrived."""
        players = {}
        for runtime_id, probabilities in pools.items():
            members = {}
            for policy_id, probability in probabilities.items():
                if probability > 0.0:
                    version = None if versions is None else versions[runtime_id]
                    members[policy_id] = yield from self._member(runtime_id, policy_id, version)
            random = generator(self._spec.seed, "pool", runtime_id, *seed)
            for policy_id, member in members.items():
                member.seed(derive_int(self._spec.seed, "pool", runtime_id, policy_id, *seed))
            players[runtime_id] = PoolPlayer(
                environments, self._spec.groups[runtime_id], members, probabilities, evaluate[runtime_id], random
            )
        return players

    def _member(self, runtime_id: str, policy_id: str, version: int | None) -> Generator[None, None, Policy]:
        """A policy of the pool; the networks of frozen ones are kept."""
        if (runtime_id, policy_id) in self._members:
            return self._members[runtime_id, policy_id]
        snapshot = yield from self._client.wait_for(runtime_id, policy_id, version)
        policy = self._spec.policies[runtime_id].make(0)
        policy.import_state(snapshot.arrays)
        policy.eval()
        if snapshot.frozen:
            self._members[runtime_id, policy_id] = policy
            self._client.forget(runtime_id, policy_id)
        return policy
