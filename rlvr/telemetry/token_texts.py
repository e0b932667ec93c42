"""What each token of a response adds to its text."""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

Decode = Callable[[Sequence[Sequence[int]]], list[str]]  # texts of token ids, with special ones

_INCOMPLETE = "\ufffd"  # what a tokenizer says of a part of a character


class TokenTexts:
    """The texts of tokens, each asked of the tokenizer once.

    A token is decoded behind another one, since some tokenizers drop the space that begins a text.
    Tokens that share a character (bytes of it each) are decoded together: the first of them has
    their text, the others have none.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._anchor: list[int] = []
        self._texts: list[str] = [""]
        self._place = np.full(0, -1)  # in ``_texts``, of every id; -1: not asked yet
        self._partial = np.zeros(0, bool)  # of every id, whether its text is a part of a character
        self._shared: dict[tuple[int, ...], int] = {}

    def of(self, responses: Sequence[np.ndarray]) -> pa.ListArray:
        """For responses of token ids a list of texts each."""
        ends = np.cumsum([0, *map(len, responses)])
        ids = np.concatenate([np.zeros(0, np.int64), *responses]).astype(np.int64)
        self._learn(np.flatnonzero(np.bincount(ids)) if len(ids) else ids)
        place = self._place[ids]
        self._join(ids, place, ends)
        texts = pa.array(self._texts, pa.string()).take(pa.array(place))
        return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), texts)

    def _learn(self, ids: np.ndarray) -> None:
        """Ask for the texts of ids that are new."""
        if len(ids) and (size := int(ids.max()) + 1 - len(self._place)) > 0:
            self._place = np.pad(self._place, (0, size), constant_values=-1)
            self._partial = np.pad(self._partial, (0, size))
        new = ids[self._place[ids] < 0]
        if not len(new):
            return
        if not self._anchor:
            alone = self._decode([[int(i)] for i in new])
            usual = (i for i, text in zip(new, alone, strict=True) if text.strip(_INCOMPLETE))
            self._anchor = [int(next(usual, new[0]))]
        texts = self._behind_anchor([[int(i)] for i in new])
        self._place[new] = np.arange(len(new)) + len(self._texts)
        self._partial[new] = [_INCOMPLETE in text for text in texts]
        self._texts += texts

    def _join(self, ids: np.ndarray, place: np.ndarray, ends: np.ndarray) -> None:
        """Change ``place`` where neighbouring tokens of a response share characters."""
        partial = np.flatnonzero(self._partial[ids])
        response = np.searchsorted(ends, partial, side="right")
        cuts = np.flatnonzero((np.diff(partial) > 1) | (np.diff(response) > 0)) + 1
        for run in np.split(partial, cuts):
            if len(run) > 1:
                key = tuple(ids[run].tolist())
                if key not in self._shared:
                    self._shared[key] = len(self._texts)
                    self._texts += self._behind_anchor([key])
                place[run[0]], place[run[1:]] = self._shared[key], 0

    def _behind_anchor(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        alone, *texts = self._decode([self._anchor, *([*self._anchor, *s] for s in sequences)])
        return [text.removeprefix(alone) for text in texts]
