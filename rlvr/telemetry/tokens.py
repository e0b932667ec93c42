"""The tokens that credit assignment raised and lowered most, with their text."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rlvr.types import Group, RankedTokens

_BEFORE = 8  # tokens of context

Decode = Callable[[Sequence[Sequence[int]]], list[str]]


def token_rows(
    tokens: RankedTokens, groups: Sequence[Group], advantages: np.ndarray, decode: Decode
) -> list[dict[str, Any]]:
    """A row for each token, half of them raised, the most raised first, the most lowered last.

    ``advantages`` are A_i [S] in sample order, as the tokens' responses are numbered.
    """
    places = [(g, i) for g, group in enumerate(groups) for i in range(len(group.samples))]
    found = list(zip(tokens.response, tokens.position, tokens.coefficient, strict=True))
    ids = [groups[g].samples[i].response.token_ids for g, i in (places[r] for r, _, _ in found)]
    at = [int(position) for _, position, _ in found]
    before = [y[max(t - _BEFORE, 0) : t] for y, t in zip(ids, at, strict=True)]
    texts = decode([*before, *(y[t : t + 1] for y, t in zip(ids, at, strict=True))])
    return [
        {
            "side": "raised" if k < (len(found) + 1) // 2 else "lowered",
            "coefficient": float(coefficient),
            "advantage": float(advantages[response]),
            "group": places[response][0],
            "sample": places[response][1],
            "position": at[k],
            "before": texts[k],
            "token": texts[len(found) + k],
        }
        for k, (response, _, coefficient) in enumerate(found)
    ]
