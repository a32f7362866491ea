"""The rollout worker: plays fragments for the learners, and episodes for whoever wants to know who wins."""

from __future__ import annotations

import functools
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from gymnasium import spaces

from malib_lite.backend.mailbox import MailboxSpec
from malib_lite.backend.members import Member, MemberCache, MemberFolder
from malib_lite.backend.parameter_server import Link, ParameterClient
from malib_lite.backend.ring import Ring, RingSpec, Slot
from malib_lite.config import ConfigError
from malib_lite.contracts.environment import AgentID
from malib_lite.contracts.policy import Policy
from malib_lite.contracts.vector import VectorEnvironment
from malib_lite.rollout.books import Books
from malib_lite.rollout.config import Subproc
from malib_lite.rollout.inference.local import Inference, LocalInference
from malib_lite.rollout.inference.pipe import PipeInference
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
            torch.default_generator.manual_seed(seed)  # torch.manual_seed notes its caller's stack for GPUs: 1 ms
            policy = self.policy_class(**self.arguments)
        policy.seed(seed)
        return policy

    def outline(self) -> Policy:
        """A policy whose parameters have names, types and shapes and take no memory, however large they would be.

        A network of the user's own, which need not be made for that, is made as it is.

        Raises:
            ConfigError: they are too large for any memory.
        """
        parts = [self, *(part for part in self.custom_config.values() if isinstance(part, PolicySpec))]
        if any(part.model_config.get("net") is not None for part in parts):
            return self.make(0)
        try:
            with torch.device("meta"):
                return self.policy_class(**self.arguments)
        except RuntimeError as error:  # more elements than there are numbers for
            reason = str(error).partition("\n")[0]
            raise ConfigError(f"'model' describes networks that cannot be made: {reason}") from None


@dataclass(frozen=True)
class WorkerSpec:
    """What every rollout worker of a run has in common."""

    env_description: Mapping[str, Any]
    groups: Mapping[str, Sequence[AgentID]]  # player -> its agents
    policies: Mapping[str, PolicySpec]  # by runtime id: of those that learn, and of every kind of member
    addresses: Mapping[str, Address]  # of those that learn, by runtime id
    seats: Mapping[str, str]  # of those that learn: runtime id -> player
    arenas: Sequence[Sequence[str]]  # runtime ids that learn together; every arena has environments of its own
    members: MemberFolder
    num_envs: int
    num_decisions: int
    whole_episodes: bool
    max_step: int | None
    seed: int
    subproc: Subproc | None = None
    teams: frozenset[str] = frozenset()  # players whose trajectories are joint
    agent_ids: bool = False
    lead: int | None = 0  # rounds that it may be ahead of the learners; None: it waits for nobody (ASP)


class RolloutWorker:
    """A service; its tasks are :meth:`rollout` and :meth:`simulate`."""

    def __init__(
        self,
        row: Row,
        spec: WorkerSpec,
        worker: int,
        rings: Mapping[str, RingSpec],
        mailboxes: Sequence[MailboxSpec] = (),
    ) -> None:
        """
        Args:
            row: the worker's row on the board.
            worker: number of the worker, 0 to K - 1.
            rings: where this worker's trajectories go, by runtime id.
            mailboxes: where it asks the inference server, by arena; none where it runs the learners' policies itself.
        """
        self._row = row
        self._spec = spec
        self._worker = worker
        self._rings: dict[str, Ring] = {runtime_id: ring.open() for runtime_id, ring in rings.items()}
        # A worker that takes over from one that died must not play that one's episodes again.
        self._born = min((ring.head for ring in self._rings.values()), default=0)
        self._client = ParameterClient({rid: address.connect() for rid, address in spec.addresses.items()})
        self._members = MemberCache(spec.members, lambda kind: spec.policies[kind].make(0))
        self._environments = [self._vectorise("train", number) for number in range(len(spec.arenas))]
        self._inference: list[Inference] = [PipeInference(box.open(), row, spec.seats) for box in mailboxes]
        self._inference = self._inference or [self._make_local(arena) for arena in spec.arenas]
        self._samplers = [
            Sampler(
                environments, spec.groups, inference, spec.num_decisions, spec.whole_episodes, spec.max_step, spec.teams
            )
            for environments, inference in zip(self._environments, self._inference, strict=True)
        ]
        self._learners: dict[str, str] = {}  # the policies that learn now, by runtime id
        self._opponents: Mapping[str, Any] = {}  # whom the samplers' learners play against now
        self._examiner: Sampler | None = None  # plays simulate()'s episodes; made when first needed

    # -- tasks --------------------------------------------------------------------------------------------------

    def rollout(
        self,
        learners: Mapping[str, str],
        first_versions: Mapping[str, int],
        num_rounds: int,
        base_sequence: int,
        leg: int = 0,
        opponents: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None,
    ) -> Task:
        """Play for the learners.

        ``num_rounds`` fragments for each, each on the newest version that is there, which is at most the allowed lead
        older than the one of its round. If it is none, this is lockstep. Without a bound, until every learner has had
        enough.

        Args:
            learners: id of the policy that is trained, by runtime id.
            first_versions: version of the first round, by runtime id; every further round has the next one.
            base_sequence: records that each ring had seen before the first round. A worker that takes over from one
                that died sees in the rings how far that one had come, and goes on from there.
            leg: number of the stretch of training.
            opponents: for each learner whose arena has players that do not learn there, their pools: probability by
                member (as text), by player.

        Returns:
            The books of the episodes that ended.
        """
        for runtime_id, policy_id in self._learners.items():
            if learners[runtime_id] != policy_id:
                self._client.forget(runtime_id, policy_id)
        anew = self._learners != learners
        self._learners = dict(learners)
        opponents = opponents or {}
        for number, (sampler, arena) in enumerate(zip(self._samplers, self._spec.arenas, strict=True)):
            pools = opponents.get(arena[0], {})
            if pools and (anew or pools != self._opponents.get(arena[0])):
                seed = ("train", self._worker, number, base_sequence)
                sampler.use_pools(self._make_pools(sampler, pools, seed))
        self._opponents = opponents
        if self._spec.lead is None:
            yield from self._play_freely(learners, first_versions, leg)
        else:
            yield from self._play_rounds(learners, first_versions, num_rounds, base_sequence, self._spec.lead)
        for inference in self._inference:
            yield from inference.end(leg)
        return self._take_books().to_json()

    def simulate(
        self,
        matches: Sequence[Mapping[str, Mapping[str, float]]],
        num_episodes: int,
        greedy: bool,
        seed: int,
    ) -> Task:
        """Play ``num_episodes`` of every match; returns the books of each.

        Args:
            matches: who plays: a pool (probability by member, as text) for each player.
            greedy: whether all act by their modes.
            seed: of this simulation; no other one may have it.
        """
        if self._examiner is None:
            self._examiner = Sampler(
                self._vectorise("simulate", 0),
                self._spec.groups,
                LocalInference({}),
                1,
                whole_episodes=True,
                placings=True,
            )
        books = []
        for number, match in enumerate(matches):
            key = ("simulate", self._worker, seed, number)
            self._examiner.use_pools(self._make_pools(self._examiner, match, key, greedy))
            yield from self._examiner.play_episodes(num_episodes, self._row.pulse)
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

    def _take_books(self) -> Books:
        """The books of all arenas; scores are those of learners, by runtime id."""
        books = []
        for sampler, arena in zip(self._samplers, self._spec.arenas, strict=True):
            taken = sampler.take_books()
            seats = self._spec.seats
            taken.scores = {rid: taken.scores[seats[rid]] for rid in arena if seats[rid] in taken.scores}
            books.append(taken)
        return Books.sum(books)

    def _make_local(self, arena: Sequence[str]) -> Inference:
        spec = self._spec
        policies = {
            spec.seats[runtime_id]: spec.policies[runtime_id].make(
                derive_int(spec.seed, "worker", self._worker, runtime_id, "act", self._born)
            )
            for runtime_id in arena
        }
        return LocalInference(policies, self._client, spec.seats, lockstep=spec.lead == 0)

    def _play_rounds(
        self,
        learners: Mapping[str, str],
        first_versions: Mapping[str, int],
        num_rounds: int,
        base_sequence: int,
        lead: int,
    ) -> Generator[None, None, None]:
        """Fragments at most ``lead`` rounds ahead of the learners."""
        done = min(ring.head for ring in self._rings.values()) - base_sequence
        for number in range(done, num_rounds):
            for index, arena in enumerate(self._spec.arenas):
                policies = {runtime_id: learners[runtime_id] for runtime_id in arena}
                versions = {runtime_id: first_versions[runtime_id] + number - lead for runtime_id in arena}
                yield from self._play_round(index, policies, versions, base_sequence + number)
                self._inference[index].finish(base_sequence + number)

    def _play_round(
        self, index: int, policies: Mapping[str, str], versions: Mapping[str, int], sequence: int
    ) -> Generator[None, None, None]:
        """One fragment for each learner of arena ``index``, on policies of at least the given ``versions``."""
        due = {
            runtime_id: self._rings[runtime_id] for runtime_id in policies if self._rings[runtime_id].head == sequence
        }
        if not due:
            return  # whom this worker replaces had sent them before it died
        slots = {}
        for runtime_id, ring in self._rings.items():
            if runtime_id in policies:
                while (slot := ring.try_reserve()) is None:
                    yield
                slots[runtime_id] = slot
        yield from self._inference[index].prepare(policies, versions, sequence)  # with room at hand: on the newest
        yield from self._fill(index, slots, sequence, due)

    def _fill(
        self, index: int, slots: Mapping[str, Slot], sequence: int, due: Collection[str] | None = None
    ) -> Generator[None, None, None]:
        """Play a fragment into ``slots`` and send those of the runtime ids that are ``due``; None: all."""
        sampler, inference = self._samplers[index], self._inference[index]
        steps, episodes = sampler.books.env_steps, sampler.books.length.count
        seats = self._spec.seats
        rows = yield from sampler.play({seats[rid]: slot for rid, slot in slots.items()}, self._row.pulse)
        steps, episodes = sampler.books.env_steps - steps, sampler.books.length.count - episodes
        for runtime_id, slot in slots.items():
            if due is None or runtime_id in due:
                slot.write_meta(
                    sequence=sequence, rows=rows[seats[runtime_id]], worker=self._worker,
                    policy_version=inference.oldest[runtime_id], env_steps=steps,
                )  # fmt: skip
                self._rings[runtime_id].commit()
        self._row.add(step=1, env_steps=steps, episodes=episodes)

    def _play_freely(
        self, learners: Mapping[str, str], first_versions: Mapping[str, int], leg: int
    ) -> Generator[None, None, None]:
        """Fragments on the newest parameters, for as long as anybody wants them."""
        while not all(ring.is_closed(leg) for ring in self._rings.values()):
            for index, arena in enumerate(self._spec.arenas):
                if all(self._rings[runtime_id].is_closed(leg) for runtime_id in arena):
                    continue
                slots = {}
                for runtime_id in arena:
                    ring = self._rings[runtime_id]
                    while (slot := ring.try_reserve(drop=ring.is_closed(leg))) is None:
                        yield
                    slots[runtime_id] = slot
                policies = {runtime_id: learners[runtime_id] for runtime_id in arena}
                yield from self._inference[index].prepare(policies, first_versions, leg)
                yield from self._fill(index, slots, leg)
            yield

    def _make_pools(
        self,
        sampler: Sampler,
        pools: Mapping[str, Mapping[str, float]],
        seed: tuple[str | int, ...],
        greedy: bool = False,
    ) -> dict[str, PoolPlayer]:
        """Players for ``pools``, by player; those of the sampler's present ones that they have in common stay."""
        players = {}
        for player, pool in pools.items():
            probabilities = {Member.parse(member): probability for member, probability in pool.items()}
            random = generator(self._spec.seed, "pool", player, *seed)
            players[player] = PoolPlayer(
                sampler.environments,
                self._spec.groups[player],
                functools.partial(self._open, player, seed),
                probabilities,
                random,
                greedy,
                sampler.pools.get(player),
            )
        return players

    def _open(self, player: str, seed: tuple[str | int, ...], member: Member) -> Policy:
        """A member's policy, its random stream begun anew."""
        policy = self._members.get(member)
        policy.seed(derive_int(self._spec.seed, "pool", player, str(member), *seed))
        return policy
