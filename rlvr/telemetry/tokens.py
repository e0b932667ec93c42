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
    """A row for each token, the most raised first, the most lowered last.

    Args:
        tokens: half of them raised, half lowered.
        groups: the rollout batch.
        advantages: [S] A_i in sample order.
        decode: texts of token ids.
    """
    places = [(g, i) for g, group in enumerate(groups) for i in range(len(group.samples))]
    own, before, rows = [], [], []
    raised = (len(tokens.response) + 1) // 2
    for rank, (response, position, coefficient) in enumerate(
        zip(tokens.response, tokens.position, tokens.coefficient, strict=True)
    ):
        g, i = places[response]
        ids = groups[g].samples[i].response.token_ids
        own.append(ids[position : position + 1])
        before.append(ids[max(position - _BEFORE, 0) : position])
        rows.append(
            {
                "side": "raised" if rank < raised else "lowered",
                "coefficient": float(coefficient),
                "advantage": float(advantages[response]),
                "group": g,
                "sample": i,
                "position": int(position),
            }
        )
    texts = decode([*before, *own])
    return [
        {**row, "before": texts[k], "token": texts[len(rows) + k]} for k, row in enumerate(rows)
    ]
