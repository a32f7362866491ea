"""Run folders as a stranger may have made them: changed, and with the checksum that belongs to the change."""

import json
from pathlib import Path
from typing import Any

from malib_lite.runtime.sealed import seal


def read_state(folder: Path) -> dict[str, Any]:
    """What a run's state.json holds, without its format and checksum."""
    state = json.loads((folder / "checkpoints" / "state.json").read_text())
    return {key: value for key, value in state.items() if key not in ("format", "sha256")}


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Replace it."""
    (folder / "checkpoints" / "state.json").write_text(json.dumps(seal(state)))
