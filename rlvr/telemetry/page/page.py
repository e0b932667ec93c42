"""The file: a template, its styles and programs, and the packed content."""

import hashlib
from base64 import b64encode
from collections.abc import Iterable, Mapping
from html import escape
from importlib.resources import files
from typing import Any

from rlvr.telemetry.page.blocks import packed

_STYLES = ("uplot.css", "page.css", "responses.css")
_PROGRAMS = (
    "uplot.js", "data.js", "parts.js", "series.js", "curves.js", "runs.js", "selection.js",
    "tokens.js", "extremes.js", "controls.js", "responses.js", "keys.js", "page.js",
)  # fmt: skip


def page_html(title: str, content: Mapping[str, Any], blocks: Mapping[str, str]) -> str:
    """``content`` and ``blocks`` of packed responses, by their names, as one HTML file.

    What comes from a model or a data set is in packed parts alone, which the page's own programs
    unpack and show as text. Its policy forbids any other program, and any request.
    """
    style = "\n".join(_static(name) for name in _STYLES)
    program = "\n".join(_static(name) for name in _PROGRAMS)
    parts = {
        "TITLE": escape(title),
        "POLICY": f"default-src 'none'; style-src '{_digest(style)}'; "
        f"script-src '{_digest(program)}'",
        "STYLE": style,
        "PROGRAM": program,
        "CONTENT": "\n".join(_data({"content": packed(content), **blocks}.items())),
    }
    pieces = _static("page.html").split("@@")  # text, name of a part, text, ...
    return "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))


def _data(parts: Iterable[tuple[str, str]]) -> Iterable[str]:
    for name, text in parts:
        yield f'<script type="text/plain" id="{escape(name)}">{text}</script>'


def _static(name: str) -> str:
    return files("rlvr.telemetry.page").joinpath("static", name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
