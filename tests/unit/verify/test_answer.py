import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.config import VerifierConfig
from rlvr.errors import ConfigError
from rlvr.task import Prompt
from rlvr.verify.answer import (
    NoAnswer,
    answer_pattern,
    closing_answer,
    final_answer,
    place_of_answer,
)
from rlvr.verify.base import load

FOUND = [
    (r"so \boxed{5}", "5"),
    (r"so \boxed {5}", "5"),
    (r"\fbox{5}", "5"),
    (r"\boxed{1} then \boxed{2}", "2"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
    (r"\boxed{\boxed{5}}", "{5}"),
    (r"\boxed{x + \boxed{5}}", "x + {5}"),
    (r"\boxed{3 oops \boxed{5}", "5"),
    (r"{ stray \boxed{5} }} {", "5"),
    (r"\boxed{5} or Answer: 6", "5"),
    ("Answer: 5", "5"),
    ("Answer: 5\nAnswer: 6\nthank you", "6"),
    ("**Final Answer:** 42", "42"),
    ("The answer is: $x$", "$x$"),
    ("ANSWER: \n\n 7 \n", "7"),
    ("> Answer: 1/2", "1/2"),
    (r"\boxed 5", "5"),
    (r"\boxed{4} or \boxed{5}", "5"),
    (r"<think>\boxed{4}</think> So \boxed{5}", "5"),
    (r"<think>\boxed{4}</think>", "4"),
    (r"\boxed{4}</think> Answer: 5", "5"),
    ("So the final answer is $5$. I hope it is correct.", "$5$"),
]
MISSING = [
    ("", "no "),
    ("the answer is 5", "no "),
    (r"\boxed5", "no "),
    (r"\boxedfoo{5}", "no "),
    (r"\boxed{5", "never closed"),
    (r"\boxed{5} no, \boxed{6", "never closed"),
    (r"\boxed{}", "empty"),
    (r"\boxed{ }", "empty"),
    (r"\boxed{5} wait \boxed{}", "empty"),
    ("Answer:", "empty"),
    (r"<think>\boxed{5}</think> I do not know.", "no "),
]
CLOSING = [
    (r"\boxed{4}, no, \boxed{5}", "5"),
    (r"$\boxed{3}$ and $\boxed{8}$.", "3, 8"),
    (r"\boxed{1}, \boxed{2}, \text{ and } \boxed{3}", "1, 2, 3"),
    (r"\boxed{(0,5)} \text{ or } \boxed{(4,1)}", "(0,5) or (4,1)"),
    (r"\boxed{5}, \boxed{5}", "5"),
    (r"\boxed{4}. Then \boxed{5}, \boxed{6}", "5, 6"),
    (r"\boxed{4}" + " " * 90 + r", \boxed{5}", "5"),
]


@pytest.mark.parametrize(("text", "answer"), FOUND)
def test_finds_the_last_commitment(text: str, answer: str) -> None:
    assert final_answer(text) == answer


@pytest.mark.parametrize(("text", "answer"), CLOSING)
def test_boxes_that_end_a_response_together_are_a_list(text: str, answer: str) -> None:
    assert closing_answer(text) == answer


@pytest.mark.parametrize(("text", "reason"), MISSING)
def test_says_why_there_is_none(text: str, reason: str) -> None:
    with pytest.raises(NoAnswer, match=reason):
        final_answer(text)


@pytest.mark.parametrize(
    ("pattern", "text", "answer"),
    [
        (r"#### *(.*)", "#### 4\nno:\n#### 5 \n\\boxed{6}", "5"),
        (r"#### *(.*)", r"#### \boxed{5}", "{5}"),
        (r"-?\d+(?=$)", "from 3 to -7", "-7"),
        (r"<answer>(?s:(.*?))</answer>", "<answer>\n1\n</answer><answer> 2\n</answer>", "2"),
        (r"#### *(.*)", r"\boxed{5}", None),
        (r"#### *(.*)", "#### 5\n#### ", None),
        (r"a(b)?", "ab a", None),
    ],
)
def test_a_configured_pattern_alone_counts(pattern: str, text: str, answer: str | None) -> None:
    compiled = answer_pattern(VerifierConfig(answer_pattern=pattern))
    if answer is not None:
        assert final_answer(text, compiled) == answer
    else:
        with pytest.raises(NoAnswer):
            final_answer(text, compiled)


@pytest.mark.parametrize("name", ["math", "exact", "choice", "regex"])
def test_every_verifier_of_final_answers_has_the_pattern(name: str) -> None:
    verifier = load(name, VerifierConfig(answer_pattern="#### *(.*)"))
    prompt = Prompt("p", (), "", "A", name)
    assert verifier.verify(prompt, "\\boxed{B}\n#### A").reward == 1
    assert verifier.verify(prompt, "\\boxed{A}\n#### B").reward == 0
    with pytest.raises(ConfigError, match=r"verifier\.answer_pattern='\(' is no regular"):
        load(name, VerifierConfig(answer_pattern="("))


balanced = st.recursive(
    st.text(alphabet=r"ab1 +^_", min_size=1, max_size=5),
    lambda inner: st.tuples(inner, inner).map(lambda p: f"{p[0]}{{{p[1]}}}"),
)


@given(before=balanced, content=balanced, after=balanced)
def test_any_balanced_content_comes_back(before: str, content: str, after: str) -> None:
    text = f"{before} \\boxed{{{before}}} {before} \\boxed{{{content}}} {after}"
    if content.strip():
        assert final_answer(text) == content.strip()


PIECES = [
    *("\\boxed{", "\\fbox{", "\\boxed 5", "{", "}", "5", "x", "\\", " ", "\n", "\t", ",", " or "),
    *("**", "Answer:", "the answer is: ", "final answer is", "I hope it is correct."),
    *("</think>", "#### "),
]


@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join), st.booleans())
def test_the_place_of_an_answer_is_where_it_stands(text: str, own: bool) -> None:
    pattern = answer_pattern(VerifierConfig(answer_pattern="#### (.*)" if own else None))
    try:
        answer = final_answer(text, pattern)
    except NoAnswer:
        with pytest.raises(NoAnswer):
            place_of_answer(text, pattern)
        return
    start, end = place_of_answer(text, pattern)
    said = text[start:end]
    assert said == said.strip() != ""
    assert said.replace("\\boxed", "").replace("\\fbox", "").strip() == answer


@pytest.mark.parametrize(
    "text",
    [
        "{" * 1_000_000,
        "\\boxed{" * 150_000,
        "\\boxed{" + "{" * 500_000 + "}" * 500_000 + "}",
        ("\\boxed" + " " * 10) * 60_000,
        "\\" * 1_000_000,
        "\n" * 1_000_000,
        "Answer:\n" * 120_000,
        "answer" + " " * 1_000_000 + ":",
        " " * 1_000_000 + "Answer: 5",
    ],
    ids=lambda text: text[:8].encode("unicode_escape").decode(),
)
def test_a_megabyte_takes_linear_time(text: str) -> None:
    start = time.process_time()
    try:
        final_answer(text)
    except NoAnswer:
        pass
    assert time.process_time() - start < 10  # quadratic time would be hours
