"""What a run writes to be read back says its format and its checksum: damage and other formats are found."""

import json
import shutil

import numpy as np
import pytest
from changed import read_state
from safetensors.numpy import load_file, save_file

from malib_lite import evaluate
from malib_lite.config import ConfigError
from malib_lite.population.saved import SavedPopulation
from malib_lite.runner import run
from malib_lite.runtime.console import Console
from malib_lite.runtime.sealed import FORMAT, DamagedFile, read_arrays, seal, unseal, write_arrays
from malib_lite.train import TrainConfig, build, make_scenario
from malib_lite.untrusted import read_mapping

ARRAYS = {"a": np.arange(3.0), "b": np.ones((2, 2), np.int64), "scalar": np.array(np.float32(2))}


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "solved"
    config = {"scenario": "psro", "env": "open_spiel/kuhn_poker", "iterations": 3, "psro": {"oracle": "exact"}}
    scenario = make_scenario(build(TrainConfig, {**config, "logdir": str(folder)}))
    scenario.plot = lambda run: None
    run(scenario, Console(quiet=True))
    return folder


@pytest.fixture
def folder(solved, tmp_path):
    return shutil.copytree(solved, tmp_path / "run")


def error_of(folder, capsys):
    """What evaluate says of a folder, which it refuses in one sentence."""
    assert evaluate.main([str(folder)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def sealed_files(folder):
    checkpoints = folder / "checkpoints"
    return [checkpoints / "state.json", *checkpoints.glob("payoffs-*"), *checkpoints.glob("policies/*")]


def test_what_is_sealed_comes_back(tmp_path):
    content = {"x": [1.5, -0.0, 1e-300, 10**20], "é": {"b": None, "a": True}, "empty": {}}
    file = tmp_path / "state.json"
    for indent in (None, 1):
        file.write_text(json.dumps(seal(content), indent=indent))
        back = unseal(file, read_mapping(file, follow_link=False))
        assert back == content and list(back) == list(content)
    write_arrays(tmp_path / "a.safetensors", ARRAYS)
    for name, array in read_arrays(tmp_path / "a.safetensors").items():
        assert array.dtype == ARRAYS[name].dtype and array.shape == ARRAYS[name].shape and (array == ARRAYS[name]).all()


def test_every_changed_byte_of_a_state_is_found(tmp_path):
    content, file = {"members": {"p": ["p:ab", "p:cd"]}, "best": [0.25, -1e-9], "iteration": 10}, tmp_path / "s.json"
    whole = json.dumps(seal(content), indent=1).encode()
    refused = 0
    for place in range(len(whole)):
        for flipped in (1, 32, 128):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ flipped]) + whole[place + 1 :])
            try:
                assert unseal(file, read_mapping(file, follow_link=False)) == content  # white space
            except ConfigError as error:
                assert "\n" not in str(error)
                refused += 1
    assert refused > 2 * len(whole)
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(ConfigError):
            unseal(file, read_mapping(file, follow_link=False))


def test_every_changed_byte_of_arrays_is_found(tmp_path):
    file = tmp_path / "a.safetensors"
    write_arrays(file, ARRAYS)
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            back = read_arrays(file)
        except DamagedFile as error:
            assert str(file) in str(error)
        else:  # the padding of the header, and nothing else
            assert whole[place : place + 1] == b" " and all((back[name] == ARRAYS[name]).all() for name in ARRAYS)
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(DamagedFile):
            read_arrays(file)


@pytest.mark.parametrize("number", range(3))
def test_a_damaged_file_of_a_run_is_refused_in_a_sentence(number, folder, capsys):
    file = sealed_files(folder)[number]
    whole = file.read_bytes()
    place = whole.index(b"probabilities") if file.suffix == ".json" else len(whole) - 5
    file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    assert f"'{file}' is damaged" in error_of(folder, capsys)
    file.write_bytes(whole[: len(whole) // 2])
    assert str(file) in error_of(folder, capsys)


def test_another_format_is_refused_and_says_what_to_do(folder, capsys):
    file = folder / "checkpoints" / "state.json"
    file.write_text(json.dumps({**seal(read_state(folder)), "format": FORMAT + 1}))
    assert f"has the format {FORMAT + 1}" in (error := error_of(folder, capsys)) and "manifest.json" in error
    file.write_text(json.dumps(seal(read_state(folder))))
    for file in sealed_files(folder)[1:]:
        whole = file.read_bytes()
        save_file(load_file(file), file, {"format": "7", "sha256": "0" * 64})
        assert f"'{file}' has the format 7" in error_of(f"{folder}@average", capsys)
        file.write_bytes(whole)


def test_folders_from_before_there_were_formats_are_read(folder, solved):
    (folder / "checkpoints" / "state.json").write_text(json.dumps(read_state(folder)))
    for file in folder.rglob("*.safetensors"):
        save_file(load_file(file), file)
    old, new = SavedPopulation.read(folder), SavedPopulation.read(solved)
    assert (old.payoffs == new.payoffs).all() and old.members == new.members
    assert evaluate.evaluate([str(folder)]).nash_convs == evaluate.evaluate([str(solved)]).nash_convs


@pytest.mark.parametrize("missing", ["format", "sha256"])
def test_half_a_seal_is_damage(folder, capsys, missing):
    state = seal(read_state(folder))
    del state[missing]
    (folder / "checkpoints" / "state.json").write_text(json.dumps(state))
    assert "is damaged" in error_of(folder, capsys)
