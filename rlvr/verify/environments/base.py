"""What an environment is, and how one is found by name; the README shows how to write one."""

import importlib
from functools import cache
from typing import Any, Protocol

from rlvr.config import EnvironmentConfig, VerifierConfig
from rlvr.task import Prompt, Reply
from rlvr.verify.plugin import Kind

BUILT_IN = {
    name: f"rlvr.verify.environments.{name}" for name in "dialogue python search_file".split()
}

_ENVIRONMENT = Kind("environment", BUILT_IN, "start(prompt) and step(state, text)")


class Environment(Protocol):
    """Replies to the turns of a conversation, in a process that is killed when it is late.

    Any process may get the next turn, and a turn may be put twice (when a process dies): all that
    is known of a conversation is in its ``state``, a value that JSON can say. An exception costs
    the turn its reply: the policy is told so, and the state stays.
    """

    def start(self, prompt: Prompt) -> Any:
        """The state before the first turn."""

    def step(self, state: Any, text: str) -> Reply:
        """The reply to a turn of the policy, whose text has no special tokens."""


def environment_module(name: str) -> str:
    """The module of the environment called ``name``. Raises ConfigError if there is none."""
    return _ENVIRONMENT.module_of(name)


@cache
def tools_of(name: str) -> list[dict[str, Any]]:
    """``TOOLS`` of the environment's module: what a chat template is told of them. Imports it."""
    module = importlib.import_module(environment_module(name))
    return list(getattr(module, "TOOLS", []))


def load_environment(name: str, config: EnvironmentConfig, verifier: VerifierConfig) -> Environment:
    """The environment called ``name``; a process makes one and keeps it. Imports its module."""
    environment: Environment = _ENVIRONMENT.load(name, config, verifier)
    return environment


def reply_to(
    prompt: Prompt, text: str, state: Any, config: EnvironmentConfig, verifier: VerifierConfig
) -> Reply:
    """The reply to a turn, cut to ``config.max_characters``; ``state`` None: it is the first.

    Raises TypeError if the environment gives something else, or what the environment raises.
    """
    environment = load_environment(prompt.environment, config, verifier)
    reply = environment.step(environment.start(prompt) if state is None else state, text)
    if not isinstance(reply, Reply):
        kind = type(reply).__name__
        raise TypeError(f"environment '{prompt.environment}' returned a {kind} instead of a Reply")
    if reply.observation is None:
        return reply
    if not isinstance(reply.observation, str):
        raise TypeError(f"an observation is text or None, not {reply.observation!r:.100}")
    return Reply(cut(reply.observation, config.max_characters), reply.state, reply.reward)


def cut(text: str, most: int) -> str:
    """``text`` without its middle, if it is longer than ``most`` characters."""
    if len(text) <= most:
        return text
    half = most // 2
    return (
        f"{text[:half]}\n[{len(text) - 2 * half} characters left out]\n{text[len(text) - half :]}"
    )
