from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from alchemist_core.store.sample_table import LocatedSample, SampleTable, spool_samples
from tests.located_samples import located
from tests.peak_memory import peak_mib


def sample(number: int) -> LocatedSample:
    """Samples of three shards in mixed order, the later ones of a shard first."""
    return located(number, shard_id=number % 3, uri=f"{number % 3}.tar", ordinal=1_000_000 - number)


@pytest.fixture
def table() -> SampleTable:
    return spool_samples([[sample(number) for number in range(start, start + 4)] for start in (0, 4, 8)])


def test_rows_come_back_as_they_were(table: SampleTable) -> None:
    expected = [sample(number) for number in range(12)]
    assert len(table) == 12
    assert list(table) == expected
    assert (table[0], table[7], table[-1]) == (expected[0], expected[7], expected[-1])
    with pytest.raises(IndexError):
        table[12]


def test_rows_of_the_driver_are_those_of_the_table() -> None:
    """The driver gives binary columns as views of its buffer."""
    driven = sample(5)._replace(pair_hash=memoryview(sample(5).pair_hash), image_hash=memoryview(sample(5).image_hash))
    assert list(spool_samples([[driven]])) == [sample(5)]


def test_parts_of_a_table_are_tables_in_the_order_that_was_asked_for(table: SampleTable) -> None:
    assert [row.sample_id for row in table[2:9:3]] == [2, 5, 8]
    assert [row.sample_id for row in table[2:9].take(np.array([6, 0, 0]))] == [8, 2, 2]
    hashes = [row.tobytes() for row in table[2:9].take(np.array([6, 0])).hashes("image_hash")]
    assert hashes == [sample(8).image_hash, sample(2).image_hash]
    assert [row.tobytes() for row in table.hashes("pair_hash")] == [sample(number).pair_hash for number in range(12)]


def test_rows_are_read_shard_by_shard_from_its_beginning(table: SampleTable) -> None:
    assert [part.tolist() for part in table.by_shard()] == [[9, 6, 3, 0], [10, 7, 4, 1], [11, 8, 5, 2]]
    some = table.take(np.array([4, 2, 1, 5]))
    assert [part.tolist() for part in some.by_shard()] == [[0, 2], [3, 1]]


def test_an_empty_table_is_empty() -> None:
    empty = spool_samples([])
    assert (len(empty), list(empty), empty.by_shard(), empty.hashes("pair_hash").shape) == (0, [], [], (0, 32))
    assert list(empty.take(np.empty(0, np.int64))) == []


def test_its_files_have_no_name_that_a_kill_could_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALCHEMIST_HOME", str(tmp_path))
    (tmp_path / "artifacts").mkdir()
    table = spool_samples([[sample(1)]])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert list(table) == [sample(1)]


@pytest.mark.slow
def test_the_memory_of_a_table_does_not_grow_with_its_rows() -> None:
    """As objects, 90,000 rows more would take 110 MiB more."""

    def parts(n_rows: int) -> Iterator[list[LocatedSample]]:
        for start in range(0, n_rows, 500):
            yield [sample(number) for number in range(start, start + 500)]

    grown = []
    for n_rows in (10_000, 100_000):
        before = peak_mib(reset=True)
        table = spool_samples(parts(n_rows))
        assert sum(len(row.caption) for row in table) > n_rows
        assert sum(len(part) for part in table.by_shard()) == n_rows
        grown.append(peak_mib() - before)
    assert grown[1] - grown[0] < 15
