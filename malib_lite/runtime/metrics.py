"""Metrics: one line of JSON and one TensorBoard point per report, written by the main process alone."""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from malib_lite.runtime.files import AppendedFile, make_folders


class Reports:
    """The reports of a run, read from its ``metrics.jsonl`` whenever they are asked for: none is kept in memory."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The reports as they were written, the oldest first; what had no finite value is NaN.

        A last line without its end, which a process that was killed may leave, is no report.
        """
        with self._path.open("rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    yield _restored(json.loads(line))


class MetricsWriter:
    """Writes ``metrics.jsonl`` and TensorBoard events.

    Everything that depends on the clock goes under the key ``"time"``; the rest of a line repeats to the bit with the
    same seed.
    """

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            UnwrittenFile: the folder cannot be written, or holds such files.
        """
        self._started = time.monotonic()
        self.reports = Reports(folder / "metrics.jsonl")
        self._lines = AppendedFile(folder / "metrics.jsonl")
        make_folders(folder / "tensorboard")
        name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}.0"  # TensorBoard's form
        self._events_file = AppendedFile(folder / "tensorboard" / name)
        self._events = RecordWriter(self._events_file)
        self._add_event(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def write(
        self,
        step: int,
        values: Mapping[str, Any],
        timings: Mapping[str, float] | None = None,
        histograms: Mapping[str, Mapping[int, int]] | None = None,
    ) -> None:
        """Write one report. It is in the files when this returns.

        Args:
            step: environment steps or iterations, whatever the scenario counts. TensorBoard's horizontal axis is
                ``values["env_steps"]``, for all scenarios alike; where nothing has been played yet, it is this.
            values: numbers, strings and lists of them; numbers also become TensorBoard scalars.
            timings: what depends on the clock, in seconds or per second.
            histograms: how often each value came, by name, for TensorBoard.

        Raises:
            UnwrittenFile: the disk is full, for example.
        """
        clock = {"wall_s": round(time.monotonic() - self._started, 3), **(timings or {})}
        line = {"step": step, **values, "time": clock}
        self._lines.write((json.dumps(finite(line)) + "\n").encode())
        scalars = {**values, **{f"time/{name}": value for name, value in clock.items()}}
        summary = Summary(
            value=[
                Summary.Value(tag=name, simple_value=float(value))
                for name, value in scalars.items()
                if isinstance(value, int | float) and not isinstance(value, bool)
            ]
            + [Summary.Value(tag=name, histo=_histogram(counts)) for name, counts in (histograms or {}).items()]
        )
        axis = values.get("env_steps") or step
        self._add_event(Event(wall_time=time.time(), step=axis, summary=summary))

    def close(self) -> None:
        """Close the files, whose reports are then on the disk.

        Raises:
            UnwrittenFile: they are not.
        """
        try:
            self._lines.close()
        finally:
            self._events_file.close()

    def _add_event(self, event: Event) -> None:
        self._events.write(event.SerializeToString())


def _histogram(counts: Mapping[int, int]) -> HistogramProto:
    """A bucket of width 1 around every whole number between the least and the greatest that came."""
    least, greatest = min(counts), max(counts)
    return HistogramProto(
        min=least,
        max=greatest,
        num=sum(counts.values()),
        sum=sum(value * times for value, times in counts.items()),
        sum_squares=sum(value**2 * times for value, times in counts.items()),
        bucket_limit=[value + 0.5 for value in range(least - 1, greatest + 1)],  # the first ends where values begin
        bucket=[counts.get(value, 0) for value in range(least - 1, greatest + 1)],
    )


def finite(value: Any) -> Any:
    """The value with NaN and infinities as null: JSON has no word for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def _restored(value: Any) -> Any:
    """The value with null as NaN."""
    if value is None:
        return math.nan
    if isinstance(value, dict):
        return {key: _restored(item) for key, item in value.items()}
    return [_restored(item) for item in value] if isinstance(value, list) else value
