"""Files from others: what they name is not imported, and what is wrong with them is a sentence."""

import os
import shutil
import sys

import pytest
import yaml
from changed import read_state, write_state

from malib_lite import evaluate, train
from malib_lite.config import ConfigError, sentence
from malib_lite.untrusted import MAX_DEPTH, MAX_YAML_BYTES, check_import, only_registered, read_mapping

KUHN = {"scenario": "psro", "env": "open_spiel/kuhn_poker"}
CARTPOLE = {"scenario": "marl", "env": "gym/CartPole-v1"}
# every setting under which a name may stand that is imported
NAMES = {
    "env": {"scenario": "marl", "env": "a_strangers_module:Env"},
    "net": {**CARTPOLE, "model": {"net": "a_strangers_module:Net"}},
    "net, dotted": {**CARTPOLE, "model": {"net": "a_strangers_module.Net"}},
    "net of averages": {"scenario": "nfsp", "env": KUHN["env"], "nfsp": {"model": {"net": "a_strangers_module:Net"}}},
    "meta-solver": {**KUHN, "psro": {"oracle": "exact", "meta_solver": "a_strangers_module:solve"}},
    "gymnasium": {"scenario": "marl", "env": "gym/a_strangers_module:Env-v0"},
    "gymnasium's adapter": {
        "scenario": "marl", "env": "gym/GymV21Environment-v0",
        "env_config": {"scenario_configs": {"env_id": "a_strangers_module:Env-v0"}},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "solved"
    arguments = ["psro", "--env", KUHN["env"], "--psro.oracle", "exact", "--iterations", "3"]
    assert train.main([*arguments, "--logdir", str(folder), "--quiet"]) == 0
    return folder


@pytest.fixture
def run_folder(solved, tmp_path):
    return shutil.copytree(solved, tmp_path / "run")


@pytest.fixture
def imported(tmp_path, monkeypatch):
    """Whether a module was imported that would be found."""
    (tmp_path / "a_strangers_module.py").write_text(
        "import pathlib\npathlib.Path(__file__).with_suffix('.done').touch()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "a_strangers_module", raising=False)
    yield (tmp_path / "a_strangers_module.done").exists
    sys.modules.pop("a_strangers_module", None)


def error_of(main, arguments, capsys):
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "Traceback" not in error and len(error) < 2000
    return error


def written(path, config):
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.parametrize("config", NAMES.values(), ids=NAMES)
def test_a_file_imports_nothing_unless_it_is_trusted(config, imported, tmp_path, capsys):
    file = written(tmp_path / "theirs.yaml", {**config, "workers": 0, "logdir": str(tmp_path / "out")})
    error = error_of(train.main, ["--config", file], capsys)
    assert "would import the module 'a_strangers_module'" in error and "--trust" in error and str(file) in error
    assert not imported() and not (tmp_path / "out").exists()
    if config["env"] != "gym/GymV21Environment-v0":  # it is only made where the old gym is installed
        error_of(train.main, ["--config", file, "--trust"], capsys)  # the module has none of these names
        assert imported()


@pytest.mark.parametrize(
    "name", ["--env=a_strangers_module:Env", "--model.net=a_strangers_module:Net", "--model.net=a_strangers_module.Net"]
)
def test_what_stands_on_the_command_line_is_trusted(name, imported, tmp_path, capsys):
    file = written(tmp_path / "ours.yaml", CARTPOLE)
    assert "would import" not in error_of(train.main, ["--config", file, *name.split("=")], capsys)
    assert imported()


def test_one_name_on_the_command_line_does_not_vouch_for_another(imported, tmp_path, capsys):
    file = written(tmp_path / "theirs.yaml", {**CARTPOLE, "model": {"net": "a_strangers_module:Net"}})
    error = error_of(train.main, ["--config", file, "--env", "a_strangers_module:Env"], capsys)
    assert "a_strangers_module" in error  # the user's own is imported, and has no such class
    error = error_of(train.main, ["--config", file, "--env", "gym/CartPole-v1"], capsys)
    assert "would import" in error and "a_strangers_module:Net" in error


@pytest.mark.parametrize("name", ["env", "net", "gymnasium"])
def test_a_run_folder_imports_nothing_unless_it_is_trusted(name, run_folder, imported, capsys):
    change = {key: value for key, value in NAMES[name].items() if key in ("env", "model")}
    config = {**yaml.safe_load((run_folder / "config.yaml").read_text()), **change}
    if "model" in change:
        config |= {"algorithm": "dqn", "psro": {"oracle": "learnt"}, "env": KUHN["env"]}
    written(run_folder / "config.yaml", config)
    assert "would import the module 'a_strangers_module'" in error_of(evaluate.main, [run_folder], capsys)
    assert not imported()
    error_of(evaluate.main, [run_folder, "--trust"], capsys)
    assert imported()


def test_the_refusal_ends_with_its_block():
    with pytest.raises(ConfigError), only_registered("theirs.yaml"):
        check_import("os:system", "os", "env")
    check_import("os:system", "os", "env")


def doubled(levels):
    """Lists of two aliases of the list before: what the text stands for doubles with every line."""
    return "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, levels))


BAD = {
    "latin": b"env: caf\xe9\n",
    "date": b"env: 2020-99-99\n",
    "timestamp": b"env: !!timestamp never\n",
    "number": b"seed: !!int x\n",
    "long number": b"seed: " + b"9" * 10_000,
    "object": b"env: !!python/object/apply:os.getcwd []\n",
    "deep": b"env: " + b"[" * 3000 + b"]" * 3000,
    "too deep": b"env: " + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH,
    "block": b"".join(b" " * depth + b"a:\n" for depth in range(300)),
    "aliases": doubled(40).encode(),
    "endless": b"env: &a [*a]\n",
    "unknown alias": b"env: *a\n",
    "long": b"env: " + b"x" * MAX_YAML_BYTES,
    "long value": b"seed: " + b"x" * (MAX_YAML_BYTES // 2),
    "many keys": b"".join(b"key%d: 1\n" % number for number in range(5000)),
    "empty": b"",
    "list": b"[1, 2]\n",
    "text": b"hello\n",
    "keys": b"1: 2\n",
    "two": b"env: x\n---\nenv: y\n",
    "zero byte": b"env: \0\n",
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_files_that_are_no_configuration_are_a_sentence(content, run_folder, tmp_path, capsys):
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    error_of(train.main, ["psro", "--config", file], capsys)
    (run_folder / "config.yaml").write_bytes(content)
    error_of(evaluate.main, [run_folder], capsys)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("too deep", f"more than {MAX_DEPTH} deep"),
        ("deep", f"more than {MAX_DEPTH} deep"),
        ("aliases", "with its aliases expanded"),
        ("endless", "no complete value"),
        ("long", "it is longer than"),
    ],
)
def test_bounds_are_found_before_anything_is_built(name, reason, tmp_path, monkeypatch):
    monkeypatch.setattr(yaml, "safe_load", lambda text: pytest.fail("it was built"))
    (tmp_path / "bad.yaml").write_bytes(BAD[name])
    with pytest.raises(ConfigError, match=reason):
        read_mapping(tmp_path / "bad.yaml", follow_link=True)


def test_aliases_that_stay_small_are_read(tmp_path):
    file = tmp_path / "good.yaml"
    file.write_text(
        "shared: &net {hidden_sizes: [8, 8]}\nmodel: *net\nother: {<<: *net, layer_norm: true}\n" + "# " * 9
    )
    net = {"hidden_sizes": [8, 8]}
    assert read_mapping(file, follow_link=True) == {"shared": net, "model": net, "other": {**net, "layer_norm": True}}
    file.write_text("env: " + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1))  # the mapping is a level, too
    assert list(read_mapping(file, follow_link=True)) == ["env"]


def test_text_is_utf_8_whatever_the_locale_is(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_bytes("\ufeffenv: café\n".encode())
    assert read_mapping(file, follow_link=True) == {"env": "café"}


@pytest.mark.parametrize("content", ["[" * 100_000, '{"members": ' + "9" * 10_000 + "}", "[]", "", '{"members": {}}'])
def test_states_that_are_none_are_a_sentence(content, run_folder, capsys):
    (run_folder / "checkpoints" / "state.json").write_text(content)
    error_of(evaluate.main, [run_folder], capsys)


@pytest.mark.parametrize("name", ["config.yaml", "checkpoints/state.json", "checkpoints/policies", "payoffs", "member"])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_links_and_pipes_in_a_run_folder_are_not_opened(name, kind, run_folder, tmp_path, capsys):
    if name in ("payoffs", "member"):
        folder = run_folder / "checkpoints" / ("policies" if name == "member" else "")
        path = sorted(folder.glob("*.safetensors"))[0]
    else:
        path = run_folder / name
    elsewhere = path.rename(tmp_path / f"elsewhere{path.suffix}")
    path.symlink_to(elsewhere) if kind == "link" else os.mkfifo(path)
    error_of(evaluate.main, [run_folder], capsys)


def test_evaluation_does_not_write_through_links(run_folder, tmp_path):
    for name in ("evaluation.json", "cross_play.png"):
        (tmp_path / name).write_text("mine")
        (run_folder / name).symlink_to(tmp_path / name)
    assert evaluate.main([str(run_folder)]) == 0
    assert [(tmp_path / name).read_text() for name in ("evaluation.json", "cross_play.png")] == ["mine", "mine"]
    assert (run_folder / "cross_play.png").read_bytes().startswith(b"\x89PNG")


MIXTURES = {
    "nan": lambda of: [float("nan")] * len(of),
    "infinite": lambda of: [float("inf"), *of[1:]],
    "negative": lambda of: [-1.0, *of[1:]],
    "negative, of sum 1": lambda of: [2.0, -1.0, *[0.0] * (len(of) - 2)],
    "five times too much": lambda of: [5.0 * share for share in of],
    "too short": lambda of: of[:-1],
    "too long": lambda of: [*of, 0.0],
    "too large": lambda of: [10**400, *of[1:]],
    "nested": lambda of: [of],
    "texts": lambda of: ["x"] * len(of),
}


@pytest.mark.parametrize("damage", MIXTURES.values(), ids=MIXTURES)
def test_final_mixtures_must_be_distributions(damage, run_folder, capsys):
    state = read_state(run_folder)
    strategy = state["strategies"]["player_1"]  # the best mixtures stay as they were
    strategy["probabilities"] = damage(strategy["probabilities"])
    write_state(run_folder, state)
    assert "cannot be read as a run folder" in error_of(evaluate.main, [run_folder], capsys)


@pytest.mark.parametrize("digest", ["../../../elsewhere", "/etc/passwd", "abc", "A" * 64])
def test_members_are_named_by_digests(digest, run_folder, capsys):
    state = read_state(run_folder)
    state["members"]["player_0"][0] = f"player_0:{digest}"
    write_state(run_folder, state)
    assert "not the digest of a member" in error_of(evaluate.main, [run_folder], capsys)


def test_members_are_of_the_players(run_folder, capsys):
    state = read_state(run_folder)
    digest = state["members"]["player_0"][0].rpartition(":")[2]
    state["members"]["player_0"][0] = f"player_7:{digest}"
    write_state(run_folder, state)
    assert "member of 'player_7'" in error_of(evaluate.main, [run_folder], capsys)


def test_payoffs_lie_in_the_folder(run_folder, tmp_path, capsys):
    state = read_state(run_folder)
    name = state["payoffs"][0]
    (run_folder / "checkpoints" / name).rename(tmp_path / "elsewhere.safetensors")
    write_state(run_folder, {**state, "payoffs": ["../../elsewhere.safetensors", *state["payoffs"][1:]]})
    assert "is not the name of a file" in error_of(evaluate.main, [run_folder], capsys)


def test_messages_are_short_and_no_commands_for_a_terminal():
    assert len(sentence(ConfigError("x" * 10**6))) < 1500
    assert sentence(ConfigError("a\x1b[2Jb\nc é")) == "a\\x1b[2Jb\nc é"
