"""``python -m malib_lite.survey``: does every environment of every family work here? Tries each one and writes a table.

Every id is played for three episodes with random legal actions, on the way that training takes: described, vectorised,
stepped. This runs in child processes, so that a simulator that crashes or hangs costs one row and not the survey.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import Any

EPISODES = 3
MAX_STEP = 300  # longer episodes are truncated
PATIENCE_S = 20.0  # after this, an environment that works is not played on to its third episode
TIMEOUT_S = 120.0  # after this, one that gives no result is taken for hung
BATCH = 40  # ids that one child tries, one after another
FOLDED = 100  # families with more ids than this get one paragraph for all that work


@dataclass
class Finding:
    """What became of one id."""

    env_id: str
    works: bool = False
    remark: str = ""  # why not; or what else there is to say
    agents: int = 0
    observations: str = ""
    actions: str = ""
    episodes: int = 0
    steps: int = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0, or 1 if anything that should work does not."""
    parser = argparse.ArgumentParser(prog="python -m malib_lite.survey", description=__doc__.split("\n")[0])
    parser.add_argument("families", nargs="*", help="families to try; all that are installed, if none is named")
    parser.add_argument("--out", type=Path, help="folder for the pages, one per family, e.g. docs/survey")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="children at a time")
    parser.add_argument("--only", metavar="TEXT", default="", help="only ids that contain TEXT")
    parser.add_argument("--child", metavar="FAMILY", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        for line in sys.stdin:
            print(json.dumps(asdict(try_out(options.child, line.strip()))), flush=True)
        return 0

    from malib_lite import registry
    from malib_lite.config import suggest
    from malib_lite.runtime.files import UnwrittenFile, make_folders, write_text

    known = registry.names(registry.ENVIRONMENTS)
    for family in options.families:
        if family not in known:
            print(f"error: unknown family '{family}': {suggest(family, known)}", file=sys.stderr)
            return 2
    try:
        if options.out:
            make_folders(options.out)
        broken = sum(_survey_family(family, options) for family in options.families or known)
        if options.out:
            write_text(options.out / "README.md", index(options.out))
    except UnwrittenFile as error:
        print(f"error: 'out': {error}", file=sys.stderr)
        return 2
    return 1 if broken else 0


def _survey_family(family: str, options: argparse.Namespace) -> int:
    """Try a family, say and write what came of it; returns how many of its ids should work and do not."""
    from malib_lite import registry
    from malib_lite.config import ConfigError
    from malib_lite.runtime.files import write_text

    try:
        module = registry.load(registry.ENVIRONMENTS, family, "environment family")
        ids = getattr(module, "survey_ids", module.env_ids)()
    except ConfigError as error:
        print(f"{family}: {error}")
        return 0
    findings = list(survey(family, [env_id for env_id in ids if options.only in env_id], options.jobs))
    working = sum(finding.works for finding in findings)
    print(f"{family}: {working} of {len(findings)} work")
    for finding in findings:
        if not finding.works:
            print(f"    {finding.env_id}: {finding.remark}")
    if options.out:
        write_text(options.out / f"{family}.md", page(family, getattr(module, "PACKAGE", ""), findings))
    return sum(finding.remark.startswith(("fails", "crashes", "hangs")) for finding in findings)


def try_out(family: str, env_id: str) -> Finding:
    """Play one environment in this process."""
    import numpy as np

    from malib_lite.config import ConfigError
    from malib_lite.environments import describe_environment
    from malib_lite.rollout.vector_env import vectorise

    finding = Finding(env_id)
    started = time.monotonic()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # the answer alone goes to stdout
            description = describe_environment(f"{family}/{env_id}")
            finding.agents = len(description["possible_agents"])
            finding.observations = _kinds(description["observation_spaces"])
            finding.actions = _kinds(description["action_spaces"])
            venv = vectorise(description, 1, seed=0, max_step=MAX_STEP)
            rng = np.random.default_rng(0)
            for number, space in enumerate(venv.action_spaces.values()):
                space.seed(number)
            while finding.episodes < EPISODES and time.monotonic() - started < PATIENCE_S:
                views = venv.reset(np.ones(1, bool))
                while not venv.finished[0] and time.monotonic() - started < PATIENCE_S:
                    actions = {a: _random_action(space, views[a], rng) for a, space in venv.action_spaces.items()}
                    views = venv.step(actions)
                    finding.steps += 1
                finding.episodes += bool(venv.finished[0])
            venv.close()
        finding.works = True
        if finding.episodes < EPISODES:
            finding.remark = f"slow: {finding.steps} steps in {PATIENCE_S:.0f} s"
    except ConfigError as error:
        finding.remark = "refused: " + _one_line(error).removeprefix(f"'env_id' = '{env_id}': ")
    except Exception as error:
        finding.remark = f"fails: {type(error).__name__}: {_one_line(error)}"
    return finding


def survey(family: str, env_ids: Sequence[str], jobs: int) -> Iterator[Finding]:
    """Try all ids, some children at a time; findings come in the order of the ids."""
    batches = [env_ids[start : start + BATCH] for start in range(0, len(env_ids), BATCH)]
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        for findings in pool.map(lambda batch: list(_try_batch(family, batch)), batches):
            yield from findings


def page(family: str, package: str, findings: Sequence[Finding]) -> str:
    """The table of a family, as Markdown; ``package`` is the one that it adapts, or nothing."""
    version = ""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, ValueError):
        version = f" with {package} {importlib.metadata.version(package)}"
    working = [finding for finding in findings if finding.works]
    lines = [
        f"# {family}",
        "",
        f"{len(working)} of {len(findings)} work{version}. Each was played for {EPISODES} episodes with random legal "
        f"actions, truncated after {MAX_STEP} steps. `python -m malib_lite.survey {family} --out docs/survey` writes "
        "this page.",
        "",
    ]
    folded = len(findings) > FOLDED and len({(f.actions, f.agents) for f in working}) < len(findings) / 4
    if folded:
        kinds: dict[tuple[int, str], list[str]] = {}
        for finding in working:
            kinds.setdefault((finding.agents, finding.actions), []).append(finding.env_id)
        for (agents, actions), ids in sorted(kinds.items()):
            lines += [
                f"**{len(ids)} with {agents} agent{'s' * (agents != 1)}, actions {actions}**: {', '.join(ids)}",
                "",
            ]
    rows = [finding for finding in findings if not (folded and finding.works)]
    if rows:
        lines += ["| id | works | agents | observations | actions | steps | remark |", "|---|---|---|---|---|---|---|"]
    for f in rows:
        mark, facts = ("yes" if f.works else "**no**"), (f.agents or "", f.observations, f.actions, f.steps or "")
        cells = [f"`{f.env_id}`", mark, *map(str, facts), f.remark]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines).rstrip() + "\n"


def index(folder: Path) -> str:
    """The contents of a folder of pages, those of earlier surveys included."""
    lines = [
        "# Survey of environments",
        "",
        "Every environment id of every family, tried: which ones work, and why the others do not. Where a package is",
        "not installed, its page says so for every id. `python -m malib_lite.survey --out docs/survey` writes them.",
        "",
        "| family | ids | work |",
        "|---|---|---|",
    ]
    for path in sorted(folder.glob("*.md")):
        counts = re.search(r"^(\d+) of (\d+) work", path.read_text(), re.MULTILINE)
        if counts:
            lines.append(f"| [{path.stem}]({path.name}) | {counts[2]} | {counts[1]} |")
    return "\n".join(lines) + "\n"


def _try_batch(family: str, env_ids: Sequence[str]) -> Iterator[Finding]:
    """Try ids in a child; another child goes on where one has crashed or hung."""
    with tempfile.TemporaryDirectory() as folder:  # some simulators leave files where they are started
        yield from _try_in(folder, family, list(env_ids))


def _try_in(folder: str, family: str, rest: list[str]) -> Iterator[Finding]:
    while rest:
        child = subprocess.Popen(
            _child(family),
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert child.stdin is not None and child.stdout is not None
        answers: Queue[str | None] = Queue()
        threading.Thread(target=_read, args=(child.stdout, answers), daemon=True).start()
        try:
            while rest:
                with contextlib.suppress(BrokenPipeError):
                    child.stdin.write(rest[0] + "\n")
                    child.stdin.flush()
                try:
                    answer = answers.get(timeout=TIMEOUT_S)
                except Empty:
                    yield Finding(rest.pop(0), remark=f"hangs: no result in {TIMEOUT_S:.0f} s")
                    break
                if answer is None:
                    yield Finding(rest.pop(0), remark=f"crashes: its process ended with code {child.wait()}")
                    break
                yield Finding(**json.loads(answer))
                rest.pop(0)
        finally:
            child.kill()
            child.wait()


def _child(family: str) -> list[str]:
    """The command of a process that tries the ids it reads, one per line."""
    return [sys.executable, "-m", "malib_lite.survey", "--child", family]


def _read(lines: Iterable[str], answers: Queue[str | None]) -> None:
    for line in lines:
        if line.startswith("{"):  # some libraries greet their user on stdout
            answers.put(line)
    answers.put(None)


def _random_action(space: Any, view: Any, rng: Any) -> Any:
    """An action (1, ...) of an array space that the view's mask allows."""
    import numpy as np
    from gymnasium import spaces

    mask = view.action_mask
    if mask is None:
        return np.asarray(space.sample())[None]
    if isinstance(space, spaces.Discrete):
        return np.array([rng.choice(np.flatnonzero(mask[0]))])
    parts = np.split(mask[0], np.cumsum(space.nvec)[:-1])
    return np.array([[rng.choice(np.flatnonzero(part)) for part in parts]])


def _kinds(spaces: Mapping[str, Any]) -> str:
    """The spaces of all agents in short, each kind once."""
    return ", ".join(dict.fromkeys(_short(space) for space in spaces.values()))


def _short(space: Any) -> str:
    from gymnasium import spaces

    if isinstance(space, spaces.Box):
        return f"Box{space.shape} {space.dtype}".replace(",)", ")")
    if isinstance(space, spaces.Discrete):
        return f"Discrete({space.n})"
    if isinstance(space, spaces.Dict):
        return "Dict(" + ", ".join(f"{name}: {_short(part)}" for name, part in space.spaces.items()) + ")"
    if isinstance(space, spaces.Tuple):
        return "Tuple(" + ", ".join(map(_short, space.spaces)) + ")"
    return str(space)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 240 else text[:237] + "..."


if __name__ == "__main__":
    sys.exit(main())
