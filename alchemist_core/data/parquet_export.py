"""Write rows as Parquet, batch by batch: bounded memory, and a file that is there whole or not at all."""

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

TYPES = {
    int: pa.int64(), float: pa.float64(), str: pa.string(), bytes: pa.binary(), date: pa.date32(), bool: pa.bool_()
}  # fmt: skip


def write_rows(path: Path, kinds: Mapping[str, type[Any]], batches: Iterable[Sequence[Sequence[Any]]]) -> int:
    """Write each batch as a row group, aside, and rename the file when it is complete; returns the rows.

    Args:
        path: Where the file will be; one that is there is replaced.
        kinds: Columns and their Python types, in the order of the rows' values.
        batches: Rows; only one batch is held at a time.
    """
    schema = pa.schema([(name, TYPES[kind]) for name, kind in kinds.items()])
    aside, n_rows = path.with_name(f".{path.name}.{os.getpid()}"), 0
    try:
        with pq.ParquetWriter(aside, schema, compression="zstd") as writer:
            for batch in batches:
                columns = [
                    pa.array([_plain(row[i]) for row in batch], type=field.type) for i, field in enumerate(schema)
                ]
                writer.write_batch(pa.record_batch(columns, schema=schema))
                n_rows += len(batch)
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return n_rows


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value
