"""Lists, sets, tuples, intervals and unions: taken apart at the top level."""

from dataclasses import dataclass

from rlvr.verify.formulas.latex import is_one_bracket


@dataclass(frozen=True, slots=True)
class Parts:
    """The elements of a list, set, tuple, interval or union."""

    kind: str  # "list" | "set" | "cup" | the brackets: "()", "(]", "[)", "[]"
    elements: list[str]

    @property
    def ordered(self) -> bool:
        """Whether the place of an element matters."""
        return self.kind not in ("list", "set", "cup")


def split(text: str) -> Parts | None:
    """The elements of ``text`` if it is a collection, else None."""
    union = _split_at(text, r"\cup")
    if len(union) > 1:
        return Parts("cup", union)
    elements = _split_at(text, ",", ";")
    if len(elements) > 1:
        return Parts("list", _both_signs(elements))
    if text.startswith(r"\{") and text.endswith(r"\}"):
        return Parts("set", _both_signs(_split_at(text[2:-2], ",", ";")))
    if text[:1] in ("(", "[") and text[-1:] in (")", "]") and is_one_bracket(text):
        elements = _split_at(text[1:-1], ",", ";")
        return Parts(text[0] + text[-1], elements) if len(elements) > 1 else None
    elements = _both_signs([text])
    return Parts("list", elements) if len(elements) > 1 else None


def _split_at(text: str, *separators: str) -> list[str]:
    if not any(separator in text for separator in separators):
        return [text]
    parts, depth, start = [], 0, 0
    for i, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif depth == 0 and text.startswith(separators, i):
            parts.append(text[start:i].strip())
            start = i + len(next(s for s in separators if text.startswith(s, i)))
    parts.append(text[start:].strip())
    return parts


def _both_signs(elements: list[str]) -> list[str]:
    r"""Write an element with one ``\pm`` as two."""
    written = []
    for element in elements:
        once = element.count(r"\pm") == 1
        for signs in ("+-", "-+") if once else (("\\pm", "\\mp"),):
            written.append(element.replace(r"\pm", signs[0]).replace(r"\mp", signs[1]))
    return written
