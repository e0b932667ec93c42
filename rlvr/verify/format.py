"""``format``: the response is ``<think>...</think> <answer>...</answer>``, or the row's ``tags``.

Each tag once, in this order, with nothing outside of them. As an extra on top of another verifier,
see ``verifier.format.bonus``; as a part of the reward, ``composite``.
"""

from __future__ import annotations

from rlvr.config import VerifierConfig
from rlvr.task import Prompt, Verdict
from rlvr.verify.base import judged
from rlvr.verify.reward import well_formed


class Format:
    """Presence and order of tags; those of the row, else ``verifier.format.tags``."""

    def __init__(self, config: VerifierConfig) -> None:
        self._tags = config.format.tags

    def verify(self, prompt: Prompt, response_text: str) -> Verdict:
        """Look for the tags."""
        tags = prompt.meta.get("tags") or self._tags
        return judged(well_formed(response_text, tags), ", ".join(tags))


VERIFIER = Format
