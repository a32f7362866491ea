"""The walls of the house: who may import whom. Read from the source, nothing is imported."""

import ast
import configparser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "malib_lite": ROOT / "malib_lite",
    "malib_lite.envs": ROOT / "envs",
    "malib_lite.algorithms": ROOT / "algorithms",
}
FILES = [path for folder in PACKAGES.values() for path in sorted(folder.rglob("*.py"))]
PROCESSES = (
    "multiprocessing",
    "zmq",
    "mmap",
    "subprocess",
    "threading",
    "signal",
    "malib_lite.runtime",
    "malib_lite.backend",
)


def room(path):
    """Where a file belongs: "envs", "algorithms", or the engine's folder or file."""
    parts = path.relative_to(ROOT).parts
    return parts[0] if parts[0] != "malib_lite" else parts[1].removesuffix(".py")


def imports(path):
    """Full names of everything a file imports, for type checking alone included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name, packages):
    return any(name == package or name.startswith(package + ".") for package in packages)


# What each room of the engine may import of the engine, beside itself, contracts and config.
MAY = {
    "contracts": [],
    "config": [],
    "models": ["untrusted"],
    "registry": ["untrusted"],
    "untrusted": [],
    "environments": ["registry"],
    "runtime": ["malib_lite.__version__"],
    "backend": ["runtime"],
    "rollout": ["backend", "runtime", "models"],
    "population": ["rollout", "backend", "runtime", "models", "untrusted"],
    "agent": ["rollout", "backend", "runtime"],
    "scenarios": ["agent", "rollout", "population", "backend", "runtime", "models", "environments", "registry"],
    "runner": ["scenarios", "agent", "rollout", "backend", "runtime"],
    "survey": ["registry", "environments", "rollout", "runtime"],
    "evaluate": ["train", "population", "runtime", "untrusted"],
    "train": ["registry", "environments", "runner", "scenarios", "rollout", "runtime", "untrusted"],
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_stay_within_the_walls(path):
    here = room(path)
    for name in imports(path):
        if here == "algorithms":
            assert not within(
                name, [*PROCESSES, "os", "malib_lite.rollout", "malib_lite.scenarios", "malib_lite.envs"]
            ), name
        elif here == "envs":
            assert not within(
                name, [*PROCESSES, "malib_lite.rollout", "malib_lite.scenarios", "malib_lite.algorithms"]
            ), name
        else:
            assert not within(name, ["malib_lite.envs", "malib_lite.algorithms", "envs", "algorithms"]), name
            assert not within(name, ["gymnasium.envs", "pettingzoo", "pyspiel", "open_spiel", "ray"]), name
            if here not in ("runtime", "backend"):
                assert not within(name, ["multiprocessing", "zmq", "mmap"]), name
            if within(name, ["malib_lite"]) and here != "__init__":
                own = name.split(".")[1] if "." in name else ""
                allowed = {here, "contracts", "config", "", "__version__", *MAY[here]}
                assert own in allowed, f"{here} imports {name}"


def test_algorithms_do_not_import_each_other():
    names = {path.stem for path in (ROOT / "algorithms").glob("*.py")} - {
        "__init__",
        "actor_critic",
        "returns",
        "sequences",
        "stochastic_policy",
        "optimiser",
        "targets",
        "team_q",
    }
    for path in (ROOT / "algorithms").glob("*.py"):
        others = {f"malib_lite.algorithms.{name}" for name in names - {path.stem}}
        assert not [name for name in imports(path) if within(name, others)], path


def test_nothing_is_unpickled_but_what_a_process_sent_to_its_own_child():
    for path in FILES:
        names = set(imports(path))
        assert not within_any(names, ["pickle", "dill", "marshal", "shelve"]), path
        if path not in (ROOT / "malib_lite/runtime/child.py", ROOT / "malib_lite/runtime/helper.py"):
            assert "cloudpickle.loads" not in path.read_text() and "torch.load" not in path.read_text(), path


def within_any(names, packages):
    return any(within(name, packages) for name in names)


def test_every_package_is_in_setup_cfg():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    listed = set(parser["options"]["packages"].split())
    found = set()
    for package, folder in PACKAGES.items():
        for init in folder.rglob("__init__.py"):
            found.add(".".join([package, *init.parent.relative_to(folder).parts]))
    assert listed == found


def test_commands_that_only_look_import_nothing_heavy():
    """`--help` and `--list` answer quickly because they import neither torch nor an environment's package."""
    import subprocess
    import sys

    for command, arguments in (("train", ["--help"]), ("train", ["--list"]), ("evaluate", ["--help"])):
        code = (
            f"import sys; from malib_lite.{command} import main\n"
            f"try: main({arguments!r})\n"
            "except SystemExit: pass\n"
            "print('HEAVY', sorted({'torch', 'numpy', 'pyspiel', 'gymnasium', 'pydantic', 'scipy'} & set(sys.modules)))"
        )
        output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert "HEAVY []" in output
