"""The command line: what it accepts, and what it says to what it does not."""

import importlib.metadata
from types import SimpleNamespace

import pytest
import yaml

from malib_lite import registry
from malib_lite.config import ConfigError
from malib_lite.contracts.devices import known_devices
from malib_lite.scenarios.scenario import TrainingConfig
from malib_lite.train import TrainConfig, _merge, _parse, build, main, make_scenario

CARTPOLE = ["marl", "--env", "gym/CartPole-v1"]
PENDULUM_GSDE = ["marl", "--env", "gym/Pendulum-v1", "--model.exploration", "state_dependent"]
KUHN = ["psro", "--env", "open_spiel/kuhn_poker"]


def test_gpus_are_known_by_their_numbers(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert known_devices() == ["cpu", "cuda", "cuda:0", "cuda:1"]
    assert build(TrainingConfig, {"device": "cuda:1"}).device == "cuda:1"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"'training.device' = 'cuda': what there is here: cpu$"):
        build(TrainingConfig, {"device": "cuda"}, "training")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["psor", "--env", "gym/CartPole-v1"], ["psor", "'psro'"]),
        (["marl"], ["--env"]),
        ([], ["scenario", "marl", "psro"]),
        (["marl", "--env", "gmy/CartPole-v1"], ["gmy/CartPole-v1", "'gym'"]),
        (["marl", "--env", "CartPole-v1"], ["'gym/CartPole-v1'"]),
        (["psro", "--env", "kuhn_poker"], ["'open_spiel/kuhn_poker'"]),
        (["marl", "--env", "Nowhere-v1"], ["FAMILY/NAME"]),
        (["marl", "gym/CartPole-v1"], ["--env gym/CartPole-v1"]),
        ([*CARTPOLE, "--algorithm", "PPO"], ["did you mean 'ppo'"]),
        ([*CARTPOLE, "--trainer.lr", "1e-3"], ["did you mean 'trainer.learning_rate'"]),
        ([*CARTPOLE, "--trainer.gamma", "0.9"], ["did you mean 'trainer.discount'"]),
        ([*CARTPOLE, "--rollout.num_envs", "4"], ["did you mean 'rollout.num_env_per_thread'"]),
        ([*CARTPOLE, "--learning_rate", "1e-3"], ["did you mean '--trainer.learning_rate'"]),
        ([*CARTPOLE, "--lr", "1e-3"], ["did you mean '--trainer.learning_rate'"]),
        ([*CARTPOLE, "--device", "cuda"], ["did you mean '--training.device'"]),
        ([*CARTPOLE, "--model.hidden_sizes", "64,64x"], ["'64,64x'", "[64,64]"]),
        ([*CARTPOLE, "--steps", "1e4x"], ["steps", "1e4x"]),
        ([*CARTPOLE, "--steps", "1.5"], ["steps", "1.5"]),
        ([*CARTPOLE, "--rollout.use_subproc_env", "perhaps"], ["rollout.use_subproc_env", "perhaps", "boolean"]),
        ([*CARTPOLE, "--training.staleness", "7"], ["'staleness' = 7", "'bap'"]),
        ([*CARTPOLE, "--sync", "asp", "--training.staleness", "7"], ["staleness", "'bap'"]),
        ([*CARTPOLE, "--training.longest_iteration_s", "1"], ["longest_iteration_s", "'bsp'"]),
        (["xdo", "--env", "open_spiel/chess"], ["500,000"]),
        (["self_play", *KUHN[1:], "--self_play.opponents", "fictitous"], ["did you mean 'fictitious'"]),
        (["marl", "--env", "gym/CartPol-v1"], ["CartPol-v1", "CartPole-v1"]),
        (["psro", "--env", "open_spiel/khun_poker"], ["khun_poker", "kuhn_poker"]),
        (["marl", "--env", "mdp/one_round_mdp"], ["one_round_mdp", "one_round_"]),
        ([*CARTPOLE, "--algorithm", "dqnn"], ["dqnn", "'dqn'"]),
        ([*CARTPOLE, "--trainer.learnin_rate", "1"], ["trainer.learnin_rate", "'trainer.learning_rate'"]),
        ([*CARTPOLE, "--rollout.num_thread", "1"], ["rollout.num_thread", "'rollout.num_threads'"]),
        ([*CARTPOLE, "--stopping.rollout.max_iteratio", "1"], ["stopping.rollout.max_iteration"]),
        ([*CARTPOLE, "--traner.gamma", "1"], ["'trainer'"]),
        ([*CARTPOLE, "--sede", "1"], ["'--seed'"]),
        ([*CARTPOLE, "--workers", "two"], ["workers", "two", "integer"]),
        ([*CARTPOLE, "--workers", "-1"], ["workers", "-1"]),
        ([*CARTPOLE, "--trainer.learning_rate", "fast"], ["trainer.learning_rate", "fast"]),
        ([*CARTPOLE, "--trainer.discount", "1.5"], ["trainer.discount", "1.5"]),
        ([*CARTPOLE, "--model.activation", "tnah"], ["model.activation", "tanh"]),
        ([*CARTPOLE, "--training.device", "gpu"], ["training.device", "gpu", "cpu"]),
        ([*CARTPOLE, "--training.device", "cuda:99"], ["training.device", "cuda:99", "cpu"]),
        ([*CARTPOLE, "--rollout.inference_server", "ray"], ["ray", "'local'", "'pipe'"]),
        ([*CARTPOLE, "--rollout.inference_batch", "2"], ["rollout.inference_batch", "2", "'pipe'"]),
        ([*PENDULUM_GSDE, "--rollout.inference_server", "pipe"], ["model.exploration", "'local'"]),
        ([*CARTPOLE, "--iterations", "3"], ["iterations", "psro"]),
        ([*CARTPOLE, "--steps", "5", "--trainer.total_timesteps", "6"], ["steps", "trainer.total_timesteps"]),
        ([*CARTPOLE, "--trainer.discount"], ["needs a value"]),
        ([*CARTPOLE, "--config", "/nowhere.yaml"], ["/nowhere.yaml"]),
        ([*CARTPOLE, "--logdir", "/proc/nowhere"], ["/proc/nowhere", "cannot be written"]),
        (["marl", "--env", "gym/Pendulum-v1", "--algorithm", "dqn"], ["dqn", "Discrete", "fit: a2c, ddpg, maddpg"]),
        ([*CARTPOLE, "--algorithm", "sac"], ["sac", "Box", "fit: a2c, coma, discrete_sac, dqn, maddpg"]),
        (["psro", "--env", "gym/Pendulum-v1"], ["dqn", "Discrete", "fit: a2c, ddpg, maddpg"]),
        (["psro", "--env", "gym/CartPole-v1"], ["two players", "marl"]),
        ([*KUHN, "--psro.meta_solver", "nahs"], ["nahs", "'nash'"]),
        (["psro", "--env", "open_spiel/kuhn_poker(players=3)", "--psro.meta_solver", "nash"], ["3 players", "prd"]),
        (["marl", "--env", "gym/LunarLander-v3"], ["pip install"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_input_is_explained_before_anything_starts(arguments, words, capsys, monkeypatch):
    if "LunarLander-v3" in " ".join(arguments):
        monkeypatch.setitem(__import__("sys").modules, "Box2D", None)  # as if it were not installed
    monkeypatch.setattr("malib_lite.runner._build", lambda *_: pytest.fail("something was started"))
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "Traceback" not in error
    for word in words:
        assert word in error


@pytest.mark.parametrize(("name", "words"), [("lbf", "pip install 'malib_lite[lbf]'"), ("sc2", "No module")])
def test_what_is_missing_is_said_with_the_extra_that_brings_it(name, words, monkeypatch):
    def load():
        raise ModuleNotFoundError("No module named 'nowhere'", name="nowhere")

    point = SimpleNamespace(name=name, load=load, dist=importlib.metadata.distribution("malib_lite"))
    monkeypatch.setattr(registry, "names", lambda group: {name: point})
    with pytest.raises(ConfigError) as error:
        registry.load(registry.ENVIRONMENTS, name, "environment family")
    text = str(error.value).replace("malib-lite", "malib_lite")  # older setuptools write it so; to pip it is the same
    assert words in text and ("pip" in words) == ("pip" in text)


def settings(*arguments):
    return build(TrainConfig, _merge(*_parse(arguments)))


def test_numbers_are_read_as_people_write_them():
    merged = settings(*CARTPOLE, "--steps", "1e4", "--model.hidden_sizes", "64,32", "--trainer.learning_rate", "1e-3")
    assert merged.steps == 10_000 and merged.trainer == {"learning_rate": 0.001}
    assert make_scenario(merged).policies["agent"].model_config["hidden_sizes"] == (64, 32)


def test_flags_overrides_and_files_are_one_configuration(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump({"seed": 4, "trainer": {"discount": 0.5, "learning_rate": 0.1}, "steps": 10}))
    merged = settings(*CARTPOLE, "--config", str(file), "--seed", "5", "--trainer.learning_rate=2e-3")
    assert (merged.seed, merged.steps, merged.trainer) == (5, 10, {"discount": 0.5, "learning_rate": 0.002})
    scenario = make_scenario(merged)
    _, trainer = scenario.trainers["agent"]
    assert (trainer.discount, trainer.learning_rate, trainer.total_timesteps) == (0.5, 0.002, 10)
    assert make_scenario(settings(*CARTPOLE, "--model.hidden_sizes", "[8, 4]")).policies["agent"].model_config[
        "hidden_sizes"
    ] == (8, 4)


def test_the_command_line_comes_before_the_file(tmp_path):
    file = tmp_path / "c.yaml"
    resolved = make_scenario(settings(*KUHN)).resolved_config()
    file.write_text(yaml.safe_dump({k: v for k, v in resolved.items() if k not in ("model",)}))
    merged = settings(
        "--config", str(file), "--trainer.batch_size", "7", "--workers", "2", "--steps", "5", "--iterations", "3"
    )
    scenario = make_scenario(merged)
    assert (scenario.rollout.num_threads, scenario.psro.max_iteration) == (2, 3)
    assert scenario.trainers["player_1"][1].batch_size == 7 and scenario.total_steps == 5


def test_best_responses_have_defaults_of_their_own_and_the_user_comes_first():
    plain = make_scenario(settings(*CARTPOLE, "--algorithm", "dqn")).trainers["agent"][1]
    response = make_scenario(settings(*KUHN)).trainers["player_0"][1]
    own = make_scenario(settings(*KUHN, "--trainer.batch_size", "7")).trainers["player_0"][1]
    assert plain.batch_size != response.batch_size != own.batch_size == 7
    assert own.learning_rate == response.learning_rate


def test_a_run_folder_is_used_once(tmp_path, capsys):
    arguments = [
        "marl",
        "--env",
        "mdp/one_round_dmdp",
        "--steps",
        "64",
        "--workers",
        "0",
        "--quiet",
        "--logdir",
        str(tmp_path),
    ]
    assert main(arguments) == 0
    assert main(arguments) == 2
    assert "holds a run already" in capsys.readouterr().err


def test_every_field_is_documented(capsys):
    assert main(["psro", "--help-config"]) == 0
    output = capsys.readouterr().out.splitlines()
    assert "training:" in output and any("(one of 'bsp', 'asp', 'bap', 'ssp'; default:" in line for line in output)
    lines = [line.strip() for line in output if line and not line.endswith(":")]
    assert len(lines) > 40 and any(line.startswith("--training.device ") for line in lines)
    for line in lines:
        name, _, text = line.partition(" ")
        assert name.startswith("--") and len(text.split("(")[0].strip()) > 10, line


def test_lists(capsys):
    assert main(["--list"]) == 0 and main(["--list", "mdp"]) == 0
    output = capsys.readouterr().out
    assert "dqn" in output and "open_spiel" in output and "mdp/one_round_dmdp" in output
    assert main(["--list", "gmy"]) == 2


@pytest.mark.parametrize(
    ("mapping", "groups"),
    [
        ("auto", ["adversary_0", "adversary_1", "adversary_2", "agent_0"]),
        ("separate", ["adversary_0", "adversary_1", "adversary_2", "agent_0"]),
        ("shared", ["team"]),
        ("prefix", ["adversary", "agent"]),
    ],
)
def test_the_mapping_says_who_shares_a_policy(tmp_path, mapping, groups):
    pytest.importorskip("mpe2")
    settings = {"scenario": "marl", "env": "pettingzoo/mpe.simple_tag_v3", "mapping": mapping, "logdir": str(tmp_path)}
    assert list(make_scenario(build(TrainConfig, settings)).groups) == groups
