"""``search_file``: finds passages of a file by BM25 and says the best of them.

``environment.passages`` names the file: ``.jsonl`` with ``text``, and ``title`` if there is one, or
any other text, a passage a line. It is indexed once per actor, before the first turn. A turn that
asks for nothing ends the conversation.
"""

import json
from pathlib import Path
from typing import Any

from rlvr.config import EnvironmentConfig
from rlvr.errors import ConfigError
from rlvr.task import Prompt, Reply
from rlvr.verify.environments.calls import search_call, tool

TOOLS = [tool("search", "Finds the passages that go best with a query.", "query", "Its words.")]


class SearchFile:
    """Raises ConfigError for a file that is not there or holds no passages."""

    def __init__(self, config: EnvironmentConfig) -> None:
        import bm25s

        if config.passages is None:
            raise ConfigError("environment 'search_file' needs environment.passages=FILE.")
        self._passages = _passages(Path(config.passages))
        self._results = min(config.results, len(self._passages))
        self._index = bm25s.BM25()
        words = bm25s.tokenize(self._passages, show_progress=False)
        self._index.index(words, show_progress=False)
        self._tokenize = bm25s.tokenize

    def start(self, prompt: Prompt) -> Any:
        return 0

    def step(self, state: Any, text: str) -> Reply:
        call = search_call(text)
        if call is None:
            return Reply(None)
        if call.wrong:
            return Reply(call.wrong, state)
        words = self._tokenize([call.argument], show_progress=False, return_ids=False)
        places, scores = self._index.retrieve(words, k=self._results, show_progress=False)
        found = [i for i, score in zip(places[0], scores[0], strict=True) if score > 0]
        said = [f"({n}) {self._passages[i]}" for n, i in enumerate(found, start=1)]
        return Reply("\n".join(said) or "(nothing found)", state + 1)


def _passages(path: Path) -> list[str]:
    key = "environment.passages"
    try:
        lines = [line for line in path.read_text().splitlines() if line.strip()]
        if path.suffix == ".jsonl":
            rows = map(json.loads, lines)
            lines = [f"{r['title']}: {r['text']}" if r.get("title") else r["text"] for r in rows]
    except OSError as error:
        raise ConfigError(f"{key}: {path} cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        told = f"every line must be a JSON object with a text: {error!r}"
        raise ConfigError(f"{key}: {path}: {told}") from error
    if not lines:
        raise ConfigError(f"{key}: {path} holds no passage.")
    return lines


ENVIRONMENT = SearchFile
