"""The inference server: runs the learners' policies for all rollout workers, a batch of their requests at a time."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import torch

from malib_lite.backend.mailbox import Mailbox, MailboxSpec
from malib_lite.backend.parameter_server import ParameterClient
from malib_lite.contracts.policy import Policy
from malib_lite.rollout.inference.batches import Batches, LockstepBatches, TimelyBatches
from malib_lite.rollout.inference.local import Answer, Request, parameters
from malib_lite.rollout.inference.pipe import read_request, write_answer
from malib_lite.rollout.inference.row_blocks import RowBlocks
from malib_lite.rollout.pool import act_with
from malib_lite.rollout.rolloutworker import Address, PolicySpec
from malib_lite.rollout.sampler import join_masks
from malib_lite.runtime.actors import Task
from malib_lite.runtime.board import Row
from malib_lite.runtime.seeds import derive_int


@dataclass(frozen=True)
class InferenceSpec:
    """What the server is made from."""

    policies: Mapping[str, PolicySpec]  # by runtime id
    addresses: Mapping[str, Address]  # where their parameters are to be had, by runtime id
    arenas: Sequence[Sequence[str]]  # runtime ids that learn together
    mailboxes: Sequence[Sequence[MailboxSpec]]  # by worker and arena
    seed: int
    batch: int | None  # workers in a full batch; None: all
    deadline_s: float
    lockstep: bool  # with the learners (BSP)


class InferenceServer:
    """A service; its task is :meth:`serve`.

    All that must survive it lies in the mailboxes: one that takes over from one that was killed answers what is open.
    """

    def __init__(self, row: Row, spec: InferenceSpec) -> None:
        self._row = row
        self._spec = spec
        self._client = ParameterClient({rid: address.connect() for rid, address in spec.addresses.items()})
        # by arena and worker
        self._mailboxes: list[list[Mailbox]] = [
            [of_worker[arena].open() for of_worker in spec.mailboxes] for arena in range(len(spec.arenas))
        ]
        self._taken = [[mailbox.answered for mailbox in of_arena] for of_arena in self._mailboxes]
        self._batches: list[Batches] = [self._make_batches() for _ in spec.arenas]
        self._policies: dict[str, Policy] = {}
        self._generators: dict[str, list[torch.Generator]] = {}  # by runtime id and worker
        for arena, mailboxes in zip(spec.arenas, self._mailboxes, strict=True):
            for runtime_id in arena:
                self._policies[runtime_id] = spec.policies[runtime_id].make(0)
                # The streams that the workers' own policies would have. One that takes over must not repeat them.
                seeds = [
                    derive_int(spec.seed, "worker", worker, runtime_id, "act", mailbox.answered)
                    for worker, mailbox in enumerate(mailboxes)
                ]
                self._generators[runtime_id] = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._loaded: dict[str, tuple[str, int]] = {}  # policy id and version that each policy has, by runtime id
        self._learners: dict[str, str] = {}

    # -- tasks --------------------------------------------------------------------------------------------------

    def serve(self, learners: Mapping[str, str], leg: int) -> Task:
        """Answer the workers until none has anything more to ask in ``leg``.

        Args:
            learners: id of the policy that acts, by runtime id.

        Returns:
            How many batches there were, and how many requests in them.
        """
        for runtime_id, policy_id in self._learners.items():
            if learners[runtime_id] != policy_id:
                self._client.forget(runtime_id, policy_id)
        self._learners = dict(learners)
        answering: list[tuple[Generator[None, None, None], int]] = []
        counts = {"batches": 0, "requests": 0}
        while not all(mailbox.is_over(leg) for of_arena in self._mailboxes for mailbox in of_arena):
            for arena in range(len(self._mailboxes)):
                while due := self._next_batch(arena, leg):
                    for workers in [due] if self._spec.lockstep else self._by_version(arena, due):
                        answering.append((self._answer(arena, workers), len(workers)))
            waiting = []
            for task, size in answering:  # each may wait for parameters of its own
                try:
                    next(task)
                    waiting.append((task, size))
                except StopIteration:
                    counts = {"batches": counts["batches"] + 1, "requests": counts["requests"] + size}
                    self._row.add(step=1)
            answering = waiting
            yield
        return counts

    # -- service ------------------------------------------------------------------------------------------------

    def idle(self) -> None: ...

    def close(self) -> None:
        self._client.close()

    # -- inside -------------------------------------------------------------------------------------------------

    def _make_batches(self) -> Batches:
        spec, num_workers = self._spec, len(self._spec.mailboxes)
        size = min(spec.batch or num_workers, num_workers)
        return (
            LockstepBatches(num_workers, size) if spec.lockstep else TimelyBatches(num_workers, size, spec.deadline_s)
        )

    def _next_batch(self, arena: int, leg: int) -> list[int]:
        """The workers of the next batch, if one is due."""
        now, batches, taken = time.monotonic(), self._batches[arena], self._taken[arena]
        mailboxes = self._mailboxes[arena]
        for worker, mailbox in enumerate(mailboxes):
            asks = mailbox.asked > taken[worker]  # first: a request is never of an earlier round than what is read next
            batches.observe(worker, mailbox.round, asks, mailbox.is_over(leg), now)
        workers = batches.take(now)
        for worker in workers:
            taken[worker] = mailboxes[worker].asked
        return workers

    def _by_version(self, arena: int, workers: Sequence[int]) -> list[list[int]]:
        """A batch of those whose parameters are there, and each other worker by itself: one that is ahead of the
        learners may wait for a version that they can make only when the workers behind it have been answered."""
        newest = {rid: self._client.newest(rid, self._learners[rid]) for rid in self._spec.arenas[arena]}
        ready: list[int] = []
        others: list[int] = []
        for worker in workers:
            asked = {rid: slot.meta for rid, slot in self._mailboxes[arena][worker].requests.items()}
            is_there = all(
                (snapshot := newest[rid]) is not None and snapshot.version >= meta["policy_version"]
                for rid, meta in asked.items()
                if meta["rows"]
            )
            (ready if is_there else others).append(worker)
        return [batch for batch in (ready, *([worker] for worker in others)) if batch]

    def _answer(self, arena: int, workers: Sequence[int]) -> Generator[None, None, None]:
        """Answer a batch: one forward pass for each runtime id."""
        mailboxes = [self._mailboxes[arena][worker] for worker in workers]
        for runtime_id in self._spec.arenas[arena]:
            asking = [
                (worker, mailbox)
                for worker, mailbox in zip(workers, mailboxes, strict=True)
                if mailbox.requests[runtime_id].meta["rows"]
            ]
            if not asking:
                continue
            requests = [read_request(mailbox.requests[runtime_id]) for _, mailbox in asking]
            wanted = max(mailbox.requests[runtime_id].meta["policy_version"] for _, mailbox in asking)
            yield from self._load(runtime_id, wanted)
            answer = self._act(runtime_id, [worker for worker, _ in asking], requests)
            bounds = accumulate((len(request.observation) for request in requests), initial=0)
            for (_, mailbox), (begin, end) in zip(asking, pairwise(bounds), strict=True):
                write_answer(mailbox.answers[runtime_id], answer, slice(begin, end), self._loaded[runtime_id][1])
        for mailbox in mailboxes:
            mailbox.reply(mailbox.asked)

    def _load(self, runtime_id: str, wanted: int) -> Generator[None, None, None]:
        """Have the policy at the parameters that it must act with."""
        policy_id = self._learners[runtime_id]
        snapshot = yield from parameters(self._client, runtime_id, policy_id, wanted, self._spec.lockstep)
        if self._loaded.get(runtime_id) != (policy_id, snapshot.version):
            self._policies[runtime_id].import_state(snapshot.arrays)
            self._loaded[runtime_id] = policy_id, snapshot.version

    def _act(self, runtime_id: str, workers: Sequence[int], requests: Sequence[Request]) -> Answer:
        """One forward pass over all workers' rows."""
        policy = self._policies[runtime_id]
        generators = [self._generators[runtime_id][worker] for worker in workers]
        if len(workers) == 1:
            policy.generator = generators[0]
            observation, mask, memory = requests[0]
            return act_with(policy, observation, mask, False, memory)
        sizes = [len(request.observation) for request in requests]
        masks = [(request.action_mask, slice(None), size) for request, size in zip(requests, sizes, strict=True)]
        memories = [request.memory for request in requests if request.memory is not None]
        policy.generator = torch.Generator()
        with RowBlocks(policy.generator, generators, sizes):
            return act_with(
                policy,
                np.concatenate([request.observation for request in requests]),
                join_masks(masks),
                False,
                np.concatenate(memories) if memories else None,
            )
