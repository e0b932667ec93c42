"""Sinks: what each receives, and that none can break the run."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from dataclasses import dataclass

import pytest

from rlvr import registry
from rlvr.config import TelemetryConfig
from rlvr.errors import ConfigError, RunError
from rlvr.telemetry.sinks.base import SINKS, Sink, build_sinks
from rlvr.telemetry.sinks.fan_out import FanOut

CALLS = ("start", "log", "table", "summary", "close")
ROW = {"step": 1, "timestamp": 1.5, "update/loss": 0.5, "update/grad_norm": None, "nonfinite": 1}
TOKENS = [{"token": "a|b", "coefficient": 1.5}, {"token": "é", "coefficient": 0.5}]
CONFIG = {"train": {"steps": 3}, "learner": {"lr": 1e-6}, "data": {"train": ["a", "b"]}}
SUMMARY = {"steps": 1, "eval_after": 0.5, "train_seconds": None}


class Recorder(Sink):
    """Notes its calls, and raises in those of ``bad``."""

    def __init__(self, *bad: str, error: Exception | None = None) -> None:
        self.heard: list[str] = []
        for name in CALLS:
            setattr(self, name, lambda *_, name=name: self.hear(name, bad, error))

    def hear(self, name: str, bad: tuple[str, ...], error: Exception | None) -> None:
        self.heard.append(name)
        if name in bad:
            raise error or ValueError(f"no {name}\nand more")


def through(folder, sinks: dict[str, Sink], finished: bool = True, step: int = 0) -> None:
    """A whole run."""
    fan_out = FanOut(sinks)
    fan_out.start(folder, CONFIG, step)
    fan_out.tell(lambda sink: sink.log({"step": step, "evaluation/greedy/accuracy": 0.5}))
    fan_out.tell(lambda sink: sink.log({**ROW, "step": step + 1}))
    fan_out.tell(lambda sink: sink.table("credit/tokens", step + 1, TOKENS))
    fan_out.tell(lambda sink: sink.summary(SUMMARY))
    fan_out.close(finished)
    fan_out.close(finished)  # a second time does nothing


@pytest.mark.parametrize("bad", [*((name,) for name in CALLS), CALLS])
def test_a_sink_that_raises_is_reported_once_and_turned_off(folder, capsys, bad):
    broken, well = Recorder(*bad), Recorder()
    through(folder, {"broken": broken, "well": well})
    whole = ["start", "log", "log", "table", "summary", "close"]
    assert well.heard == whole
    heard = whole[: whole.index(bad[0]) + 1]
    assert broken.heard == (heard if bad == ("close",) else [*heard, "close"])
    assert capsys.readouterr().err == (
        f"broken: turned off after an error, training goes on (no {bad[0]}). "
        f"{folder.metrics} has every metric.\n"
    )


@pytest.mark.parametrize("error", [RunError("the disk is full"), KeyboardInterrupt()])
def test_what_ends_the_run_ends_it(folder, error):
    with pytest.raises(type(error)):
        through(folder, {"one": Recorder("log", error=error)})


def test_a_run_that_never_began_closes_nothing():
    sink = Recorder()
    FanOut({"one": sink}).close(False)
    assert sink.heard == []


def test_sinks_of_a_configuration():
    sinks = build_sinks(TelemetryConfig(sinks=["tensorboard"], project="p", name="n"))
    assert list(sinks) == ["wandb", "tensorboard"]
    assert (sinks["wandb"].mode, sinks["wandb"].project, sinks["wandb"].run) == (
        "offline",
        "p",
        "n",
    )
    assert build_sinks(TelemetryConfig(wandb="disabled")) == {}


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ("tensorbord", r"telemetry\.sinks\.name: no sink.*'tensorbord'.*tensorboard"),
        ({"name": "tensorboard", "url": "x"}, r"telemetry\.sinks\.url: no such key"),
        ({"url": "x"}, r"telemetry\.sinks\.name: missing"),
        (3, r"telemetry\.sinks: '3' is neither a name nor \{name: \.\.\.\}"),
    ],
)
def test_a_sink_that_cannot_be_is_told_before_the_run(node, message):
    with pytest.raises(ConfigError, match=message):
        build_sinks(TelemetryConfig(wandb="disabled", sinks=[node]))


THIRD_PARTY = """
from dataclasses import dataclass

from rlvr.telemetry.sinks import SINKS, Sink


@SINKS.register("lines")
@dataclass
class Lines(Sink):
    file: str = "lines.txt"

    def start(self, folder, config, step):
        self.path = folder.path / self.file

    def log(self, row):
        with self.path.open("a") as lines:
            print(row["step"], file=lines)
"""


@pytest.mark.parametrize("name", ["lines", "their_package.their_sink"])
def test_a_sink_of_another_package(folder, tmp_path, monkeypatch, own_registry, name):
    (tmp_path / "their_package").mkdir()
    (tmp_path / "their_package" / "their_sink.py").write_text(THIRD_PARTY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "their_package.their_sink", raising=False)
    own_registry(SINKS)
    point = importlib.metadata.EntryPoint("lines", "their_package.their_sink", "rlvr.sink")
    monkeypatch.setattr(
        registry, "entry_points", lambda group: [point] if group == "rlvr.sink" else []
    )
    config = TelemetryConfig(wandb="disabled", sinks=[{"name": name, "file": "theirs.txt"}])
    through(folder, build_sinks(config))
    assert (folder.path / "theirs.txt").read_text() == "0\n1\n"


def test_a_sink_may_define_what_it_cares_for(folder):
    @dataclass
    class Nothing(Sink):
        pass

    through(folder, {"nothing": Nothing()})


def tensorboard_events(folder):
    """Every event of the run, file by file."""
    from tensorboardX.proto.event_pb2 import Event

    for file in sorted((folder.path / "tensorboard").iterdir()):
        data = file.read_bytes()
        while data:  # a record: its length (8 bytes), a checksum (4), itself, a checksum (4)
            length = int.from_bytes(data[:8], "little")
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def test_tensorboard_is_read_back(folder):
    build = build_sinks(TelemetryConfig(wandb="disabled", sinks=["tensorboard"]))
    through(folder, build)
    events = list(tensorboard_events(folder))
    points = {
        (v.tag, e.step): v.simple_value
        for e in events
        for v in e.summary.value
        if v.WhichOneof("value") == "simple_value"
    }
    assert points == {
        ("evaluation/greedy/accuracy", 0): 0.5,
        ("update/loss", 1): 0.5,
        ("nonfinite", 1): 1.0,
    }
    texts = {
        v.tag: v.tensor.string_val[0].decode()
        for e in events
        for v in e.summary.value
        if v.tensor.string_val
    }
    assert texts["credit/tokens/text_summary"].splitlines() == [
        "token | coefficient",
        "--- | ---",
        r"a\|b | 1.5",
        "é | 0.5",
    ]
    assert "eval_after | 0.5" in texts["summary/text_summary"]
    [hparams] = [
        v.metadata.plugin_data.content
        for e in events
        for v in e.summary.value
        if v.tag == "_hparams_/session_start_info"
    ]
    assert b"learner.lr" in hparams and b"['a', 'b']" in hparams


def test_tensorboard_forgets_what_a_resumed_run_repeats(folder):
    sinks = build_sinks(TelemetryConfig(wandb="disabled", sinks=["tensorboard"]))
    through(folder, sinks, step=4)
    begins = [e.step for e in tensorboard_events(folder) if e.HasField("session_log")]
    assert begins == [5]


def test_tensorboard_that_cannot_write_is_turned_off(folder, capsys):
    (folder.path / "tensorboard").write_text("a file where a folder must be")
    through(folder, build_sinks(TelemetryConfig(wandb="disabled", sinks=["tensorboard"])))
    assert "tensorboard: turned off after an error" in capsys.readouterr().err


def test_wandb_offline(folder, capsys):
    for finished, step in ((False, 0), (True, 1)):
        through(folder, build_sinks(TelemetryConfig(wandb="offline")), finished, step)
    out, err = capsys.readouterr()
    assert err == "" and out.count(f"`wandb sync {folder.path}/wandb/offline-run-*`") == 2
    runs = {run.name.rsplit("-", 1)[1] for run in (folder.path / "wandb").glob("offline-run-*")}
    assert runs == {(folder.path / "wandb" / "id").read_text()}, "a resumed run is the same run"
    [table, *_] = (folder.path / "wandb").glob("offline-run-*/files/media/table/credit/tokens*")
    assert json.loads(table.read_text())["data"] == [list(row.values()) for row in TOKENS]


def test_wandb_that_cannot_be_reached_is_kept_offline(folder, capsys, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("rlvr.telemetry.sinks.wandb._INIT_S", 2.0)
    through(folder, build_sinks(TelemetryConfig(wandb="online")))
    out, err = capsys.readouterr()
    assert "wandb: not reachable, so the run is kept offline" in out and "turned off" not in err
    assert list((folder.path / "wandb").glob("offline-run-*"))
