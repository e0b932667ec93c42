"""Hand-made groups and a folder."""

from __future__ import annotations

import numpy as np
import pytest

from rlvr.telemetry.run_folder import RunFolder
from rlvr.types import Group, Outcome, Prompt, Response, Sample, Verdict


@pytest.fixture
def make_group():
    """``make_group([(length, outcome, reward), ...])``; further words are of every response."""

    def make(samples, *, version=0, finish="stop", text="text", seconds=0.5, **components) -> Group:
        return Group(
            Prompt("p", [5, 6], "1 + 1 =", "2", "exact"),
            [
                Sample(
                    Response(
                        np.arange(length, dtype=np.int32),
                        np.full(length, -0.5, np.float32),
                        np.full(length, version, np.int32),
                        finish,
                    ),
                    text,
                    Verdict(reward, Outcome(outcome), "why", seconds, components),
                )
                for length, outcome, reward in samples
            ],
        )

    return make


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder.create(tmp_path / "run")
