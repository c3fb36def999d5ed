"""An export contains the rows that match its condition and appears only when complete; a condition cannot inject SQL."""

import csv
import json
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine, text

from alchemist_core.cli.export import ExportResult, ExportSamplesConfig, ExportScoresConfig, samples, scores
from alchemist_core.errors import AlchemistError, ConfigError
from alchemist_core.selection.ranks import fit_rank_scale
from alchemist_core.store import export as export_store
from alchemist_core.store import queries
from tests.given import insert_rows
from tests.scored_nights import add_dataset, add_night, add_rater

pytestmark = pytest.mark.db

CAPTIONS = ["a cat", "a dog", "it's a 'quoted' cat; DROP TABLE scores --"]


@pytest.fixture(autouse=True)
def _store(engine: Engine) -> None:
    values = np.linspace(-2, 2, 300).round(3).tolist()
    with engine.begin() as connection:
        add_dataset(connection)
        add_rater(connection)
    add_night(engine, "2026-01-01", {"a.tar": values[:150]}, captions=CAPTIONS)
    add_night(engine, "2026-01-02", {"b.tar": values[150:]}, captions=CAPTIONS)
    scale = fit_rank_scale(np.array(values, np.float32).astype(float))
    knots = {"knot_scores": scale.knot_scores.tolist(), "knot_ranks": scale.knot_ranks.tolist()}
    with engine.begin() as connection:
        insert_rows(connection, {"rank_scales": [{"rank_scale_id": 1, "rater_id": 1, **knots}]})


def export_scores(folder: Path, where: str | None = None) -> list[dict[str, object]]:
    out = folder / "scores.parquet"
    report: ExportResult = scores(ExportScoresConfig(out=out, where=where))
    rows = pq.read_table(out).to_pylist()
    assert (report.n_rows, report.size_bytes) == (len(rows), out.stat().st_size)
    return rows  # type: ignore[no-any-return]


def test_scores_come_with_rank_sample_and_place_in_the_order_of_samples(tmp_path: Path, engine: Engine) -> None:
    rows = export_scores(tmp_path)
    assert len(rows) == 300
    assert [row["sample_id"] for row in rows] == sorted(row["sample_id"] for row in rows)  # type: ignore[type-var]
    assert (rows[0]["score"], rows[0]["rank"], rows[-1]["rank"]) == (pytest.approx(-2), 1.0, 0.0)
    assert (rows[0]["dataset"], rows[0]["crawl_date"], rows[0]["shard"], rows[0]["key"]) == (
        "web", date(2026, 1, 1), "2026-01-01/a.tar", "000000",
    )  # fmt: skip
    with engine.connect() as connection:
        expected = (
            connection.execute(text("SELECT rank FROM alchemist.current_scores ORDER BY sample_id")).scalars().all()
        )
    assert [row["rank"] for row in rows] == expected


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        ("score > 1.5", lambda r: r["score"] > 1.5),
        ("score > 1 and caption = 'a cat'", lambda r: r["score"] > 1 and r["caption"] == "a cat"),
        ("score < -1.9 or not score < 1.9", lambda r: r["score"] < -1.9 or not r["score"] < 1.9),
        ("caption like '%cat%' and crawl_date >= '2026-01-02'", lambda r: "cat" in r["caption"] and r["crawl_date"] >= date(2026, 1, 2)),
        ("rank <= 0.1", lambda r: r["rank"] <= 0.1),
        ("key in ('000001', '000002')", lambda r: r["key"] in ("000001", "000002")),
        ("width not in (32, 64)", lambda _: False),
        ("licence is null and dataset is not null", lambda _: True),
        ("caption = 'it''s a ''quoted'' cat; DROP TABLE scores --'", lambda r: r["caption"] == CAPTIONS[2]),
    ],
)  # fmt: skip
def test_a_condition_keeps_what_it_says(tmp_path: Path, where: str, wanted: object) -> None:
    everything = export_scores(tmp_path)
    assert export_scores(tmp_path, where) == [row for row in everything if wanted(row)]  # type: ignore[operator]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("rating > 1", "there is no column 'rating' .columns: sample_id, pair_hash, score"),
        ("width > 'wide'", "expected a whole number, found 'wide'"),
        ("crawl_date = 'yesterday'", "expected 'YYYY-MM-DD', found 'yesterday'"),
        ("score like '1%'", "like requires a text column"),
        ("caption = 'a\x00b'", "expected a text"),
        ("1 = 1", "expected a column"),
    ],
)
def test_a_mistake_is_refused_before_a_file_is_begun(tmp_path: Path, where: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        export_scores(tmp_path, where)
    assert list(tmp_path.iterdir()) == []


def test_the_same_export_gives_the_same_bytes(tmp_path: Path) -> None:
    export_scores(tmp_path, "score > 0")
    first = (tmp_path / "scores.parquet").read_bytes()
    export_scores(tmp_path, "score > 0")
    assert (tmp_path / "scores.parquet").read_bytes() == first


def test_rows_go_by_in_batches_and_a_failure_half_way_leaves_the_earlier_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> None:
    monkeypatch.setattr(export_store, "ROWS_A_BATCH", 100)
    monkeypatch.setattr(queries, "FIRST_ROWS", 50)
    monkeypatch.setattr(queries, "MOST_ROWS", 50)
    export_scores(tmp_path)
    out = tmp_path / "scores.parquet"
    assert pq.ParquetFile(out).num_row_groups == 3
    before = out.read_bytes()
    with engine.begin() as connection:
        # The 250th row in order cannot be computed: the server fails in the third batch.
        connection.execute(text("ALTER TABLE alchemist.rank_scales DROP CONSTRAINT ck_rank_scales_knots"))
        connection.execute(
            text(
                "CREATE FUNCTION alchemist.fail(bigint) RETURNS boolean LANGUAGE sql AS 'SELECT 1 / (250 - $1) IS NOT NULL'"
            )
        )
        connection.execute(text("ALTER TABLE alchemist.samples ENABLE ROW LEVEL SECURITY"))
        connection.execute(text("ALTER TABLE alchemist.samples FORCE ROW LEVEL SECURITY"))
        connection.execute(text("CREATE POLICY fails ON alchemist.samples USING (alchemist.fail(sample_id))"))
    with pytest.raises(Exception, match="division by zero"):
        export_scores(tmp_path)
    assert out.read_bytes() == before
    assert list(tmp_path.iterdir()) == [out]


def test_a_list_of_the_best_samples_leaves_out_what_was_taken_down(tmp_path: Path, engine: Engine) -> None:
    *rest, gone = export_scores(tmp_path, "rank < 0.1")
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO alchemist.takedowns (image_hash, reason, requested_by)"
                " SELECT image_hash, 'asked', 'ann' FROM alchemist.samples WHERE sample_id = :id"
            ),
            {"id": gone["sample_id"]},
        )
    assert export_scores(tmp_path, "rank < 0.1") == rest


def test_samples_are_exported_with_hashes_and_heuristics(tmp_path: Path, engine: Engine) -> None:
    with engine.begin() as connection:
        insert_rows(connection, {"heuristic_scores": [{"sample_id": 1, "clarity": 0.5}]})
    out = tmp_path / "samples.parquet"
    assert samples(ExportSamplesConfig(out=out, where="clarity > 0.1 and is_taken_down = false")).n_rows == 1
    (row,) = pq.read_table(out).to_pylist()
    assert (row["caption"], row["clarity"], len(row["pair_hash"]), row["metadata"]) == ("a cat", 0.5, 32, "{}")
    exported = samples(ExportSamplesConfig(out=out, where=f"pair_hash = '{row['pair_hash'].hex()}'"))
    assert exported.n_rows == 1


@pytest.mark.parametrize("name", ["scores.xlsx", "no_such_folder/scores.parquet"])
def test_a_place_that_cannot_hold_the_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"one of \.parquet, \.csv, \.jsonl, in an existing folder"):
        scores(ExportScoresConfig(out=tmp_path / name))


def test_without_a_rater_there_are_no_scores(tmp_path: Path, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alchemist.raters SET state = 'retired'"))
    with pytest.raises(AlchemistError, match="no rater in production"):
        export_scores(tmp_path)


def test_text_of_the_crawl_is_no_formula_in_a_csv_and_numbers_stay_numbers(engine: Engine, tmp_path: Path) -> None:
    formulas = ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "a=1"]
    with engine.begin() as connection:
        for number, caption in enumerate(formulas):
            connection.execute(
                text("UPDATE alchemist.samples SET caption = :caption WHERE sample_id = :id"),
                {"caption": caption, "id": number + 1},
            )
    scores(ExportScoresConfig(out=tmp_path / "scores.csv"))
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["caption"] for row in rows[:7]] == [*(f"'{caption}" for caption in formulas[:6]), "a=1"]
    assert float(rows[0]["score"]) == pytest.approx(-2)
    scores(ExportScoresConfig(out=tmp_path / "scores.jsonl"))
    assert json.loads((tmp_path / "scores.jsonl").read_text().splitlines()[0])["caption"] == "=1+1"
