"""``composite``: several verifiers judge one response.

A row lists them in ``parts`` and says in ``combine`` what becomes of their rewards::

    {"verifier": "composite", "answer": "5", "combine": "sum",
     "parts": [{"verifier": "math", "weight": 0.9}, {"verifier": "format", "weight": 0.1}]}

``sum``, the default, weighs them (1 if not said); ``all`` gives 1 if every part is correct, else 0.
A part may have an ``answer`` of its own, else it has the row's. The outcome is correct if every
part is, else incorrect. What each part gave is among the components, under its verifier's name.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rlvr.config import VerifierConfig
from rlvr.task import Outcome, Prompt, Verdict
from rlvr.verify.base import load


class Composite:
    """A weighted sum, or all of them."""

    def __init__(self, config: VerifierConfig) -> None:
        self._config = config

    def verify(self, prompt: Prompt, response_text: str) -> Verdict:
        parts, combine = prompt.meta.get("parts"), prompt.meta.get("combine") or "sum"
        if not isinstance(parts, list) or not parts or not all(map(_is_part, parts)):
            raise ValueError("'parts' must be a list of {'verifier': name, 'weight': number}")
        if combine not in ("sum", "all"):
            raise ValueError(f"'combine' must be sum or all, not {combine!r}")
        components: dict[str, float] = {}
        details, correct = [], True
        for part in parts:
            name, answer, weight = (part.get(key) for key in ("verifier", "answer", "weight"))
            own = replace(prompt, verifier=name, answer=prompt.answer if answer is None else answer)
            verdict = load(name, self._config).verify(own, response_text)
            label = name if name not in components else f"{name}_{len(components) + 1}"
            components[label] = verdict.reward * (1.0 if weight is None else weight)
            details.append(f"{label}: {verdict.outcome} {verdict.detail}".strip())
            correct = correct and verdict.outcome is Outcome.CORRECT
        reward = float(correct) if combine == "all" else sum(components.values())
        outcome = Outcome.CORRECT if correct else Outcome.INCORRECT
        return Verdict(reward, outcome, "; ".join(details), components=components)


def _is_part(part: Any) -> bool:
    return (
        isinstance(part, Mapping)
        and isinstance(part.get("verifier"), str)
        and isinstance(part.get("weight", 1.0), int | float | None)
    )


VERIFIER = Composite
