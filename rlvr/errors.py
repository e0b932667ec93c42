"""Errors whose text is meant for the person who started the run."""

from __future__ import annotations


class ConfigError(Exception):
    """The configuration or the data asks for something unknown or impossible."""


class RunError(Exception):
    """A part of the running system failed; the text says which, and why in its own words."""
