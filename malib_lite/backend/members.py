"""Pool members: policies that never change again, each a file named after what is in it.

Whoever plays a member reads its file and keeps its network as long as it has room (:class:`MemberCache`). So a
population may be far larger than memory, it does not matter what made a member (a learner, an exact best response, an
earlier run), and none of its parameters ever travels twice.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from malib_lite.contracts.policy import Policy
from malib_lite.runtime.arrays import digest_of
from malib_lite.runtime.sealed import read_arrays, read_shapes, write_arrays


class Member(NamedTuple):
    """A pool member."""

    kind: str  # runtime id of those that are made as it was
    digest: str  # of its parameters

    def __str__(self) -> str:
        return f"{self.kind}:{self.digest}"

    @staticmethod
    def parse(text: str) -> Member:
        """What ``str`` made of a member."""
        kind, _, digest = text.rpartition(":")
        return Member(kind, digest)


@dataclass(frozen=True)
class MemberFolder:
    """Where the members of a run lie: ``DIGEST.safetensors``, which holds no code and is never unpickled."""

    path: Path

    def save(self, kind: str, arrays: Mapping[str, np.ndarray]) -> Member:
        """Save parameters; what is there already stays."""
        member = Member(kind, digest_of(arrays))
        path = self._file(member.digest)
        if not path.exists():
            write_arrays(path, arrays, member.digest)
        return member

    def load(self, digest: str) -> dict[str, np.ndarray]:
        """The parameters with this digest.

        Raises:
            FileNotFoundError: there are none.
            DamagedFile: the file does not hold what its name says.
        """
        return read_arrays(self._file(digest), digest)

    def shapes(self, digest: str) -> dict[str, tuple[int, ...]]:
        """What the file says of the shapes of these parameters, none of which is read.

        Raises:
            FileNotFoundError: there is none.
            DamagedFile: the file is none of parameters.
        """
        return read_shapes(self._file(digest))

    def remove(self, digests: Iterable[str]) -> None:
        """Remove members that nobody will ask for any more; one that cannot be removed takes room, and nothing else."""
        for digest in digests:
            with contextlib.suppress(OSError):
                self._file(digest).unlink()

    def _file(self, digest: str) -> Path:
        return self.path / f"{digest}.safetensors"


_OVERHEAD = 16 * 1024  # bytes of a network's objects, its random stream among them
_PER_ARRAY = 4 * 1024  # bytes of a parameter's tensor and its share of the modules


class MemberCache:
    """The networks of the members that were asked for last.

    Bounded in bytes, so that what is cached does not follow the size of a population. A player that needs all networks
    of its pool at once, in a game without tables, holds them beside the cache.
    """

    def __init__(self, folder: MemberFolder, make: Callable[[str], Policy], capacity: int = 8 * 2**20) -> None:
        """
        Args:
            make: a policy of a kind, to be given the member's parameters.
            capacity: bytes that are kept, of parameters and of the objects around them; the network that was asked for
                last always is, and those that somebody else holds stay as long as that.
        """
        self._folder = folder
        self._make = make
        self._capacity = capacity
        self._kept: OrderedDict[Member, tuple[Policy, int]] = OrderedDict()  # with the bytes of each, the oldest first
        self._num_bytes = 0

    def get(self, member: Member) -> Policy:
        """The member's policy, in evaluation mode: the same object to everybody who asks."""
        if member in self._kept:
            self._kept.move_to_end(member)
            return self._kept[member][0]
        arrays = self._folder.load(member.digest)
        policy = self._make(member.kind)
        policy.import_state(arrays)
        policy.eval()
        num_bytes = _OVERHEAD + sum(array.nbytes + _PER_ARRAY for array in arrays.values())
        self._kept[member] = policy, num_bytes
        self._num_bytes += num_bytes
        while self._num_bytes > self._capacity and len(self._kept) > 1:
            _, (_, freed) = self._kept.popitem(last=False)
            self._num_bytes -= freed
        return policy
