"""Runs side by side, and what the report prints of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr import report
from rlvr.telemetry.record import RunRecord
from rlvr.telemetry.run_folder import RunFolder
from rlvr.telemetry.table import comparison


def run(name: str, steps: int = 2, **more: float) -> RunRecord:
    rows = [
        {"step": i, "rollout/reward_mean": 0.5, "time/step_s": 2.0, "time/update_s": 0.5, **more}
        for i in range(1, steps + 1)
    ]
    evaluations = [{"step": 0, "evaluation/greedy/accuracy": 0.125}]
    return RunRecord(name, rows, evaluations, summary=None, planned=4)


def test_one_run():
    assert comparison([run("one")]).splitlines() == [
        "run             one",
        "steps           2 of 4 (not ended)",
        "accuracy        12.5% -> 12.5%",
        "reward          0.500 -> 0.500",
        "training time   4 s",
        "a step          2.00 s",
        "  update        0.50 s   25%",
    ]


def test_what_one_lacks_is_a_dash():
    lines = comparison([run("one"), run("two", **{"update/entropy": 1.5})]).splitlines()
    [entropy] = [line for line in lines if line.startswith("entropy")]
    assert entropy.split() == ["entropy", "-", "1.500", "->", "1.500"]
    assert [line.split()[0] for line in lines].index("entropy") == 4, "in its own column's order"


@given(names=st.lists(st.text("abc/_", min_size=1, max_size=50), min_size=1, max_size=7))
def test_runs_that_do_not_fit_go_below(names):
    text = comparison([run(name) for name in names], width=80)
    blocks = text.split("\n\n")
    shown = [name for block in blocks for name in block.splitlines()[0].split()[1:]]
    assert shown == names, "every run once, in order"
    for block in blocks:
        alone = len(block.splitlines()[0].split()) == 2
        assert alone or max(map(len, block.splitlines())) <= 80
    assert len({tuple(line[:13] for line in b.splitlines()[1:]) for b in blocks}) == 1


def test_the_report_reads_folders(folder, tmp_path, capsys):
    folder.append(folder.metrics, run("").steps)
    report.main([str(folder.path), "--plot", str(tmp_path / "curves.svg")])
    assert "2 (not ended)" in capsys.readouterr().out
    assert (tmp_path / "curves.svg").read_text().count("<svg") == 1
    with pytest.raises(SystemExit, match=r"--plot .*curves\.what: "):
        report.main([str(folder.path), "--plot", str(tmp_path / "curves.what")])


def test_the_report_names_what_is_no_run(tmp_path):
    with pytest.raises(SystemExit, match="nothing: not a run's folder"):
        report.main([str(tmp_path / "nothing")])
    assert not RunFolder(tmp_path / "nothing").path.exists()


@pytest.mark.parametrize("columns", ["60", "200"])
def test_the_terminal_decides(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    text = comparison([run("a" * 30), run("b" * 30)])
    assert ("\n\n" in text) == (columns == "60")
