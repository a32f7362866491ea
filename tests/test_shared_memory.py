"""The run's shared folder: reserved, private, removed, and swept when its owner is dead."""

import os
import signal
import subprocess
import sys
import time

import pytest

from malib_lite.runtime.shared_memory import PREFIX, SharedFolder, SharedMemoryError, _places, attach, sweep


def test_segments_are_zero_shared_and_gone_with_the_folder():
    with SharedFolder(1 << 20) as folder:
        path = folder.allocate("segment", 4096)
        one, other = attach(path), attach(path)
        assert one[:] == bytes(4096) and path.stat().st_blocks * 512 >= 4096, "not reserved"
        one[17] = 42
        assert other[17] == 42
        assert folder.path.stat().st_mode & 0o777 == 0o700
    assert not folder.path.exists()
    assert one[17] == 42  # open mappings stay


def test_too_little_room_is_an_error_before_anything_is_written():
    with pytest.raises(SharedMemoryError, match="--shm-size"):
        SharedFolder(1 << 60)
    with SharedFolder() as folder, pytest.raises(SharedMemoryError, match="cannot reserve"):
        folder.allocate("huge", 1 << 50)


def test_a_path_too_long_for_a_socket_is_an_error():
    with SharedFolder() as folder, pytest.raises(SharedMemoryError, match="TMPDIR"):
        folder.endpoint("x" * 100)


def test_sweep_takes_what_dead_owners_left_and_nothing_else():
    code = "from malib_lite.runtime.shared_memory import SharedFolder; import sys; f = SharedFolder(); "
    code += "f.allocate('s', 4096); print(f.path, flush=True); sys.stdin.read()"
    owner = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    left = owner.stdout.readline().strip()
    foreign = _places()[0] / f"{PREFIX}er-1-cafe"
    foreign.mkdir()
    try:
        with SharedFolder() as own:
            assert left not in map(str, sweep()) and os.path.exists(left), "its owner lives"
            owner.send_signal(signal.SIGKILL)
            owner.wait()
            assert left in map(str, sweep()) and not os.path.exists(left)
            assert own.path.exists() and foreign.exists()
    finally:
        foreign.rmdir()


def test_a_folder_that_is_not_locked_yet_is_left_alone_for_a_while():
    young = _places()[0] / f"{PREFIX}-1-cafe"
    young.mkdir()
    try:
        assert young not in sweep()
        os.utime(young, (time.time() - 3600,) * 2)
        assert young in sweep()
    finally:
        if young.exists():
            young.rmdir()
