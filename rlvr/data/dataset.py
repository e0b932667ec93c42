"""Data sets: files of rows become prompts, and every row that cannot is reported."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from rlvr.config import DataConfig
from rlvr.data.rows import Reason, Row, RowError, read_rows
from rlvr.data.template import PromptTemplate, Tool, prompt_template
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
    sizes: dict[str, int] = field(default_factory=dict)  # prompts of each file
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


Tools = Callable[[str], Sequence[Tool]]


def load_dataset(
    files: Sequence[str],
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    tools: Tools = lambda _: (),
) -> Dataset:
    """Read, check, render and tokenise every row of ``files``.

    A row's verifier is its own ``verifier``, else what its source makes obvious, else
    ``config.verifier``; so is its environment, of which ``tools`` are told the chat template. Its
    id is its own or made of the file's name and its number; an id that occurs again gets ``#2``,
    ``#3``, ... so that ids are unique, and the same in every run.

    Raises DataError if a file cannot be read, if no row can be used, or if one cannot and
    ``config.on_bad_row`` is ``error``; ConfigError if the template does not go with the tokenizer.
    """
    template = prompt_template(config, tokenizer)
    data = Dataset()
    ids: Counter[str] = Counter()
    first_with: dict[str, tuple[str, str]] = {}  # text -> answer, place
    for file in files:
        path, before = Path(file).expanduser(), len(data.prompts)
        for number, row, text, tokens in _tokenised(path, config, template, tools):
            if isinstance(row, Row):
                prompt_id, row = _unique(row.id, ids), _usable(row, tokens, config)
            if isinstance(row, RowError):
                data.bad_rows.append(BadRow(str(path), number, row.reason, row.detail))
                continue
            place = f"{path}, row {number}"
            answer, first = first_with.setdefault(text, (row.answer, place))
            data.repeated += place != first
            if answer != row.answer:
                told = f"{place}: answer {row.answer!r}, but {answer!r} in {first}"
                data.contradictions.append(told)
            known = row.answer, row.verifier, row.source, row.meta, row.environment
            data.prompts.append(Prompt(prompt_id, tokens, text, *known))
        data.sizes[file] = data.sizes.get(file, 0) + len(data.prompts) - before
    bad, first_bad = data.bad_rows, "\n".join(_first(data.bad_rows))
    if bad and config.on_bad_row == "error":
        raise DataError(
            f"{len(bad):,} of {len(bad) + len(data.prompts):,} rows cannot be used "
            f"({_counts(data.dropped)}):\n{first_bad}\n"
            "Repair them, or leave them out (and counted) with data.on_bad_row=drop."
        )
    if not data.prompts:
        raise DataError(f"no usable row in {', '.join(files) or 'no file'}:\n{first_bad}")
    return data


def _tokenised(
    path: Path, config: DataConfig, template: PromptTemplate, tools: Tools
) -> Iterator[tuple[int, Row | RowError, str, list[int]]]:
    """Every row of a file with its number, the text of its prompt and the text's tokens."""
    rows = read_rows(path, config)
    while chunk := list(islice(rows, _CHUNK)):
        rendered = [(number, *_rendered(row, template, tools)) for number, row in chunk]
        encoded = template.encode([text for _, _, text in rendered])
        yield from ((*row, tokens) for row, tokens in zip(rendered, encoded, strict=True))


def _rendered(
    row: Row | RowError, template: PromptTemplate, tools: Tools
) -> tuple[Row | RowError, str]:
    if isinstance(row, RowError):
        return row, ""
    try:
        own = tools(row.environment) if row.environment else ()
        return row, template.render(row.messages, own)
    except RowError as error:
        return error, ""


def _usable(row: Row, tokens: list[int], config: DataConfig) -> Row | RowError:
    limit = config.max_prompt_tokens
    if not tokens:
        return RowError(Reason.NO_PROBLEM, "the prompt has no tokens")
    if len(tokens) > limit:
        detail = f"the prompt has {len(tokens):,} tokens, over data.max_prompt_tokens={limit}"
        return RowError(Reason.TOO_LONG, detail)
    return row


def _unique(row_id: str, ids: Counter[str]) -> str:
    ids[row_id] += 1
    return row_id if ids[row_id] == 1 else _unique(f"{row_id}#{ids[row_id]}", ids)


def _counts(by_reason: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in sorted(by_reason.items()))


def _first(rows: Sequence[object]) -> list[str]:
    lines = [f"  {row}" for row in rows[:_SHOWN]]
    if len(rows) > _SHOWN:
        lines.append(f"  and {len(rows) - _SHOWN:,} more")
    return lines
