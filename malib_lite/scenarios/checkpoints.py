"""Checkpoints: what a run has reached, and the policies that go because nothing refers to them any more."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from malib_lite.backend.members import Member, MemberFolder
from malib_lite.runtime.run_folder import RunFolder


class Checkpoints:
    """Writes ``checkpoints/state.json``, and removes policies that neither it nor a recent checkpoint names.

    What the state names is never removed: members of a population or a league, the best mixtures, the latest policies.
    """

    def __init__(self, folder: RunFolder, members: MemberFolder, keep: int) -> None:
        """
        Args:
            keep: checkpoints, with the latest, all of whose policies stay.
        """
        self._folder = folder
        self._members = members
        self._keep = keep
        self._recent: deque[set[str]] = deque()  # digests saved for each of them
        self._old: set[str] = set()  # those of older ones, as far as they are there

    def write(self, state: Mapping[str, Any], saved: Iterable[Member], indent: int | None = 1) -> None:
        """Write a checkpoint.

        Args:
            state: in a form for JSON; members are in it as text or as digests.
            saved: members that were saved since the last checkpoint.
        """
        # first: nothing that is named is missing
        self._folder.write_json("checkpoints/state.json", state, indent, sealed=True)
        self._recent.append({member.digest for member in saved})
        while len(self._recent) > self._keep:
            self._old |= self._recent.popleft()
        unnamed = self._old - set().union(*self._recent)
        if unnamed:
            unnamed.difference_update(_digests(state))
        self._members.remove(unnamed)
        self._old -= unnamed


def _digests(value: Any) -> Iterator[str]:
    """Whatever may be the digest of a member in a state."""
    if isinstance(value, str):
        yield value.rpartition(":")[2]
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _digests(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _digests(item)
