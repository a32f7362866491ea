"""Typed configuration: frozen dataclasses, checked where a user's values come in.

A configurable thing declares its fields beside the code that uses them::

    @config
    class ReplayConfig:
        capacity: PositiveInt = option(50_000, "transitions kept; the oldest go first")

Anything a user hands over (Python dictionaries, YAML, the command line) becomes such an object through
:func:`build`, which raises :class:`ConfigError` with the key, the value and the nearest valid choice.
The checking itself is pydantic's; it is imported only when something is checked, so that ``--help`` stays quick.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
import traceback
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

from annotated_types import Ge, Gt, Interval
from typing_extensions import dataclass_transform

PositiveInt = Annotated[int, Interval(gt=0, le=10**15)]  # arrays have no more elements, and nobody counts so far
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFew = Annotated[int, Interval(gt=0, le=100)]  # of what has learners of its own
NonNegativeFew = Annotated[int, Interval(ge=0, le=100)]
PositiveFloat = Annotated[float, Gt(0.0)]
NonNegativeFloat = Annotated[float, Ge(0.0)]
Fraction = Annotated[float, Interval(ge=0.0, le=1.0)]

C = TypeVar("C")
_LONGEST = 1400  # characters of an error that are shown

# what other libraries call an option, and what it is called here
_ELSEWHERE = {
    "lr": "learning_rate", "gamma": "discount", "lambda": "gae_lambda", "tau": "polyak", "net_arch": "hidden_sizes",
    "num_envs": "num_env_per_thread", "n_envs": "num_env_per_thread", "num_workers": "num_threads",
    "n_steps": "fragment_length", "num_steps": "fragment_length", "n_epochs": "num_epochs",
    "update_epochs": "num_epochs", "ent_coef": "entropy_coef", "vf_coef": "value_coef", "clip_range": "clip_ratio",
    "clip_coef": "clip_ratio", "buffer_size": "capacity",
}  # fmt: skip


class ConfigError(ValueError):
    """A user's setting cannot be used; the message says which, and what could stand there instead."""


def sentence(error: ConfigError) -> str:
    """What a command prints of an error: at most 1,500 characters, and none that a terminal would obey."""
    text = str(error)
    shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ... ({len(text) - _LONGEST:,} characters more)"
    return "\n".join(map(printable, shown.split("\n")))


def printable(text: str) -> str:
    """The text with whatever a terminal would obey, or no font shows, written as Python writes it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def option(default: Any, help: str) -> Any:
    """A field of a config class with its line of help.

    ``default`` is the value itself, or a config class, whose defaults then are the field's. Lists and dictionaries are
    copied for each object.
    """
    if isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata={"help": help})
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata={"help": help})
    return dataclasses.field(default=default, metadata={"help": help})


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(option, dataclasses.field))
def config(cls: type[C]) -> type[C]:
    """Make ``cls`` a frozen, keyword-only dataclass that refuses unknown keys."""
    cls.__pydantic_config__ = {"extra": "forbid", "arbitrary_types_allowed": True}  # type: ignore[attr-defined]
    return dataclasses.dataclass(frozen=True, kw_only=True)(cls)


def told(error: BaseException) -> str:
    """An error of a user's own code in a line: its kind, its words, and where it was raised."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"


def called_elsewhere(key: str) -> str | None:
    """The name here of an option that other libraries call ``key``."""
    return _ELSEWHERE.get(key.lower())


def suggest(name: str, choices: Iterable[str]) -> str:
    """The end of an error message: the nearest of ``choices``, or all of them where none is near."""
    names = sorted(choices)
    section, dot, key = name.rpartition(".")
    if (ours := called_elsewhere(key)) and f"{section}{dot}{ours}" in names:
        return f"did you mean '{section}{dot}{ours}'?"
    by_case = {choice.lower(): choice for choice in reversed(names)}
    near = [by_case[found] for found in difflib.get_close_matches(name.lower(), by_case, n=1, cutoff=0.6)]
    if near:
        return f"did you mean '{near[0]}'?"
    return f"known: {', '.join(names)}" if names else "there are none"


def build(cls: type[C], values: Mapping[str, Any] | C | None, path: str = "") -> C:
    """Turn a user's ``values`` into a checked ``cls``.

    Args:
        cls: a class made with :func:`config`.
        values: a mapping (nested mappings for nested classes), an object of ``cls``, or None for the defaults.
        path: where the values stand in the whole configuration, for messages (``"trainer"``).

    Raises:
        ConfigError: unknown key, wrong type, value out of bounds, or a contradiction found by ``__post_init__``.
    """
    import pydantic

    if isinstance(values, cls):
        return values
    if values is not None and not isinstance(values, Mapping):
        raise ConfigError(f"'{path}' takes a mapping of {cls.__name__} fields, not {values!r}")
    try:
        return _checker(cls).validate_python(dict(values or {}))  # type: ignore[arg-type]
    except pydantic.ValidationError as error:
        raise ConfigError("\n".join(_explain(cls, problem, path) for problem in error.errors())) from None


@functools.cache
def _checker(cls: type) -> Any:
    """Pydantic's for a class. To make it takes milliseconds, and every policy of a population checks its settings."""
    import pydantic

    return pydantic.TypeAdapter(cls)


def _explain(cls: type, problem: Any, path: str) -> str:
    """One sentence about one of pydantic's findings."""
    location = [str(part) for part in problem["loc"]]
    key = ".".join(([path] if path else []) + location)
    if problem["type"] == "unexpected_keyword_argument":
        owner: Any = cls
        for part in location[:-1]:
            owner = typing.get_type_hints(owner).get(part, owner)
        names = [f.name for f in dataclasses.fields(owner)] if dataclasses.is_dataclass(owner) else []
        prefix = key.rsplit(".", 1)[0] + "." if "." in key else ""
        return f"unknown key '{key}': " + suggest(key, [prefix + name for name in names])
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "literal_error" and isinstance(problem["input"], str):
        choices = [str(choice) for choice in re.findall(r"'([^']*)'", problem["ctx"]["expected"])]
        if difflib.get_close_matches(problem["input"].lower(), choices, n=1):
            message += f"; {suggest(problem['input'], choices)}"
    if problem["type"] in ("list_type", "tuple_type"):
        message += "; several values are written [64,64]"
    return f"'{key}' = {problem['input']!r}: {message}" if location else message


def to_dict(settings: Any) -> dict[str, Any]:
    """The fields of a config object as plain values, nested classes as nested dictionaries."""
    return dataclasses.asdict(settings)


def defaults(cls: type[Any]) -> dict[str, Any]:
    """What :func:`to_dict` gives of an object that nobody has set anything in."""
    return to_dict(cls())


def describe(cls: type, path: str = "") -> list[tuple[str, str, str, str]]:
    """Rows (dotted key, type, default, help) of a config class, for ``--help`` and the documentation."""
    rows = []
    for field in dataclasses.fields(cls):
        factory: Any = field.default_factory
        default = factory() if field.default is dataclasses.MISSING else field.default
        kind = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", str(field.type))
        rows.append(
            (f"{path}.{field.name}" if path else field.name, kind, repr(default), field.metadata.get("help", ""))
        )
    return rows
