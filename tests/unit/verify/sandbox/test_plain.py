import math
import os
import random
import threading
from collections import Counter, OrderedDict, namedtuple
from typing import Any

import pytest

from rlvr.verify.sandbox.inside import plain


def value(dice: random.Random, depth: int = 0) -> Any:
    kinds = 9 if depth > 3 else 14
    members = [value(dice, depth + 1) for _ in range(dice.randrange(4))] if depth <= 3 else []
    keys = [dice.choice([dice.random(), str(dice.random()), (1, dice.random())]) for _ in members]
    kind = dice.randrange(kinds)
    return [
        lambda: None,
        lambda: dice.random() < 0.5,
        lambda: dice.randint(-5, 5),
        lambda: dice.choice([-1, 1]) * dice.getrandbits(9000),
        lambda: dice.choice([math.inf, -math.inf, -0.0, 1e-320, dice.random()]),
        lambda: complex(dice.random(), -dice.random()),
        lambda: "".join(chr(dice.choice([0, 10, 0x3A, 0xD800, 0x1F4A3])) for _ in range(4)),
        lambda: dice.randbytes(dice.randrange(5)),
        lambda: "",
        lambda: members,
        lambda: tuple(members),
        lambda: set(keys),
        lambda: frozenset(keys),
        lambda: dict(zip(keys, members, strict=True)),
    ][kind]()


def same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    return bool(a == b) and str(a) == str(b) if not isinstance(a, set | frozenset) else a == b


def test_plain_data_arrives_as_it_was(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(500):
        sent = value(dice)
        assert same(plain.decode(plain.encode(sent)), sent)
    assert math.isnan(plain.decode(plain.encode(math.nan)))


def test_subclasses_arrive_as_their_base_and_others_as_nothing() -> None:
    point = namedtuple("point", "x y")(1, 2)
    for sent, base in [
        (point, (1, 2)),
        (Counter("aab"), {"a": 2, "b": 1}),
        (OrderedDict(a=1), {"a": 1}),
        (bytearray(b"x"), b"x"),
    ]:
        arrived = plain.decode(plain.encode(sent))
        assert arrived == base and type(arrived) is type(base)

    class Equal:
        def __eq__(self, other: object) -> bool:
            return True

    arrived = plain.decode(plain.encode(Equal()))
    assert arrived != 0 and repr(arrived) == "<Equal>"
    cycle: list[Any] = []
    cycle.append(cycle)
    plain.decode(plain.encode(cycle))


def test_nonsense_is_refused_and_does_no_harm(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(3000):
        data = bytearray(plain.encode(value(dice)))
        for _ in range(dice.randint(1, 3)):
            place = dice.randrange(len(data))
            data[place : place + dice.randrange(3)] = dice.randbytes(dice.randrange(3))
            data = data or bytearray(b"?")
        try:
            plain.decode(bytes(data))
        except plain.NotPlain:
            pass
    nonsense = ["", "{}", "[", "[" * 10**5, "[" * 102 + "]" * 102, "1 2", "7" * 10**4]
    nonsense += ['{"list":[]}', '{"int":5}', '{"bytes":[]}', '{"complex":[1,2,3]}', '{"set":[[]]}']
    nonsense += ['{"dict":[[[],1]]}', '{"dict":[[1]]}', '{"dict":7}', '{"tuple":[],"set":[]}']
    for data in [b"\xff", *(text.encode() for text in nonsense)]:
        with pytest.raises(plain.NotPlain):
            plain.decode(data)


def test_a_pipe_keeps_values_apart_and_bounds_them() -> None:
    reader, writer = os.pipe()
    plain.send(writer, [1, "a"])
    plain.send(writer, b"x" * 100)
    assert plain.receive(reader) == [1, "a"]
    with pytest.raises(plain.NotPlain):
        plain.receive(reader, limit=50)
    os.close(writer)
    os.read(reader, 1000)
    with pytest.raises(EOFError):
        plain.receive(reader)
    os.close(reader)


def test_a_value_survives_any_cutting_of_the_stream() -> None:
    dice = random.Random(random.getrandbits(32))
    sent = [dice.randbytes(dice.choice([0, 1, 5, 300, 70_000])) for _ in range(50)]
    stream = b"".join(map(plain.framed, sent))
    reader, writer = os.pipe()

    def write() -> None:
        start = 0
        while start < len(stream):
            start += os.write(
                writer, stream[start : start + dice.choice([1, 3, 4, 5, 1000, 10**5])]
            )
        os.close(writer)

    writing = threading.Thread(target=write)
    writing.start()
    assert [plain.read(reader) for _ in sent] == sent
    writing.join()
    os.close(reader)
