from rlvr.task import Outcome, Verdict
from rlvr.verify.workers.worker import decode, encode


def test_a_verdict_survives_the_pipe() -> None:
    verdict = Verdict(0.25, Outcome.INCORRECT, 'a "\x00\u202e\n', 0.5, {"format": 0.25})
    assert decode(encode(verdict)) == verdict


def test_details_are_cut_and_made_writable() -> None:
    detail = decode(encode(Verdict(0.0, Outcome.ERROR, "\ud800" + "x" * 10_000))).detail
    assert len(detail) == 1000
    detail.encode("utf-8")
