"""``python -m tests.chaos.soak.undisturbed SEED ...``: what the soak's accuracy is compared with.

Trains the quickstart task as the soak does, without a fault, and enters into ``undisturbed.json``
the accuracy of each seed by step.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from rlvr.telemetry.record import RunRecord
from tests.chaos.soak.run import COMMAND, ROOT

FILE = Path(__file__).with_name("undisturbed.json")
STEPS = 60


def known() -> dict[int, list[float]]:
    """By step, the accuracy of every seed."""
    seeds = json.loads(FILE.read_text()).values()
    return {int(step): [seed[step] for seed in seeds] for step in next(iter(seeds))}


def main() -> None:
    seeds = json.loads(FILE.read_text()) if FILE.exists() else {}
    for seed in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            own = [f"train.seed={seed}", f"train.steps={STEPS}", f"train.output_dir={folder}/run"]
            subprocess.run([*COMMAND, *own], cwd=ROOT, check=True)
            steps, values = RunRecord.read(f"{folder}/run").series("evaluation/greedy/accuracy")
        seeds[seed] = {str(step): value for step, value in zip(steps, values, strict=True)}
        FILE.write_text(json.dumps(seeds, indent=1) + "\n")


if __name__ == "__main__":
    main()
