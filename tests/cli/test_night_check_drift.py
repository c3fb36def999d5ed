"""A night whose scores drifted is held with an explanation; a person releases it; small and first nights are never held."""

import shlex
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, text

from alchemist_core.__main__ import main
from alchemist_core.cli.drift import DriftConfig, DriftResult, check_drift
from alchemist_core.cli.held_nights import RejectNightConfig, ReleaseNightConfig, reject, release
from alchemist_core.errors import CheckFailedError, ConfigError
from alchemist_core.selection.ranks import fit_rank_scale
from alchemist_core.settings import load_settings
from alchemist_core.stages import publishing
from alchemist_core.stages.publishing import PublishNightConfig, PublishNightResult, publish_night
from alchemist_core.store.backups import checksum
from alchemist_core.store.checks import failed_checks, release_checks
from alchemist_core.store.engine import open_store
from tests.given import insert_rows
from tests.scored_nights import add_dataset, add_night, add_rater

pytestmark = pytest.mark.db


@pytest.fixture(autouse=True)
def _store(engine: Engine) -> None:
    with engine.begin() as connection:
        add_dataset(connection)
        add_rater(connection)


def normal(n: int, *, mean: float = 0.0, seed: int = 0) -> list[float]:
    return np.random.default_rng(seed).normal(mean, size=n).tolist()


def accepted(engine: Engine, *, n_nights: int = 2, n: int = 600) -> None:
    for day in range(1, n_nights + 1):
        add_night(engine, f"2026-01-0{day}", {"a.tar": normal(n, seed=day)}, state="selectable")


def drift(**fields: object) -> DriftResult:
    return check_drift(DriftConfig.model_validate(fields))


def publish(**fields: object) -> PublishNightResult:
    return publish_night(PublishNightConfig.model_validate(fields))


def column(sql: str) -> Sequence[object]:
    with open_store().connect() as connection:
        return connection.execute(text(sql)).scalars().all()


def states() -> Sequence[object]:
    return column("SELECT state FROM alchemist.nights ORDER BY night_id")


def promote_new_rater(engine: Engine) -> None:
    """Promote a rater that has scored the shards of all nights, in one night of their date."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE alchemist.raters SET state = 'candidate'"))
        add_rater(connection, rater_id=2, name="new")
        connection.execute(
            text("""
                INSERT INTO alchemist.nights (dataset_id, crawl_date, rater_id, revision)
                SELECT DISTINCT dataset_id, crawl_date, 2, 1 FROM alchemist.shards;
                INSERT INTO alchemist.shard_scores (
                    rater_id, shard_id, night_id, n_samples, n_scored, n_reused, n_quarantined, code_version, device, dtype, run_id
                )
                SELECT 2, shard_id, night_id, n_samples, n_samples, 0, 0, '1', 'cpu', 'float32', 1
                FROM alchemist.shards INNER JOIN alchemist.nights USING (dataset_id, crawl_date) WHERE rater_id = 2;
                INSERT INTO alchemist.scores (rater_id, sample_id, score) SELECT 2, sample_id, score FROM alchemist.scores
            """)
        )


def test_a_night_s_check_is_stored_although_a_later_one_is_not_complete(engine: Engine) -> None:
    accepted(engine)
    add_night(engine, "2026-01-03", {"a.tar": normal(600, mean=3, seed=3)})
    add_night(engine, "2026-01-04", {"a.tar": normal(600, seed=4)})
    with engine.begin() as connection:
        unscored = {"shard_id": 999, "dataset_id": 1, "crawl_date": "2026-01-04", "n_samples": 1}
        insert_rows(connection, {"shards": [unscored]})
    with pytest.raises(CheckFailedError, match="Night web 2026-01-04 r1 is not complete: 1 shard without scores"):
        drift()
    assert states() == ["selectable", "selectable", "held", "scored"]
    assert column("SELECT crawl_date FROM alchemist.check_results") == [date(2026, 1, 3)]


def test_a_steady_night_is_measured_and_published(engine: Engine) -> None:
    accepted(engine)
    add_night(engine, "2026-01-03", {"a.tar": normal(600, seed=3)})
    (night,) = drift().nights
    assert (night["verdict"], night["reference"], night["n_reference"]) == ("steady", "accepted nights", 1200)
    assert abs(night["psi"]) < 0.05
    assert publish().n_nights == 1
    assert column("SELECT subject FROM alchemist.audit_events") == ["night web 2026-01-03 r1"]


def test_a_night_that_moved_is_held_left_alone_by_publish_and_released_by_a_person(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    accepted(engine)
    add_night(engine, "2026-01-03", {"a.tar": normal(600, seed=3), "b.tar": normal(600, mean=2.5, seed=4)})
    report = drift()
    assert (report.n_held, report.moved_most.split(" (")[0]) == (1, "web 2026-01-03 r1")
    with pytest.raises(CheckFailedError, match="1 are held and not selectable: web 2026-01-03 r1"):
        publish()
    printed = capsys.readouterr().err
    assert "is held and was not published: scores drifted" in printed
    assert "alchemist night release --dataset web --crawl-date 2026-01-03" in printed
    assert states() == ["selectable", "selectable", "held"]
    (status,) = column("SELECT status FROM alchemist.nightly_overview WHERE crawl_date = '2026-01-03'")
    assert str(status).startswith("held: scores drifted: PSI")
    done = release(ReleaseNightConfig(dataset="web", crawl_date=date(2026, 1, 3), reason="a better crawl"))
    assert done.nights == ["web 2026-01-03 r1"]
    assert states() == ["selectable", "selectable", "released"]
    events = column(
        "SELECT action || ' ' || subject || ' ' || (after ->> 'reason') FROM alchemist.audit_events ORDER BY 1"
    )
    assert str(events[0]).startswith("hold night web 2026-01-03 r1 scores drifted")
    assert events[1] == "release night web 2026-01-03 r1 a better crawl"
    assert column("SELECT reason FROM alchemist.nights WHERE state = 'released'") == ["a better crawl"]


def test_commands_about_a_night_of_a_rater_that_is_not_in_production_name_the_rater(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alchemist.raters SET state = 'candidate'"))
    accepted(engine)
    add_night(engine, "2026-01-03", {"a.tar": normal(600, mean=3, seed=3)})
    assert main(["night", "check-drift", "--dataset", "web", "--rater", "r"]) == 0
    assert "alchemist night release --dataset NAME --crawl-date DATE --rater r --reason WHY" in capsys.readouterr().out
    command = "alchemist night release --dataset web --crawl-date 2026-01-03 --rater r --reason WHY"
    (notified,) = column("SELECT event ->> 'what_to_do' FROM alchemist.notifications")
    assert str(notified).startswith(f"If its scores are right: {command}.")
    with pytest.raises(CheckFailedError, match="1 are held"):
        publish(rater="r")
    printed = capsys.readouterr().err
    assert f"Inspect it, then: {command}, or {command.replace('release', 'reject')}" in printed
    add_night(engine, "2026-01-04", {"a.tar": normal(600, seed=4)})
    with engine.begin() as connection:
        insert_rows(connection, {"shards": [{"shard_id": 999, "dataset_id": 1, "crawl_date": "2026-01-04"}]})
    told = "Run alchemist score --dataset web --crawl-date 2026-01-04 --rater r first"
    with pytest.raises(CheckFailedError, match=told):
        drift(rater="r")
    assert main(shlex.split(command)[1:]) == 0
    assert states() == ["selectable", "selectable", "released", "scored"]


def test_a_rejected_night_stops_nothing_and_is_never_selectable_until_it_is_released(engine: Engine) -> None:
    accepted(engine)
    add_night(engine, "2026-01-03", {"a.tar": normal(600, mean=3, seed=3)})
    drift()
    night = {"dataset": "web", "crawl_date": date(2026, 1, 3)}
    done = reject(RejectNightConfig.model_validate({**night, "reason": "a broken crawl"}))
    assert done.nights == ["web 2026-01-03 r1"]
    assert done.state_before[0].startswith("held: scores drifted")
    assert publish().n_nights == 0, "nothing waits, so the task does not fail"
    assert states() == ["selectable", "selectable", "rejected"]
    assert column("SELECT status FROM alchemist.nightly_overview WHERE crawl_date = '2026-01-03'") == [
        "rejected: a broken crawl"
    ]
    with pytest.raises(ConfigError, match="No night of web 2026-01-03 is held"):
        reject(RejectNightConfig.model_validate({**night, "reason": "again"}))
    assert release(ReleaseNightConfig.model_validate({**night, "reason": "it was right"})).nights == done.nights
    assert states() == ["selectable", "selectable", "released"]
    events = column("SELECT action || ' ' || (before ->> 'state') FROM alchemist.audit_events ORDER BY audit_event_id")
    assert events[-2:] == ["reject held", "release rejected"]


def test_a_rejection_holds_for_a_later_rater_too_until_a_person_releases_the_night(engine: Engine) -> None:
    add_night(engine, "2026-01-01", {"a.tar": normal(20), "b.tar": normal(20)}, state="held")
    night = {"dataset": "web", "crawl_date": date(2026, 1, 1)}
    reject(RejectNightConfig.model_validate({**night, "reason": "captions of another crawl"}))
    promote_new_rater(engine)
    assert publish().n_nights == 0, "nothing waits, so the task does not fail"
    assert column("SELECT state || ': ' || reason FROM alchemist.nights WHERE rater_id = 2") == [
        "rejected: captions of another crawl"
    ]
    release(ReleaseNightConfig.model_validate({**night, "reason": "it was right"}))
    assert states() == ["rejected", "released"], "of the rater in production"


def fail_check(engine: Engine, suite: str, expectation: str, **fields: object) -> None:
    of_night = {"suite": suite, "expectation": expectation, "dataset_name": "web", "crawl_date": "2026-01-01"}
    with engine.begin() as connection:
        insert_rows(connection, {"check_results": [{**of_night, "is_success": False, **fields}]})


def test_a_rejection_of_a_stopped_night_holds_for_a_later_rater_too_until_a_person_releases_it(engine: Engine) -> None:
    """The night was not scored when its check stopped it; the later rater scores every shard."""
    add_night(engine, "2026-01-01", {"a.tar": normal(20)})
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM alchemist.shard_scores; DELETE FROM alchemist.nights"))
    fail_check(engine, "samples", "most_locations_are_usable")
    night = {"dataset": "web", "crawl_date": date(2026, 1, 1)}
    reject(RejectNightConfig.model_validate({**night, "reason": "captions of another crawl"}))
    promote_new_rater(engine)
    assert publish().n_nights == 0, "nothing waits, so the task does not fail"
    assert column("SELECT state || ': ' || reason FROM alchemist.nights") == ["rejected: captions of another crawl"]
    assert column("SELECT after ->> 'rater' FROM alchemist.audit_events WHERE subject = 'night web 2026-01-01 r1'") == [
        "new"
    ]
    assert release(ReleaseNightConfig.model_validate({**night, "reason": "it was right"})).state_before == [
        "rejected: captions of another crawl", "rejected: samples.most_locations_are_usable",
    ]  # fmt: skip
    assert states() == ["released"]


def test_a_rejection_of_failed_checks_holds_for_late_shards_and_a_check_that_nobody_rejected_does_not(
    engine: Engine,
) -> None:
    add_night(engine, "2026-01-01", {"a.tar": normal(20)})
    fail_check(engine, "scores", "no_shard_is_constant")
    night = {"dataset": "web", "crawl_date": date(2026, 1, 1)}
    reject(RejectNightConfig.model_validate({**night, "reason": "a broken rater"}))
    add_night(engine, "2026-01-01", {"late.tar": normal(20)})
    # As the check of the late shard stores it.
    rejection = {"rejected_by": "ann", "rejected_for": "a broken rater", "rejected_at": "2026-01-02T00:00:00+00:00"}
    fail_check(engine, "scores", "no_shard_is_constant", observed=rejection)
    fail_check(engine, "scores", "scores_differ")
    with pytest.raises(
        CheckFailedError, match=r"failed its checks \(scores.no_shard_is_constant, scores.scores_differ\)"
    ):
        publish()
    assert states() == ["rejected", "scored"]
    fail_check(engine, "scores", "scores_differ", observed=rejection)
    assert publish().n_nights == 0
    assert states() == ["rejected", "rejected"]


def test_a_release_of_rejected_checks_while_publish_runs_is_not_rejected_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_night(engine, "2026-01-01", {"a.tar": normal(20)})
    rejection = {"rejected_by": "ann", "rejected_for": "a broken crawl", "rejected_at": "2026-01-02T00:00:00+00:00"}
    fail_check(engine, "samples", "most_locations_are_usable", observed=rejection)
    refuse_outdated = publishing._refuse_outdated

    def release_meanwhile(*given: Any) -> None:
        refuse_outdated(*given)
        night = ("web", date(2026, 1, 1))
        if failed := failed_checks(engine, *night):
            with engine.begin() as connection:
                release_checks(connection, failed, *night, actor="ben", reason="it was right")

    monkeypatch.setattr(publishing, "_refuse_outdated", release_meanwhile)
    assert publish().n_nights == 0
    assert states() == ["scored"], "the release checks and publishes it"
    assert publish().n_nights == 1
    assert states() == ["selectable"]


def test_a_night_of_which_only_some_shards_were_rejected_waits_for_a_person(engine: Engine) -> None:
    add_night(engine, "2026-01-01", {"a.tar": normal(20)}, state="held")
    night = {"dataset": "web", "crawl_date": date(2026, 1, 1)}
    reject(RejectNightConfig.model_validate({**night, "reason": "captions of another crawl"}))
    add_night(engine, "2026-01-01", {"b.tar": normal(20)}, state="selectable")
    promote_new_rater(engine)
    with pytest.raises(CheckFailedError, match=r"1 are held.*web 2026-01-01 r1"):
        publish()
    (held,) = column("SELECT state || ': ' || reason FROM alchemist.nights WHERE rater_id = 2")
    assert str(held).startswith("held: under rater r")
    assert str(held).endswith("rejected 1 of 2 shards: captions of another crawl")


def test_the_explanation_names_shard_caption_lengths_and_samples_to_look_at(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    accepted(engine)
    add_night(engine, "2026-01-03", {f"{i}.tar": normal(300, seed=10 + i) for i in range(3)})
    add_night(engine, "2026-01-03", {"bad.tar": normal(500, mean=3, seed=9)}, captions=["short"])
    (night,) = drift().nights
    by_kind = {kind: [m for m in night["movers"] if m["kind"] == kind] for kind in ("shard", "caption length")}
    assert by_kind["shard"][0]["name"] == "web/2026-01-03/bad.tar"
    assert by_kind["shard"][0]["n"] == 500
    assert by_kind["shard"][0]["psi_without"] < 0.1 < night["psi"]
    assert by_kind["shard"][0]["contribution"] == pytest.approx(
        night["psi"] - by_kind["shard"][0]["psi_without"], abs=1e-5
    )
    assert by_kind["caption length"][0]["name"] == "0-15 characters"
    assert len(by_kind["shard"][0]["samples"]) == 5
    assert all(sample.startswith("web/2026-01-03/bad.tar/0") for sample in by_kind["shard"][0]["samples"])
    scores = column(
        "SELECT score FROM alchemist.scores JOIN alchemist.sample_locations USING (sample_id) JOIN alchemist.shards USING (shard_id)"
        " WHERE uri LIKE '%bad.tar' AND key = '" + by_kind["shard"][0]["samples"][0].rpartition("/")[2] + "'"
    )
    assert float(str(scores[0])) > 1.0  # from the tenth that it fills, not just any of the shard
    assert "look at web/2026-01-03/bad.tar/" in capsys.readouterr().err
    (stored,) = column("SELECT explanation -> 0 ->> 'name' FROM alchemist.score_distributions WHERE verdict = 'held'")
    assert stored == "web/2026-01-03/bad.tar"


def test_of_each_kind_the_three_groups_that_contribute_most_are_named_the_largest_first(engine: Engine) -> None:
    accepted(engine)
    moved = {f"{n}.tar": normal(n, mean=3, seed=n) for n in (60, 90, 70, 80)}
    add_night(engine, "2026-01-03", {"steady.tar": normal(600, seed=3), **moved})
    (night,) = drift().nights
    shards = [mover for mover in night["movers"] if mover["kind"] == "shard"]
    assert [mover["name"] for mover in shards] == [f"web/2026-01-03/{n}.tar" for n in (90, 80, 70)]
    assert [mover["n"] for mover in shards] == [90, 80, 70]


def test_a_night_is_counted_in_the_bins_of_its_reference_or_in_its_own(engine: Engine) -> None:
    def histogram(crawl_date: str) -> dict[str, list[float]]:
        (found,) = column(
            "SELECT histogram FROM alchemist.score_distributions INNER JOIN alchemist.nights USING (night_id)"
            f" WHERE crawl_date = '{crawl_date}'"
        )
        return dict(found)  # type: ignore[call-overload]  # a column of any type

    add_night(engine, "2026-01-01", {"a.tar": [float(i) for i in range(600)]})
    drift()
    own = histogram("2026-01-01")
    assert own == {"edges": [60.0 * i - 1 for i in range(1, 10)], "counts": [60] * 10}
    publish()
    add_night(engine, "2026-01-02", {"b.tar": [0.5] * 400 + [599.0] * 200})
    drift()
    against = histogram("2026-01-02")
    assert (against["edges"], against["counts"]) == (own["edges"], [400, *[0] * 8, 200])
    assert against["reference_shares"] == [0.1] * 10
    add_night(engine, "2026-01-03", {"empty.tar": []})
    drift(crawl_date="2026-01-03")
    assert histogram("2026-01-03") == {"edges": [], "counts": [0]}


@pytest.mark.slow
def test_measuring_again_changes_no_row(engine: Engine, database_url: str) -> None:
    accepted(engine)
    add_night(engine, "2026-01-03", {"a.tar": normal(600, mean=0.3, seed=3)})
    assert drift().n_warned == 1
    before = checksum(database_url), column("SELECT xmin::text FROM alchemist.score_distributions ORDER BY night_id")
    assert drift().n_warned == 1
    assert (
        checksum(database_url),
        column("SELECT xmin::text FROM alchemist.score_distributions ORDER BY night_id"),
    ) == before


@pytest.mark.slow
def test_small_nights_are_pooled_until_they_can_be_judged_and_are_never_held(engine: Engine) -> None:
    accepted(engine)
    verdicts = []
    for day in (3, 4, 5):
        add_night(engine, f"2026-01-0{day}", {"a.tar": normal(200, mean=3, seed=day)})
        (night,) = drift().nights
        verdicts.append((night["verdict"], night["n"], night["n_tested"]))
        publish()
    assert verdicts == [("pooled", 200, 200), ("pooled", 200, 400), ("warned", 200, 600)]
    assert set(states()) == {"selectable"}
    # Decided nights are not pooled again, and nights under test are not part of their own reference.
    assert column("SELECT n_reference FROM alchemist.score_distributions WHERE verdict = 'warned'") == [1200]
    add_night(engine, "2026-01-06", {"a.tar": normal(200, seed=6)})
    assert drift().nights[0]["n_tested"] == 200


@pytest.mark.parametrize("state", ["rejected", "held"])
def test_what_was_rejected_or_is_held_is_not_pooled_with_a_later_night(engine: Engine, state: str) -> None:
    """A retry of samples of a night that was rejected opens a small revision, which is measured before it is rejected, too."""
    accepted(engine)
    add_night(engine, "2026-01-03", {"a.tar": normal(200, mean=3, seed=3)})
    assert drift().nights[0]["verdict"] == "pooled"
    with engine.begin() as connection:
        decided = (
            "UPDATE alchemist.nights SET state = :state, reason = 'WHY', decided_at = now() WHERE state = 'scored'"
        )
        connection.execute(text(decided), {"state": state})
    add_night(engine, "2026-01-04", {"a.tar": normal(600, seed=4)})
    (night,) = drift().nights
    assert (night["verdict"], night["n_tested"]) == ("steady", 600)


@pytest.mark.parametrize(("n", "verdict", "state"), [(600, "held", "held"), (2000, "warned", "rejected")])
def test_small_nights_that_were_tested_with_a_night_that_is_held_or_was_rejected_are_not_pooled_again(
    engine: Engine, n: int, verdict: str, state: str
) -> None:
    accepted(engine)
    add_night(engine, "2026-01-03", {"a.tar": normal(400, mean=3, seed=3)})
    assert drift().nights[0]["verdict"] == "pooled"
    assert publish().n_nights == 1
    add_night(engine, "2026-01-04", {"a.tar": normal(n, mean=3 if state == "held" else 0, seed=5)})
    (judged,) = drift().nights
    assert (judged["verdict"], judged["n_tested"]) == (verdict, 400 + n)
    if state == "rejected":
        with engine.begin() as connection:
            rejected = "UPDATE alchemist.nights SET state = 'rejected', reason = 'WHY', decided_at = now() WHERE state = 'scored'"
            connection.execute(text(rejected))
    assert states()[-1] == state
    add_night(engine, "2026-01-05", {"a.tar": normal(600, seed=4)})
    assert drift().nights[0]["n_tested"] == 600


def test_a_first_night_is_only_recorded_or_warned_about_by_the_raters_scale(engine: Engine) -> None:
    add_night(engine, "2026-01-01", {"a.tar": normal(600)})
    assert drift().nights[0]["verdict"] == "recorded"
    scale = fit_rank_scale(np.array(normal(2_000, mean=5)))
    knots = {"knot_scores": scale.knot_scores.tolist(), "knot_ranks": scale.knot_ranks.tolist(), "n_reference": 2_000}
    with engine.begin() as connection:
        insert_rows(connection, {"rank_scales": [{"rank_scale_id": 1, "rater_id": 1, **knots}]})
    (night,) = drift().nights
    assert (night["verdict"], night["reference"], night["n_reference"]) == ("warned", "the rater's rank scale", 2_000)
    assert night["psi"] > 1
    assert publish().n_nights == 1


def test_a_first_night_is_compared_with_the_distribution_in_the_raters_acceptance_report(engine: Engine) -> None:
    add_night(engine, "2026-01-01", {"a.tar": normal(600)})
    with engine.begin() as connection:
        connection.execute(
            text("""
                UPDATE alchemist.raters
                SET acceptance_report = jsonb_build_object('score_quantiles', CAST(:q AS float8[]), 'n_scores', 5000)
            """),
            {"q": sorted(normal(500, seed=8))},
        )  # fmt: skip
    (night,) = drift().nights
    assert (night["verdict"], night["reference"], night["n_reference"]) == (
        "steady",
        "the rater's acceptance report",
        5000,
    )


def test_another_datasets_accepted_nights_and_held_ones_are_no_reference(engine: Engine) -> None:
    with engine.begin() as connection:
        add_dataset(connection, dataset_id=2, name="books")
    add_night(engine, "2026-01-01", {"b.tar": normal(600, mean=4)}, state="selectable", dataset_id=2)
    add_night(engine, "2026-01-01", {"a.tar": normal(600, mean=4)}, state="held")
    add_night(engine, "2026-01-02", {"a.tar": normal(600)})
    assert drift().nights[0]["verdict"] == "recorded"


def test_a_night_that_is_not_complete_is_not_measured(engine: Engine) -> None:
    add_night(engine, "2026-01-01", {"a.tar": normal(600)})
    with engine.begin() as connection:
        insert_rows(connection, {"shards": [{"shard_id": 99, "dataset_id": 1, "crawl_date": "2026-01-01"}]})
    with pytest.raises(CheckFailedError, match="not complete: 1 shard without scores"):
        drift()


def test_releasing_what_is_not_held_reports_it(engine: Engine) -> None:
    add_night(engine, "2026-01-01", {"a.tar": normal(10)}, state="selectable")
    with pytest.raises(ConfigError, match="No night of web 2026-01-01 is held"):
        release(ReleaseNightConfig(dataset="web", crawl_date=date(2026, 1, 1), reason="why not"))


@pytest.mark.slow
def test_a_dataset_s_own_limits_hold_its_nights_and_no_other_s(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "alchemist.toml").write_text("[drift]\nmin_scores = 400\n[datasets.web.drift]\nhold_psi = 50.0\n")
    monkeypatch.setenv("ALCHEMIST_PROJECT", str(tmp_path / "alchemist.toml"))
    load_settings.cache_clear()
    with engine.begin() as connection:
        add_dataset(connection, dataset_id=2, name="books")
    for dataset_id in (1, 2):
        add_night(engine, "2026-01-01", {"a.tar": normal(600, seed=1)}, state="selectable", dataset_id=dataset_id)
        add_night(engine, "2026-01-02", {"b.tar": normal(450, mean=3, seed=2)}, dataset_id=dataset_id)
    assert drift().n_held == 1
    assert "(warns at 0.1, holds at 50)" in capsys.readouterr().err
    assert states() == ["selectable", "scored", "selectable", "held"]
    applied = "SELECT observed -> 'limits' ->> 'hold_psi' FROM alchemist.check_results ORDER BY check_result_id"
    assert column(applied) == ["50.0", "0.25"]
    by = "SELECT observed -> 'limits_from' ->> 'hold_psi' FROM alchemist.check_results ORDER BY check_result_id"
    assert column(by) == ["[datasets.web.drift] hold_psi", "default of [drift] hold_psi"]


def test_without_a_rater_there_is_nothing_to_measure(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alchemist.raters SET state = 'retired'"))
    assert drift().note == "There is no rater in production, so no night has scores."
