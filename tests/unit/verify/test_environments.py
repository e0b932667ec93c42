"""Environments by name, the calls that they understand, and what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlvr.config import EnvironmentConfig, VerifierConfig
from rlvr.errors import ConfigError
from rlvr.task import Prompt, Reply
from rlvr.verify.environments.base import cut, environment_module, load_environment, reply_to
from rlvr.verify.environments.calls import code_call, search_call
from rlvr.verify.workers.worker import decode_reply, encode_reply, end_verdict


def prompt(environment: str, **meta) -> Prompt:
    return Prompt("p", (), "question", "answer", "exact", meta=meta, environment=environment)


def said(of: Prompt, *turns: str, **config) -> list[Reply]:
    replies, state = [], None
    for text in turns:
        reply = reply_to(of, text, state, EnvironmentConfig(**config), VerifierConfig())
        state = json.loads(json.dumps(reply.state))  # as it travels
        replies.append(reply)
    return replies


@pytest.mark.parametrize(
    ("text", "argument"),
    [
        ("x <code>print(1)</code> y", "print(1)"),
        ("<python>\nprint(2)\n</python>", "print(2)"),
        ("so:\n```python\nprint(3)\n```\n", "print(3)\n"),
        ('<tool_call>\n{"name": "c", "arguments": {"code": "print(4)"}}\n</tool_call>', "print(4)"),
        ('<tool_call>{"arguments": "{\\"code\\": \\"5\\"}"}</tool_call>', "5"),
        ('<tool_call>{"arguments": {"code": "```python\\n6\\n```"}}</tool_call>', "6"),
        ("<code>1</code> and <code>2</code>", "2"),
        ("```python\n1\n```\n<code>2</code>", "2"),
        ("<code>1</code>\n```python\n2\n```", "2\n"),
    ],
)
def test_the_last_program_of_a_turn_is_the_call(text, argument):
    assert code_call(text).argument == argument


@pytest.mark.parametrize(
    "text", ["", "\\boxed{3}", "```python\nnever closed", "<code>open", "```\n1\n```"]
)
def test_a_turn_without_a_call(text):
    assert code_call(text) is None and search_call(text) is None


@pytest.mark.parametrize("text", ["{", "[]", '{"name": "c"}', '{"arguments": {"cod": "1"}}'])
def test_a_call_that_is_none_is_told_the_policy(text):
    assert code_call(f"<tool_call>{text}</tool_call>").wrong


def test_a_dialogue_says_its_lines_and_ends():
    lines = ["first", {"say": "second", "if": "yes", "reward": 0.5}, "third"]
    replies = said(prompt("dialogue", replies=lines), "a", "yes b", "c", "d")
    assert [r.observation for r in replies] == ["first", "second", "third", None]
    assert [r.reward for r in replies] == [0, 0.5, 0, 0]
    ended = said(prompt("dialogue", replies=lines), "a", "no")
    assert ended[1].observation is None


def test_passages_are_found_by_their_words(tmp_path: Path):
    path = tmp_path / "passages.jsonl"
    rows = [{"title": "Cats", "text": "A cat sleeps all day."}, {"text": "Dogs bark at night."}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {"passages": str(path), "results": 1}
    found = said(prompt("search_file"), "<search>who barks, dogs?</search>", "done", **config)
    assert found[0].observation == "(1) Dogs bark at night." and found[1].observation is None
    [nothing] = said(prompt("search_file"), "<search>xylophone</search>", **config)
    assert nothing.observation == "(nothing found)"
    call = json.dumps({"name": "search", "arguments": {"query": "cat"}})
    [called] = said(prompt("search_file"), f"<tool_call>{call}</tool_call>", **config)
    assert called.observation == "(1) Cats: A cat sleeps all day."


@pytest.mark.parametrize("content", [None, "", '{"no": "text"}\n'])
def test_passages_that_are_none(tmp_path: Path, content):
    path = tmp_path / "passages.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match="environment.passages"):
        load_environment("search_file", EnvironmentConfig(passages=str(path)), VerifierConfig())


def test_the_middle_of_a_long_reply_is_left_out():
    text = "a" * 50 + "b" * 100 + "c" * 50
    assert cut(text, 200) == text
    assert cut(text, 100) == "a" * 50 + "\n[100 characters left out]\n" + "c" * 50
    [reply] = said(prompt("dialogue", replies=["x" * 99]), "a", max_characters=10)
    assert reply.observation.startswith("xxxxx\n[89 characters")


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigError, match="Did you mean 'python'"):
        environment_module("pyton")
    with pytest.raises(ConfigError, match="no such module"):
        environment_module("no_such_package.environment")
    (tmp_path / "echoes").mkdir()
    (tmp_path / "echoes" / "echo.py").write_text("ENVIRONMENT = object()\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="does not set ENVIRONMENT"):
        load_environment("echoes.echo", EnvironmentConfig(), VerifierConfig())


@pytest.mark.parametrize(
    "reply",
    [
        Reply("a" * 9, {"k": [1, None]}, 0.5),
        Reply(None, None, -1.0),
        Reply("half \ud800 a pair", "state"),
    ],
)
def test_a_reply_travels_as_json(reply):
    found = decode_reply(encode_reply(reply), EnvironmentConfig())
    assert (found.state, found.reward, found.failure) == (reply.state, reply.reward, "")
    assert found.observation == (reply.observation and reply.observation.replace("\ud800", "?"))


@pytest.mark.parametrize("reply", [Reply("a", {1, 2}), Reply("a", 0, float("nan"))])
def test_what_is_no_reply_is_refused(reply):
    with pytest.raises((TypeError, ValueError)):
        encode_reply(reply)


def test_what_never_came_is_an_observation():
    config = VerifierConfig()
    late = decode_reply(end_verdict(b'"overran"', 9, config), EnvironmentConfig(timeout_s=7))
    assert late.observation == "[error: no reply within 7 s]" and late.failure
    dead = decode_reply(end_verdict(b'"died"', 9, config), EnvironmentConfig())
    assert "died" in dead.observation and dead.failure
