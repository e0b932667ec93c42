"""Data sets: files of rows become prompts, and every row that cannot is reported."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from rlvr.config import DataConfig
from rlvr.data.rows import Reason, Row, RowError, read_rows
from rlvr.data.template import PromptTemplate, prompt_template
from rlvr.errors import DataError
from rlvr.types import Prompt

_CHUNK = 1024  # rows that are rendered and tokenised at a time
_SHOWN = 5  # rows that a message names


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used: where it stands (rows count from 1) and why."""

    file: str
    row: int
    reason: Reason
    detail: str

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}: {self.detail}"


@dataclass
class Dataset:
    """Prompts in the order of the files, with unique ids, and what there is to say about them.

    Repeated problems are kept, for the weight they give is the data's own. Where a repetition
    gives another answer, one of the two must be wrong: ``contradictions`` names these rows.
    """

    prompts: list[Prompt] = field(default_factory=list)
    bad_rows: list[BadRow] = field(default_factory=list)  # left out
    repeated: int = 0
    contradictions: list[str] = field(default_factory=list)

    @property
    def dropped(self) -> dict[str, int]:
        return dict(Counter(str(bad.reason) for bad in self.bad_rows))

    def summary(self) -> str:
        """What was read, in a line, and a line for each of the first rows to look at."""
        facts = [f"{len(self.prompts):,} prompts"]
        if self.repeated:
            facts.append(
                f"{self.repeated:,} repeat an earlier problem "
                f"({len(self.contradictions):,} with another answer)"
            )
        if self.bad_rows:
            facts.append(f"{len(self.bad_rows):,} rows left out ({_counts(self.dropped)})")
        return "\n".join(["; ".join(facts), *_first(self.contradictions), *_first(self.bad_rows)])


def load_dataset(
    files: Sequence[str], config: DataConfig, tokenizer: PreTrainedTokenizerBase
) -> Dataset:
    """Read, check, render and tokenise every row of ``files``.

    A row's verifier is its own ``verifier``, else what its source makes obvious, else
    ``config.verifier``. Its id is its own or made of the file's name and its number; an id that
    occurs again gets ``#2``, ``#3``, ... so that ids are unique, and the same in every run.

    Raises:
        DataError: a file cannot be read, no row can be used, or one cannot and
            ``config.on_bad_row`` is ``error``.
        ConfigError: the template does not go with the tokenizer.
    """
    loader = _Loader(config, prompt_template(config, tokenizer))
    for file in files:
        loader.read(Path(file).expanduser())
    data, bad = loader.data, loader.data.bad_rows
    first = "\n".join(_first(bad))
    if bad and config.on_bad_row == "error":
        raise DataError(
            f"{len(bad):,} of {len(bad) + len(data.prompts):,} rows cannot be used "
            f"({_counts(data.dropped)}):\n{first}\n"
            "Repair them, or leave them out (and counted) with data.on_bad_row=drop."
        )
    if not data.prompts:
        raise DataError(f"no usable row in {', '.join(files) or 'no file'}:\n{first}")
    return data


class _Loader:
    def __init__(self, config: DataConfig, template: PromptTemplate) -> None:
        self.config = config
        self.template = template
        self.data = Dataset()
        self._ids: Counter[str] = Counter()
        self._first_with: dict[str, tuple[str, str]] = {}  # text -> answer, place

    def read(self, path: Path) -> None:
        rows = read_rows(path, self.config)
        before = len(self.data.bad_rows)
        while chunk := list(islice(rows, _CHUNK)):
            rendered = list(self._render(path, chunk))
            texts = [text for _, _, text in rendered]
            token_ids = self.template.encode(texts) if texts else []
            for (number, row, text), ids in zip(rendered, token_ids, strict=True):
                self._add(path, number, row, text, ids)
        # A chunk's rows are rejected in two rounds, before and after it is tokenised.
        self.data.bad_rows[before:] = sorted(self.data.bad_rows[before:], key=lambda bad: bad.row)

    def _render(
        self, path: Path, chunk: list[tuple[int, Row | RowError]]
    ) -> Iterator[tuple[int, Row, str]]:
        for number, row in chunk:
            try:
                if isinstance(row, RowError):
                    raise row
                yield number, row, self.template.render(row.messages)
            except RowError as error:
                self._reject(path, number, error.reason, error.detail)

    def _add(self, path: Path, number: int, row: Row, text: str, ids: list[int]) -> None:
        prompt_id = self._unique(row.id)
        limit = self.config.max_prompt_tokens
        if not ids:
            self._reject(path, number, Reason.NO_PROBLEM, "the prompt has no tokens")
            return
        if len(ids) > limit:
            detail = f"the prompt has {len(ids):,} tokens, over data.max_prompt_tokens={limit}"
            self._reject(path, number, Reason.TOO_LONG, detail)
            return
        self._compare(text, row.answer, f"{path}, row {number}")
        self.data.prompts.append(
            Prompt(prompt_id, ids, text, row.answer, row.verifier, row.source, row.meta)
        )

    def _reject(self, path: Path, number: int, reason: Reason, detail: str) -> None:
        self.data.bad_rows.append(BadRow(str(path), number, reason, detail))

    def _unique(self, row_id: str) -> str:
        self._ids[row_id] += 1
        if self._ids[row_id] == 1:
            return row_id
        return self._unique(f"{row_id}#{self._ids[row_id]}")

    def _compare(self, text: str, answer: str, place: str) -> None:
        first_answer, first_place = self._first_with.setdefault(text, (answer, place))
        if place == first_place:
            return
        self.data.repeated += 1
        if answer != first_answer:
            self.data.contradictions.append(
                f"{place}: answer {answer!r}, but {first_answer!r} in {first_place}"
            )


def _counts(by_reason: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in sorted(by_reason.items()))


def _first(rows: Sequence[object]) -> list[str]:
    lines = [f"  {row}" for row in rows[:_SHOWN]]
    if len(rows) > _SHOWN:
        lines.append(f"  and {len(rows) - _SHOWN:,} more")
    return lines
