"""The final answer of a response: the last box, else the last ``Answer:`` line.

Or what ``verifier.answer_pattern`` finds. Without that, it takes one pass over the text, whatever
it holds: the text is hostile.
"""

from __future__ import annotations

import re
from collections import deque

from rlvr.config import VerifierConfig
from rlvr.errors import ConfigError

_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_BOX = re.compile(r"\\(?:boxed|fbox)\b")
_LABEL = re.compile(
    r"[\s*_>#`-]{0,20}(?:the\s{1,9})?(?:final\s{1,9})?answer(?:\s{1,9}is)?[*_\s]{0,9}[:\uff1a](.*)",
    re.IGNORECASE | re.DOTALL,
)


class NoAnswer(Exception):
    """The response holds no final answer; the text says why."""


def answer_pattern(config: VerifierConfig) -> re.Pattern[str] | None:
    """``verifier.answer_pattern``, compiled. Raises ConfigError if it is no regular expression."""
    if config.answer_pattern is None:
        return None
    try:
        return re.compile(config.answer_pattern)
    except re.error as error:
        raise ConfigError(
            f"verifier.answer_pattern='{config.answer_pattern}' is no regular expression: {error}."
        ) from None


def final_answer(text: str, pattern: re.Pattern[str] | None = None) -> str:
    r"""What the response commits itself to.

    With ``pattern``, the first group of its last match, or the whole match if it has no group.
    Without:

    * The content of the last ``\boxed{...}`` (or ``\fbox``), with boxes inside it unwrapped. A
      response with several boxes is judged by the last alone.
    * Without a box, what follows ``Answer:`` on the last line that starts so (or the next line).

    Raises NoAnswer if there is none, if the last box is never closed, or if it is empty.
    """
    if pattern is not None:
        answer, wanted = _last_match(text, pattern), pattern.pattern
    else:
        answer, wanted = _last_box(text), "\\boxed{} and no line that starts with 'Answer:'"
        if answer is None:
            answer = _last_label(text)
    if answer is None:
        raise NoAnswer(f"no {wanted}")
    if not answer:
        raise NoAnswer("the final answer is empty")
    return answer


def _last_match(text: str, pattern: re.Pattern[str]) -> str | None:
    found = deque(pattern.finditer(text), maxlen=1)
    return _unwrap(found[0][min(1, pattern.groups)] or "") if found else None


def _last_box(text: str) -> str | None:
    """The content of the box that closes last; None if no box is ever opened."""
    opened: list[tuple[int, int]] = []  # (start, content) of every open brace; start -1: no box
    start, content = -1, (0, 0)
    for brace in _BRACES.finditer(text):
        kind = brace.group()
        if kind == "{":
            opened.append((-1, -1))
        elif kind == "}":
            if opened:
                box, inside = opened.pop()
                if box >= 0:
                    start, content = box, (inside, brace.start())
        elif kind[-1] == "{" and len(kind) > 2:
            opened.append((brace.start(), brace.end()))
    if any(box > start for box, _ in opened):
        raise NoAnswer("the last \\boxed{ is never closed")
    if start < 0:
        return None
    return _unwrap(text[slice(*content)])


def _unwrap(content: str) -> str:
    """``content`` with the boxes inside it replaced by what they hold."""
    return _BOX.sub("", content).strip() if _BOX.search(content) else content.strip()


def _last_label(text: str) -> str | None:
    following = ""  # the next line that is not empty
    for line in reversed(text.split("\n")):
        if labelled := _LABEL.match(line):
            return _bare(labelled.group(1)) or following
        following = _bare(line) or following
    return None


def _bare(line: str) -> str:
    return line.strip().strip("*_`").strip()
