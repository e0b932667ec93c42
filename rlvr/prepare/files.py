"""A data file, made of tables that lie elsewhere."""

import json
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import json as pajson
from pyarrow import parquet

from rlvr.data.catalogue import Entry
from rlvr.errors import RunError

_BATCH = 4096  # rows that are read at a time


def make(file: Path, entry: Entry) -> int:
    """Write ``file`` whole, and ``FILE.origin.json`` beside it; returns the number of rows.

    Every table that has arrived is kept until the file is whole, so that what was interrupted goes
    on. Raises RunError if a table cannot be read or nothing is left of it.
    """
    parts = file.with_name(f".{file.name}.parts")
    parts.mkdir(parents=True, exist_ok=True)
    tables = []
    for url in (url for source in entry.sources for url in _matches(source)):
        part = parts / f"{sha256(url.encode()).hexdigest()[:16]}.parquet"
        if not part.exists():
            _fetch(url, entry, part)
            print(f"  {url}: {parquet.read_metadata(part).num_rows:,} rows", flush=True)
        tables.append(parquet.read_table(part))
    whole = pa.concat_tables(tables, promote_options="permissive")
    if not len(whole):
        raise RunError(f"{file}: no row of {', '.join(entry.sources)} is left")
    partial = file.with_name(f".{file.name}.partial")
    if file.suffix == ".parquet":
        parquet.write_table(whole, partial, compression="zstd")
    else:
        rows = (json.dumps(row, default=str) + "\n" for row in whole.to_pylist())
        partial.write_text("".join(rows), encoding="utf-8")
    origin = {"from": entry.sources, "rows": len(whole), "sha256": checksum(partial)}
    file.with_name(f"{file.name}.origin.json").write_text(json.dumps(origin, indent=2) + "\n")
    partial.rename(file)
    shutil.rmtree(parts)
    return len(whole)


def changed(file: Path) -> bool:
    """Whether ``file`` is no longer what ``make`` wrote; False if it did not."""
    origin = file.with_name(f"{file.name}.origin.json")
    return origin.exists() and json.loads(origin.read_text())["sha256"] != checksum(file)


def checksum(file: Path) -> str:
    digest = sha256()
    with file.open("rb") as data:
        while piece := data.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _matches(source: str) -> list[str]:
    try:
        system, path = fsspec.core.url_to_fs(source)
        found = [system.unstrip_protocol(match) for match in sorted(system.glob(path))]
    except Exception as error:  # each file system has errors of its own
        raise RunError(f"{source}: cannot be listed: {error}") from error
    if not found:
        raise RunError(f"{source}: there is nothing of that name")
    return found


def _fetch(url: str, entry: Entry, part: Path) -> None:
    partial = part.with_suffix(".partial")
    writer = None
    try:
        for batch in _batches(url, entry):
            writer = writer or parquet.ParquetWriter(partial, batch.schema)
            writer.write_batch(batch)
    except Exception as error:
        raise RunError(f"{url}: cannot be read: {error}") from error
    finally:
        if writer is not None:
            writer.close()
    if writer is None:
        raise RunError(f"{url}: has no rows")
    partial.rename(part)


def _batches(url: str, entry: Entry) -> Iterator[pa.RecordBatch]:
    """Of Parquet only the columns that are kept travel."""
    with fsspec.open(url, "rb") as data:
        if url.endswith(".parquet"):
            batches = parquet.ParquetFile(data).iter_batches(_BATCH, columns=entry.columns or None)
        else:
            table = pajson.read_json(data)
            batches = table.select(entry.columns or table.column_names).to_batches(_BATCH)
        for batch in batches:
            for column, values in entry.where.items():
                batch = batch.filter(pc.is_in(batch[column], pa.array(values)))
            yield batch
