"""Another model than the checkpoint's is refused by the name of a parameter."""

from __future__ import annotations

import pytest

from rlvr.errors import ConfigError
from rlvr.learner.sharded_state import check_shapes


@pytest.mark.parametrize(
    ("saved", "told"),
    [
        ({"a": [2], "b": [3, 5]}, r"b is \[3, 4\], in the checkpoint \[3, 5\]"),
        ({"a": [2]}, r"b is \[3, 4\], in the checkpoint not there"),
        ({"a": [2], "b": [3, 4], "c": [1]}, r"c is not there, in the checkpoint \[1\]"),
    ],
)
def test_another_model(saved, told):
    with pytest.raises(ConfigError, match=rf"model\.path.*{told}"):
        check_shapes({"a": [2], "b": [3, 4]}, saved)


def test_the_same_model():
    check_shapes({"a": [2], "b": [3]}, {"b": [3], "a": [2]})
