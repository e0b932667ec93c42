"""What a page is made of, without a browser."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from pyarrow import parquet

from rlvr import report
from rlvr.errors import RunFolderError
from rlvr.evaluation.folder import EvaluationFolder
from rlvr.telemetry.page import shown
from rlvr.telemetry.page.families import families
from rlvr.telemetry.page.runs import RunsPage
from rlvr.telemetry.page.shown import ShownResponses
from rlvr.telemetry.record import RunRecord
from rlvr.telemetry.run_folder import RunFolder


def parts(html: str) -> dict:
    """The packed parts of a page, by name."""
    found = re.findall(r'<script type="text/plain" id="([^"]+)">([A-Za-z0-9+/=]+)</script>', html)
    return {name: json.loads(gzip.decompress(base64.b64decode(text))) for name, text in found}


def unpacked(block) -> dict:
    return json.loads(gzip.decompress(base64.b64decode(block.packed)))


def test_runs_that_differ_in_the_seed_alone_are_a_family():
    def run(seed, credit="delta", lr=0.1, **options):
        own = {"seed": seed, "output_dir": f"run{seed}{credit}{lr}"}
        return {"train": own, "credit": {"name": credit, **options}, "learner": {"lr": lr}}

    a, b = families([run(0), run(1), run(0, "thr", p=0.1)], ["a", "b", "c"])
    assert a == ("delta", [0, 1]) and b == ("thr", [2])
    assert families([run(0), run(0, lr=0.5), run(3)], ["a", "b", "c"]) == [
        ("learner.lr=0.1", [0, 2]),
        ("learner.lr=0.5", [1]),
    ]
    assert families([run(0, p=1), run(0, p=2)], ["a", "b"])[1] == ("credit.p=2", [1])
    assert families([run(0), run(1)], ["a", "b"]) == [("a", [0, 1])]
    assert families([{}, {}], ["a", "b"]) == [("a", [0]), ("b", [1])], "nothing is known of them"


@pytest.fixture
def run(tmp_path, write_run) -> str:
    """Three steps of four groups with two responses of ten tokens; only some groups differ."""
    step = [["right 0123", "right 0123"], ["right 0123", "wrong 0123"]] * 2
    return write_run(tmp_path / "run", [step] * 3)


def make_equal(run: str, groups: list[int]) -> None:
    """Take the advantages of these groups away."""
    for file in RunFolder(run).path.glob("responses/*"):
        table = parquet.read_table(file)
        a = np.where(np.isin(table["group"].to_numpy(), groups), 0.0, table["advantage"].to_numpy())
        at = table.schema.get_field_index("advantage")
        parquet.write_table(table.set_column(at, "advantage", [a]), file, row_group_size=3)


def test_groups_that_teach_come_first_and_what_a_step_leaves_is_the_next_ones(run):
    make_equal(run, [0, 2])
    blocks = list(ShownResponses(Path(run), 3, 3 * 50).blocks()["training"])
    assert [(b.step, b.responses, b.all_responses) for b in blocks] == [
        (1, 4, 8), (2, 6, 8), (3, 4, 8)
    ]  # fmt: skip
    assert [g["place"] for g in unpacked(blocks[0])["groups"]] == [1, 3]
    assert [g["place"] for g in unpacked(blocks[1])["groups"]] == [0, 1, 3]
    few = list(ShownResponses(Path(run), 3, 30).blocks()["training"])
    assert few[0].responses == 2 and few[1] is None, "of the first step one group at least"


def test_what_has_been_read_is_not_read_again(run, monkeypatch):
    responses = ShownResponses(Path(run), 4, 1000)
    before = list(responses.blocks()["training"])
    with monkeypatch.context() as patch:
        patch.setattr(shown, "_block", None)
        assert list(responses.blocks()["training"]) == before
    RunFolder(run).responses(3).unlink()  # a resumed run has forgotten it
    assert list(responses.blocks()["training"]) == before[:2]


def test_tokens_and_coefficients_come_back(run):
    [block, *_] = ShownResponses(Path(run), 3, 1000).blocks()["training"]
    found = unpacked(block)
    table = parquet.read_table(RunFolder(run).responses(1)).to_pylist()
    rows = [row for group in found["groups"] for row in group["responses"]]
    for row, logged in zip(rows, table, strict=True):
        assert [found["texts"][i] for i in row["tokens"]] == logged["tokens"]
        assert np.array(row["credit"][0]) / 1000 == pytest.approx(logged["coefficient"], abs=6e-4)


def test_a_log_without_tokens_is_shown_as_text(run):
    file = RunFolder(run).responses(1)
    table = parquet.read_table(file).drop_columns(["tokens", "coefficient", "response_token_ids"])
    parquet.write_table(table, file)
    block = ShownResponses(Path(run), 3, 1000).blocks()["training"][0]
    [group, *_] = unpacked(block)["groups"]
    response = group["responses"][0]
    assert [unpacked(block)["texts"][i] for i in response["tokens"]] == ["right ", "0123"]
    assert (response["unit"], response["length"]) == ("word", 10)
    assert response["credit"] == [None]


def test_coefficients_that_are_equal_missing_or_not_finite(run):
    file = RunFolder(run).responses(1)
    table = parquet.read_table(file)
    credit = [[1.0] * 10, None, [np.nan, np.inf, *[0.5] * 8], *[[1.0, *[2.0] * 9]] * 5]
    at = table.schema.get_field_index("coefficient")
    parquet.write_table(table.set_column(at, "coefficient", [credit]), file)
    groups = unpacked(ShownResponses(Path(run), 3, 1000).blocks()["training"][0])["groups"]
    told = [row["credit"][0] for group in groups for row in group["responses"]]
    assert told[:4] == [1000, None, [None, None, *[500] * 8], [1000, *[2000] * 9]]


def test_a_damaged_log_is_named(run):
    RunFolder(run).responses(2).write_bytes(b"PAR1 is not enough")
    with pytest.raises(RunFolderError, match=r"step_000002\.parquet: not readable"):
        ShownResponses(Path(run), 3, 1000).blocks()


def test_nothing_that_a_model_said_stands_outside_of_packed_parts(tmp_path, write_run):
    hostile = "</script><script>alert(1)</script>"
    run = write_run(tmp_path / "run", [[[f"right {hostile}", f"wrong {hostile}"]]])
    path = tmp_path / "page.html"
    RunsPage(path, lambda record: None).write([RunRecord.read(run)])
    html = path.read_text()
    assert hostile not in html and "alert" not in html
    assert html.count("</script>") == len(found := parts(html)) + 1
    own = found["responses-0-training-1"]
    texts, [group] = own["texts"], own["groups"]
    assert "".join(texts[i] for i in group["responses"][0]["tokens"]) == f"right {hostile}"
    assert "default-src 'none'" in html


def test_the_report_makes_a_page(run, tmp_path, capsys):
    path = tmp_path / "page.html"
    report.main([run, "--html", str(path)])
    assert f"{path}: 0.1 MB" in capsys.readouterr().out
    content = parts(path.read_text())["content"]
    [own] = content["runs"]
    assert own["steps"] == [1, 2, 3] and own["methods"] == ["delta"]
    assert own["series"]["update/entropy"] == pytest.approx([1, 0.5, 1 / 3])
    assert own["evaluations"] == {"evaluation/greedy/accuracy": [[3], [0.5]]}
    assert own["responses"] == {"training": [[s, 8, 8] for s in (1, 2, 3)]}
    assert content["refresh"] == 0
    with pytest.raises(SystemExit):
        report.main([run, "--live"])
    with pytest.raises(SystemExit, match="page.html could not be written"):
        report.main([run, "--html", str(path / "page.html")])


def test_warnings_and_plans_are_on_the_page(run, tmp_path):
    config = yaml.safe_load(RunFolder(run).config.read_text())
    config["telemetry"]["guards"]["entropy_collapse"] = 0.6
    RunFolder(run).config.write_text(yaml.safe_dump(config))
    path = tmp_path / "page.html"
    RunsPage(path, lambda record: {"rollout": (3.0, 1.5)}).write([RunRecord.read(run)])
    [own] = parts(path.read_text())["content"]["runs"]
    assert [step for step, _ in own["warnings"]] == [2]
    assert ["rollout", 1.5, 3.0] in own["stages"] and ["step", 2.0, None] in own["stages"]


def test_a_live_page_is_renewed_until_the_runs_end(run, tmp_path, monkeypatch):
    summary = RunFolder(run).summary
    ended = summary.read_text()
    summary.unlink()
    path, seen = tmp_path / "page.html", []

    def wait(seconds: float) -> None:
        seen.append(parts(path.read_text())["content"]["refresh"])
        if len(seen) == 2:
            summary.write_text(ended)

    monkeypatch.setattr(report, "time", SimpleNamespace(sleep=wait))
    watcher = threading.Thread(target=report.main, args=[[run, "--html", str(path), "--live"]])
    watcher.start()
    watcher.join(20)
    assert not watcher.is_alive() and len(seen) == 2 and all(seen)
    assert parts(path.read_text())["content"]["refresh"] == 0, "what is left is at rest"


@pytest.fixture
def evaluation(tmp_path, group_of):
    """What ``rlvr evaluate`` leaves, in two parts."""
    folder = EvaluationFolder(tmp_path / "asked")
    folder.begin({"model": "a model"})
    folder.add("avg_at_2", [group_of(0, ["right aye", "wrong bee"])], 7)
    folder.add("avg_at_2", [group_of(1, ["right cee dee", "right eee"])], 7)
    return folder


def test_responses_of_evaluations_are_on_the_page(tmp_path, write_run, evaluation):
    path = write_run(tmp_path / "run", [[["right", "wrong"]]] * 3, evaluated=[["wrong and why"]])
    shutil.copytree(evaluation.path, Path(path, "benchmark", "step_000007"))
    blocks = ShownResponses(Path(path), 3, 1000).blocks()
    told = {name: [(b.step, b.responses) for b in own] for name, own in blocks.items()}
    assert told == {
        "training": [(1, 2), (2, 2), (3, 2)],
        "greedy": [(3, 1)],
        "benchmark avg_at_2": [(7, 4)],
    }
    [[asked]] = [unpacked(blocks["greedy"][0])["groups"]]
    [response] = asked["responses"]
    texts = unpacked(blocks["greedy"][0])["texts"]
    assert [texts[i] for i in response["tokens"]] == ["wrong ", "and ", "why"]
    assert (response["credit"], response["advantage"]) == ([None], None)
    parts = unpacked(blocks["benchmark avg_at_2"][0])["groups"]
    assert [g["place"] for g in parts] == [0, 1], "the second part's groups are others"
    few = ShownResponses(Path(path), 3, 48).blocks()
    assert [b and b.responses for b in few["training"]] == [2, None, 2], "half of the room"


def test_an_evaluation_alone_has_a_report_and_a_page(tmp_path, evaluation, capsys):
    path = tmp_path / "page.html"
    report.main([str(evaluation.path), "--html", str(path)])
    told = capsys.readouterr().out
    assert told.startswith("# a model") and "| all | 75.0 [" in told
    content = parts(path.read_text())["content"]
    [own] = content["runs"]
    assert content["families"] == [] and own["responses"] == {"avg_at_2": [[7, 4, 4]]}
    assert own["figures"][0][:2] == ["", "avg@2"] and own["figures"][-1][0] == "all"
    (evaluation.path / "responses" / "avg_at_2" / "part_00001.parquet").write_bytes(b"cut off")
    with pytest.raises(SystemExit, match=r"part_00001\.parquet is damaged"):
        report.main([str(evaluation.path)])


def test_shadows_stand_beside_the_method_in_use(tmp_path, write_run):
    step = [["right 0123", "wrong 0123"]]
    shadows = ["thr", {"name": "oar_p", "stride": 4}]
    run = write_run(tmp_path / "run", [step] * 2, shadows=shadows)
    file = RunFolder(run).responses(2)  # of a run that went on without one of them
    parquet.write_table(parquet.read_table(file).drop_columns("coefficient:thr"), file)
    page = tmp_path / "page.html"
    RunsPage(page, lambda record: None).write([RunRecord.read(run)])
    found = parts(page.read_text())
    assert found["content"]["runs"][0]["methods"] == ["delta (in use)", "thr", "oar_p(stride=4)"]
    table = parquet.read_table(RunFolder(run).responses(1)).to_pylist()
    columns = ["coefficient", "coefficient:thr", "coefficient:oar_p(stride=4)"]
    for row, logged in zip(
        found["responses-0-training-1"]["groups"][0]["responses"], table, strict=True
    ):
        for own, column in zip(row["credit"], columns, strict=True):
            own = own if isinstance(own, list) else [own] * 10
            assert np.array(own) / 1000 == pytest.approx(logged[column], abs=6e-4)
    credit = [r["credit"] for r in found["responses-0-training-2"]["groups"][0]["responses"]]
    assert [c[1] for c in credit] == [None, None] and None not in [c[2] for c in credit]
