"""Which of a run's responses a page has room for."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from rlvr.errors import RunFolderError
from rlvr.telemetry.page.blocks import Block, packed_responses
from rlvr.telemetry.run_folder import RunFolder

PAGE_TOKENS = 8_000_000  # that a page has room for: about 30 MB

_COLUMNS = (
    "group", "sample", "prompt_id", "prompt", "answer", "response", "reward", "outcome", "detail",
    "advantage", "finish_reason", "tokens", "coefficient",
)  # fmt: skip


class ShownResponses:
    """The responses of a run, step by step; what has been read is not read again.

    Every step has an equal share of the run's room, and what it leaves is the next one's. Groups
    are shown whole, those whose responses have an advantage first.

    Args:
        folder: the run's.
        steps: that it is to make, None if nobody knows.
        tokens: that there is room for.
    """

    def __init__(self, folder: RunFolder, steps: int | None, tokens: int) -> None:
        self._folder = folder
        self._steps = steps or 0
        self._tokens = tokens
        self._read: dict[tuple[str, int], tuple[Block | None, int]] = {}

    def blocks(self) -> Iterator[Block | None]:
        """One for each step so far, None where there is no room; RunFolderError names the file."""
        files = sorted(self._folder.path.glob("responses/step_*.parquet"))
        share = self._tokens // max(self._steps, len(files), 1)
        room = 0
        for file in files:
            room += share
            key = file.name, file.stat().st_mtime_ns
            if key not in self._read:
                try:
                    self._read[key] = _block(file, room, first=file == files[0])
                except (OSError, ValueError, KeyError, pa.ArrowException) as error:
                    raise RunFolderError(f"{file}: not readable as responses: {error}") from error
            block, used = self._read[key]
            room = max(room - used, 0)
            yield block


def _block(file: Path, room: int, first: bool) -> tuple[Block | None, int]:
    """The groups of a step that ``room`` tokens hold, and how many they have; one of the first."""
    with parquet.ParquetFile(file) as log:
        names = [name for name in _COLUMNS if name in log.schema_arrow.names]
        light = log.read(["step", "group", "response_tokens", "advantage"])
        group, length = (light[name].to_numpy() for name in ("group", "response_tokens"))
        advantage = np.nan_to_num(light["advantage"].to_numpy().astype(float))
        numbers = np.unique(group)
        tokens = {g: int(length[group == g].sum()) for g in numbers}
        teaches = {g: bool(advantage[group == g].any()) for g in numbers}
        chosen: list[int] = []
        used = 0
        for g in sorted(numbers, key=lambda g: (not teaches[g], g)):
            if used + tokens[g] <= room or (first and not chosen):
                chosen.append(g)
                used += tokens[g]
        if not chosen:
            return None, 0
        rows = np.flatnonzero(np.isin(group, chosen))
        table = _rows(log, rows, names)
    step = light["step"][0].as_py()
    return Block(step, len(rows), len(group), packed_responses(table, [""])), used


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
