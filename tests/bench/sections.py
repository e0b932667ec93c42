"""Sections of RESULTS.md, each written by its benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def replace_section(results: Path, heading: str, lines: Sequence[str]) -> None:
    """Put ``lines``, the heading first, in the place of the section, or at the file's end."""
    text = results.read_text() if results.exists() else "# Measured\n"
    before, _, rest = text.partition(heading)
    after = "\n" + rest[rest.index("\n## ") + 1 :] if "\n## " in rest else ""
    results.write_text(before.rstrip() + "\n\n" + "\n".join(lines) + after)
