"""A gradient worker that writes down on which parameters it computes."""

import zlib

import numpy as np

from malib_lite.agent.gradient_worker import GradientWorker
from malib_lite.agent.gradients import STOP, export_networks


class RecordingWorker(GradientWorker):
    """One line for each permit, in ``replica-K.txt`` among the logs: version, checksum of all networks."""

    def _take_permit(self):
        iteration = yield from super()._take_permit()
        if iteration != STOP:
            checksum = 0
            for name, array in sorted(export_networks(self._trainer).items()):
                checksum = zlib.crc32(np.ascontiguousarray(array).tobytes(), zlib.crc32(name.encode(), checksum))
            with (self._spec.learner.log_dir / f"replica-{self._spec.number}.txt").open("a") as file:
                file.write(f"{self._version} {checksum}\n")
        return iteration
