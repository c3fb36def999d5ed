"""Imported scores: every row is accounted for, a stored score never changes, and an import is stored whole or not at all."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine, text

from alchemist_core.cli.imports import ImportScoresConfig, ImportScoresResult, scores
from alchemist_core.cli.rater import PromoteConfig, promote
from alchemist_core.errors import AlchemistError, ConfigError, DataError
from alchemist_core.settings import load_settings
from alchemist_core.store import score_files
from alchemist_core.store.engine import make_engine
from alchemist_core.store.imported_scores import KEYS, ScoreImport, import_scores
from alchemist_core.store.raters import find_rater, find_raters, list_scorers
from alchemist_core.store.score_files import read_scores
from tests.given import insert_rows
from tests.object_store import endpoint, object_store
from tests.selectable_store import draw, fill, member_ids

__all__ = ["endpoint", "object_store"]
pytestmark = pytest.mark.db

# Each test imports under a name of its own, so they share a store.
FIRST_URL, LATER_URL = "https://h20.example/p.jpg", "https://again.example/20.jpg"
N_SAMPLES, HOSTILE_URL = 400, 'https://h.example/a,"b"\\.\n\'é\u2028.jpg'


@pytest.fixture(scope="module")
def filled(make_database: Callable[..., str]) -> Iterator[tuple[str, Engine]]:
    """400 samples; 4 and 5 have one image; sample 6 has an odd URL; the shards of two nights have the same file name.

    Sample 20 was first found at FIRST_URL and later at LATER_URL too, sample 25 later at FIRST_URL.
    """
    url = make_database()
    engine = make_engine(url)
    fill(engine)
    with engine.begin() as connection:
        connection.execute(text("""
            UPDATE alchemist.samples SET image_hash = first.image_hash FROM alchemist.samples AS first
            WHERE samples.sample_id = 4 AND first.sample_id = 5
        """))  # fmt: skip
        connection.execute(
            text("UPDATE alchemist.samples SET source_url = :url WHERE sample_id = 6"), {"url": HOSTILE_URL}
        )
        found = [{"sample_id": 20, "source_url": LATER_URL}, {"sample_id": 25, "source_url": FIRST_URL}]
        insert_rows(connection, {"sample_urls": found})
        insert_rows(connection, {"raters": [{"rater_id": 70, "name": "clip", "kind": "scorer"}]})
        connection.execute(text("SELECT setval(pg_get_serial_sequence('alchemist.raters', 'rater_id'), 100)"))
    yield url, engine
    engine.dispose()


@pytest.fixture
def store(filled: tuple[str, Engine], monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setenv("ALCHEMIST_DATABASE_URL", filled[0])
    load_settings.cache_clear()
    return filled[1]


Rows = Mapping[str, Sequence[Any]]


def write(path: Path, rows: Rows) -> Path:
    """Write columns in the format of the suffix."""
    if path.suffix == ".parquet":
        pq.write_table(pa.table(dict(rows)), path)
        return path
    listed = [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)]
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            writer = csv.DictWriter(file, list(rows))
            writer.writeheader()
            writer.writerows(listed)
        else:
            file.writelines(json.dumps(row) + "\n" for row in listed)
    return path


def bring(path: Path | str, name: str, key: str = "sample_id", **options: Any) -> ImportScoresResult:
    return scores(ImportScoresConfig.model_validate({"from_": str(path), "name": name, "key": key, **options}))


def stored(engine: Engine, name: str) -> dict[int, float]:
    statement = text(
        "SELECT sample_id, CAST(score AS float8) AS score FROM alchemist.scores JOIN alchemist.raters USING (rater_id) WHERE name = :name"
    )
    with engine.connect() as connection:
        return {row.sample_id: row.score for row in connection.execute(statement, {"name": name})}


def samples(engine: Engine, column: str) -> dict[int, Any]:
    with engine.connect() as connection:
        rows = connection.execute(text(f"SELECT sample_id, {column} FROM alchemist.samples ORDER BY 1"))
        return {row[0]: bytes(row[1]) if isinstance(row[1], memoryview) else row[1] for row in rows}


def single(value: float) -> float:
    """A number as a 32-bit float holds it."""
    return float(np.float32(value))


SUFFIXES = [".parquet", ".csv", ".jsonl"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("key", ["sample_id", "pair_hash", "image_hash", "source_url", "shard+key"])
def test_a_score_reaches_every_sample_that_its_key_names(store: Engine, tmp_path: Path, key: str, suffix: str) -> None:
    wanted = {5: 0.1, 6: -2.5, 10: 1e-9}
    if key == "shard+key":
        rows: dict[str, list[Any]] = {"shard": ["2026-01-01/a.tar"] * 3, "key": ["000004", "000005", "000009"]}
    else:
        values = samples(store, key)
        rows = {key: [value.hex() if isinstance(value := values[i], bytes) else value for i in wanted]}
    path = write(tmp_path / f"scores{suffix}", rows | {"score": list(wanted.values())})
    name = f"by_{key}_{suffix[1:]}".replace("+", "_")
    result = bring(path, name, key, dataset="web")
    # 4 and 5 have the same image.
    expected = {i: single(value) for i, value in wanted.items()} | ({4: single(0.1)} if key == "image_hash" else {})
    assert stored(store, name) == expected
    assert (result.n_rows, result.n_matched, result.n_unmatched, result.n_new) == (3, 3, 0, len(expected))


def test_hashes_may_be_bytes_and_columns_may_have_other_names(store: Engine, tmp_path: Path) -> None:
    hashes = samples(store, "pair_hash")
    rows: Rows = {"id": pa.array([hashes[1], hashes[2]]), "aesthetic": pa.array([1, 2], pa.int16())}
    bring(write(tmp_path / "a.parquet", rows), "as_bytes", "pair_hash", key_column="id", column="aesthetic")
    rows = {**rows, "id": pa.array([hashes[1].hex().upper(), hashes[2].hex()]).dictionary_encode()}
    bring(write(tmp_path / "b.parquet", rows), "as_digits", "pair_hash", key_column="id", column="aesthetic")
    assert stored(store, "as_bytes") == stored(store, "as_digits") == {1: 1, 2: 2}


def test_a_folder_is_read_by_name_and_a_file_without_shards_has_the_name_of_its_tar(
    store: Engine, tmp_path: Path
) -> None:
    for number, tar in enumerate(("2026-01-01", "2026-01-02")):
        (tmp_path / tar).mkdir()
        rows: Rows = {"tar": [f"{tar}/a"] * 2, "key": ["000000", "000001"], "score": [number, number + 0.5]}
        write(tmp_path / tar / "a.parquet", rows)
    result = bring(tmp_path, "of_a_folder", "shard+key", key_column="tar,key", dataset="web")
    assert stored(store, "of_a_folder") == {1: 0, 2: 0.5, 201: 1, 202: 1.5}
    assert result.n_rows == 4
    with pytest.raises(ConfigError, match=r"shard 'a' is ambiguous: .*2026-01-01/a.tar, .*2026-01-02/a.tar"):
        bring(tmp_path, "by_file_name", "shard+key", dataset="web")
    write(tmp_path / "a.csv", {"key": ["000003"], "score": [1]})
    assert bring(tmp_path / "a.csv", "by_file_name", "shard+key", dataset="books").n_new == 1
    assert stored(store, "by_file_name") == {304: 1}


def test_every_row_is_accounted_for(store: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Chunks of two rows, so that a key repeats in another chunk.
    monkeypatch.setattr(score_files, "CHUNK_ROWS", 2)
    ids = [1, 2, 3, 4, 5, 6, 1, 2, 999, None, 1]
    values = [0.5, 1.5, np.nan, np.inf, 1e39, None, 0.5, 1.5, 1.0, 1.0, 0.5]
    rows = {"sample_id": pa.array(ids, pa.int64()), "score": pa.array(values, pa.float64())}
    result = bring(write(tmp_path / "a.parquet", rows), "accounted")
    counts = result.model_dump(
        include={"n_rows", "n_matched", "n_unmatched", "n_doubled", "n_in_conflict", "n_non_finite"}
    )
    assert counts == {
        "n_rows": 11, "n_matched": 2, "n_unmatched": 2, "n_doubled": 3, "n_in_conflict": 0, "n_non_finite": 4,
    }  # fmt: skip
    assert (result.is_new_name, result.n_new, result.n_same, result.n_other) == (True, 2, 0, 0)
    assert stored(store, "accounted") == {1: 0.5, 2: 1.5}


def test_a_row_counts_once_even_if_several_samples_have_its_key(store: Engine, tmp_path: Path) -> None:
    image = samples(store, "image_hash")[5].hex()
    rows = {"image_hash": [image, image, "0" * 64], "score": [0.5, 0.5, 1.0]}
    result = bring(write(tmp_path / "a.csv", rows), "shared", "image_hash")
    assert (result.n_rows, result.n_matched, result.n_doubled, result.n_unmatched, result.n_new) == (3, 1, 1, 1, 2)


@pytest.mark.parametrize(
    ("name", "rows", "counts", "expected"),
    [
        ("later", {LATER_URL: 1.0}, (1, 0, 0), {20: 1.0}),
        ("several", {FIRST_URL: 1.0}, (1, 0, 0), {20: 1.0, 25: 1.0}),
        ("doubled", {FIRST_URL: 1.0, LATER_URL: 1.0}, (1, 1, 0), {20: 1.0, 25: 1.0}),
        # The second row is the first one of sample 25.
        ("first_of_one", {LATER_URL: 1.0, FIRST_URL: 1.0}, (2, 0, 0), {20: 1.0, 25: 1.0}),
        ("torn_later", {FIRST_URL: 1.0, LATER_URL: 2.0}, (1, 0, 1), {20: 1.0, 25: 1.0}),
        ("torn_of_one", {LATER_URL: 2.0, FIRST_URL: 1.0}, (1, 0, 1), {20: 2.0, 25: 1.0}),
    ],
)  # fmt: skip
def test_a_score_reaches_a_sample_by_every_url_that_a_crawl_gave_and_each_row_counts_once(
    store: Engine,
    tmp_path: Path,
    name: str,
    rows: dict[str, float],
    counts: tuple[int, ...],
    expected: dict[int, float],
) -> None:
    given = {"https://nowhere.example": 0.0, **rows}
    path = write(tmp_path / "a.csv", {"url": list(given), "score": list(given.values())})
    if "torn" in name:
        with pytest.raises(
            DataError, match=rf"for 1 sample the file has different scores; .* by source_url: {next(iter(rows))}\."
        ):
            bring(path, f"url_{name}", "source_url")
    result = bring(path, f"url_{name}", "source_url", on_conflict="keep")
    assert (result.n_rows, result.n_unmatched) == (len(given), 1)
    assert (result.n_matched, result.n_doubled, result.n_in_conflict) == counts
    assert stored(store, f"url_{name}") == expected


def test_a_second_import_changes_nothing_and_reports_that(store: Engine, tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"sample_id": [1, 2, 3], "score": [0.1, 0.2, 0.3]})

    def versions() -> list[Any]:
        statement = """
            SELECT scores.ctid, scores.xmin, scores.* FROM alchemist.scores JOIN alchemist.raters USING (rater_id) WHERE name = 'twice'
        """
        with store.connect() as connection:
            return [tuple(row) for row in connection.execute(text(statement))]

    first = bring(path, "twice")
    before = versions()
    again = bring(path, "twice")
    assert versions() == before
    assert (first.is_new_name, first.n_new, first.n_same, first.note) == (True, 3, 0, None)
    assert (again.is_new_name, again.n_new, again.n_same) == (False, 0, 3)
    assert again.note == "Every matched sample has a score twice already: nothing changed."


def test_a_name_that_exists_gets_the_scores_that_it_lacks(store: Engine, tmp_path: Path) -> None:
    bring(write(tmp_path / "a.parquet", {"sample_id": [1, 2], "score": [0.1, 0.2]}), "growing")
    result = bring(write(tmp_path / "b.parquet", {"sample_id": [2, 3], "score": [0.2, 0.3]}), "growing")
    assert (result.n_new, result.n_same) == (1, 1)
    assert stored(store, "growing") == {1: single(0.1), 2: single(0.2), 3: single(0.3)}


def test_two_scores_of_one_sample_in_a_file_are_refused_with_the_first_keys(store: Engine, tmp_path: Path) -> None:
    rows: Rows = {"sample_id": [9, *range(7, 0, -1), *range(1, 8)], "score": [5.0] + [1.0] * 7 + [2.0] * 6 + [1.0]}
    path = write(tmp_path / "a.parquet", rows)
    with pytest.raises(
        DataError, match=r"for 6 samples the file has different scores; the first by sample_id: 6, 5, 4, 3, 2\. "
    ):
        bring(path, "torn")
    assert all(one.name != "torn" for one in list_scorers(store)), "nothing is registered either"
    result = bring(path, "torn", on_conflict="keep")
    assert (result.n_in_conflict, result.n_doubled, result.n_matched, result.n_new) == (6, 1, 8, 8)
    assert stored(store, "torn") == {9: 5.0, **dict.fromkeys(range(1, 8), 1.0)}


def test_two_records_of_one_sample_with_different_scores_are_a_conflict(store: Engine, tmp_path: Path) -> None:
    with store.begin() as connection:
        # Sample 1 is in the tar of the next day too.
        insert_rows(connection, {"sample_locations": [{"shard_id": 2, "ordinal": 900, "sample_id": 1, "key": "again"}]})
    rows: Rows = {"shard": ["2026-01-01/a.tar", "2026-01-02/a.tar"], "key": ["000000", "again"], "score": [1.0, 2.0]}
    path = write(tmp_path / "a.csv", rows)
    with pytest.raises(DataError, match=r"the first by shard\+key: .*2026-01-01/a.tar 000000\. "):
        bring(path, "two_places", "shard+key", dataset="web")
    assert bring(path, "two_places", "shard+key", dataset="web", on_conflict="keep").n_in_conflict == 1
    assert stored(store, "two_places") == {1: 1.0}


def test_a_stored_score_never_changes(store: Engine, tmp_path: Path) -> None:
    bring(write(tmp_path / "a.parquet", {"sample_id": [1, 2], "score": [0.1, 0.2]}), "fixed")
    path = write(tmp_path / "b.parquet", {"sample_id": [1, 2, 3], "score": [0.1, 0.25, 0.3]})
    with pytest.raises(
        DataError, match=r"for 1 sample another score is stored; the first by sample_id: 2\. .*under another name"
    ):
        bring(path, "fixed")
    assert stored(store, "fixed").keys() == {1, 2}
    result = bring(path, "fixed", on_conflict="keep")
    assert (result.n_new, result.n_same, result.n_other) == (1, 1, 1)
    assert stored(store, "fixed") == {1: single(0.1), 2: single(0.2), 3: single(0.3)}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clip", "belongs to a scorer"), ("r", "belongs to a trained rater"), ("width", "conditions have a column of that name"),
        ("and", "word of SQL"), ("retired", "are retired and get no further rows"),
    ],
)  # fmt: skip
def test_a_name_that_is_taken_or_no_name_is_refused(store: Engine, tmp_path: Path, name: str, message: str) -> None:
    path = write(tmp_path / "a.parquet", {"sample_id": [1], "score": [0.1]})
    if name == "retired":
        bring(path, name)
        with store.begin() as connection:
            connection.execute(text("UPDATE alchemist.raters SET state = 'retired' WHERE name = 'retired'"))
    with pytest.raises(ConfigError, match=message):
        bring(path, name)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ({"id": [1], "score": [1.0]}, {}, r"no column 'sample_id' \(columns: id, score\). Give --key-column"),
        ({"sample_id": [1], "aesthetic": [1.0]}, {}, r"no column 'score' \(columns: sample_id, aesthetic\). Give --column"),
        ({"sample_id": [1.5], "score": [1.0]}, {}, "column 'sample_id' .double. is not int64"),
        ({"sample_id": [1], "score": ["high"]}, {}, "column 'score' .string. is not double"),
        ({"sample_id": [1], "score": [[1.0]]}, {}, "column 'score' .list.*. is not double"),
        ({"sample_id": [7_000_000], "score": [1.0]}, {}, "None of 1 row, such as 7000000, belongs to a sample by sample_id"),
        pytest.param(
            {"sample_id": pa.array([], pa.int64()), "score": pa.array([], pa.float64())}, {}, "None of 0 rows belongs", id="no rows"
        ),
        ({"pair_hash": ["abc"], "score": [1.0]}, {"key": "pair_hash"}, "'abc', which is no sha256"),
        ({"pair_hash": ["x" * 64], "score": [1.0]}, {"key": "pair_hash"}, "which is no sha256"),
        ({"pair_hash": [b"x" * 31], "score": [1.0]}, {"key": "pair_hash"}, "which is no sha256"),
        ({"key": [12], "shard": ["a"], "score": [1.0]}, {"key": "shard+key"}, "column 'key' has numbers; the keys of records are texts"),
        ({"sample_id": [1], "score": [1.0]}, {"key_column": "a,b"}, "--key sample_id has 1 column"),
        ({"sample_id": [1], "score": [1.0]}, {"dataset": "boks"}, "'boks' is not registered"),
    ],
    ids=str,
)  # fmt: skip
def test_a_file_that_does_not_fit_is_refused(
    store: Engine, tmp_path: Path, rows: Rows, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        bring(write(tmp_path / "a.parquet", rows), "refused", **options)
    assert all(one.name != "refused" for one in list_scorers(store))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.parquet", b"PAR1 and no more", "cannot be read"), ("a.csv", b"sample_id,score\n1,x\n", "cannot be read"),
        ("a.csv", b"", "cannot be read"), ("a.jsonl", b'{"sample_id": 1,', "cannot be read"), ("none.parquet", None, "cannot be opened"),
        ("notes.txt", b"x", "there are no scores"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("store")
def test_a_damaged_or_missing_file_is_named(tmp_path: Path, file: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(AlchemistError, match=f"{file}.*{message}"):
        bring(tmp_path / file, "damaged")


HOSTILE = [HOSTILE_URL, "x'); DROP TABLE incoming; --", "\\.", "a\x00b", "", '"', "\ud800"]


# Parquet's writer refuses half of a surrogate pair.
@pytest.mark.parametrize(
    ("value", "suffix"),
    [
        (value, suffix)
        for value in HOSTILE
        for suffix in (".jsonl", ".parquet")
        if (value, suffix) != ("\ud800", ".parquet")
    ],
)
def test_a_hostile_key_is_only_a_key(store: Engine, tmp_path: Path, value: str, suffix: str) -> None:
    url = samples(store, "source_url")[5]
    name = f"hostile_{HOSTILE.index(value)}_{suffix[1:]}"
    rows = {"source_url": [value, url], "score": [1.0, 2.0]}
    if value == "\ud800":
        with pytest.raises(DataError, match="cannot be read"):
            bring(write(tmp_path / f"a{suffix}", rows), name, "source_url")
        return
    result = bring(write(tmp_path / f"a{suffix}", rows), name, "source_url")
    assert (result.n_matched, result.n_unmatched) == ((2, 0) if value == HOSTILE_URL else (1, 1))
    assert stored(store, name)[5] == 2.0


def test_files_of_an_object_store_are_imported_too(store: Engine, tmp_path: Path, object_store: str) -> None:
    from alchemist_core.shards.storage import put_file

    for number in (1, 2):
        put_file(
            f"{object_store}/scores/{number}.parquet",
            write(tmp_path / f"{number}.parquet", {"sample_id": [number], "score": [number / 4]}),
        )
        # As Spark and Dask write them: a folder with the name of a file.
        put_file(f"{object_store}/all.parquet/{number}.parquet", tmp_path / f"{number}.parquet")
    assert bring(f"{object_store}/scores", "from_s3").n_new == 2
    assert bring(f"{object_store}/all.parquet", "from_s3").n_same == 2
    assert bring(f"{object_store}/scores/2.parquet", "from_s3").n_same == 1
    assert stored(store, "from_s3") == {1: 0.25, 2: 0.5}
    with pytest.raises(DataError, match="cannot be read: "):
        bring(f"{object_store}/scores/3.parquet", "from_s3")


def test_imports_of_one_name_at_the_same_time_store_each_score_once(store: Engine, tmp_path: Path) -> None:
    paths = [
        write(tmp_path / f"{n}.parquet", {"sample_id": list(range(n, n + 300)), "score": [0.5] * 300})
        for n in (1, 51, 101)
    ]

    def work(path: Path) -> int:
        chunks = read_scores(str(path), KEYS["sample_id"].columns, "score")
        return import_scores(store, ScoreImport("crowded", KEYS["sample_id"]), chunks, lambda _: None).n_new

    with ThreadPoolExecutor(3) as threads:
        assert sum(threads.map(work, paths)) == N_SAMPLES
    assert stored(store, "crowded").keys() == set(range(1, N_SAMPLES + 1))


@pytest.mark.slow
def test_a_killed_import_stores_nothing_and_can_be_repeated(store: Engine, tmp_path: Path) -> None:
    """It is killed where it waits to insert, the last moment before its transaction commits."""
    bring(write(tmp_path / "a.parquet", {"sample_id": [1], "score": [0.5]}), "killed")
    path = write(tmp_path / "b.parquet", {"sample_id": list(range(1, 301)), "score": [0.5] * 300})
    with store.connect() as holder:
        number = holder.execute(text("SELECT rater_id FROM alchemist.raters WHERE name = 'killed'")).scalar_one()
        holder.execute(text(f"LOCK TABLE alchemist.scores_{number} IN SHARE MODE"))
        line = ["import", "scores", "--from", str(path), "--name", "killed", "--key", "sample_id"]
        process = subprocess.Popen(
            [sys.executable, "-m", "alchemist_core", *line], env={**os.environ, "PYTHONPATH": "."}
        )
        _wait_for(
            holder,
            f"SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'alchemist.scores_{number}'\\:\\:regclass",
        )
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert stored(store, "killed") == {1: 0.5}
    assert bring(path, "killed").n_new == 299


def _wait_for(connection: Any, statement: str) -> None:
    ends_at = time.monotonic() + 120
    while not connection.execute(text(statement)).scalar_one():
        assert time.monotonic() < ends_at, "the import never waited"
        time.sleep(0.05)


def test_an_import_that_fails_half_way_leaves_nothing(store: Engine, tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"sample_id": [1, 2], "score": [0.5, 0.5]})

    def torn() -> Iterator[Any]:
        yield from read_scores(str(path), KEYS["sample_id"].columns, "score")
        raise DataError("the disk is gone")

    for _ in range(2):
        with pytest.raises(DataError, match="the disk is gone"):
            import_scores(store, ScoreImport("half", KEYS["sample_id"]), torn(), lambda _: None)
    assert all(one.name != "half" for one in list_scorers(store))
    assert bring(path, "half").n_new == 2


def test_a_selection_ranks_by_imported_scores(store: Engine, tmp_path: Path) -> None:
    bring(write(tmp_path / "a.parquet", {"sample_id": list(range(1, 101)), "score": list(range(100))}), "bought")
    report = draw(0.1, rank_by="bought", where="bought < 90", strategy="top_k", name="by_import")
    assert (report.n_eligible, report.n_removed) == (90, {"predicate": 10, "unscored": 300})
    assert member_ids(store, "by_import") == set(range(82, 91))


def test_imported_scores_are_never_the_newest_rater(store: Engine, tmp_path: Path) -> None:
    bring(write(tmp_path / "a.parquet", {"sample_id": [1], "score": [0.5]}), "newest_row")
    newest = find_rater(store, "newest")
    assert newest is not None
    assert newest.name == "r"


def test_imported_scores_score_no_night(
    store: Engine, filled: tuple[str, Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring(write(tmp_path / "a.parquet", {"sample_id": [1], "score": [0.5]}), "no_shadow")
    with pytest.raises(ConfigError, match="no_shadow holds imported scores"):
        promote(PromoteConfig(rater="no_shadow", shadow=True))
    with store.begin() as connection:
        # As an earlier version allowed.
        connection.execute(text("UPDATE alchemist.raters SET is_shadow = TRUE WHERE name = 'no_shadow'"))
    assert "no_shadow" not in {rater.name for rater in find_raters(store, "nightly")}
