"""What every test can count on."""

import os
from pkgutil import resolve_name

import pytest
import torch

from malib_lite.runtime.shared_memory import PREFIX, _places
from malib_lite.train import SCENARIOS

# before JAX is imported, here or in a child: compiling well takes far longer than what is compiled here runs
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# as in the children of a run: the number of threads changes the order of sums, and threads that wait for each other
# cost more than such small networks; tests of arithmetic hold with any number
torch.set_num_threads(int(os.environ.get("TEST_TORCH_THREADS", "1")))


def run_folders(pid):
    """Names of the shared folders that the process ``pid`` made and that are still there."""
    return {path.name for place in _places() for path in place.glob(f"{PREFIX}-{pid}-*")}


@pytest.fixture(autouse=True)
def few_pictures(request, monkeypatch):
    """Runs in this process draw nothing, which would take longer than they do, but in tests marked ``pictures``."""
    if request.node.get_closest_marker("pictures") is None:
        for path in SCENARIOS.values():
            monkeypatch.setattr(resolve_name(path), "plot", lambda self, run: None)


@pytest.fixture
def no_leaks():
    """After the test none of its shared folders is left."""
    yield
    assert not run_folders(os.getpid())
