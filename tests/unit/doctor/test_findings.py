"""What is looked at, and that what is wrong is called so."""

from __future__ import annotations

import shutil
import time

import pytest

from rlvr.doctor import findings
from rlvr.doctor.__main__ import _beside, _clock, main
from rlvr.doctor.findings import Machine, State, examine


def looked(machine: Machine) -> dict[str, findings.Finding]:
    return {finding.name: finding for finding in machine.findings}


def test_this_machine_can_run(tmp_path):
    machine = examine(str(tmp_path / "not" / "there" / "yet"))
    found = looked(machine)
    assert not [f for f in machine.findings if f.state is State.BAD]
    assert found["Python"].told == machine.versions["python"]
    assert str(tmp_path) in found["disk"].told and not list(tmp_path.iterdir())


def test_what_is_missing_is_named_with_what_mends_it(tmp_path, monkeypatch, capsys):
    there = findings.version

    def version(name: str) -> str:
        if name == "deepspeed":
            raise findings.PackageNotFoundError
        return there(name)

    monkeypatch.setattr(findings, "version", version)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        main(["--folder", str(tmp_path)])
    told = capsys.readouterr().out
    assert ended.value.code == 1
    assert "deepspeed missing" in told and "-> bash launch/setup.sh" in told
    assert "no c++" in told and "2 to mend before a run" in told


def test_another_version_on_a_node_is_bad():
    here = Machine("here", {"ray": "2", "torch": "1"}, 0.0, [])
    [same] = _beside(Machine("there", dict(here.versions), 0.0, []), here)
    [other] = _beside(Machine("there", {"ray": "3"}, 0.0, []), here)
    assert same.state is State.GOOD and other.state is State.BAD
    assert "ray 3 instead of 2" in other.told and "torch missing instead of 1" in other.told


def test_a_clock_that_is_off():
    now = time.time()
    assert _clock(now, now - 1, now + 1).state is State.GOOD
    assert _clock(now + 90, now - 1, now + 1).state is State.DOUBTFUL
    assert "89 s" in _clock(now - 90, now - 1, now + 1).told
