"""Anything that JSON can say, for tests of files that are damaged or hold what no one expects."""

from __future__ import annotations

from hypothesis import strategies as st


def json_values(*names: str) -> st.SearchStrategy:
    """Values and, as deep as may be, lists of them and objects with some of these ``names``."""
    return st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(names), inner, max_size=3)
        ),
        max_leaves=6,
    )


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """``content`` with some bytes flipped, and perhaps cut off."""

    def harmed(flips: list[tuple[int, int]], length: int) -> bytes:
        harm = bytearray(content)
        for at, bits in flips:
            harm[at] ^= bits
        return bytes(harm[:length])

    flip = st.tuples(st.integers(0, len(content) - 1), st.integers(1, 255))
    lengths = st.just(len(content)) | st.integers(0, len(content))
    return st.builds(harmed, st.lists(flip, max_size=4), lengths)
