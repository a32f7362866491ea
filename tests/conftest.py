"""What every test can count on."""

import os

import pytest
import torch

from malib_lite.runtime.shared_memory import PREFIX, _places

# before JAX is imported, here or in a child: compiling well takes far longer than what is compiled here runs
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# as in the children of a run: the number of threads changes the order of sums, and threads that wait for each other
# cost more than such small networks
torch.set_num_threads(1)


def run_folders(pid):
    """Names of the shared folders that the process ``pid`` made and that are still there."""
    return {path.name for place in _places() for path in place.glob(f"{PREFIX}-{pid}-*")}


@pytest.fixture
def no_leaks():
    """After the test none of its shared folders is left."""
    yield
    assert not run_folders(os.getpid())
