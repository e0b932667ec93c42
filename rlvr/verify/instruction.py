"""``instruction``: the response keeps to rules that a program can check, of the kind of IFEval.

A row has ``instruction_id_list`` and, in the same order, ``kwargs``, as IFEval's own rows do::

    {"instruction_id_list": ["length_constraints:number_words", "punctuation:no_comma"],
     "kwargs": [{"relation": "at least", "num_words": 50}, {}]}

The reward is 1 if every rule is kept, else 0; what each rule says is among the components, under
its name. Known are IFEval's rules but for ``language:response_language``. Words are runs of
letters, digits and apostrophes; sentences end in ``.``, ``!`` or ``?`` before white space.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from rlvr.task import Prompt, Verdict
from rlvr.verify.base import judged, unparseable

Rule = Callable[..., bool]  # of the text, and the row's arguments by name


class Instruction:
    """All rules of the row."""

    def verify(self, prompt: Prompt, response_text: str) -> Verdict:
        rules = list(_rules(prompt.meta))
        if not response_text.strip():
            return unparseable("an empty response")
        kept: dict[str, float] = {}
        for name, rule, arguments in rules:
            label = name if name not in kept else f"{name}_{len(kept) + 1}"
            try:
                kept[label] = float(rule(response_text, **arguments))
            except TypeError as error:
                raise ValueError(f"instruction '{name}': {error}") from None
        broken = [name for name, value in kept.items() if not value]
        verdict = judged(not broken, "not kept: " + ", ".join(broken) if broken else "")
        return replace(verdict, components=kept)


def _rules(meta: Mapping[str, Any]) -> Iterator[tuple[str, Rule, dict[str, Any]]]:
    names, settings = meta.get("instruction_id_list"), meta.get("kwargs")
    if not isinstance(names, list) or not names:
        raise ValueError("the row needs 'instruction_id_list', the names of its rules")
    settings = settings or [{}] * len(names)
    if len(settings) != len(names):
        raise ValueError(f"the row has {len(names)} rules and {len(settings)} 'kwargs'")
    for name, arguments in zip(names, settings, strict=True):
        if name not in RULES:
            raise ValueError(f"no instruction is called '{name}'; known: {', '.join(RULES)}")
        # Parquet fills in the arguments of all other rules with nulls.
        yield name, RULES[name], {k: v for k, v in (arguments or {}).items() if v is not None}


def _words(text: str) -> list[str]:
    return re.findall(r"[\w'\u2019]+", text)


def _compare(count: int, relation: str, number: int) -> bool:
    if relation not in ("at least", "less than"):
        raise ValueError(f"a relation is 'at least' or 'less than', not '{relation}'")
    return (count >= number) == (relation == "at least")


def _found(pattern: str, text: str) -> int:
    return len(re.findall(pattern, text, re.MULTILINE))


def _count(word: str, text: str) -> int:
    return len(re.findall(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE))


def _paragraphs(text: str, separator: str) -> list[str]:
    return [part.strip() for part in text.split(separator) if part.strip()]


def _sentences(text: str) -> list[str]:
    return [s for s in re.split(r"(?<=[.!?])[\"')\]]{0,3}\s+", text) if _words(s)]


def _first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    paragraphs = _paragraphs(text, "\n\n")
    if len(paragraphs) != num_paragraphs or not 1 <= nth_paragraph <= num_paragraphs:
        return False
    words = _words(paragraphs[nth_paragraph - 1])
    return bool(words) and words[0].lower() == first_word.lower()


def _postscript(text: str, postscript_marker: str) -> bool:
    marker = re.escape(postscript_marker.strip())
    return re.search(rf"^\s*{marker}\s*\S", text, re.IGNORECASE | re.MULTILINE) is not None


def _highlights(text: str) -> int:
    return sum(bool(h.strip("* ")) for h in re.findall(r"\*\*[^\n*]+\*\*|\*[^\n*]+\*", text))


def _is_json(text: str) -> bool:
    bare = re.sub(r"\A\s*```(?:json)?|```\s*\Z", "", text, flags=re.IGNORECASE)
    try:
        json.loads(bare)
    except (ValueError, RecursionError):
        return False
    return True


def _two_responses(text: str) -> bool:
    parts = [part.strip() for part in text.split("******")]
    inner = [p for i, p in enumerate(parts) if p or 0 < i < len(parts) - 1]
    return len(inner) == 2 and all(inner) and inner[0] != inner[1]


_CHOICES = ("My answer is yes.", "My answer is no.", "My answer is maybe.")

RULES: dict[str, Rule] = {
    "keywords:existence": lambda text, keywords: all(_count(word, text) for word in keywords),
    "keywords:forbidden_words": lambda text, forbidden_words: (
        not any(_count(word, text) for word in forbidden_words)
    ),
    "keywords:frequency": lambda text, keyword, frequency, relation: _compare(
        _count(keyword, text), relation, frequency
    ),
    "keywords:letter_frequency": lambda text, letter, let_frequency, let_relation: _compare(
        text.lower().count(letter.lower()), let_relation, let_frequency
    ),
    "length_constraints:number_words": lambda text, num_words, relation: _compare(
        len(_words(text)), relation, num_words
    ),
    "length_constraints:number_sentences": lambda text, num_sentences, relation: _compare(
        len(_sentences(text)), relation, num_sentences
    ),
    "length_constraints:number_paragraphs": lambda text, num_paragraphs: (
        len(_paragraphs(text, "***")) == num_paragraphs
    ),
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": lambda text, num_placeholders: (
        _found(r"\[[^\[\]\n]{1,200}\]", text) >= num_placeholders
    ),
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": lambda text, num_bullets: (
        _found(r"^[ \t]*(?:\*(?!\*)|-)[ \t]*[^\s*-]", text) == num_bullets
    ),
    "detectable_format:number_highlighted_sections": lambda text, num_highlights: (
        _highlights(text) >= num_highlights
    ),
    "detectable_format:multiple_sections": lambda text, section_spliter, num_sections: (
        _found(rf"{re.escape(section_spliter)}\s?\d+", text) >= num_sections
    ),
    "detectable_format:json_format": _is_json,
    "detectable_format:title": lambda text: any(
        found.strip() for found in re.findall(r"<<([^\n<>]+)>>", text)
    ),
    "detectable_format:constrained_response": lambda text: any(c in text for c in _CHOICES),
    "change_case:english_capital": str.isupper,
    "change_case:english_lowercase": str.islower,
    "change_case:capital_word_frequency": lambda text, capital_frequency, capital_relation: (
        _compare(sum(map(str.isupper, _words(text))), capital_relation, capital_frequency)
    ),
    "startend:end_checker": lambda text, end_phrase: (
        text.strip().strip('"').lower().endswith(end_phrase.strip().lower())
    ),
    "startend:quotation": lambda text: re.fullmatch(r'\s*".*"\s*', text, re.DOTALL) is not None,
    "punctuation:no_comma": lambda text: "," not in text,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": lambda text, prompt_to_repeat: (
        text.strip().lower().startswith(prompt_to_repeat.strip().lower())
    ),
}

VERIFIER = Instruction
