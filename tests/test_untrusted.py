"""Files from others: what they name is not imported, and what is wrong with them is a sentence."""

import json
import os
import resource
import shutil
import sys

import numpy as np
import pytest
import yaml
from changed import read_state, write_state

from malib_lite import evaluate, train
from malib_lite.backend.members import Member, MemberFolder
from malib_lite.config import ConfigError, sentence
from malib_lite.population.saved import SavedPopulation
from malib_lite.runtime.sealed import read_arrays, write_arrays
from malib_lite.untrusted import MAX_DEPTH, MAX_YAML_BYTES, check_import, only_registered, read_mapping

KUHN = {"scenario": "psro", "env": "open_spiel/kuhn_poker"}
ROCK = "matrix/rock_paper_scissors"
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


AMOUNTS = {
    "network": ({**CARTPOLE, "model": {"hidden_sizes": [100_000, 100_000]}}, "bytes for the parameters"),
    "memory": ({**CARTPOLE, "model": {"memory": "gru", "memory_size": 10**6}}, "bytes for the parameters"),
    "averages": (
        {"scenario": "nfsp", "env": KUHN["env"], "nfsp": {"model": {"hidden_sizes": [10**5, 10**5]}}},
        "bytes for the parameters",
    ),
    "workers": ({**CARTPOLE, "workers": 10**9}, "processes"),
    "simulators": ({**CARTPOLE, "rollout": {"use_subproc_env": True, "num_env_processes": 10**5}}, "processes"),
    "fragments": ({**CARTPOLE, "rollout": {"fragment_length": 10**12}}, "bytes of shared memory"),
    "environments": ({**CARTPOLE, "rollout": {"num_env_per_thread": 10**9}}, "bytes of shared memory"),
    "replay": ({**CARTPOLE, "algorithm": "dqn", "trainer": {"capacity": 10**12}}, "transitions"),
}


@pytest.mark.parametrize(("config", "reason"), AMOUNTS.values(), ids=AMOUNTS)
def test_a_few_numbers_do_not_fill_the_machine(config, reason, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "_start_fork_server", lambda settings: None)
    monkeypatch.setattr(train, "_run", lambda *arguments: 0)
    file, before = written(tmp_path / "theirs.yaml", config), most_memory()
    error = error_of(train.main, ["--config", file], capsys)
    assert reason in error and "--trust" in error and str(file) in error
    assert most_memory() - before < 2**28


def most_memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.fixture
def learnt(tmp_path):
    folder, options = tmp_path / "learnt", ["--model.hidden_sizes", "[8]", "--steps", "256", "--workers", "0"]
    assert train.main(["marl", "--env", ROCK, *options, "--logdir", str(folder), "--quiet"]) == 0
    return folder


@pytest.mark.parametrize("sizes", [[8, 8], [9], [100_000, 100_000], [10**12]])
def test_networks_are_as_large_as_the_members_files_before_they_are_made(sizes, learnt, capsys):
    config = yaml.safe_load((learnt / "config.yaml").read_text())
    config["model"]["hidden_sizes"] = sizes
    written(learnt / "config.yaml", config)
    before = most_memory()
    error = error_of(evaluate.main, [learnt], capsys)
    assert "parameters do not fit" in error and str(learnt) in error
    assert most_memory() - before < 2**28


def test_members_that_no_table_could_hold_are_no_table(run_folder):
    state = read_state(run_folder)
    for player, members in state["members"].items():  # 40,000 each: a table of 1.6 thousand million payoffs
        state["members"][player] = members * (40_000 // len(members))
        size = len(state["members"][player])
        state["strategies"][player]["probabilities"] = [1.0, *[0.0] * (size - 1)]
    state.pop("best", None)
    write_state(run_folder, state)
    before = most_memory()
    saved = SavedPopulation.read(run_folder)
    assert saved.payoffs is None and len(saved.pools("latest")["player_0"]) == len(set(saved.members["player_0"]))
    assert most_memory() - before < 2**28


@pytest.mark.parametrize("logdir", ["/tmp/elsewhere", "..", ".", "../x", "out/../../x", "link/x", "there", ""])
def test_a_file_chooses_no_folder_but_a_new_one_in_the_current_one(logdir, tmp_path, monkeypatch, capsys):
    began = []
    monkeypatch.setattr(train, "_run", lambda scenario, quiet, started: began.append(scenario.log_dir) or 0)
    here = tmp_path / "here"
    (here / "there").mkdir(parents=True)
    (here / "link").symlink_to(tmp_path)
    monkeypatch.chdir(here)
    solve = {**KUHN, "psro": {"oracle": "exact"}, "logdir": logdir}
    file = written(tmp_path / "theirs.yaml", solve)
    if logdir:
        assert "'logdir' = " in error_of(train.main, ["--config", file], capsys) and not began
    assert train.main(["--config", str(file), "--logdir", str(tmp_path / "mine")]) == 0
    assert train.main(["--config", str(file), "--trust"]) == 0
    written(file, {**solve, "logdir": "out/new"})
    assert train.main(["--config", str(file)]) == 0 and str(began[-1]) == "out/new"


@pytest.mark.parametrize(
    "env", ["matrix/{}", "mdp/{}", "open_spiel/efg_game(filename={})", "open_spiel/colored_trails(boards_file={})"]
)
def test_a_file_names_no_other_file(env, tmp_path, monkeypatch, capsys):
    (tmp_path / "other.yaml").write_text("payoffs: [[[1, 1]]]")
    named = env.format(tmp_path / "other.yaml")
    file = written(tmp_path / "theirs.yaml", {"scenario": "marl", "env": named, "workers": 0})
    assert "would read another file" in error_of(train.main, ["--config", file], capsys)
    monkeypatch.setattr(train, "_run", lambda *arguments: 0)
    for trust in (["--trust"], ["--env", named]):
        train.main(["--config", str(file), *trust])
        assert "would read" not in capsys.readouterr().err


@pytest.mark.parametrize("env", ["matrix/{}", "mdp/{}"])
def test_a_pipe_that_is_named_as_a_game_is_not_waited_for(env, tmp_path, capsys):
    os.mkfifo(tmp_path / "game.yaml")
    named = env.format(tmp_path / "game.yaml")
    assert "not a regular file" in error_of(train.main, ["marl", "--env", named], capsys)


@pytest.mark.parametrize("text", ["seed: 1\nseed: 2\n", "model: {a: 1, b: 2, a: 3}\n", "x: [{k: 1, 'k': 2}]\n"])
def test_a_key_that_is_there_twice_is_refused(text, tmp_path):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match="is there twice"):
        read_mapping(tmp_path / "a.yaml", follow_link=True)
    (tmp_path / "a.json").write_text('{"members": {"p": 1, "p": 2}}')
    with pytest.raises(ConfigError, match="'p' is there twice"):
        read_mapping(tmp_path / "a.json", follow_link=True)


PAYOFFS = {
    "not finite": lambda a: {**a, "payoffs": a["payoffs"] * np.nan},
    "too large": lambda a: {**a, "payoffs": a["payoffs"] + 1e200},
    "negative errors": lambda a: {**a, "errors": a["errors"] - 1.0},
    "another type": lambda a: {**a, "payoffs": a["payoffs"].astype(np.int64)},
    "another shape": lambda a: {**a, "payoffs": a["payoffs"].T},
    "negative choices": lambda a: {**a, "choices": a["choices"] - 1},
    "choices beyond": lambda a: {**a, "choices": a["choices"] + 9},
    "the same twice": lambda a: {name: array.repeat(2, 0 if name == "choices" else 1) for name, array in a.items()},
    "nothing": lambda a: {},
}


@pytest.mark.parametrize("damage", PAYOFFS.values(), ids=PAYOFFS)
def test_payoffs_are_payoffs(damage, run_folder, capsys):
    file = sorted((run_folder / "checkpoints").glob("payoffs-*"))[0]
    write_arrays(file, damage(read_arrays(file)))
    assert str(run_folder) in error_of(evaluate.main, [run_folder], capsys)


MEMBERS = {
    "not finite": lambda table: table * np.nan,
    "negative": lambda table: 1.0 - 2.0 * table,
    "zeros": lambda table: table * 0.0,
    "one row, which could be spread": lambda table: table[:1],
    "another axis": lambda table: table[None],
}


@pytest.mark.parametrize("damage", MEMBERS.values(), ids=MEMBERS)
def test_tables_are_policies(damage, run_folder, capsys):
    state, folder = read_state(run_folder), MemberFolder(run_folder / "checkpoints" / "policies")
    old = Member.parse(state["members"]["player_0"][0])
    new = folder.save(old.kind, {"table": damage(folder.load(old.digest)["table"])})
    write_state(run_folder, json.loads(json.dumps(state).replace(str(old), str(new))))
    error = error_of(evaluate.main, [f"{run_folder}@average"], capsys)
    assert str(run_folder) in error and new.digest in error


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_nothing_is_written_through_what_lies_where_new_files_are_made(kind, run_folder, tmp_path):
    (tmp_path / "mine").write_text("mine")
    for name in ("evaluation.json", "cross_play.png"):
        new = run_folder / f"{name}.{os.getpid()}.new"
        new.symlink_to(tmp_path / "mine") if kind == "link" else os.mkfifo(new)
    assert evaluate.main([str(run_folder)]) == 0
    assert (tmp_path / "mine").read_text() == "mine" and not list(run_folder.glob("*.new"))
    assert (run_folder / "cross_play.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["$\\frac{$", "[bold]x[_]", "a\x1b[2J\n", "\udcff", "a" * 200])
def test_folders_may_have_any_name(name, run_folder, capfd):
    folder = run_folder.rename(run_folder.with_name(name))
    assert evaluate.main([str(folder), f"{folder}@average"]) == 0
    shown = capfd.readouterr().out
    assert "\x1b[2J" not in shown and "Elo" in shown
    assert json.loads((folder / "evaluation.json").read_text())["populations"]


SIZES = [10**30, 2**62, [10**15, 10**15], [10**15 + 1], [1] * 5000]  # 5,000 layers take minutes to be described


@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: str(sizes)[:20])
def test_sizes_that_no_memory_has_are_a_sentence(sizes, tmp_path, capsys):
    for algorithm in ("ppo", "dqn"):
        model = {"hidden_sizes": sizes if isinstance(sizes, list) else [sizes]}
        file = written(tmp_path / "theirs.yaml", {**CARTPOLE, "algorithm": algorithm, "model": model})
        assert "model" in error_of(train.main, ["--config", file], capsys)


@pytest.mark.parametrize("payoff", [10**400, 1e308, -1e31, float("nan")])
def test_payoffs_of_a_matrix_are_numbers_that_can_be_recorded(payoff, tmp_path, capsys):
    game = {"scenario": "marl", "env": "matrix/custom", "env_config": {"payoffs": [[[payoff, 0], [0, 1]]]}}
    assert "'payoffs[0][0][0]'" in error_of(train.main, ["--config", written(tmp_path / "g.yaml", game)], capsys)


@pytest.mark.parametrize("key", ["league.main", "league.main_exploiters", "league.league_exploiters", "psro.pipeline"])
def test_a_file_asks_for_no_million_learners(key, tmp_path, capsys):
    section, _, name = key.partition(".")
    file = written(tmp_path / "theirs.yaml", {"scenario": section, "env": ROCK, section: {name: 10**6}})
    assert f"'{key}' = 1000000" in error_of(train.main, ["--config", file], capsys)
