"""The survey tells the truth about environments that work, refuse, fail, crash and hang."""

import sys
import textwrap

from malib_lite import survey
from malib_lite.survey import Finding, main, page, try_out

CHILD = """
import json, os, sys, time
from dataclasses import asdict
from malib_lite.survey import Finding
print("hello from a chatty library")
for line in sys.stdin:
    env_id = line.strip()
    if env_id == "crash": os.abort()
    if env_id == "hang": time.sleep(100)
    print(json.dumps(asdict(Finding(env_id, works=True, steps=os.getpid()))), flush=True)
"""


def test_one_that_works():
    finding = try_out("mdp", "one_round_dmdp")
    assert finding == Finding("one_round_dmdp", True, "", 1, "Discrete(2)", "Discrete(2)", episodes=3, steps=3)


def test_masks_are_honoured_and_long_episodes_are_cut():
    poker, pole = try_out("open_spiel", "leduc_poker"), try_out("gym", "MountainCar-v0")
    assert poker.works and poker.agents == 2 and poker.episodes == 3
    assert pole.works and pole.steps == 3 * 200  # its own time limit
    assert try_out("gym", "MountainCarContinuous-v0").steps == 3 * survey.MAX_STEP


def test_one_that_is_refused_and_one_that_fails(monkeypatch):
    refused = try_out("open_spiel", "crossword")
    assert not refused.works and refused.remark.startswith("refused: ") and "structures" in refused.remark
    monkeypatch.setattr(survey, "_random_action", lambda space, view, rng: "nonsense")
    failed = try_out("mdp", "one_round_dmdp")
    assert not failed.works and failed.remark.startswith("fails: ")


def test_a_crash_and_a_hang_cost_one_row_each(monkeypatch):
    monkeypatch.setattr(survey, "_child", lambda family: [sys.executable, "-c", textwrap.dedent(CHILD)])
    monkeypatch.setattr(survey, "TIMEOUT_S", 3.0)
    monkeypatch.setattr(survey, "BATCH", 3)
    ids = ["first", "crash", "second", "hang", "third"]
    findings = list(survey.survey("any", ids, jobs=2))
    assert [finding.env_id for finding in findings] == ids
    assert [finding.works for finding in findings] == [True, False, True, False, True]
    assert findings[1].remark == "crashes: its process ended with code -6"
    assert findings[3].remark == "hangs: no result in 3 s"


def test_the_page_names_every_id(tmp_path):
    few = [
        Finding("works", True, "", 2, "Box(3) float32", "Discrete(2)", 3, 30),
        Finding("broken", remark="fails: a | b"),
    ]
    text = page("some", "numpy", few)
    assert "1 of 2 work with numpy" in text and "| `works` | yes | 2 |" in text and r"fails: a \| b" in text
    many = [Finding(f"env-{number}", True, "", 2, "Box", "Discrete(2)", 3, 30) for number in range(500)]
    text = page("many", "", [*many, Finding("env-500", remark="refused: why")])
    assert "500 with 2 agents" in text and all(f"env-{number}" in text for number in range(501))
    assert text.count("\n| `") == 1


def test_the_command(tmp_path, capsys):
    assert main(["mdp", "--out", str(tmp_path), "--only", "one_round", "--jobs", "1"]) == 0
    assert "mdp: 2 of 2 work" in capsys.readouterr().out
    assert "one_round_nmdp" in (tmp_path / "mdp.md").read_text()
    assert "| [mdp](mdp.md) | 2 | 2 |" in (tmp_path / "README.md").read_text()
    assert main(["mdp", "--out", "/proc/nowhere"]) == 2
    said = capsys.readouterr()
    assert "error: 'out': '/proc/nowhere' cannot be written" in said.err and not said.out  # before anything is tried
    assert main(["mpd"]) == 2
    assert "did you mean 'mdp'" in capsys.readouterr().err
