"""``format``: the response is ``<think>...</think> <answer>...</answer>``, or the row's ``tags``.

Each tag once, in this order, with nothing outside of them. As an extra on top of another verifier,
see ``verifier.format.bonus``; as a part of the reward, ``composite``.
"""

from __future__ import annotations

from collections.abc import Sequence

from rlvr.config import VerifierConfig
from rlvr.task import Prompt, Verdict
from rlvr.verify.base import judged


class Format:
    """Presence and order of tags; those of the row, else ``verifier.format.tags``."""

    def __init__(self, config: VerifierConfig) -> None:
        self._tags = config.format.tags

    def verify(self, prompt: Prompt, response_text: str) -> Verdict:
        """Look for the tags."""
        tags = prompt.meta.get("tags") or self._tags
        return judged(well_formed(response_text, tags), ", ".join(tags))


def well_formed(text: str, tags: Sequence[str]) -> bool:
    """Whether ``text`` is ``<a>...</a> <b>...</b>`` for these tags, each once, in this order."""
    position = 0
    for tag in tags:
        opening, closing = f"<{tag}>", f"</{tag}>"
        if text.count(opening) != 1 or text.count(closing) != 1:
            return False
        start, end = text.index(opening), text.index(closing)
        if start < position or text[position:start].strip() or end < start + len(opening):
            return False
        position = end + len(closing)
    return not text[position:].strip()


VERIFIER = Format
