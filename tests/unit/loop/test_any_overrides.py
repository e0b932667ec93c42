"""Whatever the command line says ends in a run's configuration, or in words that name the key."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlvr.config import RunConfig
from rlvr.errors import ConfigError
from rlvr.hydra_config import check_overrides, register, run_config
from rlvr.loop.validate import validated

NEEDED = {"model.path": "m", "data.train": f"[{__file__}]", "train.steps": "2"}


def keys(kind: type, prefix: str = "") -> list[str]:
    found = []
    for name, inner in get_type_hints(kind).items():
        found.append(prefix + name)
        if is_dataclass(inner):
            found += keys(inner, f"{prefix}{name}.")
    return found


KEYS = [*keys(RunConfig), "credit.refinements", "objective.clip_low", "recipe", "hydra.run.dir"]
words = st.text("abcxyz01.,:=[]{}()$'\"\\ *-+~/@#é\n", max_size=8)
plain = st.sampled_from(
    [
        *("null", "true", "0", "-1", "1", "3", "1e3", "nan", "inf", "-inf", "9" * 400, "1e400"),
        *("", "''", "[]", "{}", "[1,2]", "{a:1}", "[null]", "???", "auto", "delta", "bfloat16"),
        *("a,b", "1,2", "range(3)", "choice(1,2)", "glob(*)", "interval(0,1)", "shuffle(1,2)"),
        *("${train.steps}", "${nope}", "${oc.env:NOPE}", "${", "${now:%Y}", "${.path}"),
        *("no.such.module", "os.path", "/", "~", "s3://b/x", "nowhere://x", "\\x00", "0x8", "4x"),
    ]
)
values = plain | words | st.lists(plain, max_size=3).map(lambda v: f"[{','.join(v)}]")
key = (
    st.sampled_from(KEYS)
    | st.sampled_from(KEYS)
    | st.sampled_from(KEYS)
    | st.builds(
        lambda k, where, c: k[: where % (len(k) + 1)] + c + k[where % (len(k) + 1) :],
        st.sampled_from(KEYS),
        st.integers(0, 40),
        st.sampled_from([".", "x", "[0]", "@", " ", "/"]),
    )
)
override = st.one_of(
    st.tuples(st.sampled_from(["", "", "", "+", "++"]), key, values).map(
        lambda parts: f"{parts[0]}{parts[1]}={parts[2]}"
    ),
    key.map(lambda name: f"~{name}"),
    words,
)


@pytest.fixture(scope="module", autouse=True)
def registered():
    register()


@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(override, min_size=1, max_size=2), st.booleans())
def test_any_command_line_is_a_run_or_is_answered_in_words(line, sweep):
    told = {k: v for k, v in NEEDED.items() if not any(w.startswith(f"{k}=") for w in line)}
    arguments = [f"{k}={v}" for k, v in told.items()] + line + ["--multirun"] * sweep
    try:
        for node in check_overrides("train", arguments):
            assert isinstance(validated(run_config(node)), RunConfig)
    except ConfigError as error:
        assert str(error).strip()
