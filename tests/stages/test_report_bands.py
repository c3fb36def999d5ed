"""The pictures of the report are those of eligible samples, in bands of which one holds the ranks that were selected."""

from datetime import UTC, datetime

import numpy as np
import pytest
from sqlalchemy import Engine

from alchemist_core.cli.subset import PublishSubsetConfig, publish
from alchemist_core.report import gathering
from alchemist_core.report.content import ReportContent
from alchemist_core.store.eligible import forget_kept
from alchemist_core.store.sample_table import SampleTable
from tests.selectable_store import change, draw, fill

pytestmark = pytest.mark.db


def gather(engine: Engine, dataset: str | None = None) -> ReportContent:
    return gathering.gather_content(engine, dataset, made_at=datetime.now(UTC), on_progress=lambda *_: None)


def pictures(rows: SampleTable, *_: object) -> tuple[list[np.ndarray], list[str], list[bytes], list[str]]:
    """A picture of every sample."""
    hashes = [bytes(row.pair_hash) for row in rows]
    return [np.zeros((8, 8, 3), np.uint8) for _ in hashes], ["c" for _ in hashes], hashes, []


def test_only_eligible_images_are_read_and_the_selected_range_is_a_band(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(engine)
    change(engine, 'UPDATE alchemist.raters SET config = \'{"validation": "good"}\'')
    # Ten samples are eligible; each of the bands could show more.
    selected = draw(0.5, strategy="top_k", where="sample_id <= 10")
    publish(PublishSubsetConfig(name=selected.name))
    wanted = list[int]()

    def read_images(rows: SampleTable, *_: object) -> tuple[np.ndarray, list[str], list[bytes], list[str]]:
        wanted.append(len(rows))
        return np.zeros((0, 8, 8, 3), np.uint8), [], [], []

    monkeypatch.setattr(gathering, "read_images", read_images)
    # Of a newer snapshot under the same rater, which was not published.
    draw(0.5, name="other", where="sample_id > 10")
    content = gather(engine)
    assert (selected.n_eligible, wanted) == (10, [10])
    assert [sheet.subset for sheet in content.sheets].count(f"{selected.name} v1") == 1


def test_the_histogram_is_of_the_raters_own_scores_and_the_sheets_show_the_ranks_of_the_published_subset(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(engine)
    change(engine, 'UPDATE alchemist.raters SET config = \'{"validation": "good"}\'')
    monkeypatch.setattr(gathering, "read_images", pictures)
    draw(0.5, name="own")
    scores = gather(engine).scores
    assert scores is not None
    assert scores.edges[0] < 0, "scores of the rater are around 0"
    published = draw(0.5, name="liked", strategy="top_k", rank_by="aesthetic")
    publish(PublishSubsetConfig(name="liked"))
    # A newer snapshot of the rater's scores.
    draw(0.5, name="own", where="sample_id > 10")
    content = gather(engine)
    assert content.scores == scores
    (sheet,) = [sheet for sheet in content.sheets if sheet.subset == f"{published.name} v1"]
    shown = {tile.sample_id: tile.score for tile in sheet.tiles}
    assert len(shown) > 10
    # `fill` gives each sample this aesthetic score.
    assert shown == {sample_id: sample_id % 37 for sample_id in shown if sample_id is not None}


def test_a_subset_whose_scores_have_changed_has_no_sheets_of_its_own(
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    fill(engine)
    change(engine, 'UPDATE alchemist.raters SET config = \'{"validation": "good"}\'')
    monkeypatch.setattr(gathering, "read_images", pictures)
    draw(0.5, name="own")
    draw(0.5, name="liked", strategy="top_k", rank_by="aesthetic")
    publish(PublishSubsetConfig(name="liked"))
    change(engine, "UPDATE alchemist.heuristic_scores SET aesthetic = aesthetic + 1 WHERE sample_id < 50")
    # The counters of changed rows, by which kept files are found, lag by some seconds.
    forget_kept()
    content = gather(engine)
    assert [(sheet.low_rank, sheet.high_rank) for sheet in content.sheets] == list(gathering.BANDS)
    assert {sheet.subset for sheet in content.sheets} == {""}
    # To standard error once the command line has configured logging, as an earlier test may have; else to pytest.
    assert "liked v1: no images of its ranks are shown" in caplog.text + capsys.readouterr().err


def test_a_snapshot_whose_condition_reads_changed_scores_leaves_its_part_of_the_report_out(
    engine: Engine, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The whole report failed until the next selection."""
    fill(engine)
    change(engine, 'UPDATE alchemist.raters SET config = \'{"validation": "good"}\'')
    draw(0.5, name="own", where="aesthetic < 20")
    change(engine, "UPDATE alchemist.heuristic_scores SET aesthetic = aesthetic + 1 WHERE sample_id < 50")
    forget_kept()
    content = gather(engine)
    assert (content.scores, content.ranks, content.sheets) == (None, None, ())
    assert "Eligible samples" not in {fact.label for fact in content.facts}
    printed = caplog.text + capsys.readouterr().err
    assert "No distribution of scores and ranks is shown: The eligible samples differ from those of snapshot" in printed


def test_the_report_names_the_datasets_whose_scores_it_shows(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(engine)
    change(engine, 'UPDATE alchemist.raters SET config = \'{"validation": "good"}\'')
    monkeypatch.setattr(gathering, "read_images", pictures)

    def named(dataset: str | None) -> tuple[str, str]:
        facts = {fact.label: fact.value for fact in gather(engine, dataset).facts}
        return facts["Dataset"], facts["Newest selection from"]

    draw(0.5, name="both")
    assert named("books") == ("books", "books, web")
    draw(0.5, name="few", dataset="books")
    assert named(None) == ("all", "books")
    assert named("web") == ("web", "books, web")
