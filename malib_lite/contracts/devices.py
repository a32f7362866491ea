"""Where tensors are: arrays and everybody who plays are on the CPU; a learner's networks may be on a GPU.

One rule keeps them together: what goes into a network passes :func:`to_tensor`, and what comes out of one as an array
passes ``.cpu()``. Random numbers are drawn on the CPU and moved, so that they are the same on every device.
"""

from __future__ import annotations

import numpy as np
import torch


def to_tensor(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """``array`` as a tensor on ``device``: on the CPU the same memory, elsewhere a copy."""
    return torch.from_numpy(array).to(device)


def known_devices() -> list[str]:
    """What networks can be put on here: ``cpu``; ``cuda``, which is the first GPU; ``cuda:0`` and so on."""
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return ["cpu", *["cuda"] * bool(gpus), *gpus]
