"""A night in which a third of the images is damaged is stopped and reported; earlier nights do not change; one command releases it."""

import io
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
import yaml
from sqlalchemy import Engine, text

from alchemist_core.cli import held_nights
from alchemist_core.cli.check import CheckConfig
from alchemist_core.cli.check import run as check
from alchemist_core.cli.held_nights import ReleaseNightConfig, release
from alchemist_core.errors import CheckFailedError, ConfigError, MissingDependencyError
from alchemist_core.prices import Prices
from alchemist_core.stages.ingest import IngestConfig
from alchemist_core.stages.ingest import run as ingest
from alchemist_core.stages.publishing import PublishNightConfig, publish_night
from alchemist_core.stages.score import ScoreConfig
from alchemist_core.stages.score import run as score
from alchemist_core.store.engine import open_store
from alchemist_core.store.overviews import read_measurements
from tests.given import insert_rows
from tests.infra.test_prometheus import PROMETHEUS, needs_promtool
from tests.trained_store import TrainedStore, copy_store, store_once, use_store, used

pytestmark = [pytest.mark.db, pytest.mark.e2e]

BAD_NIGHT = date(2026, 1, 2)
REASON = "the broken third is a known camera; the rest is fine"


def break_pictures(folder: Path, share: float) -> None:
    """Truncate this share of each shard's images."""
    for path in sorted(folder.rglob("*.tar")):
        with tarfile.open(path) as source:
            members = [(member.name, source.extractfile(member).read()) for member in source]
        names = sorted(name for name, _ in members if not name.endswith((".txt", ".json")))
        broken = set(names[: round(share * len(names))])
        with tarfile.open(path, "w") as target:
            for name, content in members:
                info = tarfile.TarInfo(name)
                kept = content[:20] if name in broken else content
                info.size = len(kept)
                target.addfile(info, io.BytesIO(kept))


def run_night(dataset: str = "scenes") -> None:
    """Run the steps of the DAG up to the check that stops it."""
    which = {"dataset": dataset, "crawl_date": BAD_NIGHT}
    check(CheckConfig.model_validate({**which, "suite": "samples"}))
    score(ScoreConfig.model_validate(which))


@pytest.fixture(scope="module")
def bad_night_once(make_database: Callable[..., str], scored_once: TrainedStore, corpus: Path) -> TrainedStore:
    """A store whose first night is published, and whose second one has just come, 30 % of it broken; made once, to be copied."""

    def make(home: Path) -> TrainedStore:
        root = home.parent / "crawl"
        shutil.copytree(corpus / "test", root)
        break_pictures(root, 0.3)
        with used(store := copy_store(scored_once, make_database, home)):
            ingest(IngestConfig.model_validate({"dataset": "crawl", "root": str(root), "crawl_date": BAD_NIGHT}))
        return store

    return store_once("bad-night", make)


@pytest.fixture
def bad_night(
    bad_night_once: TrainedStore, make_database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """A copy of the store with a broken night; its tars are only read."""
    use_store(monkeypatch, copy_store(bad_night_once, make_database, tmp_path / "home-0"))
    return "crawl"


def count(query: str) -> int:
    with open_store().connect() as connection:
        return int(connection.execute(text(query)).scalar_one())


SELECTABLE = (
    "SELECT count(*) FROM alchemist.nights INNER JOIN alchemist.shard_scores USING (night_id) "
    "WHERE nights.state IN ('selectable', 'released')"
)


def stop(dataset: str) -> str:
    with pytest.raises(CheckFailedError) as stopped:
        run_night(dataset)
    return str(stopped.value)


def test_a_third_of_broken_images_stops_the_night_and_leaves_the_old_ones_selectable(bad_night: str) -> None:
    before = count(SELECTABLE)
    assert before > 0
    assert "crawl 2026-01-02: most_locations_are_usable" in stop(bad_night)
    assert count(SELECTABLE) == before
    with open_store().connect() as connection:
        status = connection.execute(
            text("SELECT status FROM alchemist.nightly_overview WHERE dataset = 'crawl'")
        ).scalar()
    assert status == "stopped by checks: most_locations_are_usable"


def test_scores_of_a_stopped_night_are_not_published_even_where_they_exist(bad_night: str) -> None:
    stop(bad_night)
    score(ScoreConfig(dataset=bad_night))
    with pytest.raises(
        CheckFailedError, match=r"samples\.most_locations_are_usable.*alchemist night release --dataset crawl"
    ):
        publish_night(PublishNightConfig(dataset=bad_night))


@needs_promtool
def test_metrics_and_alerts_show_a_stopped_night_until_it_is_released(bad_night: str, tmp_path: Path) -> None:
    stop(bad_night)
    assert firing(tmp_path) == {"DataCheckFailed", "QuarantineRateHigh"}
    release(ReleaseNightConfig(dataset=bad_night, crawl_date=BAD_NIGHT, reason=REASON))
    assert firing(tmp_path) == {"QuarantineRateHigh"}, "it stays true that a third is broken"


def test_one_command_scores_and_publishes_the_night_and_stores_who_released_it(bad_night: str) -> None:
    stop(bad_night)
    before = count(SELECTABLE)
    report = release(ReleaseNightConfig(dataset=bad_night, crawl_date=BAD_NIGHT, reason=REASON))
    assert report.state_before == ["stopped: samples.most_locations_are_usable"]
    assert report.n_scored > 0
    assert count(SELECTABLE) > before
    with open_store().connect() as connection:
        event = connection.execute(
            text("SELECT actor, subject, before, after FROM alchemist.audit_events WHERE action = 'release'")
        ).one()
    assert event.subject == "checks of crawl 2026-01-02"
    assert event.actor == report.released_by
    assert event.after == {"reason": REASON}


@pytest.mark.slow
def test_a_night_that_was_released_passes_the_same_check_again(bad_night: str) -> None:
    stop(bad_night)
    release(ReleaseNightConfig(dataset=bad_night, crawl_date=BAD_NIGHT, reason=REASON))
    report = check(CheckConfig(suite="samples", dataset=bad_night, crawl_date=BAD_NIGHT))
    assert report.warnings[0].startswith(
        "crawl 2026-01-02: most_locations_are_usable: expected share of quarantined locations: at most 0.2; found 0.29"
    )


@pytest.mark.parametrize("step", ["score", "publish_night"])
def test_a_release_that_was_interrupted_is_repeated_by_the_same_command(
    bad_night: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    stop(bad_night)
    before, config = count(SELECTABLE), ReleaseNightConfig(dataset=bad_night, crawl_date=BAD_NIGHT, reason=REASON)

    def break_off(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(held_nights, step, break_off)
        with pytest.raises(KeyboardInterrupt):
            release(config)
    assert count(SELECTABLE) == before
    report = release(config)
    assert report.state_before == ["released, but not published"]
    assert (report.n_scored > 0) == (step == "score")
    assert count(SELECTABLE) > before
    assert count("SELECT count(*) FROM alchemist.audit_events WHERE action = 'release'") == 1
    with pytest.raises(ConfigError, match="held or rejected, or was stopped"):
        release(config)


def test_a_night_that_nothing_stopped_cannot_be_released(bad_night: str) -> None:
    with pytest.raises(ConfigError, match="held or rejected, or was stopped"):
        release(ReleaseNightConfig(dataset=bad_night, crawl_date=BAD_NIGHT, reason=REASON))


def test_without_torch_the_release_is_stored_and_the_error_names_the_dag(engine: Engine) -> None:
    """As in the pod of a scheduler, whose image has no torch."""
    night = {"dataset_name": "web", "crawl_date": BAD_NIGHT}
    given = {
        "datasets": [{"dataset_id": 1, "name": "web"}],
        "raters": [{"rater_id": 1, "name": "r", "state": "production"}],
        "shards": [{"shard_id": 1, "dataset_id": 1, "n_samples": 2, "crawl_date": BAD_NIGHT}],
        "check_results": [{"suite": "samples", "is_success": False} | night],
    }
    with engine.begin() as connection:
        insert_rows(connection, given)
    program = "import sys; sys.modules['torch'] = None; from alchemist_core.__main__ import main; sys.exit(main())"
    words = ["night", "release", "--dataset", "web", "--crawl-date", str(BAD_NIGHT), "--reason", REASON]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == MissingDependencyError.exit_code
    remedy = "or trigger the DAG nightly_rescore with crawl date 2026-01-02: the release of web is stored"
    assert (
        f"torch is not installed. Install the extra train: pip install 'alchemist-platform[train]', {remedy}"
        in done.stderr
    )
    assert count("SELECT count(*) FROM alchemist.audit_events WHERE action = 'release'") == 1


def firing(folder: Path) -> set[str]:
    """The alerts that our rules raise on what the exporter measures now, as promtool finds by listing none as expected."""
    measured = read_measurements(open_store(), Prices())
    names = {
        "alchemist_check_failures": ("reason", "outcome"),
        "alchemist_night_samples": ("dataset", "outcome", "reason"),
    }
    series = [
        {"series": name + labelled(labels, values), "values": f"{value}x60"}
        for name, labels in names.items()
        for values, value in measured.get(name, [])
    ]
    return {alert for alert in ("DataCheckFailed", "QuarantineRateHigh") if not is_quiet(folder, series, alert)}


def labelled(labels: tuple[str, ...], values: tuple[str, ...]) -> str:
    return "{" + ", ".join(f'{label}="{value}"' for label, value in zip(labels, values, strict=True)) + "}"


def is_quiet(folder: Path, series: list[dict[str, str]], alert: str) -> bool:
    case = {"eval_time": "30m", "alertname": alert, "exp_alerts": []}
    test = {"interval": "1m", "input_series": series, "alert_rule_test": [case]}
    rules = [str(PROMETHEUS / name) for name in ("recording.yml", "alerts.yml")]
    path = folder / f"{alert}.yml"
    path.write_text(yaml.safe_dump({"rule_files": rules, "evaluation_interval": "1m", "tests": [test]}))
    done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or f"alertname: {alert}" in done.stdout + done.stderr, done.stderr
    return done.returncode == 0
