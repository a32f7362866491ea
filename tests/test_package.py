"""The project as a newcomer gets it: a wheel, installed in an empty place, announces and imports everything."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_wheel_holds_every_module_and_entry_point(tmp_path):
    source = tmp_path / "source"  # a copy: what an earlier build left beside the sources must not get in
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "logs", "__pycache__"))
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(source),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    target = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
        names = set(archive.namelist())
    for folder, package in (
        ("malib_lite", "malib_lite"),
        ("envs", "malib_lite/envs"),
        ("algorithms", "malib_lite/algorithms"),
    ):
        for path in (ROOT / folder).rglob("*.py"):
            assert f"{package}/{path.relative_to(ROOT / folder)}" in names
    assert not [name for name in names if name.split("/")[0] in ("envs", "algorithms", "tests")]
    code = (
        "import malib_lite.train, malib_lite.registry as r, malib_lite\n"
        f"assert malib_lite.__file__.startswith({str(target)!r}), malib_lite.__file__\n"
        "for group in (r.ENVIRONMENTS, r.ALGORITHMS):\n"
        "    for name in r.names(group): r.load(group, name, group)\n"
        "from malib_lite.scenarios.psro_scenario import PSROScenario\n"
        "from malib_lite.runner import run\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(target)}, cwd=tmp_path)
