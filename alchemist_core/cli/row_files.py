"""Write rows as Parquet, CSV or JSON lines, batch by batch: bounded memory, and a file that is there whole or not at all.

In CSV, text that a spreadsheet would take for a formula has an apostrophe before it; Parquet and JSON lines hold text as it is.
"""

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from alchemist_core.files import atomic_write
from alchemist_core.store.arrow import ARROW_TYPES, record_batch

Kinds = Mapping[str, type[Any]]
Batches = Iterable[Sequence[Sequence[Any]]]


def write_rows(path: Path, kinds: Kinds, batches: Batches) -> int:
    """Write each batch aside, in the form that the file's ending names, and rename the file when it is complete; returns the rows.

    Args:
        path: Where the file will be; one that is there is replaced.
        kinds: Columns and their Python types, in the order of the rows' values.
        batches: Rows; only one batch is held at a time.
    """
    with atomic_write(path) as partial:
        return FORMS[path.suffix](partial, kinds, batches)


def _write_parquet(path: Path, kinds: Kinds, batches: Batches) -> int:
    schema = pa.schema([(name, ARROW_TYPES[kind]) for name, kind in kinds.items()])
    n_rows = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(record_batch(schema, batch))
            n_rows += len(batch)
    return n_rows


def _write_csv(path: Path, kinds: Kinds, batches: Batches) -> int:
    n_rows = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        # RFC 4180; a carriage return in a text is quoted only so.
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow(kinds)
        for batch in batches:
            writer.writerows([_as_cell(_as_text(value)) for value in row] for row in batch)
            n_rows += len(batch)
    return n_rows


def _write_lines(path: Path, kinds: Kinds, batches: Batches) -> int:
    n_rows = 0
    with path.open("w", encoding="utf-8") as file:
        for batch in batches:
            rows = (dict(zip(kinds, map(_as_text, row), strict=True)) for row in batch)
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            n_rows += len(batch)
    return n_rows


FORMS: dict[str, Callable[[Path, Kinds, Batches], int]] = {
    ".parquet": _write_parquet, ".csv": _write_csv, ".jsonl": _write_lines
}  # fmt: skip
"""What can be written, by the ending of the file's name; hashes are hex digits where the form has no bytes."""


_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def _as_cell(value: Any) -> Any:
    """Keep a spreadsheet from executing text of the crawl, as OWASP advises; numbers are no text and stay numbers.

    >>> _as_cell("=1+1"), _as_cell(-1.5), _as_cell("a - b")
    ("'=1+1", -1.5, 'a - b')
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value


def _as_text(value: Any) -> Any:
    if isinstance(value, (bytes, memoryview)):
        return bytes(value).hex()
    return value.isoformat() if isinstance(value, date) else value
