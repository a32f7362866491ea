"""Which policies a run leaves on disk."""

import json

import numpy as np
import pytest
from changed import read_state

from malib_lite.backend.members import MemberFolder
from malib_lite.runner import run
from malib_lite.runtime.console import Console
from malib_lite.runtime.run_folder import RunFolder
from malib_lite.scenarios.checkpoints import Checkpoints
from malib_lite.train import TrainConfig, build, make_scenario

SMALL = {"rollout": {"num_threads": 0, "fragment_length": 256, "num_env_per_thread": 16}}


def left(folder):
    """Digests of the policies that are there."""
    return {file.stem for file in (folder / "checkpoints" / "policies").iterdir()}


def named(folder):
    """What has the length of a digest in the state."""
    text = json.dumps(read_state(folder))
    return {part for word in text.split('"') if len(part := word.rpartition(":")[2]) == 64}


def test_what_the_state_names_stays_and_the_rest_goes_after_a_while(tmp_path):
    folder = RunFolder(tmp_path)
    members = MemberFolder(tmp_path / "checkpoints" / "policies")
    checkpoints = Checkpoints(folder, members, keep=2)
    saved = [members.save("p", {"weight": np.array([float(number)])}) for number in range(5)]
    digests = [member.digest for member in saved]
    best = {"best": {"policies": {"p": digests[0]}}}  # by its digest; pools have text
    checkpoints.write({"policies": {"p": digests[0]}, **best}, saved[:1])
    checkpoints.write({"policies": {"p": digests[1]}, **best}, saved[1:2])
    checkpoints.write({"policies": {"p": digests[2]}, **best}, saved[2:3])
    assert left(tmp_path) == set(digests)  # the last two checkpoints', and the best
    checkpoints.write({"members": {"p": [str(saved[3])]}, **best}, saved[3:4])
    assert left(tmp_path) == {digests[0], *digests[2:]}
    checkpoints.write({"members": {"p": [str(saved[2]), str(saved[4])]}}, saved[4:])  # a new best
    assert left(tmp_path) == set(digests[2:])
    again = members.save("p", {"weight": np.array([0.0])})  # learnt a second time
    checkpoints.write({"members": {"p": [str(saved[4])]}}, [again])
    assert left(tmp_path) == {digests[0], digests[4]}


@pytest.mark.parametrize("keep", [1, 3])
def test_a_training_leaves_the_policies_of_its_last_checkpoints(tmp_path, keep):
    config = {
        "scenario": "marl", "env": "gym/CartPole-v1", "logdir": str(tmp_path / "run"), "steps": 2560,
        "training": {"keep_checkpoints": keep}, **SMALL, "rollout": {**SMALL["rollout"], "eval_interval": 1},
    }  # fmt: skip
    run(make_scenario(build(TrainConfig, config)), Console(quiet=True))
    assert len(left(tmp_path / "run")) == keep and named(tmp_path / "run") <= left(tmp_path / "run")


def test_a_league_leaves_the_policies_that_are_in_it(tmp_path):
    config = {
        "scenario": "league", "env": "open_spiel/kuhn_poker", "logdir": str(tmp_path / "run"), "iterations": 5,
        "steps": 512, "league": {"rating_episodes": 20}, "training": {"keep_checkpoints": 1}, **SMALL,
    }  # fmt: skip
    run(make_scenario(build(TrainConfig, config)), Console(quiet=True))
    assert left(tmp_path / "run") == named(tmp_path / "run")
    assert len(named(tmp_path / "run")) < 6 * 3 * 2  # three learners for two players, untrained and five times
