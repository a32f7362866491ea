"""docs/algorithms.md says what the code does: commands, table, metrics, deviations, links."""

import ast
import math
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from test_algorithms import COMBINATIONS, FORCES, GRID, JOINT, MODULES, MOVES, actions_of, batch_for, fits, make, play

from malib_lite.contracts.data import ReplaySpec
from malib_lite.models.nets import make_net
from malib_lite.train import main

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/algorithms.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.S | re.M))
COMMANDS = re.findall(r"^    python -m malib_lite\.train (.*)$", TEXT, re.M)
ROWS = {
    row.split("](")[0].strip("[| "): row.strip("| ").split(" | ") for row in TEXT.splitlines() if row.startswith("| [")
}
UNBOUNDED = spaces.Box(-np.inf, np.inf, (2,))


def test_every_algorithm_has_a_row_and_a_section():
    assert list(ROWS) == sorted(MODULES)
    assert [name for name in SECTIONS if name in MODULES] == sorted(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_the_table_says_what_fits(name):
    _, actions, masks, source, who, memory = ROWS[name]
    kinds = [("Discrete", MOVES), ("MultiDiscrete", COMBINATIONS), ("Box", FORCES)]
    taken = [kind for kind, space in kinds if fits(name, GRID, space)]
    bounded = " with bounds" * (fits(name, GRID, FORCES) and not fits(name, GRID, UNBOUNDED))
    assert actions == ", ".join(taken) + bounded
    assert masks == ("yes" if taken != ["Box"] else "no")
    policy, trainer = make(name, GRID, actions_of(name))
    replays = isinstance(trainer.data_spec(), ReplaySpec)
    assert source == ("nothing" if name == "random" else "replay" if replays else "its own rounds")
    assert who == ("teams" if name in JOINT else "single agents")
    assert memory == ("gru, lstm" if "memory" in policy.model_class.__dataclass_fields__ else "none")


@pytest.mark.parametrize("name", MODULES)
def test_every_metric_is_explained(name):
    policy, trainer = make(name, GRID, actions_of(name))
    for metric in trainer.train(batch_for(trainer, play(policy))):
        assert f"`{metric}`" in SECTIONS[name] or f"`ID/{metric}`" in SECTIONS["What is measured"], metric


@pytest.mark.parametrize("name", MODULES)
def test_deviations_are_those_of_the_module(name):
    docstring = ast.get_docstring(ast.parse(Path(MODULES[name].__file__).read_text()))
    found = re.search(r"^Deviations:\n(.*?)(?:\n\n\S|\Z)", docstring, re.S | re.M)
    assert found or name == "random"
    if found:
        assert " ".join(found[1].replace("``", "`").split()) in " ".join(SECTIONS[name].split())


def test_links_lead_somewhere():
    anchors = {re.sub(r"[^a-z0-9_ -]", "", title.lower()).replace(" ", "-") for title in SECTIONS}
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXT):
        path, _, anchor = target.partition("#")
        if not path:
            assert anchor in anchors, target
        elif not target.startswith("http") and path != "results.md":  # written by the benchmark
            assert (ROOT / "docs" / path).exists(), target


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_understood(command, monkeypatch):
    """Everything up to the start; ``--steps 200`` of each were tried when it was written."""
    if "mpe" in command:
        pytest.importorskip("mpe2")
    started = []
    monkeypatch.setattr("malib_lite.runner.run", lambda scenario, *rest: started.append(scenario) or {})
    assert main(shlex.split(command)) == 0
    assert len(started) == ("--help-config" not in command)


def test_the_network_of_ones_own_works():
    (code,) = re.findall(r"```python\n(.*?)```", SECTIONS["Networks"], re.S)
    names = {"torch": torch, "math": math}
    exec(code, names)
    net = make_net(GRID, 5, {"net": names["Wide"], "net_config": {"width": 8}}, output_gain=1.0)
    assert net(torch.zeros(3, *GRID.shape)).shape == (3, 5)
