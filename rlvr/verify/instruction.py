"""``instruction``: the response keeps to rules that a program can check, of the kind of IFEval.

A row has ``instruction_id_list`` and, in the same order, ``kwargs``, as IFEval's own rows do::

    {"instruction_id_list": ["length_constraints:number_words", "punctuation:no_comma"],
     "kwargs": [{"relation": "at least", "num_words": 50}, {}]}

The reward is 1 if every rule is kept, else 0; what each rule says is among the components, under
its name. Known are IFEval's rules but for ``language:response_language``. Words are runs of
letters, digits and apostrophes; sentences end in ``.``, ``!`` or ``?`` before white space.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from rlvr.task import Prompt, Verdict
from rlvr.verify.base import judged, unparseable

Rule = Callable[..., bool]
RULES: dict[str, Rule] = {}


class Instruction:
    """All rules of the row."""

    def verify(self, prompt: Prompt, response_text: str) -> Verdict:
        """Check each. Raises ValueError if the row's rules are none."""
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


def _rules(meta: Mapping[str, Any]) -> Any:
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


def _rule(name: str) -> Callable[[Rule], Rule]:
    def add(rule: Rule) -> Rule:
        RULES[name] = rule
        return rule

    return add


def _words(text: str) -> list[str]:
    return re.findall(r"[\w'\u2019]+", text)


def _compare(count: int, relation: str, number: int) -> bool:
    if relation == "at least":
        return count >= number
    if relation == "less than":
        return count < number
    raise ValueError(f"a relation is 'at least' or 'less than', not '{relation}'")


def _count(word: str, text: str) -> int:
    return len(re.findall(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE))


def _paragraphs(text: str, separator: str) -> list[str]:
    return [part.strip() for part in text.split(separator) if part.strip()]


@_rule("keywords:existence")
def _existence(text: str, keywords: list[str]) -> bool:
    return all(_count(word, text) for word in keywords)


@_rule("keywords:forbidden_words")
def _forbidden(text: str, forbidden_words: list[str]) -> bool:
    return not any(_count(word, text) for word in forbidden_words)


@_rule("keywords:frequency")
def _frequency(text: str, keyword: str, frequency: int, relation: str) -> bool:
    return _compare(_count(keyword, text), relation, frequency)


@_rule("keywords:letter_frequency")
def _letters(text: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    return _compare(text.lower().count(letter.lower()), let_relation, let_frequency)


@_rule("length_constraints:number_words")
def _number_of_words(text: str, num_words: int, relation: str) -> bool:
    return _compare(len(_words(text)), relation, num_words)


@_rule("length_constraints:number_sentences")
def _number_of_sentences(text: str, num_sentences: int, relation: str) -> bool:
    sentences = [s for s in re.split(r"(?<=[.!?])[\"')\]]{0,3}\s+", text) if _words(s)]
    return _compare(len(sentences), relation, num_sentences)


@_rule("length_constraints:number_paragraphs")
def _number_of_paragraphs(text: str, num_paragraphs: int) -> bool:
    return len(_paragraphs(text, "***")) == num_paragraphs


@_rule("length_constraints:nth_paragraph_first_word")
def _first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    paragraphs = _paragraphs(text, "\n\n")
    if len(paragraphs) != num_paragraphs or not 1 <= nth_paragraph <= num_paragraphs:
        return False
    words = _words(paragraphs[nth_paragraph - 1])
    return bool(words) and words[0].lower() == first_word.lower()


@_rule("detectable_content:number_placeholders")
def _placeholders(text: str, num_placeholders: int) -> bool:
    return len(re.findall(r"\[[^\[\]\n]{1,200}\]", text)) >= num_placeholders


@_rule("detectable_content:postscript")
def _postscript(text: str, postscript_marker: str) -> bool:
    marker = re.escape(postscript_marker.strip())
    return re.search(rf"^\s*{marker}\s*\S", text, re.IGNORECASE | re.MULTILINE) is not None


@_rule("detectable_format:number_bullet_lists")
def _bullets(text: str, num_bullets: int) -> bool:
    return len(re.findall(r"^[ \t]*(?:\*(?!\*)|-)[ \t]*[^\s*-]", text, re.MULTILINE)) == num_bullets


@_rule("detectable_format:number_highlighted_sections")
def _highlights(text: str, num_highlights: int) -> bool:
    plain = re.findall(r"\*\*[^\n*]+\*\*|\*[^\n*]+\*", text)
    return sum(bool(found.strip("* ")) for found in plain) >= num_highlights


@_rule("detectable_format:multiple_sections")
def _sections(text: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"{re.escape(section_spliter)}\s?\d+", text)) >= num_sections


@_rule("detectable_format:json_format")
def _json(text: str) -> bool:
    bare = re.sub(r"\A\s*```(?:json)?|```\s*\Z", "", text, flags=re.IGNORECASE)
    try:
        json.loads(bare)
    except (ValueError, RecursionError):
        return False
    return True


@_rule("detectable_format:title")
def _title(text: str) -> bool:
    return any(found.strip() for found in re.findall(r"<<([^\n<>]+)>>", text))


@_rule("detectable_format:constrained_response")
def _constrained(text: str) -> bool:
    answers = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
    return any(answer in text for answer in answers)


@_rule("change_case:english_capital")
def _upper(text: str) -> bool:
    return text.isupper()


@_rule("change_case:english_lowercase")
def _lower(text: str) -> bool:
    return text.islower()


@_rule("change_case:capital_word_frequency")
def _capitals(text: str, capital_frequency: int, capital_relation: str) -> bool:
    count = sum(word.isupper() for word in _words(text))
    return _compare(count, capital_relation, capital_frequency)


@_rule("startend:end_checker")
def _end(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


@_rule("startend:quotation")
def _quotation(text: str) -> bool:
    bare = text.strip()
    return len(bare) > 1 and bare[0] == bare[-1] == '"'


@_rule("punctuation:no_comma")
def _no_comma(text: str) -> bool:
    return "," not in text


@_rule("combination:two_responses")
def _two(text: str) -> bool:
    parts = [part.strip() for part in text.split("******")]
    inner = [p for i, p in enumerate(parts) if p or 0 < i < len(parts) - 1]
    return len(inner) == 2 and all(inner) and inner[0] != inner[1]


@_rule("combination:repeat_prompt")
def _repeat(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


VERIFIER = Instruction
