"""launch/submit.py without a cluster; tests/integration/launch has the real one."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest


@pytest.fixture(scope="module")
def submit():
    path = Path(__file__).parents[3] / "launch" / "submit.py"
    spec = importlib.util.spec_from_file_location("submit", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class BrokenLine:
    """A job server whose log connection breaks after each of ``pieces``, then ends."""

    def __init__(self, log: str, breaks: list[int]) -> None:
        self.log, self.breaks, self.connections = log, breaks, 0

    async def tail_job_logs(self, job_id):
        at = self.breaks[self.connections] if self.connections < len(self.breaks) else None
        self.connections += 1
        for start in range(0, len(self.log[:at]), 7):
            yield self.log[:at][start : start + 7]
        if at is not None:
            raise RuntimeError("WebSocket connection closed unexpectedly")

    def get_job_status(self, job_id):
        return SimpleNamespace(is_terminal=lambda: self.connections > len(self.breaks))


def test_a_log_is_printed_once_over_many_connections(submit, monkeypatch, capsys):
    monkeypatch.setattr(submit, "RECONNECT_S", 0)
    log = "".join(f"step {i}: reward {i / 7:.3f}\n" for i in range(9))
    client = BrokenLine(log, breaks=[0, 30, 100])
    asyncio.run(submit.follow(client, "job"))
    assert client.connections == 4
    assert capsys.readouterr().out == log


def test_a_cluster_that_is_gone_ends_the_following(submit, monkeypatch):
    monkeypatch.setattr(submit, "LOST_TIMEOUT_S", 0)
    client = BrokenLine("a\n", breaks=[1] * 99)
    client.get_job_status = lambda job_id: (_ for _ in ()).throw(ConnectionError("refused"))
    with pytest.raises(submit.SubmitError, match="refused.*may go on"):
        asyncio.run(submit.follow(client, "job"))


@pytest.mark.parametrize(
    ("status", "driver_exit_code", "expected"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 3, 3),
        ("FAILED", -9, 137),
        ("FAILED", None, 1),
        ("STOPPED", None, 1),
    ],
)
def test_the_exit_code_is_the_jobs(submit, status, driver_exit_code, expected):
    job = SimpleNamespace(
        status=SimpleNamespace(value=status), message=None, driver_exit_code=driver_exit_code
    )
    assert submit.exit_code(SimpleNamespace(get_job_info=lambda job_id: job), "job") == expected


def test_secrets_are_passed_when_they_are_set(submit, monkeypatch):
    for name in submit.PASSED_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "key")
    monkeypatch.setenv("COLOUR", "red")
    variables = submit.environment(["COLOUR", "WANDB_API_KEY=other", "EMPTY="])
    assert variables == submit.STOP_SETTINGS | {
        "COLOUR": "red",
        "WANDB_API_KEY": "other",
        "EMPTY": "",
    }


def test_a_variable_without_a_value_is_reported(submit, monkeypatch):
    monkeypatch.delenv("COLOUR", raising=False)
    with pytest.raises(submit.SubmitError, match="COLOUR=VALUE"):
        submit.environment(["COLOUR"])


def test_stop_takes_no_overrides(submit, capsys):
    with pytest.raises(SystemExit):
        submit.arguments(["--address", "http://head:8265", "--stop", "job", "--", "train.steps=2"])
    assert "takes no overrides" in capsys.readouterr().err
