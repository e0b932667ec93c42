from __future__ import annotations

import random

from rlvr.task import Outcome, Verdict
from rlvr.verify.worker import Frames, decode, encode, framed


def test_frames_survive_any_cutting_of_the_stream(seed: int) -> None:
    dice = random.Random(seed)
    payloads = [dice.randbytes(dice.choice([0, 1, 5, 300, 70_000])) for _ in range(100)]
    stream = b"".join(map(framed, payloads))
    frames, received, start = Frames(), [], 0
    while start < len(stream):
        end = start + dice.choice([1, 3, 4, 5, 1000, 100_000])
        received += list(frames.feed(stream[start:end]))
        start = end
    assert received == payloads


def test_a_verdict_survives_the_pipe() -> None:
    verdict = Verdict(0.25, Outcome.INCORRECT, 'a "\x00\u202e\n', 0.5, {"format": 0.25})
    assert decode(encode(verdict)) == verdict


def test_details_are_cut_and_made_writable() -> None:
    detail = decode(encode(Verdict(0.0, Outcome.ERROR, "\ud800" + "x" * 10_000))).detail
    assert len(detail) == 1000
    detail.encode("utf-8")
