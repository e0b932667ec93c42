"""``format``: the response is ``<think>...</think> <answer>...</answer>``, or the row's ``tags``.

Each tag once, in this order, with nothing outside of them. As an extra on top of another verifier,
see ``verifier.format.bonus``; as a part of the reward, ``composite``.
"""

import re
from collections.abc import Sequence

from rlvr.config import VerifierConfig
from rlvr.task import Prompt, Verdict
from rlvr.verify.base import judged


class Format:
    """Presence and order of tags; those of the row, else ``verifier.format.tags``."""

    def __init__(self, config: VerifierConfig) -> None:
        self._tags = config.format.tags

    def verify(self, prompt: Prompt, response_text: str) -> Verdict:
        tags = prompt.meta.get("tags") or self._tags
        return judged(well_formed(response_text, tags), ", ".join(tags))


def well_formed(text: str, tags: Sequence[str]) -> bool:
    """Whether ``text`` is ``<a>...</a> <b>...</b>`` for these tags, each once, in this order."""
    once = all(text.count(mark) == 1 for tag in tags for mark in (f"<{tag}>", f"</{tag}>"))
    pattern = "".join(rf"\s*<{tag}>.*</{tag}>" for tag in map(re.escape, tags))
    return once and re.fullmatch(rf"{pattern}\s*", text, re.DOTALL) is not None


VERIFIER = Format
