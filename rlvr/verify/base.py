"""What a verifier is, and how one is found by name; this folder's README shows how to write one."""

from collections.abc import Iterable
from typing import Protocol

from rlvr.config import VerifierConfig
from rlvr.task import Outcome, Prompt, Verdict
from rlvr.verify.plugin import Kind

BUILT_IN = {
    name: f"rlvr.verify.{name}"
    for name in "choice code composite exact format instruction json_schema math regex".split()
}


class Verifier(Protocol):
    """Judges one response, in a process that is killed when it overruns its time or memory.

    So it needs no time-out, and must use no signal. What it raises becomes the outcome ``error``.
    """

    def verify(self, prompt: Prompt, response_text: str) -> Verdict: ...


_VERIFIER = Kind("verifier", BUILT_IN, "verify(prompt, response_text)")


def module_of(name: str) -> str:
    """The module of the verifier called ``name``. Raises ConfigError if there is none."""
    return _VERIFIER.module_of(name)


def load(name: str, config: VerifierConfig) -> Verifier:
    """The verifier called ``name``; a process makes one and keeps it. Imports its module."""
    verifier: Verifier = _VERIFIER.load(name, config)
    return verifier


def names(prompts: Iterable[Prompt]) -> list[str]:
    """The verifiers that ``prompts`` need, the parts of composite ones included."""
    found = set()
    for prompt in prompts:
        found.add(prompt.verifier)
        if prompt.verifier == "composite" and isinstance(parts := prompt.meta.get("parts"), list):
            found |= {part["verifier"] for part in parts}
    return sorted(found)


def judged(correct: bool, detail: str = "") -> Verdict:
    """The verdict on an answer that was found and compared: reward 1 or 0."""
    outcome = Outcome.CORRECT if correct else Outcome.INCORRECT
    return Verdict(float(correct), outcome, detail)


def unparseable(detail: str) -> Verdict:
    """The verdict on a response without an answer that can be read: reward 0."""
    return Verdict(0.0, Outcome.UNPARSEABLE, detail)
