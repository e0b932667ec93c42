from __future__ import annotations

import pytest

from rlvr.algorithm.compatibility import compatible
from rlvr.algorithm.credit import CREDITS
from rlvr.algorithm.objectives import OBJECTIVES
from rlvr.errors import ConfigError


def test_all_pairs():
    refused = {(c, o) for c in CREDITS.names() for o in OBJECTIVES.names() if compatible(c, o)}
    of_advantages = ("thr", "nthr", "otb", "spo", "vine")
    labels = ("real", "real_bce", "real_product")
    assert refused == {(c, o) for c in of_advantages for o in labels}
    reason = compatible("thr", "real")
    assert "thr" in reason and "real" in reason and "delta" in reason


def test_unknown_names_are_reported():
    with pytest.raises(ConfigError, match="Did you mean 'delta'"):
        compatible("delat", "grpo")
