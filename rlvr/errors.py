"""Errors whose text is meant for the person who started the run, and how they reach that person."""

import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NoReturn


class ConfigError(Exception):
    """The configuration or the data asks for something unknown or impossible."""

    heading = "This configuration cannot run:"
    status = 2  # of the program: the same command would end so again


class RunError(Exception):
    """A part of the running system failed; the text says which, and why in its own words."""

    heading = "The run has failed:"
    status = 1


class DataError(ConfigError):
    """A data set cannot be used as it is; the message says where and what to do."""

    heading = "These data cannot be used:"


class RunFolderError(ConfigError):
    """The folder cannot take this run, or a file in it cannot be read."""

    heading = "This folder cannot be used:"


class LearnerError(RunError):
    """A learner rank failed or died; the text carries the rank's own traceback."""


class RolloutError(RunError):
    """A rollout worker failed, died or stopped; the text carries the worker's own words."""


class PublishError(RunError):
    """A publish failed or stalled; the text carries the engine's or the learner's own words."""


class EngineError(PublishError):
    """Engines failed in a publish; ``failed`` says which and why. The others can go on."""

    def __init__(self, failed: Mapping[str, RunError]) -> None:
        super().__init__("\n".join(map(str, failed.values())))
        self.failed = failed


class VerifierError(RunError):
    """The verifiers cannot work; the text says what to do."""


class SandboxError(RunError):
    """The sandbox, not the program in it, failed."""


class ResponseLogError(RunError):
    """The responses of a step could not be written."""


class WarmUpError(RunError):
    """The quickstart's warm-up ended outside of the window."""


@contextmanager
def for_people() -> Iterator[None]:
    """End the program with the words of an expected error and its status, or 130 for an interrupt.

    Another error keeps its traceback, with status 1. Around what an entry point does, and inside of
    Hydra, which has a way of its own with errors.
    """
    try:
        yield
    except KeyboardInterrupt:
        _end("\nInterrupted.", 130)
    except Exception as error:
        if known := _expected(error):
            _end(f"\n{known.heading}\n{known}\n", known.status)
        traceback.print_exc()
        sys.exit(1)


def _end(words: str, status: int) -> NoReturn:
    print(words, file=sys.stderr, flush=True)
    end = SystemExit(words)
    end.code = status
    raise end


def _expected(error: BaseException) -> ConfigError | RunError | None:
    """The first expected error of a group, or the one that an actor raised, else ``error``."""
    if isinstance(error, BaseExceptionGroup):
        return next((known for e in error.exceptions if (known := _expected(e))), None)
    # Ray's own text is a traceback; its ``cause`` has the words.
    for told in (getattr(error, "cause", None), getattr(error.__cause__, "cause", None), error):
        if isinstance(told, ConfigError | RunError):
            return told
    return None
