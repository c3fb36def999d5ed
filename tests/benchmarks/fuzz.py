"""100,000 hostile inputs for every function that reads bytes from outside. An input that causes anything but a refusal is a finding.

`python -m tests.benchmarks.fuzz [--cases 100000] [--seed 0]`: about 10 minutes on two cores; writes `.alchemist/bench/fuzz.json` and, for a
finding, the input. Each reader runs in its own processes with limits on memory and time. A case is a valid input
that is truncated, doubled, changed bit by bit, overwritten with extreme numbers, or crossed with another one.
"""

import argparse
import faulthandler
import io
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sqlalchemy import column

from alchemist_core.errors import ConfigError, DataError
from alchemist_core.settings import load_settings
from alchemist_core.shards.captions import BadTextError, find_repairs, read_annotation
from alchemist_core.shards.faults import Fault, Reason, is_storable
from alchemist_core.shards.images import BadImageError, decode_image, read_header
from alchemist_core.shards.samples import read_samples
from alchemist_core.store.conditions import compile_condition
from alchemist_core.store.export import SCORE_COLUMNS
from alchemist_core.store.manifests import Manifest, read_manifest, write_manifest
from alchemist_core.subsets.materialized import (
    MANIFEST_NAME,
    MaterializedShard,
    read_dataset_manifest,
    write_dataset_manifest,
)
from alchemist_core.subsets.member_table import MemberLocation
from alchemist_core.subsets.members import table_of
from tests.benchmarks.rows import Row, write_rows
from tests.peak_memory import peak_mib
from tests.shards.conftest import draw_image, make_record, make_tar

LONGEST_S, MOST_BYTES = 10.0, 2**30
# Sizes and signs at which readers fail.
NUMBERS = [
    value.to_bytes(8, order, signed=True)
    for value in (0, 1, -1, 2**31 - 1, 2**31, 2**63 - 1)
    for order in ("big", "little")
]
CONDITIONS = (
    "rank < 0.1 and caption like '%cat%'", "not (width >= 256 or licence is null)", "licence in ('CC0', 'MIT') and score > -1.5e3",
)  # fmt: skip


class Target(NamedTuple):
    """A reader, valid inputs, and what it may raise."""

    read: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    refusals: tuple[type[Exception], ...]


def read_shard(data: bytes) -> None:
    found = list(read_samples(io.BytesIO(data), len(data)))
    ordinals = [item.ordinal if isinstance(item, Fault) else item.record.ordinal for item in found]
    assert ordinals == list(range(len(found))), "the accounting identity"
    for fault in (item for item in found if isinstance(item, Fault)):
        assert fault.reason in set(Reason)
        assert is_storable(fault.key)
        assert is_storable(fault.detail)


def read_picture(data: bytes) -> None:
    read_header(data)
    decode_image(data, 32)


def read_text(data: bytes) -> None:
    assert is_storable(read_annotation(data, None, find_repairs(data, None)).caption)


def read_document(data: bytes) -> None:
    assert is_storable(read_annotation(None, data, find_repairs(None, data)).caption)
    assert is_storable(read_annotation(b"words", data, find_repairs(b"words", data)).caption)


def read_condition(data: bytes) -> None:
    columns = {name: column(name) for name in SCORE_COLUMNS}
    compile_condition(data.decode("utf-8", "replace"), SCORE_COLUMNS, columns)


def read_members(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
        file.write(data)
        file.flush()
        read_manifest(Path(file.name), sha256=manifest().sha256())


def read_copied(data: bytes) -> None:
    found = read_dataset_manifest(io.BytesIO(data))
    if found is None:
        raise DataError("no manifest of a copy")
    for shard in found[1]:
        assert [type(value) for value in shard] == [str, int, int, str, str]


def shards() -> list[bytes]:
    return [make_tar([entry for number in range(n) for entry in make_record(f"key{number}", number)]) for n in (1, 3)]


def pictures() -> list[bytes]:
    kinds = (
        ("PNG", "RGB"),
        ("JPEG", "RGB"),
        ("JPEG", "CMYK"),
        ("WEBP", "RGB"),
        ("GIF", "P"),
        ("BMP", "RGB"),
        ("TIFF", "RGBA"),
    )
    return [draw_image(number, kind=kind, mode=mode) for number, (kind, mode) in enumerate(kinds)]


def texts() -> list[bytes]:
    return [b"a picture of a cat", "ein Bild, größer — 猫 \N{CAT FACE}".encode()]


def documents() -> list[bytes]:
    nested = {
        "caption": "a cat",
        "url": "https://example.org/1",
        "deep": [[[[1.5, None, "\\u0000"]]]],
        "license": "CC0-1.0",
    }
    return [json.dumps(nested).encode(), b'{"caption": "\xc3\xa9", "n": 1e308, "list": [1, 2, {"a": true}]}']


def conditions() -> list[bytes]:
    return [condition.encode() for condition in CONDITIONS]


@cache
def manifest() -> Manifest:
    rng = np.random.default_rng(0)
    return Manifest(rng.integers(0, 256, (50, 32), np.uint8), rng.random(50), rng.normal(size=50))


def manifests() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "manifest.parquet"
        write_manifest(path, manifest())
        return [path.read_bytes()]


def copies() -> list[bytes]:
    sources = [
        MemberLocation("a.tar", f"key{row}", ("jpg", "txt"), (512, 2048), (900, 9), bytes(32), 0.5) for row in range(3)
    ]
    shards = [MaterializedShard(f"{number:06d}.tar", n, 10_240, "0" * 64, "1" * 64) for number, n in enumerate((2, 1))]
    with tempfile.TemporaryDirectory() as folder:
        write_dataset_manifest(Path(folder), table_of(sources), np.arange(3), shards, "identity")
        return [(Path(folder) / MANIFEST_NAME).read_bytes()]


TARGETS = {
    "shard": Target(read_shard, shards, (DataError,)),
    "picture": Target(read_picture, pictures, (BadImageError,)),
    "caption": Target(read_text, texts, (BadTextError,)),
    "document": Target(read_document, documents, (BadTextError,)),
    "condition": Target(read_condition, conditions, (ConfigError,)),
    "manifest of a subset": Target(read_members, manifests, (DataError,)),
    "manifest of a copy": Target(read_copied, copies, (DataError,)),
}


def mutate(rng: np.random.Generator, seeds: list[bytes]) -> bytes:
    """Damage a valid input a few times."""
    data = bytearray(seeds[rng.integers(len(seeds))])
    for _ in range(rng.integers(1, 6)):
        at, length = int(rng.integers(len(data) + 1)), int(rng.integers(1, 64))
        other = seeds[rng.integers(len(seeds))]
        start, end, stuff = (
            (at, len(data), b""),
            (at, at + length, b""),
            (at, at + length, rng.integers(0, 256, length, np.uint8).tobytes()),
            (at, at + 1, bytes([int(rng.integers(256))])),
            (at, at + 8, NUMBERS[rng.integers(len(NUMBERS))]),
            (at, at, bytes(data[at : at + length * 8])),
            (at, len(data), other[int(rng.integers(len(other) + 1)) :]),
        )[rng.integers(7)]
        data[start:end] = stuff
    return bytes(data)


class Outcome(NamedTuple):
    n_cases: int
    n_refused: int
    longest_s: float
    peak_bytes: int
    findings: list[tuple[str, bytes]]


def attack(name: str, seed: int, n_cases: int) -> Outcome:
    """Run the cases of one process."""
    faulthandler.dump_traceback_later(LONGEST_S * 30, exit=True)
    target, rng = TARGETS[name], np.random.default_rng(seed)
    seeds, n_refused, longest_s, findings = target.seeds(), 0, 0.0, []
    for valid in seeds:
        # If a reader refused the unchanged inputs, the cases would test only that refusal.
        target.read(valid)
    for _ in range(n_cases):
        data, began = mutate(rng, seeds), time.perf_counter()
        try:
            target.read(data)
        except target.refusals:
            n_refused += 1
        except Exception as error:  # noqa: BLE001  that is what is looked for
            findings.append((repr(error)[:300], data))
        longest_s = max(longest_s, time.perf_counter() - began)
        faulthandler.dump_traceback_later(LONGEST_S * 30, exit=True)
    faulthandler.cancel_dump_traceback_later()
    return Outcome(n_cases, n_refused, longest_s, round(peak_mib() * 2**20), findings)


def main() -> None:
    """Attack every reader and write the rows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    n_each = -(-given.cases // (len(TARGETS) * 2))
    rows, outcomes = [], []
    # Pillow warns about every unusual tag.
    os.environ["PYTHONWARNINGS"] = "ignore"
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        for number, name in enumerate(TARGETS):
            first = given.seed * 1000 + number * 2
            parts = list(pool.map(attack, (name, name), (first, first + 1), (n_each, n_each)))
            findings = [finding for part in parts for finding in part.findings]
            keep(name, findings)
            n_cases, n_refused = (sum(counts) for counts in zip(*(part[:2] for part in parts), strict=True))
            detail = f"{n_refused:,} of {n_cases:,} refused; {'; '.join(sorted({text for text, _ in findings}))[:400]}"
            rows.append(Row(f"{name}: findings", len(findings), "inputs", "0", not findings, detail))
            outcomes += parts
    longest_s, peak = max(part.longest_s for part in outcomes), max(part.peak_bytes for part in outcomes)
    n_all = sum(part.n_cases for part in outcomes)
    rows += [
        Row("cases", n_all, "inputs", "≥ 100,000", n_all >= 100_000),
        Row("longest case", round(longest_s, 3), "s", f"< {LONGEST_S:g}", longest_s < LONGEST_S),
        Row("peak memory", round(peak / 2**20), "MiB", "< 1024", peak < MOST_BYTES),
    ]
    write_rows("fuzz", rows)


def keep(name: str, findings: list[tuple[str, bytes]]) -> None:
    """Keep one input of each finding, to reproduce it."""
    folder = load_settings().home / "bench" / "fuzz"
    for number, (text, data) in enumerate(dict(findings).items()):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name.replace(' ', '-')}-{number}.bin").write_bytes(data)
        print(f"{name}: {text}")


if __name__ == "__main__":
    main()
