"""Good nights pass, bad ones are stopped by the check that names the fault, and every result is stored."""

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, text

from alchemist_core.cli.check import CheckConfig
from alchemist_core.cli.check import run as check
from alchemist_core.cli.held_nights import RejectNightConfig, reject
from alchemist_core.errors import CheckFailedError, ConfigError
from alchemist_core.files import artifact_path
from alchemist_core.quality.gate import _rank_figures, _validate_all, failures, run_suite
from alchemist_core.quality.limits import AppliedLimits, CheckLimits
from alchemist_core.quality.suites import Check
from alchemist_core.quality.validation import CheckOutcome
from alchemist_core.settings import load_settings
from alchemist_core.stages.publishing import PublishNightConfig, publish_night
from alchemist_core.store.checks import failed_checks, reject_checks, release_checks
from alchemist_core.store.manifests import Manifest, hash_rows, write_manifest
from alchemist_core.store.raters import find_rater, promote_rater
from alchemist_core.store.subsets import find_subset
from tests.given import insert_rows, sha256
from tests.scored_nights import add_dataset, add_night, add_rater

pytestmark = pytest.mark.db

NIGHT = date(2026, 1, 1)


def one_night(n: int = 6) -> dict[str, list[dict[str, Any]]]:
    """A verified shard of n samples, all scored by the production rater."""
    return {
        "datasets": [{"dataset_id": 1, "name": "web"}],
        "shards": [{"shard_id": 1, "dataset_id": 1, "crawl_date": NIGHT, "n_samples": n}],
        "samples": [{"sample_id": i} for i in range(n)],
        "sample_locations": [{"shard_id": 1, "ordinal": i, "sample_id": i} for i in range(n)],
        "raters": [{"rater_id": 1, "name": "r", "state": "production"}],
        "quarantined_samples": [],
        "nights": [{"night_id": 1, "dataset_id": 1, "crawl_date": NIGHT, "rater_id": 1}],
        "shard_scores": [{"rater_id": 1, "shard_id": 1, "night_id": 1, "n_scored": n}],
        "scores": [{"rater_id": 1, "sample_id": i, "score": i / 7} for i in range(n)],
    }


def store(engine: Engine, given: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    with engine.begin() as connection:
        insert_rows(connection, given)


def names(outcomes: list[CheckOutcome], *, severity: str) -> list[str]:
    return [outcome.expectation for outcome in outcomes if not outcome.is_success and outcome.severity == severity]


@pytest.mark.parametrize("suite", ["shards", "samples", "scores"])
def test_a_good_night_passes_and_leaves_its_outcomes(engine: Engine, database_url: str, suite: str) -> None:
    store(engine, one_night())
    outcomes = run_suite(database_url, suite, dataset="web", crawl_date=NIGHT)
    assert outcomes
    assert [outcome for outcome in outcomes if not outcome.is_success] == []
    with engine.connect() as connection:
        query = "SELECT expectation FROM alchemist.check_results WHERE suite = :suite AND dataset_name = 'web' AND is_success"
        kept = connection.execute(text(query), {"suite": suite}).scalars().all()
    assert sorted(kept) == sorted(outcome.expectation for outcome in outcomes)


@pytest.mark.parametrize("suite", ["shards", "samples", "scores"])
def test_an_empty_night_passes_and_shows_as_checked(engine: Engine, database_url: str, suite: str) -> None:
    store(engine, {"datasets": [{"dataset_id": 1, "name": "web"}]})
    assert failures(run_suite(database_url, suite, dataset="web", crawl_date=NIGHT)) == []
    with engine.connect() as connection:
        assert connection.execute(text("SELECT crawl_date, status FROM alchemist.nightly_overview")).all() == [
            (NIGHT, "empty")
        ]


def test_scores_without_a_production_rater_have_nothing_to_fail(engine: Engine, database_url: str) -> None:
    given = one_night()
    store(engine, {name: given[name] for name in ("datasets", "shards", "samples", "sample_locations")})
    assert failures(run_suite(database_url, "scores", dataset="web", crawl_date=NIGHT)) == []


def test_a_shard_left_half_way_stops_the_night(engine: Engine, database_url: str) -> None:
    given = one_night()
    given["shards"] += [{"shard_id": 2, "dataset_id": 1, "crawl_date": NIGHT, "state": "registered"}]
    given["shards"][0]["n_samples"] += 1  # A location that was neither registered nor quarantined.
    given["shard_scores"][0]["n_quarantined"] = 1
    store(engine, given)
    outcomes = run_suite(database_url, "shards", dataset="web", crawl_date=NIGHT)
    assert names(outcomes, severity="fail") == [
        "shards_are_verified_or_rejected",
        "records_are_registered_or_quarantined",
    ]
    assert failures(outcomes)[1].observed["examples"] == [[7, 6]]


def test_rejected_shards_are_counted_not_fatal(engine: Engine, database_url: str) -> None:
    given = one_night()
    given["shards"] += [
        {"shard_id": 2, "dataset_id": 1, "crawl_date": NIGHT, "state": "rejected", "rejected_reason": "not_a_tar"}
    ]
    store(engine, given)
    outcomes = run_suite(database_url, "shards", dataset="web", crawl_date=NIGHT)
    assert names(outcomes, severity="warn") == ["few_shards_are_rejected"]
    assert failures(outcomes) == []


def test_a_suite_that_fails_hides_no_warning_of_another(
    engine: Engine, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = one_night()
    given["shards"] += [
        {"shard_id": 2, "dataset_id": 1, "crawl_date": NIGHT, "state": "rejected", "rejected_reason": "not_a_tar"}
    ]
    given["quarantined_samples"] = [{"shard_id": 1, "ordinal": 100 + i} for i in range(2)]
    store(engine, given)
    with pytest.raises(CheckFailedError, match="checks of suite samples failed"):
        check(CheckConfig(suite=("shards", "samples"), dataset="web", crawl_date=NIGHT))
    said = "".join(capsys.readouterr())
    assert "warning: web 2026-01-01: few_shards_are_rejected: " in said
    assert "most_locations_are_usable" not in said


@pytest.mark.parametrize(("n_bad", "is_fatal"), [(1, False), (2, True)])
def test_quarantine_warns_early_and_stops_above_a_fifth(
    engine: Engine, database_url: str, n_bad: int, is_fatal: bool
) -> None:
    given = one_night()
    given["quarantined_samples"] = [{"shard_id": 1, "ordinal": 100 + i} for i in range(n_bad)]
    store(engine, given)
    outcomes = run_suite(database_url, "samples", dataset="web", crawl_date=NIGHT)
    assert names(outcomes, severity="warn") == ["few_locations_are_quarantined"]
    assert names(outcomes, severity="fail") == (["most_locations_are_usable"] if is_fatal else [])


def run_night_suite(database_url: str, suite: str) -> list[CheckOutcome]:
    return run_suite(database_url, suite, dataset="web", crawl_date=NIGHT)


def test_a_stopped_night_does_not_fail_for_its_missing_scores_and_a_rejected_one_fails_no_task(
    engine: Engine, database_url: str
) -> None:
    given = one_night()
    given["quarantined_samples"] = [{"shard_id": 1, "ordinal": 100 + i} for i in range(2)]
    store(engine, {**given, "shard_scores": [], "scores": []})
    assert names(run_night_suite(database_url, "scores"), severity="fail") == ["every_shard_is_scored"]
    assert names(run_night_suite(database_url, "samples"), severity="fail") == ["most_locations_are_usable"]
    assert failures(run_night_suite(database_url, "scores")) == []
    failed = failed_checks(engine, "web", NIGHT)
    assert [row.expectation for row in failed] == ["most_locations_are_usable"]

    with engine.begin() as connection:
        reject_checks(connection, failed, "web", NIGHT, actor="ann", reason="damaged")
    outcomes = run_night_suite(database_url, "samples")
    assert failures(outcomes) == []
    assert [row.is_rejected for row in failed_checks(engine, "web", NIGHT)] == [True]
    with engine.begin() as connection:
        # A passing check does not undo it while its shards are there: the night would be scored.
        connection.execute(text("DELETE FROM alchemist.quarantined_samples"))
    assert failures(run_night_suite(database_url, "samples")) == []
    assert [row.observed["rejected_for"] for row in failed_checks(engine, "web", NIGHT)] == ["damaged"]
    with engine.begin() as connection:
        new = {"shard_id": 2, "dataset_id": 1, "crawl_date": NIGHT, "n_samples": 1, "created_at": "now"}
        located = {"shard_id": 2, "ordinal": 0, "sample_id": 0}
        insert_rows(connection, {"shards": [new], "sample_locations": [located]})
        connection.execute(text("UPDATE alchemist.shards SET state = 'superseded' WHERE shard_id = 1"))
    run_night_suite(database_url, "samples")
    assert failed_checks(engine, "web", NIGHT) == []


def three_nights() -> dict[str, list[dict[str, Any]]]:
    """Nights of three dates with two samples each: the first and the last are damaged, the last is selectable already."""
    days = [NIGHT, date(2026, 1, 2), date(2026, 1, 3)]
    states, bad = ["scored", "scored", "selectable"], {1: 2, 2: 0, 3: 2}
    where = [(n, day) for n, day in enumerate(days, start=1)]
    return {
        "datasets": [{"dataset_id": 1, "name": "web"}],
        "shards": [{"shard_id": n, "dataset_id": 1, "crawl_date": day, "n_samples": 2 + bad[n]} for n, day in where],
        "samples": [{"sample_id": i} for i in range(2, 8)],
        "sample_locations": [{"shard_id": i // 2, "ordinal": i % 2, "sample_id": i} for i in range(2, 8)],
        "raters": [{"rater_id": 1, "name": "r", "state": "production"}],
        "quarantined_samples": [{"shard_id": n, "ordinal": 100 + i} for n in bad for i in range(bad[n])],
        "nights": [
            {"night_id": n, "dataset_id": 1, "crawl_date": day, "rater_id": 1, "state": states[n - 1]}
            for n, day in where
        ],
        "shard_scores": [
            {"rater_id": 1, "shard_id": n, "night_id": n, "n_scored": 2, "n_quarantined": bad[n]} for n, _ in where
        ],
        "scores": [{"rater_id": 1, "sample_id": i, "score": i / 7} for i in range(2, 8)],
    }


def states_of_nights(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.execute(text("SELECT state FROM alchemist.nights ORDER BY night_id")).scalars())


def test_a_check_without_a_date_stops_each_open_night_that_fails_it_and_no_other(
    engine: Engine,
) -> None:
    store(engine, three_nights())
    with pytest.raises(
        CheckFailedError, match=r"\n  web 2026-01-01: most_locations_are_usable: expected .* found 0\.5"
    ) as failed:
        check(CheckConfig(suite="samples", dataset="web"))
    assert "all nights together" not in str(failed.value)
    assert "2026-01-02" not in str(failed.value)
    with engine.connect() as connection:
        stopped = connection.execute(text("SELECT crawl_date, expectation FROM alchemist.failed_checks")).all()
        announced = connection.execute(text("SELECT event ->> 'what_happened' FROM alchemist.notifications ORDER BY 1"))
        told = announced.scalars().all()
    assert stopped == [(NIGHT, "most_locations_are_usable")]
    assert told == [
        "Suite samples stopped dataset web, night 2026-01-01: most_locations_are_usable failed.",
    ]

    with pytest.raises(
        CheckFailedError, match=r"Night 2026-01-01 of web failed its checks \(samples\.most_locations_are_usable\)"
    ):
        publish_night(PublishNightConfig(dataset="web"))
    assert states_of_nights(engine) == ["scored", "selectable", "selectable"]
    reject(RejectNightConfig(dataset="web", crawl_date=NIGHT, reason="damaged"))
    assert states_of_nights(engine) == ["rejected", "selectable", "selectable"]


def test_a_night_that_is_not_scored_is_checked_by_a_run_without_a_date_too_and_one_that_is_being_scored_is_not_stopped_for_that(
    engine: Engine, database_url: str
) -> None:
    store(engine, {**three_nights(), "nights": [], "shard_scores": [], "scores": []})
    run_suite(database_url, "samples", dataset="web")
    assert [bool(failed_checks(engine, "web", date(2026, 1, day))) for day in (1, 2, 3)] == [True, False, True]

    left = {"shard_id": 9, "dataset_id": 1, "crawl_date": date(2026, 1, 2), "n_samples": 1}
    given = three_nights()
    store(engine, {name: given[name] for name in ("nights", "shard_scores", "scores")})
    store(engine, {"shards": [left], "sample_locations": [{"shard_id": 9, "ordinal": 0, "sample_id": 2}]})
    outcomes = run_suite(database_url, "scores", dataset="web")
    assert [(one.crawl_date, one.severity) for one in outcomes if one.expectation == "every_shard_is_scored"] == [
        (NIGHT, "warn"),
        (date(2026, 1, 2), "warn"),
        (None, "warn"),
    ]
    assert failures(outcomes) == []
    assert failed_checks(engine, "web", date(2026, 1, 2)) == []


def test_shards_that_arrive_between_score_and_promote_do_not_keep_the_scored_nights_from_being_published(
    engine: Engine,
) -> None:
    given = one_night()
    given["raters"] += [{"rater_id": 2, "name": "new"}]
    given["nights"] += [{"night_id": 2, "dataset_id": 1, "crawl_date": NIGHT, "rater_id": 2}]
    given["shard_scores"] += [{"rater_id": 2, "shard_id": 1, "night_id": 2, "n_scored": 6}]
    given["scores"] += [{"rater_id": 2, "sample_id": i, "score": i / 5} for i in range(6)]
    store(engine, given)
    store(engine, {
        "shards": [{"shard_id": 2, "dataset_id": 1, "crawl_date": date(2026, 1, 2), "n_samples": 1}],
        "sample_locations": [{"shard_id": 2, "ordinal": 0, "sample_id": 0}],
        "nights": [{"night_id": 3, "dataset_id": 1, "crawl_date": date(2026, 1, 2), "rater_id": 1, "state": "selectable"}],
        "shard_scores": [{"rater_id": 1, "shard_id": 2, "night_id": 3, "n_scored": 1, "n_reused": 1}],
    })  # fmt: skip
    candidate = find_rater(engine, "new")
    assert candidate is not None
    promote_rater(engine, candidate, actor="ann")
    (warning,) = check(CheckConfig(suite="scores", dataset="web")).warnings
    assert warning.startswith("web, all nights together: every_shard_is_scored: ")
    assert publish_night(PublishNightConfig(dataset="web")).n_nights == 1
    assert states_of_nights(engine) == ["scored", "selectable", "selectable"]


def test_nights_that_a_person_has_decided_fail_no_check_without_a_date_and_a_recount_that_does_not_add_up_does(
    engine: Engine, database_url: str
) -> None:
    """The first night was released, and the second one was stopped and rejected before it was scored."""
    given, second = one_night(), date(2026, 1, 2)
    given["nights"][0] |= {"state": "selectable"}
    given["shards"] += [{"shard_id": 2, "dataset_id": 1, "crawl_date": second, "n_samples": 3}]
    given["sample_locations"] += [{"shard_id": 2, "ordinal": 0, "sample_id": 0}]
    given["quarantined_samples"] = [{"shard_id": 2, "ordinal": 100 + i} for i in range(2)]
    store(engine, given)
    applied = AppliedLimits(CheckLimits(min_night_scores=2, min_night_spread=10.0))

    def run(suite: str, day: date | None) -> list[str]:
        found = run_suite(database_url, suite, dataset="web", crawl_date=day, limits_of=lambda _: applied)
        return [outcome.expectation for outcome in failures(found)]

    assert run("scores", NIGHT) == ["scores_differ"]
    assert run("samples", second) == ["most_locations_are_usable"]
    decision = {"actor": "ann", "reason": "looked at it"}
    with engine.begin() as connection:
        release_checks(connection, failed_checks(engine, "web", NIGHT), "web", NIGHT, **decision)
        reject_checks(connection, failed_checks(engine, "web", second), "web", second, **decision)
    assert [run(suite, None) for suite in ("shards", "samples", "scores")] == [[], [], []]
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM alchemist.scores WHERE sample_id = 5"))
    assert run("scores", None) == ["locations_are_scored_or_quarantined"]


def test_a_dataset_s_own_threshold_changes_its_outcome_alone_and_is_kept_with_it(
    engine: Engine,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = one_night()
    given["datasets"] += [{"dataset_id": 2, "name": "books"}]
    given["shards"] += [{"shard_id": 2, "dataset_id": 2, "crawl_date": NIGHT, "n_samples": 6}]
    given["sample_locations"] += [{"shard_id": 2, "ordinal": i, "sample_id": i} for i in range(6)]
    given["quarantined_samples"] = [{"shard_id": shard, "ordinal": 100 + i} for shard in (1, 2) for i in range(2)]
    store(engine, given)
    (tmp_path / "alchemist.toml").write_text("[datasets.web.checks]\nmax_quarantined_ratio = 0.3\n")
    monkeypatch.setenv("ALCHEMIST_PROJECT", str(tmp_path / "alchemist.toml"))
    load_settings.cache_clear()
    check(CheckConfig(suite="samples", dataset="web", crawl_date=NIGHT))
    printed = capsys.readouterr().err
    assert (
        "few_locations_are_quarantined: expected share of quarantined locations: at most 0.05; found 0.25; "
        "limit: warn_quarantined_ratio = 0.05 (default of [checks]" in printed
    )
    with pytest.raises(CheckFailedError) as failed:
        check(CheckConfig(suite="samples", dataset="books", crawl_date=NIGHT))
    line = (
        "books 2026-01-01: most_locations_are_usable: expected share of quarantined locations: at most 0.2; found 0.25; "
        "limit: max_quarantined_ratio = 0.2 (default of [checks]"
    )
    assert line in str(failed.value)
    query = """
        SELECT observed -> 'limits', observed -> 'limits_from' FROM alchemist.check_results
        WHERE expectation = 'most_locations_are_usable' ORDER BY check_result_id
    """
    with engine.connect() as connection:
        kept = [tuple(row) for row in connection.execute(text(query))]
    assert kept == [
        ({"max_quarantined_ratio": 0.3}, {"max_quarantined_ratio": "[datasets.web.checks] max_quarantined_ratio"}),
        ({"max_quarantined_ratio": 0.2}, {"max_quarantined_ratio": "default of [checks] max_quarantined_ratio"}),
    ]


@pytest.mark.parametrize(
    ("suite", "limits", "expectation"),
    [
        ("samples", {"min_caption_characters": 30}, "captions_have_usual_lengths"),
        ("samples", {"max_caption_characters": 4}, "captions_have_usual_lengths"),
        ("samples", {"min_repeated_characters": 2}, "few_captions_are_garbage"),
        ("samples", {"min_image_side": 1000}, "images_have_enough_pixels"),
        ("samples", {"max_aspect_ratio": 1.0}, "images_have_usual_shapes"),
        ("scores", {"min_night_scores": 2, "min_night_spread": 10.0}, "scores_differ"),
    ],
)
def test_every_limit_reaches_what_is_counted(
    engine: Engine, database_url: str, suite: str, limits: dict[str, Any], expectation: str
) -> None:
    given = one_night()
    for row in given["samples"]:
        row |= {"caption": f"good book {row['sample_id']}", "width": 60, "height": 40}
    store(engine, given)
    applied = AppliedLimits(CheckLimits(**limits))
    outcomes = run_suite(database_url, suite, dataset="web", crawl_date=NIGHT, limits_of=lambda _: applied)
    assert [outcome.expectation for outcome in outcomes if not outcome.is_success] == [expectation]
    (found,) = [outcome for outcome in outcomes if outcome.expectation == expectation]
    assert found.observed["limits"] | limits == found.observed["limits"]


def test_odd_samples_warn_and_an_empty_caption_stops(engine: Engine, database_url: str) -> None:
    given = one_night()
    given["samples"][0] |= {"caption": " ", "pair_hash": sha256("blank")}
    given["samples"][1] |= {"width": 100, "height": 4}
    store(engine, given)
    outcomes = run_suite(database_url, "samples", dataset="web", crawl_date=NIGHT)
    assert names(outcomes, severity="fail") == ["captions_are_not_empty"]
    assert names(outcomes, severity="warn") == [
        "captions_have_usual_lengths",
        "few_captions_are_garbage",
        "images_have_enough_pixels",
        "images_have_usual_shapes",
    ]


def test_an_unscored_shard_and_a_lost_score_stop_the_night(engine: Engine, database_url: str) -> None:
    given = one_night()
    given["scores"].pop()
    given["shards"] += [{"shard_id": 2, "dataset_id": 1, "crawl_date": NIGHT}]
    store(engine, given)
    outcomes = run_suite(database_url, "scores", dataset="web", crawl_date=NIGHT)
    assert names(outcomes, severity="fail") == ["every_shard_is_scored", "locations_are_scored_or_quarantined"]


@pytest.mark.slow
def test_five_hundred_equal_scores_stop_the_night(engine: Engine, database_url: str) -> None:
    given = one_night(500)
    for row in given["scores"]:
        row["score"] = 0.25
    store(engine, given)
    assert names(run_suite(database_url, "scores", dataset="web", crawl_date=NIGHT), severity="fail") == [
        "no_shard_is_constant",
        "scores_differ",
    ]


def test_equal_scores_in_small_shards_stop_the_night_although_their_sums_are_rounded(
    engine: Engine, database_url: str
) -> None:
    with engine.begin() as connection:
        add_dataset(connection)
        add_rater(connection)
    add_night(engine, str(NIGHT), {f"{n}.tar": [1.2881847620010376] * 60 for n in range(12)})
    outcomes = run_suite(database_url, "scores", dataset="web", crawl_date=NIGHT)
    assert names(outcomes, severity="fail") == ["scores_differ"]


def test_a_subset_keeps_its_size_and_holds_no_image_that_was_taken_down(engine: Engine, database_url: str) -> None:
    members = [sha256(i) for i in (1, 2)]
    manifest = Manifest(hash_rows(members), np.array([0.1, 0.2]), np.array([1.0, 2.0]))
    write_manifest(artifact_path("m.parquet"), manifest)
    store(engine, {
        **one_night(),
        "rank_scales": [{"rank_scale_id": 1, "rater_id": 1, "knot_scores": [1], "knot_ranks": [0]}],
        "rank_snapshots": [{"snapshot_id": 1, "rank_scale_id": 1, "dataset_names": ["web"]}],
        "subsets": [{"subset_id": 1, "name": "s", "snapshot_id": 1, "n_samples": 2, "manifest_sha256": manifest.sha256()}],
    })  # fmt: skip
    assert failures(run_suite(database_url, "subset", subset=find_subset(engine, "s"))) == []
    with engine.begin() as connection:
        connection.execute(text("UPDATE alchemist.subsets SET n_samples = 3"))
        connection.execute(text("UPDATE alchemist.datasets SET role = 'validation'"))
    store(engine, {"takedowns": [{"image_hash": sha256("image 1"), "reason": "asked", "requested_by": "ann"}]})
    outcomes = run_suite(database_url, "subset", subset=find_subset(engine, "s"))
    assert names(outcomes, severity="fail") == [
        "subset_has_its_recorded_size",
        "no_member_is_taken_down",
        "members_are_training_data",
    ]
    with engine.begin() as connection:
        connection.execute(text("UPDATE alchemist.datasets SET role = 'evaluation'"))
        connection.execute(text("""UPDATE alchemist.subsets SET spec = '{"drop_top_ratio": 0.25}'"""))
    leaked = names(run_suite(database_url, "subset", subset=find_subset(engine, "s")), severity="fail")
    assert leaked[-2:] == ["no_member_is_of_evaluation_data", "no_member_is_in_the_dropped_ranks"]
    # The highest rank among the members, 0.1, must not be above the drop-top ratio.
    for cut, is_cut in ((0.15, False), (0.1, True)):
        with engine.begin() as connection:
            query = text("UPDATE alchemist.subsets SET spec = CAST(:spec AS jsonb)")
            connection.execute(query, {"spec": f'{{"drop_top_ratio": {cut}}}'})
        failed = names(run_suite(database_url, "subset", subset=find_subset(engine, "s")), severity="fail")
        assert ("no_member_is_in_the_dropped_ranks" not in failed) is is_cut


def test_an_unknown_suite_is_named_with_those_that_exist(database_url: str) -> None:
    with pytest.raises(ConfigError, match=r"'shard'.*shards, samples, scores, subset, evaluation"):
        run_suite(database_url, "shard")


def drawn(ranks: list[float], dropped_share: float | None = None, **spec: Any) -> Mapping[str, Sequence[Any]]:
    """The checks of a selection by a heuristic, which needs no rater."""
    column = np.array(ranks)
    manifest = Manifest(hash_rows([sha256(i) for i in range(len(ranks))]), column, column)
    curves = None if dropped_share is None else {"dropped_share": dropped_share}
    strategy = "shift_gsample" if "drop_top_ratio" in spec else "head_gsample"
    row = SimpleNamespace(spec={"rank_by": "clarity", **spec}, strategy=strategy, curves=curves)
    return _rank_figures(None, row, manifest)


def test_a_selection_is_checked_by_its_highest_rank_and_by_the_share_that_its_cut_dropped() -> None:
    found = drawn([0.4, 0.3, 0.9], 0.35, drop_top_ratio=0.375)
    assert found == {"rank": [0.3], "dropped_share": [0.35], "is_mixed": [False]}
    # Without the share nothing contradicts the request; without a drop-top ratio nothing is dropped.
    assert drawn([0.4], drop_top_ratio=0.375)["dropped_share"] == [0.375]
    assert drawn([0.4])["dropped_share"] == [0.0]


def test_a_version_without_members_has_nothing_to_look_at() -> None:
    assert drawn([], 0.5, drop_top_ratio=0.5) == {"rank": [], "dropped_share": [], "is_mixed": []}


def test_a_frame_without_rows_is_passed_over_unless_its_size_is_what_matters() -> None:
    size = Check("subset_has_its_recorded_size", "fail", "few", "ExpectTableRowCountToEqual", {"value": 1})
    (nothing,) = _validate_all({"few": {"a": []}}, [size])
    assert (nothing.expectation, nothing.severity, nothing.is_success) == ("there_is_nothing_to_check", "warn", True)
    (whole,) = _validate_all({"few": {"a": []}}, [size], is_whole=True)
    assert (whole.expectation, whole.is_success) == ("subset_has_its_recorded_size", False)
    (of_its_own,) = _validate_all({"few": {"a": [1]}, "other": {"a": []}}, [size])
    assert of_its_own.is_success


@pytest.mark.parametrize("suite", ["subset", "evaluation"])
def test_a_suite_of_subsets_needs_one(database_url: str, suite: str) -> None:
    with pytest.raises(ConfigError, match=f"{suite}.*requires --subset"):
        run_suite(database_url, suite)
