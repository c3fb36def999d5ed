"""Why a sample is in or out of a subset: every possible reason, with the next step."""

from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, text

from alchemist_core.__main__ import main
from alchemist_core.cli.sample import ExplainConfig, ExplainResult, TakedownConfig, takedown
from alchemist_core.cli.sample import explain as run
from alchemist_core.cli.shard import ChangeConfig, retire
from alchemist_core.errors import ConfigError
from alchemist_core.files import artifact_path
from alchemist_core.stages.select import SelectConfig
from alchemist_core.stages.select import run as select
from alchemist_core.store.manifests import read_manifest
from alchemist_core.store.subsets import find_subset
from tests.given import insert_rows
from tests.scored_nights import add_dataset, add_night, add_rater
from tests.selectable_store import set_duplicates

pytestmark = pytest.mark.db

NAME = "best"


@pytest.fixture
def drawn(engine: Engine) -> Engine:
    """400 samples of one night, of which 80 were selected; a second night is held, a third was decided later, a fourth waits."""
    with engine.begin() as connection:
        add_dataset(connection)
        add_dataset(connection, dataset_id=2, name="books")
        insert_rows(connection, {"datasets": [{"dataset_id": 3, "name": "good", "role": "validation"}]})
        add_rater(connection)
    scores = np.random.default_rng(0).normal(size=400).astype(np.float32).tolist()
    add_night(engine, "2026-01-01", {"a.tar": scores}, state="selectable")
    add_night(engine, "2026-01-01", {"a.tar": [0.5]}, state="selectable", dataset_id=2)
    add_night(engine, "2026-01-01", {"a.tar": [0.5]}, state="selectable", dataset_id=3)
    add_night(engine, "2026-01-02", {"a.tar": [0.5]}, state="held")
    policy = {"strategy": "shift_gsample", "retention": 0.2}
    select(SelectConfig.model_validate({"dataset": "web", "name": NAME, "policy": policy}))
    add_night(engine, "2026-01-03", {"a.tar": [0.5]}, state="selectable")
    add_night(engine, "2026-01-04", {"a.tar": [0.5]})
    return engine


def explain(sample: object) -> ExplainResult:
    return run(ExplainConfig(sample=str(sample), subset=NAME))


def row(engine: Engine, sql: str, **parameters: Any) -> Any:
    with engine.connect() as connection:
        return connection.execute(text(sql), parameters).first()


def pair_of(engine: Engine, crawl_date: str, dataset_id: int = 1) -> Any:
    return row(engine, """
        SELECT sample_id, pair_hash, uri, key FROM alchemist.samples INNER JOIN alchemist.sample_locations USING (sample_id)
        INNER JOIN alchemist.shards USING (shard_id) WHERE crawl_date = :date AND dataset_id = :dataset_id LIMIT 1
    """, date=crawl_date, dataset_id=dataset_id)  # fmt: skip


def members(engine: Engine) -> set[bytes]:
    subset = find_subset(engine, NAME)
    return set(read_manifest(artifact_path(subset.manifest_uri), sha256=subset.manifest_sha256).pair_hashes())


def test_every_sample_is_correctly_reported_as_in_or_out_with_its_key(drawn: Engine) -> None:
    inside = members(drawn)
    with drawn.connect() as connection:
        pairs = connection.execute(text("SELECT sample_id, pair_hash FROM alchemist.samples ORDER BY 1 LIMIT 24")).all()
    for pair in pairs:
        report = explain(pair.sample_id)
        assert report.is_member == (bytes(pair.pair_hash) in inside)
        assert report.threshold is not None
        if report.reason == "key":
            assert report.key is not None
            assert report.is_member == (report.key >= report.threshold)
        else:
            assert (report.reason, report.key) == ("rank", None)
            assert report.rank is not None
            assert report.rank < 0.25
            assert "drop_top_ratio=0.25" in report.because


def test_the_best_sample_of_a_stratum_without_a_member_is_not_compared_with_members_of_others(engine: Engine) -> None:
    with engine.begin() as connection:
        add_rater(connection)
        add_dataset(connection)
        add_dataset(connection, dataset_id=2, name="books")
    add_night(engine, "2026-01-01", {"a.tar": [number / 100 for number in range(100)]}, state="selectable")
    add_night(engine, "2026-01-01", {"a.tar": [2.0, 3.0]}, state="selectable", dataset_id=2)
    policy = {"strategy": "top_k", "retention": 0.2, "stratify": True}
    select(SelectConfig.model_validate({"dataset": "web,books", "name": NAME, "policy": policy}))
    report = explain(pair_of(engine, "2026-01-01", dataset_id=2).sample_id)
    assert (report.is_member, report.reason, report.threshold) == (False, "stratum", None)
    assert report.because.endswith(
        "but its dataset has too few eligible samples for a member at retention 0.2 (--stratify)"
    )
    inside = explain(min(members(engine)).hex())
    assert inside.threshold is not None
    assert inside.because.endswith("the smallest of the members of its dataset, source or cluster")


def test_a_sample_is_named_by_its_place_by_its_hash_or_by_its_id(drawn: Engine) -> None:
    pair = pair_of(drawn, "2026-01-01")
    whole = bytes(pair.pair_hash).hex()
    reports = [explain(named) for named in (f"web/{pair.uri}/{pair.key}", whole[:8], whole.upper(), pair.sample_id)]
    assert {report.pair for report in reports} == {whole}


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("cafe", "is not a valid sample. Give DATASET/SHARD/KEY, a sample id, or at least 8 hex digits"),
        ("00000000", "There is no sample 00000000 in the store"),
        ("web/2026-01-01/a.tar/none", "There is no sample web/2026-01-01/a.tar/none in the store"),
        ("77777777777", "There is no sample 77777777777 in the store"),
    ],
)
def test_what_names_no_sample_is_refused(drawn: Engine, named: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        explain(named)


@pytest.mark.parametrize(
    ("crawl_date", "dataset_id", "reason", "remedy"),
    [
        ("2026-01-02", 1, "held", "web 2026-01-02 r1. Inspect it, then run alchemist night release"),
        ("2026-01-03", 1, "new pair", "Select again"),
        ("2026-01-04", 1, "night not decided", "its night is not published: web 2026-01-04 r1. Run alchemist check"),
        ("2026-01-01", 2, "other dataset", "it belongs to books"),
        ("2026-01-01", 3, "held out", "it belongs to good (validation): only samples of training datasets"),
    ],
)
def test_a_sample_that_could_not_be_drawn_gets_the_reason_and_what_to_do(
    drawn: Engine, crawl_date: str, dataset_id: int, reason: str, remedy: str
) -> None:
    report = explain(pair_of(drawn, crawl_date, dataset_id).sample_id)
    assert (report.is_member, report.reason, report.rank) == (False, reason, None)
    assert remedy in report.because


def test_the_command_for_a_held_night_names_a_rater_that_is_not_in_production(drawn: Engine) -> None:
    with drawn.begin() as connection:
        connection.execute(text("UPDATE alchemist.raters SET state = 'candidate'"))
    assert "--crawl-date DATE --rater r --reason WHY" in explain(pair_of(drawn, "2026-01-02").sample_id).because


def test_a_sample_that_came_first_may_be_left_out_for_the_best_of_its_duplicates(drawn: Engine) -> None:
    scores = "SELECT sample_id FROM alchemist.scores WHERE sample_id IN (1, 3) ORDER BY score DESC"
    assert row(drawn, scores).sample_id == 3
    set_duplicates(drawn, [(3, 1)])
    policy = {"strategy": "top_k", "retention": 0.2, "dedup": "near", "dedup_keep": "best"}
    select(SelectConfig.model_validate({"dataset": "web", "name": NAME, "policy": policy}))
    report = explain(1)
    assert (report.is_member, report.reason) == (False, "duplicate")
    assert report.because.endswith("another sample of its group of duplicates is kept (--dedup, --dedup-keep)")
    assert explain(3).reason == "key"


def test_a_takedown_counts_from_the_next_version_on(drawn: Engine) -> None:
    gone = min(members(drawn))
    image = row(drawn, "SELECT image_hash FROM alchemist.samples WHERE pair_hash = :h", h=gone).image_hash
    takedown(TakedownConfig(image_hash=bytes(image).hex(), reason="asked for by its author"))
    kept = explain(gone.hex())
    assert kept.is_member
    assert kept.because.endswith("; its image was taken down later (asked for by its author), so readers skip it")
    select(SelectConfig.model_validate({"dataset": "web", "name": NAME, "policy": {"strategy": "top_k"}}))
    report = explain(gone.hex())
    assert (report.is_member, report.reason) == (False, "taken down")
    assert "asked for by its author" in report.because


def test_a_sample_of_a_retired_shard_counts_from_the_next_version_on(drawn: Engine) -> None:
    pair = pair_of(drawn, "2026-01-01")
    retire(ChangeConfig(shard=f"web/{pair.uri}", reason="its licence was withdrawn"))
    assert explain(pair.sample_id).reason in ("key", "rank"), "the version was selected before"
    select(
        SelectConfig.model_validate({"dataset": "web", "name": NAME, "policy": {"strategy": "top_k", "retention": 1.0}})
    )
    report = explain(pair.sample_id)
    assert (report.is_member, report.reason) == (False, "retired")
    assert "(its licence was withdrawn). To use a retired one again: alchemist shard reread" in report.because


def test_a_sample_without_the_score_that_ranks_the_version_is_told_which_score(drawn: Engine) -> None:
    first, second = (row(drawn, f"SELECT min(sample_id) + {n} AS id FROM alchemist.samples").id for n in (0, 1))
    with drawn.begin() as connection:
        insert_rows(connection, {"raters": [{"rater_id": 2, "name": "critic", "kind": "scorer"}]})
        connection.execute(text("SELECT alchemist.add_partition('scores', 2)"))
        scored = (
            "INSERT INTO alchemist.scores (rater_id, sample_id, score) SELECT 2, sample_id, 0.5 FROM alchemist.samples"
        )
        connection.execute(text(f"{scored} WHERE sample_id <> :first"), {"first": first})
    policy = {"strategy": "top_k", "rank_by": "critic", "retention": 0.2}
    select(SelectConfig.model_validate({"dataset": "web", "name": NAME, "policy": policy}))
    assert explain(second).reason == "key"
    report = explain(first)
    assert (report.is_member, report.reason) == (False, "no score")
    assert "it had no score critic, by which this version ranks" in report.because


@pytest.mark.parametrize("reason", ["truncated", "decoder_died"])
def test_what_was_quarantined_is_reported_with_its_reason(drawn: Engine, reason: str) -> None:
    shard_id = row(
        drawn, "SELECT shard_id FROM alchemist.shards WHERE crawl_date = '2026-01-01' AND dataset_id = 1"
    ).shard_id
    with drawn.begin() as connection:
        insert_rows(
            connection,
            {
                "quarantined_samples": [
                    {"shard_id": shard_id, "ordinal": 900, "key": "bad", "reason": reason, "detail": "12 bytes"}
                ]
            },
        )
    with pytest.raises(ConfigError) as caught:
        explain("web/2026-01-01/a.tar/bad")
    assert str(caught.value).endswith(
        f"The record there was quarantined by ingest: {reason} (12 bytes). Once its cause is removed (runbook, QuarantineRateHigh), "
        "read the shard again: alchemist shard reread web/2026-01-01/a.tar --reason WHY."
    )


def test_the_answer_is_two_lines(drawn: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    inside = min(members(drawn)).hex()
    assert main(["sample", "explain", inside, "--subset", NAME]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"Sample {inside[:16]} (id ")
    assert second.startswith("in best v1: rank 0.")
    assert "the smallest of 80 members" in second
