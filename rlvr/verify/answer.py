"""The final answer of a response: the last box, else the last ``Answer:`` line.

Or what ``verifier.answer_pattern`` finds. Without that, it takes one pass over the text, whatever
it holds: the text is hostile.
"""

import re
from collections import deque

from rlvr.config import VerifierConfig
from rlvr.errors import ConfigError

_BRACES = re.compile(
    r"\\(?:boxed|fbox)(?:\s*\{|\s{1,9}(?:-?[0-9][0-9.]{0,40}|[a-zA-Z](?![a-zA-Z])))|\\.|[{}]",
    re.DOTALL,
)
_BOX = re.compile(r"\\(?:boxed|fbox)\b")
_SPACE = r"(?:[\s$~]|\\[,; ()\[\]]|\\q?quad)*"
_WORD = r"(?:\b(?:and|or)\b|\\text\s?\{\s?(?:and|or)\s?\})"
_JOINED = re.compile(rf"{_SPACE}(?:[,;]{_SPACE}{_WORD}?|{_WORD}){_SPACE}")
_LABEL = re.compile(
    r"[\s*_>#`-]{0,20}(?:the\s{1,9})?(?:final\s{1,9})?answer(?:\s{1,9}is)?[*_\s]{0,9}[:\uff1a](.*)",
    re.IGNORECASE | re.DOTALL,
)
_PHRASE = re.compile(r"\bfinal answer is\b[*_\s:]{0,9}(.*)", re.IGNORECASE | re.DOTALL)
_HOPE = re.compile(r"\.?\s{0,9}I hope it is correct\.?$")
_MAX_JOINED = 64  # boxes of one list


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
    Without, and after the last ``</think>`` if anything follows that:

    * The content of the last ``\boxed{...}`` (or ``\fbox``), with boxes inside it unwrapped. A
      response with several boxes is judged by the last alone.
    * Without a box, what follows ``Answer:`` on the last line that starts so (or the next line),
      or the words ``final answer is``.

    Raises NoAnswer if there is none, if the last box is never closed, or if it is empty.
    """
    return _answers(text, pattern)[-1][1]


def place_of_answer(text: str, pattern: re.Pattern[str] | None = None) -> tuple[int, int]:
    """[start, end) of ``final_answer`` in the text. Raises what that raises."""
    _, _, (start, end) = _answers(text, pattern)[-1]
    own = text[start:end]
    return end - len(own.lstrip()), start + len(own.rstrip())


def closing_answer(text: str, pattern: re.Pattern[str] | None = None) -> str:
    r"""``final_answer``, but boxes at the end that commas, "and" or "or" join are one list.

    A second guess anywhere else never helps.
    """
    answers = _answers(text, pattern)
    written = answers[0][1]
    for (_, before, _), (joint, answer, _) in zip(answers, answers[1:], strict=False):
        written += f"{joint}{answer}" if answer != before else ""
    return written


_Place = tuple[int, int]  # [start, end) in the text


def _answers(text: str, pattern: re.Pattern[str] | None) -> list[tuple[str, str, _Place]]:
    """The final answer, after those that it is joined to; each with the joint before it."""
    if pattern is not None:
        matches = deque(pattern.finditer(text), maxlen=1)
        found = [("", m.span(min(1, pattern.groups))) for m in matches]
        wanted = pattern.pattern
    else:
        first = len(text) - len(text.rpartition("</think>")[2])
        first = first if text[first:].strip() else 0
        wanted = "\\boxed{} and no line that starts with 'Answer:'"
        found = _last_boxes(text, first) or [("", place) for place in _last_label(text, first)]
    if not found:
        raise NoAnswer(f"no {wanted}")
    answers = [(j, _BOX.sub("", text[slice(*place)]).strip(), place) for j, place in found]
    if not answers[-1][1]:
        raise NoAnswer("the final answer is empty")
    return answers


def _last_boxes(text: str, first: int) -> list[tuple[str, _Place]]:
    """The content of the box that closes last, and of those before it that it is joined to."""
    opened: list[tuple[int, int]] = []  # (start, content) of every open brace; start -1: no box
    boxes: list[tuple[int, int, int, int]] = []  # (start, content, its end, end), none in another
    for brace in _BRACES.finditer(text, first):
        kind = brace.group()
        if kind == "{":
            opened.append((-1, -1))
        elif kind == "}":
            box, inside = opened.pop() if opened else (-1, -1)
            while box >= 0 and boxes and boxes[-1][0] > box:
                boxes.pop()
            if box >= 0:
                boxes.append((box, inside, brace.start(), brace.end()))
        elif kind[-1] == "{" and len(kind) > 2:
            opened.append((brace.start(), brace.end()))
        elif len(kind) > 2:  # \boxed 5
            inside = brace.end() - len(kind.split()[-1])
            boxes.append((brace.start(), inside, brace.end(), brace.end()))
    if any(box > (boxes[-1][0] if boxes else -1) for box, _ in opened):
        raise NoAnswer("the last \\boxed{ is never closed")
    answers: list[tuple[str, _Place]] = []
    end = first  # of the box before
    for start, inside, closing, after in boxes[-_MAX_JOINED:]:
        between = text[end:start]
        if len(between) > 80 or not _JOINED.fullmatch(between):
            answers.clear()
        joint = " or " if re.search(r"\bor\b", between[:80]) else ", "
        answers.append((joint, (inside, closing)))
        end = after
    return answers


def _last_label(text: str, first: int) -> list[_Place]:
    end, following = len(text), (first, first)  # the next line that is not empty
    for line in reversed(text[first:].split("\n")):
        start = end - len(line)
        if labelled := _LABEL.match(line) or _PHRASE.search(line):
            said = _HOPE.sub("", _bare(labelled.group(1)))
            begin = start + line.index(said, labelled.start(1))
            return [(begin, begin + len(said)) if said else following]
        if bare := _bare(line):
            begin = start + line.index(bare)
            following = begin, begin + len(bare)
        end = start - 1
    return []


def _bare(line: str) -> str:
    return line.strip().strip("*_`").strip()
