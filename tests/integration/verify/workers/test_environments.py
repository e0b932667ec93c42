"""Environments in the verifiers' processes: what hangs, dies or floods costs an observation."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from rlvr.config import CodeConfig, EnvironmentConfig, VerifierConfig
from rlvr.task import Outcome, Prompt
from rlvr.verify.workers.pool import VerifierPool
from rlvr.verify.workers.work import Work

pytestmark = pytest.mark.usefixtures("ray_cluster")

MISBEHAVING = "misbehaving.environment"


@pytest.fixture(scope="module")
def talk():
    """``talk(prompt, *turns)``: the replies, of a pool that goes on whatever happens."""
    sys.path.append(str(Path(__file__).parents[1]))
    runner = asyncio.Runner()
    path = {"PYTHONPATH": str(Path(__file__).parents[1])}
    limits = CodeConfig(wall_s=1.5, cpu_s=1)
    config = VerifierConfig(processes=2, memory_mib=256, timeout_s=5.0, code=limits)
    own = EnvironmentConfig(timeout_s=2.0, max_characters=300)
    work = Work(config, ["exact"], own, [MISBEHAVING, "python"])
    pool = VerifierPool(work, {"runtime_env": {"env_vars": path}})
    runner.run(pool.start())

    async def had(prompt, turns):
        replies, state = [], None
        for text in turns:
            [reply] = await pool.reply([(prompt, text, state)])
            state = state if reply.failure else reply.state
            replies.append(reply)
        [verdict] = await pool.verify([(prompt, "\\boxed{ok}")])
        assert verdict.outcome is Outcome.CORRECT, "the pool verifies on"
        return replies

    yield lambda prompt, *turns: runner.run(had(prompt, turns))
    runner.run(pool.close())
    runner.close()
    sys.path.pop()


def asked(environment: str) -> Prompt:
    return Prompt("p", [1, 2, 3], "question", "ok", "exact", environment=environment)


@pytest.mark.parametrize(
    ("order", "told"),
    [
        ("hang", "no reply within 2 s"),
        ("die", "died"),
        ("raise", "ValueError: as I was told"),
        ("eat", "out of memory"),
        ("set", "not JSON serializable"),
        ("number", "an observation is text or None"),
        ("nothing", "instead of a Reply"),
    ],
)
def test_who_does_not_reply_costs_the_turn_and_no_more(talk, order, told):
    first, bad, last = talk(asked(MISBEHAVING), "count", order, "count")
    assert (first.observation, last.observation) == ("1", "2"), "the state has survived"
    assert bad.failure and told in bad.observation
    assert len(bad.observation) < 1500


def test_a_flood_is_cut(talk):
    [reply] = talk(asked(MISBEHAVING), "flood")
    assert len(reply.observation) < 400 and "characters left out" in reply.observation


def code(*lines: str) -> str:
    return "<code>" + "\n".join(lines) + "</code>"


def test_a_program_says_what_it_prints_and_names_live_on(talk):
    python = asked("python")
    replies = talk(
        python,
        code("x = 6", "print('six')"),
        code("def f(y):", "    return x * y"),
        "```python\nf(7)\n```",
        code("import random", "random.random()"),
        code("random.random()"),
        "so it is \\boxed{42}",
    )
    assert [r.observation for r in replies[:3]] == ["six", "(no output)", "42"]
    assert replies[3].observation != replies[4].observation
    assert replies[5].observation is None and not any(r.failure for r in replies)
    again = talk(python, code("import random", "random.random()"))
    assert again[0].observation == replies[3].observation


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("1 / 0", "line 1: ZeroDivisionError: division by zero"),
        ("x = (", "SyntaxError"),
        ("while True: pass", "more than"),
        ("import os; os.kill(os.getpid(), 9)", "killed"),
        ("raise SystemExit(3)", ""),
        ("open('/etc/passwd')", "Error"),
        ("import socket; socket.socket()", "Error"),
        ("print('a' * 10_000)", "characters left out"),
        ("'\\ud800'", "ud800"),
    ],
)
def test_a_program_that_goes_wrong_is_told_and_forgotten(talk, program, told):
    first, bad, last = talk(asked("python"), code("x = 1"), code(program), code("x"))
    assert told in bad.observation
    assert last.observation == "1", "the names from before are there"
    assert first.observation == "(no output)"


def test_a_call_that_is_no_call_is_told(talk):
    bad, good = talk(
        asked("python"),
        '<tool_call>{"name": "code_interpreter", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "code_interpreter", "arguments": {"code": "2 + 2"}}</tool_call>',
    )
    assert "the tool call must be" in bad.observation and good.observation == "4"
