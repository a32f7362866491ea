"""Files are written whole or not at all: full disks and killed processes leave the last whole state."""

import errno
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from malib_lite.backend.members import MemberFolder
from malib_lite.runtime.files import UnwrittenFile, write_text, write_whole
from malib_lite.runtime.run_folder import RunFolder

WRITE_UNTIL_KILLED = """
import sys
from pathlib import Path
from malib_lite.runtime.files import write_text
print("begun", flush=True)
number = 0
while True:
    number += 1
    write_text(Path(sys.argv[1]), str(number % 10) * 300_000)
"""
WRITE_TO_A_FULL_DISK = """
import resource, signal, sys
import numpy as np
from malib_lite.backend.members import MemberFolder
from malib_lite.runtime.files import UnwrittenFile
from malib_lite.runtime.run_folder import RunFolder
from pathlib import Path
folder, large = RunFolder(sys.argv[1]), np.zeros(100_000)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))  # writing beyond fails, as on a full disk
writes = (
    lambda: folder.write_config({"x": "y" * 60_000}),
    lambda: folder.write_json("summary.json", {"x": "y" * 60_000}),
    lambda: folder.write_arrays("checkpoints/payoffs.safetensors", {"x": large}),
    lambda: MemberFolder(Path(sys.argv[1]) / "checkpoints" / "policies").save("p", {"x": large}),
)
for write in writes:
    try:
        write()
    except UnwrittenFile:
        continue
    sys.exit("it was written")
"""


def test_the_content_is_on_disk_before_its_name_and_the_name_before_the_return(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("os.fsync", lambda fd: synced.append((os.readlink(f"/proc/self/fd/{fd}"), path.read_text())))
    path = tmp_path / "state.json"
    path.write_text("old")
    write_text(path, "new")
    (file, before), (folder, after) = synced
    assert file.startswith(f"{path}.") and before == "old"
    assert folder == str(tmp_path) and after == "new"


def test_a_failure_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "state.json"
    path.write_text("old")

    def fail(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(UnwrittenFile, match=f"^'{path}' cannot be written: No space left on device$"):
        write_whole(path, b"new")
    assert os.listdir(tmp_path) == ["state.json"] and path.read_text() == "old"


def test_a_full_disk_leaves_the_last_whole_state(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.write_config({"x": 1})
        folder.write_json("summary.json", {"x": 1})
        folder.write_arrays("checkpoints/payoffs.safetensors", {"x": np.ones(2)})
    MemberFolder(tmp_path / "checkpoints" / "policies").save("p", {"x": np.ones(2)})
    (tmp_path / "summary.json").rename(tmp_path / "kept.json")  # or the folder would be refused
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = subprocess.run([sys.executable, "-c", WRITE_TO_A_FULL_DISK, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert json.loads((tmp_path / "kept.json").read_text()) == {"x": 1}


def test_a_killed_writer_leaves_a_whole_file(tmp_path):
    path = tmp_path / "state.json"
    write_text(path, "0" * 300_000)
    for _ in range(5):
        command = [sys.executable, "-c", WRITE_UNTIL_KILLED, str(path)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert writer.stdout.readline() == "begun\n"
        for _ in range(50):
            text = path.read_text()
            assert len(text) == 300_000 and len(set(text)) == 1
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        text = path.read_text()
        assert len(text) == 300_000 and len(set(text)) == 1
