"""Whatever the files of a run's folder hold, reading them works or names the file."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.errors import RunFolderError
from rlvr.telemetry.record import RunRecord
from rlvr.telemetry.run_folder import RunFolder
from rlvr.telemetry.table import comparison
from tests.unit.json_values import json_values

values = json_values("train", "steps", "x")
names = st.sampled_from(
    ["step", "rollout/reward_mean", "time/step_s", "evaluation/greedy/accuracy", "draw", "trained"]
)
rows = st.lists(st.dictionaries(names, values) | values, max_size=3)


@given(rows, st.sampled_from(["metrics", "ledger"]), values, values, st.binary(max_size=20))
def test_a_damaged_file_is_named(rows, name, config, summary, cut_off):
    with tempfile.TemporaryDirectory() as path:
        folder = RunFolder(path)
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (Path(path) / f"{name}.jsonl").write_bytes(lines.encode() + cut_off)
        folder.config.write_text(json.dumps(config))
        folder.summary.write_text(json.dumps(summary))
        for read in (lambda: comparison([RunRecord.read(path)]), lambda: folder.rewind(1)):
            try:
                read()
            except RunFolderError as error:
                assert path in str(error)


@pytest.mark.parametrize(
    "line", ['{"step": 1}', '{"step": 1, "draw": "1", "prompt": "p", "trained": true}', "[]"]
)
def test_a_line_that_is_no_entry_of_the_ledger_is_named(folder, line):
    whole = '{"step": 1, "draw": 1, "prompt": "p", "trained": true}'
    folder.ledger.write_text(f"{whole}\n{line}\n")
    with pytest.raises(RunFolderError, match=r"ledger\.jsonl, line 2: no row of ledger\.jsonl"):
        folder.read_ledger()
