"""Parameters as they travel: a header that says what is what, and one flat buffer. No pickle anywhere."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from malib_lite.runtime.arrays import aligned, flatten

_REST = 2**16  # bytes of a header beside its arrays: the id of a policy, above all
_KINDS = "biufc"  # bool, signed, unsigned, float, complex: never objects


class BadMessage(ValueError):
    """A message does not have the form of a snapshot."""


@dataclass(frozen=True)
class Snapshot:
    """The parameters of one policy at one version; immutable."""

    policy_id: str
    version: int
    arrays: Mapping[str, np.ndarray] = field(repr=False)

    def pack(self) -> tuple[bytes, np.ndarray]:
        """Header (JSON) and payload (uint8) of the message."""
        layout, payload = flatten(self.arrays)
        header = {"policy_id": self.policy_id, "version": self.version, "arrays": layout}
        return json.dumps(header).encode(), payload

    @staticmethod
    def unpack(header: bytes, payload: Any) -> Snapshot:
        """Read a message; the arrays are read-only views of ``payload``.

        Raises:
            BadMessage: the header and the payload do not fit together.
        """
        try:
            fields = json.loads(header)
            arrays = {}
            for name, kind, shape, offset in fields["arrays"]:
                dtype = np.dtype(kind)
                if dtype.kind not in _KINDS:
                    raise BadMessage(f"parameter '{name}' has dtype {dtype}")
                array = np.frombuffer(payload, dtype, int(np.prod(shape, dtype=np.int64)), offset).reshape(shape)
                array.flags.writeable = False
                arrays[str(name)] = array
            return Snapshot(str(fields["policy_id"]), int(fields["version"]), arrays)
        except BadMessage:
            raise
        except (ValueError, TypeError, KeyError) as error:
            raise BadMessage(f"not a snapshot: {error}") from None


def longest_message(arrays: Iterable[tuple[str, int, int]]) -> int:
    """Bytes that neither the header nor the payload of a snapshot exceeds.

    Args:
        arrays: name, bytes and number of axes of each of its arrays.
    """
    header = payload = _REST
    for name, num_bytes, num_axes in arrays:
        header += len(json.dumps(name)) + 64 + 24 * num_axes  # quotes, commas and numbers of up to 20 digits
        payload += aligned(num_bytes)
    return max(header, payload)
