"""Plain data through a pipe: what passes the wall of the sandbox, in either direction.

``None``, ``bool``, ``int``, ``float``, ``complex``, ``str``, ``bytes``, ``list``, ``tuple``,
``set``, ``frozenset`` and ``dict`` arrive as themselves, their subclasses as their base. Anything
else arrives as an ``Opaque``, which is equal to nothing: no code of the sender's comes along. (A
pickle would run code, and JSON has neither tuples nor sets.)

A value is one letter and what follows it::

    N T F    i<hex>;    f<repr>;    c<repr>,<repr>;    s<bytes>:...    b<bytes>:...    o<bytes>:...
    l<items>:...    t<items>:...    S<items>:...    Z<items>:...    d<pairs>:...
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 100


class Opaque:
    """A value that is no plain data; ``kind`` is the name of its type."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __repr__(self) -> str:
        return f"<{self.kind}>"


class NotPlain(Exception):
    """What came through the pipe is no value of ours."""


_CONSTANTS = {None: b"N", True: b"T", False: b"F"}
_COLLECTIONS = ((list, b"l"), (tuple, b"t"), (set, b"S"), (frozenset, b"Z"))
_MAKE: dict[bytes, Callable[[list[Any]], Any]] = {
    b"l": list,
    b"t": tuple,
    b"S": set,
    b"Z": frozenset,
}


def encode(value: object) -> bytes:
    """``value`` in the notation above."""
    parts: list[bytes] = []
    _encode(value, parts, 0)
    return b"".join(parts)


def _encode(value: Any, parts: list[bytes], depth: int) -> None:
    if value is None or isinstance(value, bool):
        parts.append(_CONSTANTS[value])
    elif isinstance(value, int):
        parts.append(b"i%b;" % int.__format__(value, "x").encode())
    elif isinstance(value, float):
        parts.append(b"f%b;" % float.__repr__(value).encode())
    elif isinstance(value, complex):
        parts.append(b"c%r,%r;" % (value.real, value.imag))
    elif isinstance(value, str):
        text = str.encode(value, "utf-8", "surrogatepass")
        parts += (b"s%d:" % len(text), text)
    elif isinstance(value, bytes | bytearray):
        parts += (b"b%d:" % len(value), bytes(value))
    elif depth < MAX_DEPTH and isinstance(value, dict):
        items = list(dict.items(value))
        parts.append(b"d%d:" % len(items))
        for key, item in items:
            _encode(key, parts, depth + 1)
            _encode(item, parts, depth + 1)
    elif depth < MAX_DEPTH and isinstance(value, list | tuple | set | frozenset):
        letter = next(letter for kind, letter in _COLLECTIONS if isinstance(value, kind))
        members = list(value)
        parts.append(b"%b%d:" % (letter, len(members)))
        for member in members:
            _encode(member, parts, depth + 1)
    else:
        kind = type(value).__name__.encode("utf-8", "replace")[:100]
        parts += (b"o%d:" % len(kind), kind)


def decode(data: bytes) -> Any:
    """The value that was encoded. Raises NotPlain; runs nobody's code, whatever ``data`` is."""
    try:
        value, end = _decode(data, 0, 0)
    except (ValueError, TypeError, IndexError) as error:
        raise NotPlain(str(error)) from error
    if end != len(data):
        raise NotPlain("something follows the value")
    return value


def _decode(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    letter = data[at : at + 1]
    at += 1
    if letter in (b"N", b"T", b"F"):
        return {b"N": None, b"T": True, b"F": False}[letter], at
    if letter in (b"i", b"f", b"c"):
        end = data.index(b";", at)
        text = data[at:end].decode("ascii")
        if letter == b"i":
            return int(text, 16), end + 1
        if letter == b"f":
            return float(text), end + 1
        real, imaginary = text.split(",")
        return complex(float(real), float(imaginary)), end + 1
    colon = data.index(b":", at, at + 20)
    size = int(data[at:colon])
    at = colon + 1
    if not 0 <= size <= len(data) - at:
        raise ValueError("a size beyond the end")
    if letter in (b"s", b"b", b"o"):
        content = data[at : at + size]
        if letter == b"b":
            return content, at + size
        if letter == b"o":
            return Opaque(content.decode("utf-8", "replace")), at + size
        return content.decode("utf-8", "surrogatepass"), at + size
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    members = []
    for _ in range(2 * size if letter == b"d" else size):
        member, at = _decode(data, at, depth + 1)
        members.append(member)
    if letter == b"d":
        return dict(zip(members[::2], members[1::2], strict=True)), at
    if letter not in _MAKE:
        raise ValueError(f"no such kind of value: {letter!r}")
    return _MAKE[letter](members), at


# -- through a pipe: the length in four bytes, then the value. ``ready`` is called before each
# system call; it may wait, and raise TimeoutError.


def send(descriptor: int, value: object) -> None:
    """Write ``value``."""
    write(descriptor, encode(value))


def receive(descriptor: int, limit: int = 2**31) -> Any:
    """Read a value of at most ``limit`` bytes. Raises EOFError at the end, or NotPlain."""
    return decode(read(descriptor, limit))


def framed(data: bytes) -> bytes:
    """``data`` with its length in front."""
    return len(data).to_bytes(4, "little") + data


def write(descriptor: int, data: bytes, ready: Callable[[], object] = int) -> None:
    """Write a value that is encoded already."""
    rest = memoryview(framed(data))
    while rest:
        ready()
        rest = rest[os.write(descriptor, rest) :]


def read(descriptor: int, limit: int = 2**31, ready: Callable[[], object] = int) -> bytes:
    """Read a value and leave it encoded. Raises as ``receive`` does."""
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
