"""The tokens of a step's responses: their texts, and what credit assignment made of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from rlvr.telemetry.token_texts import Decode, TokenTexts
from rlvr.types import IN_USE, Group, samples_of

Coefficients = Sequence[np.ndarray | None]  # c_t of every response, in sample order; None: unknown

_BEFORE = 8  # tokens of context
_SHOWN = 10  # most raised, and as many most lowered, of every step


@dataclass(frozen=True)
class LoggedTokens:
    """Of the responses of a step, in sample order."""

    texts: pa.ListArray  # of every token, what it adds to the text
    coefficients: Mapping[str, Coefficients]  # by the label of the method
    standing_out: Sequence[dict[str, Any]]  # rows of ``tokens.jsonl``


class TokenLog:
    """Makes what is logged of tokens, with a tokenizer's ``decode``."""

    def __init__(self, decode: Decode) -> None:
        self._texts = TokenTexts(decode)

    def of(
        self,
        groups: Sequence[Group],
        advantages: np.ndarray,
        coefficients: Mapping[str, Coefficients],
    ) -> LoggedTokens:
        """Coefficients are given by the label of the method; tokens stand out by that in use."""
        texts = self._texts.of([s.response.token_ids for s in samples_of(groups)])
        used = standing_out(groups, advantages, coefficients[IN_USE], texts)
        return LoggedTokens(texts, coefficients, used)


def standing_out(
    groups: Sequence[Group], advantages: np.ndarray, coefficients: Coefficients, texts: pa.ListArray
) -> list[dict[str, Any]]:
    """The tokens with the largest and the smallest c_t, in descending order.

    Responses without an advantage are left out, for their coefficients weight nothing. There are
    none if all coefficients are equal. ``advantages`` are A_i [S] in sample order.
    """
    weighed = [
        (i, c) for i, c in enumerate(coefficients) if c is not None and len(c) and advantages[i]
    ]
    if not weighed:
        return []
    flat = np.concatenate([c for _, c in weighed])
    if not flat.min() < flat.max():
        return []
    response = np.repeat([i for i, _ in weighed], [len(c) for _, c in weighed])
    position = np.concatenate([np.arange(len(c)) for _, c in weighed])
    order = _ends(-flat, _SHOWN)
    half = (len(order) + 1) // 2
    places = [(g, i) for g, group in enumerate(groups) for i in range(len(group.samples))]
    rows = []
    for side, chosen in (("raised", order[:half]), ("lowered", order[half:])):
        for n in chosen:
            i, t = int(response[n]), int(position[n])
            own = texts[i].as_py()
            rows.append(
                {
                    "side": side,
                    "coefficient": float(flat[n]),
                    "advantage": float(advantages[i]),
                    "group": places[i][0],
                    "sample": places[i][1],
                    "position": t,
                    "before": "".join(own[max(t - _BEFORE, 0) : t]),
                    "token": own[t],
                }
            )
    return rows


def _ends(x: np.ndarray, count: int) -> np.ndarray:
    """Where the ``count`` smallest and the ``count`` largest of ``x`` are, in ascending order."""
    if (n := len(x)) > 2 * count:
        parted = np.argpartition(x, [count - 1, n - count])
        places = np.concatenate([parted[:count], parted[-count:]])
    else:
        places = np.arange(n)
    return places[np.lexsort((places, x[places]))]
