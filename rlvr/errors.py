"""Errors whose text is meant for the person who started the run."""

from __future__ import annotations


class ConfigError(Exception):
    """The configuration or the data asks for something unknown or impossible."""


class RunError(Exception):
    """A part of the running system failed; the text says which, and why in its own words."""


class LearnerError(RunError):
    """A learner rank failed or died; the text carries the rank's own traceback."""
