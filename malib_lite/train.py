"""``python -m malib_lite.train SCENARIO --env FAMILY/NAME``: train from the command line.

The command line, a YAML file and a scenario's constructor all end in the same configuration objects.
"""

from __future__ import annotations

import argparse
import contextlib
import pkgutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from malib_lite.config import (
    ConfigError,
    NonNegativeInt,
    PositiveInt,
    build,
    called_elsewhere,
    config,
    describe,
    option,
    sentence,
    suggest,
)
from malib_lite.runtime.signals import interruptible
from malib_lite.untrusted import check_new_folder, only_registered, read_mapping

SCENARIOS = {
    "marl": "malib_lite.scenarios.marl_scenario:MARLScenario",
    "psro": "malib_lite.scenarios.psro_scenario:PSROScenario",
    "self_play": "malib_lite.scenarios.self_play_scenario:SelfPlayScenario",
    "nfsp": "malib_lite.scenarios.nfsp_scenario:NFSPScenario",
    "xdo": "malib_lite.scenarios.xdo_scenario:XDOScenario",
    "league": "malib_lite.scenarios.league_scenario:LeagueScenario",
}
DEFAULT_ALGORITHM = {
    "marl": "ppo", "psro": "dqn", "self_play": "ppo", "nfsp": "dqn", "xdo": "ppo", "league": "ppo"
}  # fmt: skip
PURPOSES = {
    "marl": "agents or teams that learn in the same environment",
    "psro": "populations of best responses to mixtures of each other",
    "self_play": "players that learn against frozen copies of each other",
    "nfsp": "best responses, and the average of what they have done",
    "xdo": "extensive-form double oracle: no training, small zero-sum games are solved exactly",
    "league": "main agents, and exploiters that look for their weaknesses",
}
AVERAGE_POLICY = "average_policy"  # what nfsp's best responses are imitated by
EPILOG = """\
every other field of the configuration is set by its dotted name, e.g.
  --trainer.learning_rate 1e-3   --rollout.num_env_per_thread 32   --model.hidden_sizes [128,128]
--help-config lists them all. --config reads the same names from YAML; the command line comes first.

examples:
  python -m malib_lite.train psro --env open_spiel/kuhn_poker
  python -m malib_lite.train marl --env gym/CartPole-v1 --algorithm ppo --seed 1
"""


@config
class TrainConfig:
    """The whole configuration of a training; the sections belong to the classes that use them."""

    scenario: str = option("", "the outer loop")
    env: str = option("", "environment, as FAMILY/NAME, or package.module:CLASS for your own")
    algorithm: str | None = option(None, "algorithm that learns (psro, nfsp: dqn, others: ppo)")
    mapping: Literal["auto", "separate", "shared", "prefix"] = option(
        "auto",
        "who shares a policy: no agents, all, or those named alike but for a number; auto: as the algorithm needs",
    )
    seed: NonNegativeInt = option(0, "seed of everything random")
    workers: NonNegativeInt | None = option(None, "rollout worker processes; 0 runs everything in one process")
    learners: PositiveInt | None = option(None, "gradient workers of each learner, with rollout workers of their own")
    sync: str | None = option(None, "how they keep step: bsp, asp, bap or ssp")
    iterations: PositiveInt | None = option(None, "iterations of the outer loop")
    steps: PositiveInt | None = option(
        None, "environment steps of the training; with an outer loop, of each player in each iteration"
    )
    logdir: str | None = option(None, "run folder; None makes one in logs, named after scenario, environment and seed")
    env_config: dict[str, Any] = option({}, "keyword arguments of the environment")
    rollout: dict[str, Any] = option({}, "how experience is gathered")
    training: dict[str, Any] = option({}, "how learners share their work")
    trainer: dict[str, Any] = option({}, "the algorithm's training")
    model: dict[str, Any] = option({}, "the algorithm's networks")
    stopping: dict[str, Any] = option({}, "when a training ends")
    psro: dict[str, Any] = option({}, "the outer loop of psro")
    self_play: dict[str, Any] = option({}, "the outer loop of self_play")
    xdo: dict[str, Any] = option({}, "the outer loop of xdo")
    nfsp: dict[str, Any] = option({}, "what nfsp has beside its best responses")
    league: dict[str, Any] = option({}, "the outer loop of league")


# Short flags and the fields that they stand for.
_FLAGS = {
    "workers": "rollout.num_threads", "steps": "trainer.total_timesteps", "iterations": "{scenario}.max_iteration",
    "learners": "training.learners", "sync": "training.sync",
}  # fmt: skip
_MAPPINGS: dict[str, Callable[[str], str] | None] = {
    "auto": None,
    "separate": lambda agent: agent,
    "shared": lambda agent: "team",
    "prefix": lambda agent: agent.rstrip("0123456789").rstrip("_") or agent,
}
_OUTER = ("psro", "self_play", "xdo", "league")  # scenarios with an outer loop, and the sections of its configuration
# What a file may ask for without --trust
_MOST_PARAMETERS = 2**28  # bytes, of one policy
_MOST_PROCESSES = 256
_MOST_SHARED = 2**30  # bytes of shared memory
_MOST_KEPT = 10**7  # transitions or decisions in a store
_IN_PYTHON = ("training.trainer_config", "training.custom_config")  # not for the command line
_SECTIONS = ("env_config", "rollout", "training", "trainer", "model", "stopping", *_OUTER, "nfsp")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0 done, 2 wrong input, 1 any other failure, 130 and 143 interrupted."""
    started = time.monotonic()
    try:
        with interruptible():
            return _main(sys.argv[1:] if arguments is None else arguments, started)
    except ConfigError as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print("interrupted before anything was played", file=sys.stderr)
        return _exit_code(interrupt)


def _main(arguments: Sequence[str], started: float) -> int:
    options, overrides = _parse(arguments)
    if options.list is not None:
        _list(options.list)
        return 0
    with _file_named(options.config):
        settings = build(TrainConfig, _merge(options, overrides))
    if options.help_config:
        _help_config(settings)
        return 0
    if _needs_processes(settings):
        _start_fork_server(settings)
    with only_registered(None if options.trust else options.config, {options.env, *_texts(overrides)}):
        with _file_named(options.config):
            scenario = make_scenario(settings)
            if options.config is not None and not options.trust:
                _check_amounts(scenario)
                if settings.logdir and not options.logdir:
                    check_new_folder(Path(settings.logdir), "logdir")
        if not settings.logdir:
            from malib_lite.runtime.run_folder import make_folder

            scenario.log_dir = make_folder(scenario.log_dir)
        return _run(scenario, options.quiet, started)


@contextlib.contextmanager
def _file_named(file: str | None) -> Iterator[None]:
    """Let a refusal name the file that settings come from, beside those of the command line."""
    try:
        yield
    except ConfigError as error:
        raise (
            ConfigError(f"with --config '{file}': {error}") if file and str(file) not in str(error) else error
        ) from None


def _check_amounts(scenario: Any) -> None:
    """Refuse what would fill the machine: a few numbers in a file are enough for that.

    Raises:
        ConfigError: so many processes, or such large networks or rings, take --trust.
    """
    from malib_lite.runner import num_processes, shared_bytes

    def check(what: str, keys: str, amount: int, most: int) -> None:
        if amount > most:
            raise ConfigError(
                f"this takes {amount:,} {what} ({keys}), more than the {most:,} that a file may ask for: give --trust "
                "if you mean it"
            )

    for runtime_id, spec in scenario.policies.items():
        num_bytes = sum(tensor.nbytes for tensor in spec.outline().state_dict().values())
        check(f"bytes for the parameters of {runtime_id}", "model", num_bytes, _MOST_PARAMETERS)
    check("processes", "rollout, training.learners", num_processes(scenario), _MOST_PROCESSES)
    check("bytes of shared memory", "rollout", shared_bytes(scenario), _MOST_SHARED)
    for kept in _values_of("capacity", scenario.resolved_config()):
        check("transitions or decisions in a store", "capacity", kept, _MOST_KEPT)


def _values_of(key: str, value: Any) -> Iterator[Any]:
    """What stands under ``key`` anywhere in nested mappings."""
    if isinstance(value, Mapping):
        yield from (item for name, item in value.items() if name == key)
        for item in value.values():
            yield from _values_of(key, item)


def _texts(value: Any) -> Iterator[str]:
    """All texts in nested values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)


def _exit_code(interrupt: KeyboardInterrupt) -> int:
    return 143 if str(interrupt) == "SIGTERM" else 130


def make_scenario(settings: TrainConfig) -> Any:
    """The scenario that a configuration describes.

    Raises:
        ConfigError: anything in it is wrong; nothing has been started.
    """
    from malib_lite import registry
    from malib_lite.environments import describe_environment

    if settings.scenario not in SCENARIOS:
        what = f"unknown scenario '{settings.scenario}'" if settings.scenario else "no scenario given"
        raise ConfigError(f"{what}: {suggest(settings.scenario, SCENARIOS)}")
    if not settings.env:
        raise ConfigError("no environment given: --env FAMILY/NAME (--list shows the families) or package.module:CLASS")
    name = settings.algorithm or DEFAULT_ALGORITHM[settings.scenario]
    algorithm = registry.load(registry.ALGORITHMS, name, "algorithm")
    scenario_class = pkgutil.resolve_name(SCENARIOS[settings.scenario])
    log_dir = (
        settings.logdir or f"logs/{settings.scenario}-{_file_name(settings.env)}-{settings.seed}-{time.time():.0f}"
    )
    sections: dict[str, Any] = {}
    for section in _OUTER:
        given = getattr(settings, section)
        if section == settings.scenario:
            sections[f"{section}_config"] = _with_flag(given, "iterations", settings.iterations)
            if (given.get("oracle") == "exact" or section == "xdo") and settings.algorithm:
                computed = "the scenario xdo" if section == "xdo" else f"'{section}.oracle' = 'exact'"
                raise ConfigError(
                    f"'algorithm' = '{settings.algorithm}' and {computed}: best responses are either learnt or computed"
                )
        elif given:
            raise ConfigError(f"'{section}' is for the {section} scenario, this one is {settings.scenario}")
    if settings.iterations and settings.scenario not in _OUTER:
        raise ConfigError(f"'iterations': {settings.scenario} has no outer loop as psro has, its length is --steps")
    if settings.scenario == "nfsp":
        sections["nfsp_config"] = settings.nfsp
        sections["average"] = registry.load(registry.IMITATORS, AVERAGE_POLICY, "average policy")
    elif settings.nfsp:
        raise ConfigError(f"'nfsp' is for the nfsp scenario, this one is {settings.scenario}")
    scenario = scenario_class(
        name=f"{settings.scenario} {settings.env}",
        log_dir=log_dir,
        algorithms={"default": (*algorithm, settings.model)},
        env_description=describe_environment(settings.env, settings.env_config),
        training_config={
            **_with_flag(_with_flag(settings.training, "learners", settings.learners), "sync", settings.sync),
            "trainer_config": _with_flag(settings.trainer, "steps", settings.steps),
        },
        rollout_config=_with_flag(settings.rollout, "workers", settings.workers),
        stopping_conditions=settings.stopping,
        agent_mapping_func=_MAPPINGS[settings.mapping],
        seed=settings.seed,
        **sections,
    )
    scenario.names = {
        "scenario": settings.scenario, "env": settings.env, "env_config": settings.env_config,
        "algorithm": name if scenario.seats else None, "mapping": settings.mapping,
    }  # fmt: skip
    return scenario


def _needs_processes(settings: TrainConfig) -> bool:
    """A guess, before anything is imported that could tell."""
    outer = getattr(settings, settings.scenario) if settings.scenario in _OUTER else {}
    plays = settings.scenario != "xdo" and outer.get("oracle") != "exact"
    return plays and _with_flag(settings.rollout, "workers", settings.workers).get("num_threads") != 0


def _start_fork_server(settings: TrainConfig) -> None:
    """Let it import what the children need while this process imports the same for itself."""
    from malib_lite import registry
    from malib_lite.runtime import fork_server

    algorithm = settings.algorithm or DEFAULT_ALGORITHM.get(settings.scenario)
    wanted = ((registry.ENVIRONMENTS, settings.env.partition("/")[0]), (registry.ALGORITHMS, algorithm))
    fork_server.start(registry.names(group)[name].module for group, name in wanted if name in registry.names(group))


def _run(scenario: Any, quiet: bool, started: float) -> int:
    from malib_lite.runner import run
    from malib_lite.runtime.console import Console
    from malib_lite.runtime.files import UnwrittenFile
    from malib_lite.runtime.processes import ActorFailure
    from malib_lite.runtime.shared_memory import SharedMemoryError

    console = Console(quiet)
    console.say(f"{scenario.name}, seed {scenario.seed}, in {scenario.log_dir}")
    try:
        summary = run(scenario, console, started)
    except KeyboardInterrupt as interrupt:
        print(f"interrupted; what was reached is in {scenario.log_dir}", file=sys.stderr)
        return _exit_code(interrupt)
    except ConfigError:
        raise
    except (
        ActorFailure,
        SharedMemoryError,
        UnwrittenFile,
    ) as failure:  # the first carries the traceback of its process
        print(f"error: {failure}", file=sys.stderr)
        return 1
    except Exception:
        traceback.print_exc()
        return 1
    console.say("done: " + "   ".join(f"{name} {value:.4f}" for name, value in _results(summary).items()))
    return 0


def _results(summary: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a summary that say most; of several agents each one's return, for opponents' mean says nothing."""
    returns = {name: value for name, value in summary.items() if name.startswith("eval/return/")}
    figures = {name: value for name, value in summary.items() if isinstance(value, float) and "/" not in name}
    if len(returns) > 1:
        figures.pop("return_mean", None)
    if "best" in summary:
        figures["best nash_conv"] = summary["best"]["nash_conv"]
    return {**{name.removeprefix("eval/"): value for name, value in returns.items()}, **figures}


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    """The named options, and the dotted overrides as nested dictionaries."""
    parser = argparse.ArgumentParser(
        prog="python -m malib_lite.train", description="Train populations of policies on one machine.",
        epilog=f"scenarios, with their default algorithms:\n{_purposes()}\n\n{EPILOG}",
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("scenario", nargs="?", help=", ".join(SCENARIOS) + ": see below")
    for name, _, _, text in describe(TrainConfig):
        if name != "scenario" and name not in _SECTIONS:
            parser.add_argument(f"--{name}", metavar=name.upper(), help=text)
    parser.add_argument("--config", metavar="FILE", help="read a YAML file, e.g. the config.yaml of a run")
    parser.add_argument("--trust", action="store_true", help="import modules that this file names")
    parser.add_argument("--list", nargs="?", const="", metavar="FAMILY", help="list what there is, or a family's ids")
    parser.add_argument("--help-config", action="store_true", help="list every field, of this scenario and algorithm")
    parser.add_argument("--quiet", action="store_true", help="show nothing but errors")
    plain, overrides = _take_overrides(arguments)
    options, unknown = parser.parse_known_args(plain)
    if unknown:
        raise ConfigError(_unknown_option(unknown[0], options))
    return options, overrides


def _purposes() -> str:
    """A line for every scenario: what it is for, and which algorithm it uses by default."""
    learnt = {name: f" ({DEFAULT_ALGORITHM[name]})" if name != "xdo" else "" for name in SCENARIOS}
    return "\n".join(f"  {name:10} {text}{learnt[name]}" for name, text in PURPOSES.items())


def _unknown_option(token: str, options: argparse.Namespace) -> str:
    """What is said of an argument that is no option: where the option of this name stands, or the nearest name."""
    from malib_lite import registry

    if not token.startswith("-") and token.partition("/")[0] in registry.names(registry.ENVIRONMENTS):
        return f"unknown argument '{token}': an environment is given as --env {token}"
    name = token.partition("=")[0].removeprefix("--")
    if token.startswith("--"):
        name = called_elsewhere(name) or name
        for path, cls in _config_classes(options.scenario, options.algorithm).items():
            if path and name in [field for field, *_ in describe(cls)]:
                return f"unknown option '{token}': did you mean '--{path}.{name}'?"
    known = [f"--{known.replace('_', '-')}" for known in vars(options) if known != "scenario"]
    return f"unknown option '{token}': {suggest(token.partition('=')[0], known)}"


def _take_overrides(arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Dotted options with their values as nested dictionaries, and the arguments without them."""
    plain: list[str] = []
    overrides: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        token = rest.pop(0)
        name, equals, value = token.partition("=")
        section, dot, key = name.removeprefix("--").partition(".")
        if not name.startswith("--") or not dot:
            plain.append(token)
            continue
        if section not in _SECTIONS:
            raise ConfigError(f"unknown option '{token}': {suggest(section, _SECTIONS)}")
        if not equals and not rest:
            raise ConfigError(f"'{name}' needs a value")
        _set(overrides, [section, *key.split(".")], _value(value if equals else rest.pop(0)))
    return plain, overrides


def _merge(options: argparse.Namespace, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """File below command line."""
    merged: dict[str, Any] = {}
    if options.config is not None:
        merged = read_mapping(Path(options.config), follow_link=True)
    for flag, path in _FLAGS.items():  # a flag on the command line comes before the same setting in the file
        section, _, key = path.format(scenario=options.scenario or merged.get("scenario")).partition(".")
        if getattr(options, flag) is not None and isinstance(merged.get(section), dict):
            merged[section].pop(key, None)
    for name, kind, *_ in describe(TrainConfig):
        if name not in _SECTIONS and (text := getattr(options, name)) is not None:
            merged[name] = _value(text) if "Int" in kind else text  # so that --steps 1e4 is a number
    for section, values in overrides.items():
        _update(merged, {section: values})
    return merged


def _update(target: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(target.get(key), dict):
            _update(target[key], value)
        else:
            target[key] = value


def _set(target: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for key in path[:-1]:
        target = target.setdefault(key, {})
    target[path[-1]] = value


def _value(text: str) -> Any:
    """A value as YAML reads it, and 1e-3 as a number, which YAML 1.1 takes for text; what is no YAML is text."""
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if not isinstance(value, str):
        return value
    try:  # several numbers are a list, with or without brackets
        numbers = [float(part) if set(part) & set(".eE") else int(part) for part in value.split(",")]
    except ValueError:
        return value
    return numbers if len(numbers) > 1 else numbers[0]


def _with_flag(section: Mapping[str, Any], flag: str, value: Any) -> dict[str, Any]:
    """A section with the field that a short flag stands for."""
    path = _FLAGS[flag].format(scenario="SCENARIO")
    key = path.rpartition(".")[2]
    if value is None:
        return dict(section)
    if section.get(key) not in (None, value):
        raise ConfigError(f"'{flag}' = {value} and '{path}' = {section[key]} are the same setting: give one of them")
    return {**section, key: value}


def _file_name(env: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in env)


def _list(family: str) -> None:
    from malib_lite import registry

    if family:
        for env_id in registry.load(registry.ENVIRONMENTS, family, "environment family").env_ids():
            print(f"{family}/{env_id}")
        return
    print("scenarios:   ", "  ".join(SCENARIOS))
    print("algorithms:  ", "  ".join(registry.names(registry.ALGORITHMS)))
    print("environments:", "  ".join(f"{name}/..." for name in registry.names(registry.ENVIRONMENTS)))
    print("             ", "--list FAMILY shows a family's ids")


def _help_config(settings: TrainConfig) -> None:
    for path, cls in _config_classes(settings.scenario, settings.algorithm).items():
        print(f"\n{path or 'the run'}:")
        for name, kind, default, text in describe(cls, path):
            if name not in (*_SECTIONS, *_IN_PYTHON):
                choices = kind.removeprefix("Literal[").partition("]")[0] if kind.startswith("Literal[") else ""
                allowed = f"one of {choices}; " if choices else ""
                print(f"  --{name:38} {text} ({allowed}default: {default})")


def _config_classes(scenario: str | None, algorithm: str | None) -> dict[str, type]:
    """The class behind each section of the configuration, by the section's name; "" is that of the run itself."""
    from malib_lite import registry
    from malib_lite.rollout.config import RolloutConfig
    from malib_lite.scenarios.scenario import TrainingConfig
    from malib_lite.scenarios.stopping import RolloutStop, TrainingStop

    policy, trainer = registry.load(
        registry.ALGORITHMS, algorithm or DEFAULT_ALGORITHM.get(scenario or "", "dqn"), "algorithm"
    )
    classes: dict[str, type] = {
        "": TrainConfig, "rollout": RolloutConfig, "training": TrainingConfig, "trainer": trainer.config_class,
        "model": policy.model_class, "stopping.training": TrainingStop, "stopping.rollout": RolloutStop,
    }  # fmt: skip
    outer = pkgutil.resolve_name(SCENARIOS[scenario]).outer_config if scenario in SCENARIOS else None
    if outer is not None:
        classes[scenario or ""] = outer
    if scenario == "nfsp":
        average_policy, average_trainer = registry.load(registry.IMITATORS, AVERAGE_POLICY, "average policy")
        classes |= {"nfsp.trainer": average_trainer.config_class, "nfsp.model": average_policy.model_class}
    return classes


if __name__ == "__main__":
    sys.exit(main())
