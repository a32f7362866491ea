"""What every test can count on."""

import os
from pathlib import Path

import pytest

from malib_lite.runtime.shared_memory import PREFIX, _places


def run_folders():
    """Names of the shared folders that exist now."""
    return {path.name for place in _places() for path in place.glob(f"{PREFIX}-*")}


def children():
    """Process ids of this process's living descendants."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue
        if fields[0] != b"Z":
            parents[int(entry.parent.name)] = int(fields[1])
    found, frontier = set(), {os.getpid()}
    while frontier:
        frontier = {pid for pid, parent in parents.items() if parent in frontier}
        found |= frontier
    return found


@pytest.fixture
def no_leaks():
    """After the test there is no shared folder that was not there before."""
    before = run_folders()
    yield
    assert run_folders() <= before
