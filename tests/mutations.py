"""Files as nobody meant them: changed byte by byte, or in what they say, with checksums that fit the change.

Whatever is drawn comes from the generator that is passed in, so that a seed and a number name one case.
"""

from __future__ import annotations

import copy
import json
import struct
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import yaml
from changed import read_state, write_state
from safetensors.numpy import load_file, save_file

from malib_lite.runtime.arrays import digest_of

NAN, INFINITY = float("nan"), float("inf")
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, -(2**63), 2**31, 2**63, 2**64, 10**30, 10**400, 0.0, -0.0, 0.5, 1e-320, 1e308,
    -1e308, NAN, INFINITY, -INFINITY, "", "0", "1e9", "nan", "x" * 100_000, "é\u202e\U0001f600", "\ud800", "\0",
    "\x1b[2J", "../../..", "/dev/zero", "/etc/passwd", "None", "policy", "player_0", "%s%n{0}{x}", [], {}, [[]], [{}],
    {"": {}}, [None], [1, "a", None], [0.5, 0.5], [1] * 5000, [NAN], [-1], [10**9, 10**9], [10**5, 10**5], ["x"] * 50,
    {"a": 1}, {"policies": {}}, {"mixtures": {}}, {"type": "x"}, {"__class__": "os.system"},
]  # fmt: skip
WORDS = [
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1", b"9" * 5000, b"0x7fffffff",
    b"1_000", b"1:30", b"null", b"~", b"[]", b"{}", b'"', b"'", b"\\", b"\n", b"\t", b": ", b"- ", b"&a ", b"*a",
    b"<<: *a", b"!!binary x", b"!!python/name:os.system", b"!!set {a}", b"!!timestamp 0", b"!!float x",
    b"? [a]\n: b\n", b"---\n", b"...\n", b"%YAML 9.9\n", b"|\n", b">-\n", b"#", b"\\u0000", b"\\ud800", b"[" * 2000,
    b'{"a":' * 2000, b"2020-99-99",
]  # fmt: skip


def deep(rng: Random) -> Any:
    """Something nested, to a depth that a parser takes or does not."""
    value: Any = 1
    for _ in range(rng.choice([3, 50, 500])):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def mutated_bytes(rng: Random, content: bytes) -> bytes:
    """Some bytes changed, lost, doubled or put in."""
    for _ in range(rng.choice([1, 1, 1, 2, 5, 20])):
        size = len(content)
        start = rng.randrange(size + 1)
        end = min(size, start + rng.choice([1, 1, 2, 8, 100, 10_000]))
        part = content[start:end]
        new = {
            "flip": bytes(byte ^ (1 << rng.randrange(8)) for byte in part),
            "noise": rng.randbytes(len(part)),
            "lose": b"",
            "double": part * 2,
            "word": rng.choice(WORDS) + part,
            "word instead": rng.choice(WORDS),
            "zeros": bytes(len(part)),
            "elsewhere": content[(other := rng.randrange(size + 1)) : other + len(part)],
        }
        kind = rng.choice([*new, "truncate", "empty"] if rng.random() < 0.2 else [*new])
        if kind == "truncate":
            content = content[:start]
        elif kind == "empty":
            content = b""
        else:
            content = content[:start] + new[kind] + content[end:]
    return content


def mutated_value(rng: Random, value: Any) -> Any:
    """What JSON or YAML stands for with one to three of its parts changed; the value itself may be changed too."""
    whole = {"": value}
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        places = list(_places(whole))
        holder, key = rng.choice(places)
        there = holder[key]
        kind = rng.choice(["value", "value", "value", "number", "lose", "double", "rename", "swap", "deep", "wrap"])
        if kind == "value":
            holder[key] = copy.deepcopy(rng.choice(VALUES))
        elif kind == "number" and isinstance(there, int | float) and not isinstance(there, bool):
            holder[key] = rng.choice([-there, there * 2, there + 1, there - 1, there * 10**6, str(there)])
        elif kind == "lose" and holder is not whole:
            del holder[key]
        elif kind == "double" and isinstance(there, list | str) and len(there) < 10**5:
            holder[key] = copy.deepcopy(there) + copy.deepcopy(there)
        elif kind == "double" and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(there))
        elif kind == "rename" and isinstance(holder, dict) and holder is not whole:
            holder[str(rng.choice(VALUES[-30:]))[:50]] = holder.pop(key)
        elif kind == "swap":
            other, other_key = rng.choice(places)
            if not (_inside(there, other) or _inside(other[other_key], holder)):  # else it would be in itself
                holder[key], other[other_key] = other[other_key], there
        elif kind == "deep":
            holder[key] = deep(rng)
        else:
            holder[key] = [there]
    return whole[""]


def mutated_yaml(rng: Random, content: bytes) -> bytes:
    """A YAML file changed by bytes or lines, or in what it says."""
    kind = rng.random()
    if kind < 0.25:
        return mutated_bytes(rng, content)
    if kind < 0.4:  # keys come twice, or at another depth
        lines = content.splitlines(keepends=True)
        line = rng.choice(lines)
        line = line if rng.random() < 0.5 else b"  " + line
        lines.insert(rng.randrange(len(lines) + 1), line)
        return b"".join(lines)
    value = mutated_value(rng, yaml.safe_load(content))
    if kind < 0.5:
        return _json(value)
    try:
        text = yaml.safe_dump(value, sort_keys=False, allow_unicode=rng.random() < 0.5)
    except (RecursionError, yaml.YAMLError):
        return _json(value)
    return text.encode(errors="surrogatepass")


def mutated_arrays(rng: Random, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays with other values, types, shapes or names."""
    arrays = dict(arrays)
    for _ in range(rng.choice([1, 1, 2])):
        if not arrays:
            break
        name = rng.choice(sorted(arrays))
        array = arrays[name]
        kind = rng.choice(
            ["one value", "values", "type", "shape", "empty", "lose", "rename", "add", "longer", "scalar"]
        )
        if kind in ("one value", "values"):
            array = array.copy()
            value = rng.choice([NAN, INFINITY, -INFINITY, -1.0, 1e30, 1e300, 2.0, 0.0, 10**6, 2**62])
            where: Any = rng.randrange(array.size) if kind == "one value" and array.size else slice(None)
            with np.errstate(all="ignore"):
                array.reshape(-1)[where] = np.array(value).astype(array.dtype)
        elif kind == "type":
            with np.errstate(all="ignore"):
                array = array.astype(rng.choice(["?", "i1", "u8", "i8", "f2", "f4", "f8", "u2"]))
        elif kind == "shape":
            new = rng.choice([(-1,), (1, -1), (-1, 1), (*array.shape, 1), (1, *array.shape), array.shape[::-1]])
            array = array.reshape(new)
        elif kind == "empty":
            array = np.zeros((0, *array.shape[1:]), array.dtype)
        elif kind == "longer":
            array = np.concatenate([array.reshape(-1, *array.shape[1:])] * 2)
        elif kind == "scalar":
            array = np.zeros((), array.dtype)
        elif kind == "add":
            arrays[rng.choice(["", "x", "é", "a.b", name + " "])] = array
        elif kind == "rename":
            arrays[rng.choice(["", "x", "é", name + "."])] = arrays.pop(name)
        if kind == "lose":
            del arrays[name]
        elif name in arrays:
            arrays[name] = array
    return arrays


def mutated_tensors(rng: Random, content: bytes) -> bytes:
    """A safetensors file changed by bytes, in its length word, or in what its header says."""
    kind, (length,) = rng.random(), struct.unpack("<Q", content[:8])
    if kind < 0.4:
        return mutated_bytes(rng, content)
    if kind < 0.5:
        return struct.pack("<Q", rng.choice([0, 1, length - 1, length + 1, 2**31, 2**63, 2**64 - 1])) + content[8:]
    header = _json(mutated_value(rng, json.loads(content[8 : 8 + length])))
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def mutate_folder(rng: Random, folder: Path) -> str:
    """Change one file of a run folder; returns which, and how."""
    checkpoints = folder / "checkpoints"
    members, payoffs = sorted(checkpoints.glob("policies/*.safetensors")), sorted(checkpoints.glob("payoffs*"))
    kinds = ["config.yaml"] * 4 + ["state.json"] * 4 + ["member"] * 3 + ["payoffs"] * 2 * bool(payoffs) + ["other"]
    what = rng.choice(kinds)
    if what == "config.yaml":
        file = folder / what
        file.write_bytes(mutated_yaml(rng, file.read_bytes()))
    elif what == "state.json":
        file = checkpoints / what
        if rng.random() < 0.2:
            file.write_bytes(mutated_bytes(rng, file.read_bytes()))
            return what
        state = mutated_value(rng, read_state(folder))
        if isinstance(state, dict) and rng.random() < 0.9:
            try:
                write_state(folder, state)
                return f"{what}, sealed"
            except (RecursionError, UnicodeError, TypeError):
                pass
        file.write_bytes(_json(state))
    elif what == "other":
        file = rng.choice([path for path in sorted(folder.rglob("*")) if path.is_file()])
        file.write_bytes(mutated_bytes(rng, file.read_bytes()))
        return file.name
    else:
        file = rng.choice(members if what == "member" else payoffs)
        if rng.random() < 0.3:
            file.write_bytes(mutated_tensors(rng, file.read_bytes()))
            return what
        arrays = mutated_arrays(rng, load_file(file))
        file.unlink()
        digest = digest_of(arrays)
        if what == "member":
            state = (checkpoints / "state.json").read_text().replace(file.stem, digest)
            (checkpoints / "state.json").write_text(state)
            write_state(folder, read_state(folder))
            file = file.with_name(f"{digest}.safetensors")
        save_file(arrays, file, {"format": "1", "sha256": digest})
        return f"{what}, sealed"
    return what


def _places(value: Any) -> Any:
    """(holder, key) of every part of nested values."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        yield value, key
        yield from _places(item)


def _inside(value: Any, part: Any) -> bool:
    return value is part or any(holder[key] is part for holder, key in _places(value))


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass")
