"""The fork server: a process that has imported what the others need, and of which they are copies.

Each then starts in milliseconds instead of importing torch for seconds. Importing this module imports nothing slow, so
the server can be at it while the main process imports the same for itself.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext

MODULES = (
    "torch", "numpy", "zmq", "gymnasium", "cloudpickle", "malib_lite.runtime.child",
    "malib_lite.rollout.rolloutworker", "malib_lite.agent.independent_agent", "malib_lite.backend.bus",
)  # fmt: skip
THREAD_LIMITS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def start(modules: Iterable[str] = ()) -> None:
    """Start the server, where there is such a thing, and do not wait for it; one that runs already stays as it is.

    Args:
        modules: names of what it imports beside ``MODULES``.
    """
    if _is_usable():
        forkserver.set_forkserver_preload([*MODULES, *modules])
        resource_tracker.ensure_running()  # or it is started within, and unblocks what is blocked here
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is for the main process alone
        try:
            with thread_limits():
                forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_method() -> BaseContext:
    """The fork server where there is one; spawn elsewhere, and where CUDA is in use already."""
    return multiprocessing.get_context("forkserver" if _is_usable() else "spawn")


@contextlib.contextmanager
def thread_limits() -> Iterator[None]:
    """Processes that are started inside compute with one thread: there are enough of them to fill the machine."""
    before = {name: os.environ.get(name) for name in THREAD_LIMITS}
    os.environ.update(THREAD_LIMITS)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _is_usable() -> bool:
    torch = sys.modules.get("torch")
    cuda = torch is not None and torch.cuda.is_initialized()
    return "forkserver" in multiprocessing.get_all_start_methods() and not cuda
