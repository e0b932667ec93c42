"""What the learner's stages take on one GPU. Needs torch and transformers."""

from __future__ import annotations

import json


def test_stages(need, figures, program, tmp_path):
    """Scoring, credit and update, Qwen3 of 1.7 B.

    If not: python tests/bench/gpu.py --size 1.7b says where it ends.
    """
    need("transformers", "jaxtyping")
    rows = tmp_path / "rows.json"
    command = ["tests/bench/gpu.py", "--size", "1.7b", "--seconds", "120", "--json", str(rows)]
    program(*command, within_s=240)
    found = {row["method"]: row for row in json.loads(rows.read_text())["rows"]}
    delta = found["delta"]
    shares = [
        f"{name} {row['credit_share']:.2%}" for name, row in found.items() if "credit_share" in row
    ]
    figures(
        f"MFU: scoring {delta['score_mfu']:.0%}, update {delta['update_mfu']:.0%} (without what "
        f"is recomputed); credit beside both: {', '.join(shares)}"
    )
