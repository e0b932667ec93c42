"""Plain data through a pipe: what passes the wall of the sandbox, in either direction.

``None``, ``bool``, ``int``, ``float``, ``complex``, ``str``, ``bytes``, ``list``, ``tuple``,
``set``, ``frozenset`` and ``dict`` arrive as themselves, their subclasses as their base. Anything
else arrives as an ``Opaque``, which is equal to nothing: no code of the sender's comes along, as it
would with a pickle. The notation is JSON; what JSON does not have is an object with one key, the
name of its kind: ``{"tuple": [1, 2]}``.
"""

import json
import os
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 100
_LARGE = 10_000  # bits; JSON's decimal digits take a time that is quadratic in their number


class Opaque:
    """A value that is no plain data; ``kind`` is the name of its type."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __repr__(self) -> str:
        return f"<{self.kind}>"


class NotPlain(Exception):
    """What came through the pipe is no value of ours."""


_MAKE: dict[str, Callable[[Any], Any]] = {
    "int": lambda digits: int(digits, 16),
    "complex": lambda parts: complex(*parts),
    "bytes": lambda text: text.encode("latin-1"),
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "dict": dict,
    "opaque": Opaque,
}
_COLLECTIONS = (tuple, set, frozenset)


def encode(value: object) -> bytes:
    """``value`` in the notation above."""
    text = json.dumps(_to_json(value, 0), ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass")


def _to_json(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, int):
        small = int.bit_length(value) < _LARGE
        return value if small else {"int": int.__format__(value, "x")}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, bytes | bytearray):
        return {"bytes": value.decode("latin-1")}
    if depth < MAX_DEPTH:
        if isinstance(value, dict):
            pairs = list(dict.items(value))
            return {"dict": [[_to_json(part, depth + 1) for part in pair] for pair in pairs]}
        if isinstance(value, list | tuple | set | frozenset):
            members = [_to_json(member, depth + 1) for member in list(value)]
            kind = next((kind for kind in _COLLECTIONS if isinstance(value, kind)), None)
            return {kind.__name__: members} if kind else members
    return {"opaque": type(value).__name__[:100]}


def decode(data: bytes) -> Any:
    """The value that was encoded. Raises NotPlain; runs nobody's code, whatever ``data`` is."""
    try:
        return _from_json(json.loads(data.decode("utf-8", "surrogatepass")), 0)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise NotPlain(f"{type(error).__name__}: {error}") from error


def _from_json(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    if isinstance(value, list):
        return [_from_json(member, depth + 1) for member in value]
    if not isinstance(value, dict):
        return value
    [(kind, content)] = value.items()
    if kind == "dict":
        return {_from_json(k, depth + 1): _from_json(v, depth + 1) for k, v in content}
    return _MAKE[kind](_from_json(content, depth) if isinstance(content, list) else content)


# -- through a pipe: the length in four bytes, then the value or mere bytes. ``ready`` is called
# before each system call; it may wait, and raise TimeoutError.


def send(descriptor: int, value: object) -> None:
    """Write ``value``."""
    write(descriptor, encode(value))


def receive(descriptor: int, limit: int = 2**31) -> Any:
    """Read a value of at most ``limit`` bytes. Raises EOFError at the end, or NotPlain."""
    return decode(read(descriptor, limit))


def framed(data: bytes) -> bytes:
    """``data`` with its length in front."""
    return len(data).to_bytes(4, "little") + data


def write(descriptor: int, data: bytes, ready: Callable[[], object] = lambda: None) -> None:
    """Write bytes as they are."""
    rest = memoryview(framed(data))
    while rest:
        ready()
        rest = rest[os.write(descriptor, rest) :]


def read(descriptor: int, limit: int = 2**31, ready: Callable[[], object] = lambda: None) -> bytes:
    """Read at most ``limit`` bytes. Raises EOFError at the end, or NotPlain for more."""
    size = int.from_bytes(_read(descriptor, 4, ready), "little")
    if size > limit:
        raise NotPlain(f"more than {limit >> 20} MiB of output")
    return _read(descriptor, size, ready)


def _read(descriptor: int, size: int, ready: Callable[[], object]) -> bytes:
    data = bytearray()
    while len(data) < size:
        ready()
        chunk = os.read(descriptor, min(size - len(data), 1 << 20))
        if not chunk:
            raise EOFError
        data += chunk
    return bytes(data)
