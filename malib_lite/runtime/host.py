"""The machine that a run is on: its figures are to be compared with those of others only if this is alike."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

_CPU_INFO = Path("/proc/cpuinfo")


def describe_host() -> dict[str, Any]:
    """Processor, cores that this process may use, and what instructions torch computes with.

    The last decides in which order torch adds numbers up: runs repeat to the bit where it is the same.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "machine": platform.machine(),
        "cores": cores,
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def _processor() -> str:
    """The processor's name; ``platform`` knows none on Linux."""
    try:
        lines = _CPU_INFO.read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
