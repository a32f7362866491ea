"""Files are written whole or not at all: full disks and killed processes leave the last whole state."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from malib_lite.backend.members import MemberFolder
from malib_lite.runtime.child import _open_log
from malib_lite.runtime.files import AppendedFile, UnwrittenFile, make_folders, write_text, write_whole
from malib_lite.runtime.metrics import Reports
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


def test_records_are_whole_and_a_part_of_one_is_taken_back(tmp_path, monkeypatch):
    file, write = AppendedFile(tmp_path / "lines"), os.write
    file.write(b"first\n")

    def half(fd, data):
        if len(data) <= 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data[:3])

    monkeypatch.setattr("os.write", half)
    with pytest.raises(UnwrittenFile, match="No space left"):
        file.write(b"second\n")
    assert (tmp_path / "lines").read_bytes() == b"first\n"
    monkeypatch.setattr("os.write", lambda fd, data: write(fd, data[:3]))  # what takes only a part goes on
    file.write(b"second\n")
    file.close()
    file.close()
    assert (tmp_path / "lines").read_bytes() == b"first\nsecond\n"
    with pytest.raises(UnwrittenFile, match="File exists"):
        AppendedFile(tmp_path / "lines")


def test_reports_end_before_a_line_that_is_not_whole(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "x": null}\n{"step": 2}\n{"step": 3')
    first, second = Reports(tmp_path / "metrics.jsonl")
    assert first["step"] == 1 and math.isnan(first["x"]) and second == {"step": 2}


def test_what_a_killed_writer_left_is_removed_by_who_takes_the_folder(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.write_config({"x": 1})
    left = ["config.yaml.123.new", "checkpoints/state.json.7.new", "checkpoints/policies/ab.safetensors.99.new"]
    mine = ["notes.new", "logs/config.yaml.123.new", "a.12x.new"]
    for name in [*left, *mine]:
        (tmp_path / name).write_text("half")
    RunFolder(tmp_path).close()
    assert not any((tmp_path / name).exists() for name in left) and all((tmp_path / name).exists() for name in mine)
    other = tmp_path / "other"  # nobody's run has been here
    other.mkdir()
    (other / "config.yaml.123.new").write_text("mine")
    RunFolder(other).close()
    assert (other / "config.yaml.123.new").exists()


def test_a_log_that_cannot_be_written_ends_nothing(tmp_path):
    for path in (Path("/dev/full"), tmp_path / "nowhere" / "x.log"):
        with _open_log(path) as log:
            print("x" * 100_000, "more", file=log)
            log.write("a line\n")
    with _open_log(tmp_path / "x.log") as log:
        print("a line", file=log)
        assert (tmp_path / "x.log").read_text() == "a line\n"


def test_folders_are_made_durably(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("os.fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    make_folders(tmp_path / "a" / "b")
    make_folders(tmp_path / "a" / "b")
    assert synced[:2] == [str(tmp_path), str(tmp_path / "a")]
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "x"):
        with pytest.raises(UnwrittenFile, match="cannot be written"):
            make_folders(path)
