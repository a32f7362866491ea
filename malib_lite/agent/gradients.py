"""What a learner and its gradient workers say to each other, and the gradients themselves.

A learner with gradient workers is their parameter server: it gathers their gradients, applies them by its own optimiser
and publishes the networks. For each worker there are

    learner -> worker   a ring of permits: compute your next gradient, on this version
    worker  -> learner  a ring of records: the shard of a round is here; a gradient; the shard is used up
    learner -> workers  versions of all networks, over the bus
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from malib_lite.backend.ring import RingSpec, SlotLayout
from malib_lite.contracts.data import Field
from malib_lite.contracts.trainer import Trainer


class WorkerLink(NamedTuple):
    """The two rings between a learner and one of its gradient workers."""

    permits: RingSpec
    records: RingSpec


# Records that are no gradients, by what stands in the place of their iteration
SHARD_IS_HERE = -1  # rows: decisions; env_steps: what they took
SHARD_IS_USED_UP = -2  # rows: fragments that it was made of
BACK = -4  # whoever had this place before has died; env_steps: a number for whoever has it now
GONE = -3  # the worker takes no part any more, in this round (BSP) or stretch of training
# Permits. sequence: the iteration, or STOP; policy_version: what to compute it on; rows: the leg; env_steps: whom it
# is for
PERMIT_LAYOUT = SlotLayout({})
NUM_PERMITS = 4  # at the most: one for a worker that died, one for that which took over, and STOP to both
STOP = -1  # the round is over for this worker, whatever is left of its shard


def record_layout(trainer: Trainer[Any, Any]) -> SlotLayout:
    """A gradient as one row of numbers; rows: samples behind it."""
    size = sum(parameter.numel() for parameter in trainer.parameters())
    return SlotLayout({"gradient": Field((size,), np.dtype(np.float32))})


def flatten(gradients: Sequence[torch.Tensor], row: np.ndarray) -> None:
    """Write gradients into a row of numbers (P,) float32."""
    if gradients:
        np.copyto(row, torch.cat([gradient.flatten() for gradient in gradients]).cpu().numpy())


def unflatten(row: torch.Tensor, parameters: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Gradients in the shapes of ``parameters``: views of a row of numbers (P,) float32."""
    parts = row.split([parameter.numel() for parameter in parameters])
    return [part.view_as(parameter) for part, parameter in zip(parts, parameters, strict=True)]


def weighted_mean(rows: Sequence[np.ndarray], counts: Sequence[int]) -> torch.Tensor:
    """Mean of gradients (P,) by the samples behind them, summed in the given order: it decides the last bits."""
    total = sum(counts)
    mean = torch.zeros(len(rows[0]))
    for row, count in zip(rows, counts, strict=True):
        mean += torch.from_numpy(row) * (count / total)
    return mean


def export_networks(trainer: Trainer[Any, Any]) -> dict[str, np.ndarray]:
    """Everything that gradients depend on, as copies: networks, and how far the schedules are."""
    arrays = {
        f"{name}.{key}": tensor.detach().cpu().numpy().copy()
        for name, network in trainer.networks().items()
        for key, tensor in network.state_dict().items()
    }
    progress = {"num_steps": trainer.num_steps, "num_updates": trainer.num_updates}
    return {**arrays, **{name: np.array(value, np.int64) for name, value in progress.items()}}


def import_networks(trainer: Trainer[Any, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Take up what :func:`export_networks` gave, in place."""
    with torch.no_grad():
        for name, network in trainer.networks().items():
            for key, tensor in network.state_dict(keep_vars=True).items():
                tensor.copy_(torch.from_numpy(np.array(arrays[f"{name}.{key}"])))
    trainer.num_steps, trainer.num_updates = int(arrays["num_steps"]), int(arrays["num_updates"])
    trainer.follow_schedules()


def replica_of(policy_id: str) -> str:
    """Under which name a learner publishes the networks for its gradient workers."""
    return f"{policy_id}/networks"
