"""What a verifier is, and how one is found by name; this folder's README shows how to write one.

The name is a built-in one, one that an installed package registers in the entry-point group
``rlvr.verifier``, or the dotted path of a module that sets ``VERIFIER``.
"""

import importlib
from collections.abc import Iterable
from importlib.metadata import entry_points
from importlib.util import find_spec
from inspect import signature
from typing import Any, Protocol

from rlvr.choice import nearest
from rlvr.config import VerifierConfig
from rlvr.errors import ConfigError
from rlvr.task import Outcome, Prompt, Verdict

BUILT_IN = {
    name: f"rlvr.verify.{name}"
    for name in "choice code composite exact format instruction json_schema math regex".split()
}


class Verifier(Protocol):
    """Judges one response, in a process that is killed when it overruns its time or memory.

    So it needs no time-out, and must use no signal. What it raises becomes the outcome ``error``.
    """

    def verify(self, prompt: Prompt, response_text: str) -> Verdict: ...


_loaded: dict[tuple[str, str], Verifier] = {}


def module_of(name: str) -> str:
    """The module that defines the verifier called ``name``; it is not imported.

    Raises ConfigError with the nearest name if there is none.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    registered = {point.name: point.module for point in entry_points(group="rlvr.verifier")}
    if name in registered:
        return registered[name]
    if "." not in name:
        near = nearest(name, [*BUILT_IN, *registered])
        raise ConfigError(f"verifier '{name}': no such verifier. {near}")
    try:
        found = find_spec(name)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise ConfigError(
            f"verifier '{name}': no such module. A name with a dot is a Python module; is it "
            f"installed or on PYTHONPATH?"
        )
    return name


def load(name: str, config: VerifierConfig) -> Verifier:
    """The verifier called ``name``; a process makes one and keeps it. Imports its module."""
    key = (name, repr(config))
    if key not in _loaded:
        module = importlib.import_module(module_of(name))
        verifier: Any = getattr(module, "VERIFIER", None)
        if isinstance(verifier, type):
            verifier = verifier(config) if signature(verifier).parameters else verifier()
        if not callable(getattr(verifier, "verify", None)):
            raise ConfigError(
                f"verifier '{name}': module '{module.__name__}' does not set VERIFIER to a class "
                f"(or an object) that has verify(prompt, response_text)."
            )
        _loaded[key] = verifier
    return _loaded[key]


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
