"""Verdicts on real gold answers, as models write them and nearly so; a table by kind at the end."""

import json
import time
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from rlvr.config import VerifierConfig
from rlvr.verify.math import Math, verify_math

ROWS = Path(__file__).parents[2] / "data" / "verdicts"
EXCEPTIONS = {
    r"0.56 = 56\%": "an equation of two numbers is compared with its percent sign taken off",
    "$t(0,4]$": "a factor before an interval is no formula that the parser knows",
    "y = 2x": "y and f(x) are two names",
}


def test_verdicts_on_real_answers(capsys: pytest.CaptureFixture[str]) -> None:
    Math(VerifierConfig())
    rows = [json.loads(line) for file in sorted(ROWS.glob("*.jsonl")) for line in file.open()]
    assert len(rows) >= 600
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    wrong, seconds = [], []
    for row in rows:
        start = time.process_time()
        verdict = verify_math(row["gold"], row["response"])
        seconds.append((time.process_time() - start, row["response"]))
        agrees = (verdict.reward == 1) == (row["verdict"] == "correct")
        counts[row["kind"]][row["verdict"]] += 1
        counts[row["kind"]][f"{row['verdict']} found"] += agrees
        if not agrees and (row["verdict"] == "incorrect" or row["gold"] not in EXCEPTIONS):
            wrong.append((row["gold"], row["response"], verdict))
    total = sum(counts.values(), Counter())
    with capsys.disabled():
        print("\n\nkind                accepted  refused")
        for kind, count in [*sorted(counts.items()), ("all", total)]:
            cells = (f"{count[f'{v} found']}/{count[v]}" for v in ("correct", "incorrect"))
            print(f"{kind:20}" + "".join(f"{cell:>9}" for cell in cells))
        print("slowest: {:.2f} s, {}".format(*max(seconds)))
    assert not wrong
    for verdict_name in ("correct", "incorrect"):
        assert total[f"{verdict_name} found"] >= 0.99 * total[verdict_name]
