"""The verifiers that judge by rules: regex, choice, json_schema, instruction, format, composite."""

import json
import random
import string
from typing import Any

import pytest

from rlvr.config import FormatConfig, VerifierConfig
from rlvr.task import Outcome, Prompt, Verdict
from rlvr.verify.base import load, names
from rlvr.verify.instruction import RULES

CONFIG = VerifierConfig(format=FormatConfig(tags=["think", "answer"]))
RIGHT, WRONG, UNREADABLE = Outcome.CORRECT, Outcome.INCORRECT, Outcome.UNPARSEABLE


def judge(verifier: str, answer: str, text: str, **meta: Any) -> Verdict:
    prompt = Prompt("p", (), "", answer, verifier, meta=meta)
    return load(verifier, CONFIG).verify(prompt, text)


@pytest.mark.parametrize(
    ("pattern", "text", "outcome"),
    [
        (r"\d{3}", r"so \boxed{123}", RIGHT),
        (r"\d{3}", r"so \boxed{1234}", WRONG),
        (r"\d{3}", "Answer: 123", RIGHT),
        (r"\d{3}", " 123\n", RIGHT),
        (r"(?s).*cat.*", "a\ncat\nsat", RIGHT),
        (r"(?i)yes", "YES", RIGHT),
        (r"yes", "", WRONG),
    ],
)
def test_regex(pattern: str, text: str, outcome: Outcome) -> None:
    assert judge("regex", pattern, text).outcome is outcome


def test_regex_of_a_broken_pattern() -> None:
    with pytest.raises(ValueError, match="no pattern"):
        judge("regex", "(", "x")


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        (r"\boxed{C}", RIGHT),
        (r"\boxed{\text{(C)}}", RIGHT),
        (r"\boxed{c}", RIGHT),
        (r"\boxed{\textbf{C. } Paris}", RIGHT),
        ("Answer: (C)", RIGHT),
        ("**Answer:** C", RIGHT),
        ("Answer: C: Paris", RIGHT),
        ("Answer: Option C", RIGHT),
        ("I think the answer is (C).", RIGHT),
        ("The answer is A. No, wait: the answer is C.", RIGHT),
        ("The answer is C. No, wait: the answer is A.", WRONG),
        (r"C, no: \boxed{B}", WRONG),
        ("Answer: Cats", UNREADABLE),
        (r"\boxed{}", UNREADABLE),
        ("C", UNREADABLE),
        ("I'd say the answer is I'm not sure", UNREADABLE),
        ("answer is " * 20_000, UNREADABLE),
    ],
)
def test_choice(text: str, outcome: Outcome) -> None:
    for gold in ("C", "(C)", "C. Paris"):
        assert judge("choice", gold, text).outcome is outcome


def test_choice_without_a_letter_in_the_row() -> None:
    with pytest.raises(ValueError, match="letter"):
        judge("choice", "42", "Answer: C")


SCHEMA = {
    "type": "object",
    "properties": {"n": {"$ref": "#/$defs/small"}, "name": {"type": "string"}},
    "required": ["n"],
    "additionalProperties": False,
    "$defs": {"small": {"type": "integer", "maximum": 9}},
}


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ('{"n": 3}', RIGHT),
        ('Here:\n```json\n{"n": 3, "name": "x"}\n```\nDone.', RIGHT),
        ('```\n{"n": 30}\n```\n```json\n{"n": 3}\n```', RIGHT),
        ('{"n": 30}', WRONG),
        ("{}", WRONG),
        ('{"n": 3, "m": 1}', WRONG),
        ('{"n": NaN}', UNREADABLE),
        ("n = 3", UNREADABLE),
        ("[" * 100_000, UNREADABLE),
        ("", UNREADABLE),
    ],
)
def test_json_schema(text: str, outcome: Outcome) -> None:
    assert judge("json_schema", json.dumps(SCHEMA), text).outcome is outcome
    assert judge("json_schema", "see schema", text, schema=SCHEMA).outcome is outcome


def test_json_schema_of_broken_schemas() -> None:
    for schema in ("{", '{"type": "nonsense"}'):
        with pytest.raises(ValueError, match="not a JSON schema"):
            judge("json_schema", schema, "{}")
    with pytest.raises(Exception, match="example.invalid"):
        judge("json_schema", '{"$ref": "https://example.invalid/schema.json"}', "{}")


INSTRUCTIONS = [
    ("keywords:existence", {"keywords": ["Cat", "dog"]}, "A cat, a DOG.", "cats and dog"),
    ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, "cats", "my Cat!"),
    (
        "keywords:frequency",
        {"keyword": "a", "frequency": 2, "relation": "at least"},
        "a b A",
        "a b ab",
    ),
    (
        "keywords:letter_frequency",
        {"letter": "e", "let_frequency": 3, "let_relation": "less than"},
        "Ee",
        "eee",
    ),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, "a b c", "a b."),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": "less than"},
        "It is 3.5 m. Yes!",
        "One. Two? Three!",
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb", "a\n\nb"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "so"},
        "a b\n\nSo, c",
        "so\n\nb",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[a] [b c]", "[a] []"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "a\np.s. b", "a P.S. b"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "* a\n**b**"),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        "*a* **b**",
        "*a* * b",
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        "Section 1\na\nSection 2\nb",
        "Section 1",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "{a: 1}"),
    ("detectable_format:title", {}, "<<A title>>\nb", "<title>"),
    ("detectable_format:constrained_response", {}, "My answer is maybe.", "Maybe."),
    ("change_case:english_capital", {}, "A B!", "A b"),
    ("change_case:english_lowercase", {}, "a b!", "A b"),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        "NO WAY",
        "NO Way",
    ),
    ("startend:end_checker", {"end_phrase": "The end."}, "x the end. ", "The end. x"),
    ("startend:quotation", {}, ' "a" ', '"a'),
    ("punctuation:no_comma", {}, "a; b", "a, b"),
    ("combination:two_responses", {}, "a******b", "a******a"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it."}, "say it. ok", "ok say it."),
]


@pytest.mark.parametrize(("name", "arguments", "good", "bad"), INSTRUCTIONS)
def test_instruction(name: str, arguments: dict[str, Any], good: str, bad: str) -> None:
    # Data in Parquet has a null for every argument of every other rule.
    settings = [{**arguments, "unused": None}]
    for text, reward in ((good, 1.0), (bad, 0.0)):
        verdict = judge("instruction", "-", text, instruction_id_list=[name], kwargs=settings)
        assert (verdict.reward, dict(verdict.components)) == (reward, {name: reward})


def test_every_instruction_is_tested() -> None:
    assert [name for name, *_ in INSTRUCTIONS] == list(RULES)


def test_all_instructions_must_be_kept() -> None:
    rules = ["punctuation:no_comma", "change_case:english_lowercase"]
    verdict = judge("instruction", "-", "a, b", instruction_id_list=rules, kwargs=[{}, {}])
    assert verdict.outcome is WRONG and verdict.detail == "not kept: punctuation:no_comma"
    assert list(verdict.components.values()) == [0.0, 1.0]
    assert judge("instruction", "-", " ", instruction_id_list=rules).outcome is UNREADABLE


@pytest.mark.parametrize(
    ("meta", "reason"),
    [
        ({}, "instruction_id_list"),
        ({"instruction_id_list": ["punctuation:no_colon"]}, "no instruction is called"),
        ({"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}, {}]}, "1 rules and 2"),
        ({"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"a": 1}]}, "unexpected"),
        (
            {
                "instruction_id_list": ["length_constraints:number_words"],
                "kwargs": [{"relation": "more", "num_words": 1}],
            },
            "relation",
        ),
    ],
)
def test_broken_instructions(meta: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        judge("instruction", "-", "text", **meta)


def test_hostile_text_costs_no_time(seed: int) -> None:
    dice = random.Random(seed)
    texts = [c * 200_000 for c in "*-[<\"' \n." + dice.choice(string.ascii_letters)]
    for name, arguments, _, _ in INSTRUCTIONS:
        for text in texts:
            judge("instruction", "-", text, instruction_id_list=[name], kwargs=[arguments])
    for text in texts:
        judge("choice", "A", text)
        judge("choice", "A", f"Answer: {text}")


def test_format() -> None:
    assert judge("format", "-", "<think>a</think>\n<answer>b</answer>").reward == 1
    assert judge("format", "-", "<answer>b</answer>").reward == 0
    assert judge("format", "-", "<answer>b</answer>", tags=["answer"]).reward == 1


def test_composite_weighs() -> None:
    parts = [
        {"verifier": "math", "weight": 0.9},
        {"verifier": "format", "weight": 0.1},
        {"verifier": "regex", "weight": 0.5, "answer": "[56]"},
    ]
    formed = "<think>so</think><answer>\\boxed{%s}</answer>"
    expected = {formed % 5: (1.5, RIGHT), formed % 6: (0.6, WRONG), "\\boxed{5}": (1.4, WRONG)}
    for text, (reward, outcome) in expected.items():
        verdict = judge("composite", "5", text, parts=parts)
        assert verdict.reward == pytest.approx(reward)
        assert verdict.outcome is outcome
        assert set(verdict.components) == {"math", "format", "regex"}
    assert judge("composite", "5", formed % 6, parts=parts, combine="all").reward == 0
    assert judge("composite", "5", formed % 5, parts=parts, combine="all").reward == 1
    assert judge("composite", "5", "<think>", parts=parts).outcome is WRONG


def test_composite_of_nonsense() -> None:
    for parts in (None, [], [{}], [{"verifier": "math", "weight": "1"}]):
        with pytest.raises(ValueError, match="parts"):
            judge("composite", "5", "5", parts=parts)
    with pytest.raises(ValueError, match="combine"):
        judge("composite", "5", "5", parts=[{"verifier": "math"}], combine="any")


def test_the_names_of_all_verifiers_of_some_prompts() -> None:
    parts = [{"verifier": "code"}, {"verifier": "format"}]
    prompts = [
        Prompt("a", (), "", "", "math"),
        Prompt("b", (), "", "", "composite", meta={"parts": parts}),
    ]
    assert names(prompts) == ["code", "composite", "format", "math"]
