"""Which responses of a run or an evaluation a page has room for."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from rlvr.errors import RunFolderError
from rlvr.telemetry.page.blocks import Block, packed_responses
from rlvr.telemetry.responses import coefficient_column
from rlvr.types import IN_USE

TRAINING = "training"
PAGE_TOKENS = 8_000_000  # that a page has room for: about 30 MB

_COLUMNS = (
    "group", "sample", "prompt_id", "prompt", "answer", "response", "reward", "outcome", "detail",
    "advantage", "finish_reason", "response_tokens", "turns", "tokens",
)  # fmt: skip


class ShownResponses:
    """The responses of a run or an evaluation; what has been read is not read again.

    Training has half of the room and evaluations the rest in equal shares, or all of it who is
    alone. Of a share every step has an equal part, and what it leaves is the next one's. Groups are
    shown whole, those whose responses have an advantage first.

    Args:
        folder: of the run, or of ``rlvr evaluate``.
        steps: that the run is to make, None if nobody knows.
        tokens: that there is room for.
        shadows: labels of the credit methods beside the one in use.
    """

    def __init__(
        self, folder: Path, steps: int | None, tokens: int, shadows: Sequence[str] = ()
    ) -> None:
        self._folder = folder
        self._methods = [IN_USE, *shadows]
        self._steps = steps or 0
        self._tokens = tokens
        self._read: dict[tuple[tuple[Path, int], ...], tuple[Block | None, int]] = {}

    def blocks(self) -> dict[str, list[Block | None]]:
        """``training`` and every measure of evaluations: a block of each step so far.

        None where there is no room. RunFolderError names a file that is damaged.
        """
        logged = _logged(self._folder)
        measures = len(logged) - (TRAINING in logged)
        shown = {}
        for name, steps in logged.items():
            if name == TRAINING:
                share = self._tokens // (2 if measures else 1)
                part = share // max(self._steps, len(steps))
            else:
                part = self._tokens // (2 if TRAINING in logged else 1) // measures // len(steps)
            shown[name] = list(self._blocks(steps, part))
        return shown

    def _blocks(self, steps: Sequence[Sequence[Path]], part: int) -> Iterator[Block | None]:
        room = 0
        for files in steps:
            room += part
            key = tuple((file, file.stat().st_mtime_ns) for file in files)
            if key not in self._read:
                self._read[key] = _block(files, room, files == steps[0], self._methods)
            block, used = self._read[key]
            room = max(room - used, 0)
            yield block


def _logged(folder: Path) -> dict[str, list[list[Path]]]:
    """Files of responses: of training and of every measure, for each step."""
    found: dict[str, list[list[Path]]] = {}
    if files := sorted(folder.glob("responses/step_*.parquet")):
        found[TRAINING] = [[file] for file in files]
    for file in sorted(folder.glob("evaluation/*/step_*.parquet")):
        found.setdefault(file.parent.name, []).append([file])
    # An evaluation is written in parts, and those of a run's checkpoints lie below it.
    own = [folder, *sorted(folder.glob("benchmark/step_*"))]
    for measure in (path for below in own for path in sorted(below.glob("responses/*/"))):
        if parts := sorted(measure.glob("part_*.parquet")):
            name = measure.name if measure.parent.parent == folder else f"benchmark {measure.name}"
            found.setdefault(name, []).append(parts)
    return found


def _block(
    files: Sequence[Path], room: int, first: bool, methods: Sequence[str]
) -> tuple[Block | None, int]:
    """The groups of a step that ``room`` tokens hold, and how many they have; one of the first."""
    wanted = [*_COLUMNS, *map(coefficient_column, methods)]
    tables: list[pa.Table] = []
    used = responses = groups = step = 0
    for file in files:
        try:
            with parquet.ParquetFile(file) as log:
                light = log.read(["step", "group", "response_tokens", "advantage"])
                rows, tokens = _chosen(light, room - used, at_least_one=first and not tables)
                if len(rows):
                    table = _rows(log, rows, [n for n in wanted if n in log.schema_arrow.names])
                    at = table.schema.get_field_index("group")  # every part counts from 0
                    numbers = pc.add(table["group"], groups).cast(pa.int32())
                    tables.append(table.set_column(at, "group", numbers))
                used, responses = used + tokens, responses + len(light)
                groups += pc.max(light["group"]).as_py() + 1
                step = light["step"][0].as_py()
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise RunFolderError(f"{file}: not readable as responses: {error}") from error
    if not tables:
        return None, 0
    table = pa.concat_tables(tables)
    return Block(step, len(table), responses, packed_responses(table, methods)), used


def _chosen(light: pa.Table, room: int, at_least_one: bool) -> tuple[np.ndarray, int]:
    """The rows of the groups that ``room`` tokens hold, and how many tokens these are."""
    group, length = (light[name].to_numpy() for name in ("group", "response_tokens"))
    advantage = np.nan_to_num(light["advantage"].to_numpy().astype(float))
    numbers = np.unique(group)
    tokens = {g: int(length[group == g].sum()) for g in numbers}
    teaches = {g: bool(advantage[group == g].any()) for g in numbers}
    chosen: list[int] = []
    used = 0
    for g in sorted(numbers, key=lambda g: (not teaches[g], g)):
        if used + tokens[g] <= room or (at_least_one and not chosen):
            chosen.append(g)
            used += tokens[g]
    return np.flatnonzero(np.isin(group, chosen)), used


def _rows(log: parquet.ParquetFile, rows: np.ndarray, columns: list[str]) -> pa.Table:
    """These rows of a file, without reading parts of it that have none of them."""
    sizes = [log.metadata.row_group(k).num_rows for k in range(log.num_row_groups)]
    ends = np.cumsum([0, *sizes])
    found = []
    for k in range(log.num_row_groups):
        own = rows[(rows >= ends[k]) & (rows < ends[k + 1])] - ends[k]
        if len(own):
            found.append(log.read_row_group(k, columns).take(own))
    return pa.concat_tables(found)
