"""A manifest that differs from the registered one is refused."""

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alchemist_core.errors import DataError
from alchemist_core.store.manifests import (
    Manifest,
    find_hashes,
    hash_rows,
    hashes_sha256,
    read_manifest,
    write_manifest,
)
from tests.given import sha256

HASHES = sorted(sha256(number) for number in range(50))


def manifest_of(hashes: list[bytes]) -> Manifest:
    return Manifest(hash_rows(hashes), np.linspace(0, 1, len(hashes)), np.arange(len(hashes), dtype=np.float64))


@pytest.mark.parametrize("n", [0, 1, 50])
def test_a_manifest_is_read_as_it_was_written(tmp_path: Path, n: int) -> None:
    written = manifest_of(HASHES[:n])
    write_manifest(tmp_path / "m.parquet", written)
    read = read_manifest(tmp_path / "m.parquet", sha256=hashes_sha256(hash_rows(HASHES[:n])))
    assert read.pair_hashes() == HASHES[:n]
    assert read.rank_K.tolist() == written.rank_K.tolist()
    assert read.score_K.tolist() == written.score_K.tolist()


WRITER = """
import sys
from pathlib import Path
import numpy as np
from alchemist_core.store.manifests import Manifest, hash_rows, read_manifest, write_manifest
path, given = Path(sys.argv[1]), Manifest(hash_rows([bytes([n]) * 32 for n in range(50)]), np.zeros(50), np.zeros(50))
for _ in range(40):
    write_manifest(path, given)
    read_manifest(path, sha256=given.sha256())
"""


@pytest.mark.slow
def test_two_that_draw_a_lost_manifest_again_do_not_disturb_each_other(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "m.parquet")]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[1] for process in both] == ["", ""]
    assert [path.name for path in tmp_path.iterdir()] == ["m.parquet"]


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip_the_footer(data: bytes) -> bytes:
    return data[:-40] + bytes(byte ^ 0xFF for byte in data[-40:-8]) + data[-8:]


def empty(_data: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("harm", [cut, flip_the_footer, empty])
def test_a_manifest_that_cannot_be_read_is_an_error_with_a_remedy(tmp_path: Path, harm) -> None:
    path = tmp_path / "m.parquet"
    write_manifest(path, manifest_of(HASHES))
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(
        DataError, match=rf"{re.escape(str(path))} cannot be read .* Delete it\. alchemist export subset NAME"
    ):
        read_manifest(path, sha256=hashes_sha256(hash_rows(HASHES)))


def test_a_table_of_other_columns_is_no_manifest(tmp_path: Path) -> None:
    pq.write_table(pa.table({"pair_hash": ["x"], "rank": [0.5]}), tmp_path / "m.parquet")
    with pytest.raises(DataError, match="cannot be read"):
        read_manifest(tmp_path / "m.parquet", sha256=hashes_sha256(hash_rows([])))


def test_other_members_than_those_registered_are_refused(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.parquet", manifest_of(HASHES[1:]))
    with pytest.raises(DataError, match="does not hold the registered members"):
        read_manifest(tmp_path / "m.parquet", sha256=hashes_sha256(hash_rows(HASHES)))


def test_a_missing_manifest_names_the_command_that_makes_it_again(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"missing\. alchemist export subset NAME --version N --out FILE makes it again"
    ):
        read_manifest(tmp_path / "m.parquet", sha256="")


@given(
    known=st.sets(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=9),
    wanted=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=9),
)
def test_hashes_are_found_by_all_their_bytes(known: set[tuple[int, int]], wanted: list[tuple[int, int]]) -> None:
    """Many share the first 64 bits, by which they are looked up."""

    def rows(pairs: Iterable[tuple[int, int]]) -> np.ndarray:
        return hash_rows([bytes([first]) * 8 + bytes([last]) * 24 for first, last in pairs])

    expected = [sorted(known).index(pair) if pair in known else -1 for pair in wanted]
    assert find_hashes(rows(sorted(known)), rows(wanted)).tolist() == expected
