"""What the sampler asks of whoever runs the learners' policies, and the plain way: each worker has its own."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import NamedTuple, Protocol

import numpy as np

from malib_lite.backend.parameter_server import ParameterClient
from malib_lite.backend.snapshots import Snapshot
from malib_lite.contracts.policy import Policy
from malib_lite.rollout.pool import act_with


class Request(NamedTuple):
    """B rows for one runtime id's policy to act on."""

    observation: np.ndarray  # (B, *obs)
    action_mask: np.ndarray | None  # (B, A) bool
    memory: np.ndarray | None  # (B, H) float32


# What it does there: actions (B, *action), the policy's declared fields (B, ...), and its memory (B, H) float32
Answer = tuple[np.ndarray, dict[str, np.ndarray], np.ndarray | None]


class Inference(Protocol):
    """Runs the policies of an arena's learners, for the sampler, which knows them by the players whose seats they have.

    The worker's loop, for every fragment::

        yield from inference.prepare(policy_ids, versions, sequence)
        yield from sampler.play(slots)  # calls act() at every step, and then answers() while that gives None
        inference.finish(sequence)
    """

    memory_sizes: dict[str, int]  # H of each learner's policy, by player
    versions: dict[str, int]  # of the parameters that gave the last answer, by player
    oldest: dict[str, int]  # and of those that gave the first since prepare(), by runtime id

    def prepare(
        self, policies: Mapping[str, str], versions: Mapping[str, int], sequence: int
    ) -> Generator[None, None, None]:
        """Before a fragment, number ``sequence``: wait for, or ask for, the parameters that play it.

        Args:
            policies: policy ids by runtime id.
            versions: by runtime id; exactly these in lockstep, the newest that are at least these elsewhere.
        """

    def act(self, requests: Mapping[str, Request]) -> Mapping[str, Answer] | None:
        """Act for every player in ``requests``; None where that takes a while."""

    def answers(self) -> Mapping[str, Answer] | None:
        """The answers, if they have come by now."""

    def finish(self, sequence: int) -> None:
        """After fragment ``sequence``."""

    def end(self, leg: int) -> Generator[None, None, None]:
        """After the last fragment of a leg."""


def parameters(
    client: ParameterClient, runtime_id: str, policy_id: str, version: int, lockstep: bool
) -> Generator[None, None, Snapshot]:
    """What to act with now: ``version`` itself in lockstep, where no later one can be there, else the newest that is
    at least that."""
    newest = None if lockstep else client.newest(runtime_id, policy_id)
    if newest is None or newest.version < version:
        newest = yield from client.wait_for(runtime_id, policy_id, version)
    return newest


class LocalInference:
    """Policies of the worker's own, which follow the learners'."""

    def __init__(
        self,
        policies: Mapping[str, Policy],
        client: ParameterClient | None = None,
        seats: Mapping[str, str] | None = None,
        lockstep: bool = True,
    ) -> None:
        """
        Args:
            policies: by player.
            client: follows their parameters; None: they stay as they are.
            seats: the player of each runtime id that the client knows.
            lockstep: with the learners.
        """
        self._policies = dict(policies)
        self._client = client
        self._seats = seats or {}
        self._lockstep = lockstep
        self.memory_sizes = {player: policy.memory_size for player, policy in policies.items()}
        self.versions = dict.fromkeys(policies, 0)
        self.oldest: dict[str, int] = {}

    def prepare(
        self, policies: Mapping[str, str], versions: Mapping[str, int], sequence: int
    ) -> Generator[None, None, None]:
        assert self._client is not None
        for runtime_id, policy_id in policies.items():
            wanted = versions[runtime_id]
            snapshot = yield from parameters(self._client, runtime_id, policy_id, wanted, self._lockstep)
            player = self._seats[runtime_id]
            self._policies[player].import_state(snapshot.arrays)
            self.versions[player] = self.oldest[runtime_id] = snapshot.version

    def act(self, requests: Mapping[str, Request]) -> dict[str, Answer]:
        return {
            player: act_with(self._policies[player], observation, mask, False, memory)
            for player, (observation, mask, memory) in requests.items()
        }

    def answers(self) -> None: ...

    def finish(self, sequence: int) -> None: ...

    def end(self, leg: int) -> Generator[None, None, None]:
        return
        yield  # a generator, though it never waits
