"""Selection is a pure function of the eligible set and the spec; it is published in one step and copied byte for byte."""

import tarfile
from pathlib import Path

import pytest
from sqlalchemy import text

from alchemist_core.cli.sample import TakedownConfig, takedown
from alchemist_core.cli.subset import PublishSubsetConfig, publish
from alchemist_core.errors import AlchemistError, ConfigError
from alchemist_core.files import artifact_path
from alchemist_core.stages.materialize import MaterializeConfig
from alchemist_core.stages.materialize import run as materialize
from alchemist_core.stages.publishing import PublishNightConfig, publish_night
from alchemist_core.stages.score import ScoreConfig
from alchemist_core.stages.score import run as score
from alchemist_core.stages.select import SelectConfig, SelectResult, run
from alchemist_core.store.backups import checksum
from alchemist_core.store.engine import open_store
from alchemist_core.store.manifests import read_manifest
from alchemist_core.store.subsets import find_subset
from tests.trained_store import TrainedStore

pytestmark = [pytest.mark.db, pytest.mark.e2e]


@pytest.fixture(autouse=True)
def _scored(trained_store: TrainedStore) -> None:
    score(ScoreConfig(dataset="scenes"))


@pytest.fixture
def selectable() -> None:
    publish_night(PublishNightConfig(dataset="scenes"))


def select(retention: float = 0.2, **fields: object) -> SelectResult:
    policy = {"retention": retention} | {name: fields.pop(name) for name in ("strategy", "seed") if name in fields}
    return run(SelectConfig.model_validate({"dataset": "scenes", "policy": policy, **fields}))


def members(name: str) -> set[bytes]:
    subset = find_subset(open_store(), name)
    return set(read_manifest(artifact_path(subset.manifest_uri), sha256=subset.manifest_sha256).pair_hashes())


def test_a_night_is_not_selectable_before_it_is_published() -> None:
    with pytest.raises(AlchemistError, match="none of its nights is published"):
        select()


@pytest.mark.usefixtures("selectable")
def test_the_same_spec_gives_the_version_that_exists(trained_store: TrainedStore) -> None:
    first = select()
    before = checksum(trained_store.url)
    again = select()
    assert (first.name, first.version, first.n_samples, first.is_new) == ("scenes-auto-r20", 1, 48, True)
    assert (again.version, again.is_new, again.manifest_sha256) == (1, False, first.manifest_sha256)
    assert checksum(trained_store.url) == before


@pytest.mark.usefixtures("selectable")
def test_a_lost_manifest_is_made_again_byte_for_byte() -> None:
    select()
    path = artifact_path(find_subset(open_store(), "scenes-auto-r20").manifest_uri)
    before = path.read_bytes()
    path.unlink()
    select()
    assert path.read_bytes() == before


@pytest.mark.usefixtures("selectable")
@pytest.mark.parametrize("strategy", ["auto", "shift_gsample", "random", "gsample"])
def test_a_larger_retention_contains_the_smaller(strategy: str) -> None:
    for retention in (0.2, 0.5, 0.7):
        select(retention, strategy=strategy, name=f"s{retention:g}")
    assert members("s0.2") < members("s0.5") < members("s0.7")


@pytest.mark.usefixtures("selectable")
def test_a_dry_run_writes_no_row(trained_store: TrainedStore) -> None:
    before = checksum(trained_store.url)
    report = select(dry_run=True)
    assert (report.n_samples, report.version) == (48, None)
    assert checksum(trained_store.url) == before
    with open_store().connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM alchemist.rank_scales")).scalar() == 0


@pytest.mark.usefixtures("selectable")
def test_a_drop_top_ratio_that_leaves_too_few_names_the_largest_retention() -> None:
    with pytest.raises(ConfigError, match="largest possible retention"):
        select(0.9, strategy="shift_gsample")


@pytest.mark.usefixtures("selectable")
def test_publishing_supersedes_the_version_before_and_is_recorded() -> None:
    select(name="crawl")
    assert publish(PublishSubsetConfig(name="crawl")).is_new
    assert not publish(PublishSubsetConfig(name="crawl")).is_new
    select(0.5, name="crawl")
    assert publish(PublishSubsetConfig(name="crawl")).version == 2
    with open_store().connect() as connection:
        states = connection.execute(text("SELECT state FROM alchemist.subsets ORDER BY version")).scalars().all()
        counts = (
            connection.execute(text("SELECT count(*) FROM alchemist.subset_samples GROUP BY subset_id ORDER BY 1"))
            .scalars()
            .all()
        )
        events = (
            connection.execute(text("SELECT action FROM alchemist.audit_events WHERE subject = 'subset crawl'"))
            .scalars()
            .all()
        )
    assert (states, counts, events) == (["superseded", "published"], [48, 120], ["publish", "publish"])


@pytest.mark.usefixtures("selectable")
def test_a_materialized_subset_holds_the_source_bytes_and_is_written_once(corpus: Path) -> None:
    select()
    report = materialize(MaterializeConfig(subset="scenes-auto-r20", shard_size=20))
    assert (report.n_shards, report.n_samples) == (3, 48)
    assert materialize(MaterializeConfig(subset="scenes-auto-r20", shard_size=20)).n_bytes_written == 0
    source = {data for path in (corpus / "train").rglob("*.tar") for data in payloads(path)}
    copied = [data for path in Path(report.folder).glob("*.tar") for data in payloads(path)]
    assert len(copied) == 48 * 3
    assert set(copied) <= source


def payloads(path: Path) -> list[bytes]:
    with tarfile.open(path) as tar:
        return [tar.extractfile(member).read() for member in tar]  # type: ignore[union-attr]


@pytest.mark.usefixtures("selectable")
def test_a_takedown_leaves_later_selections_and_stops_the_old_one_from_being_copied() -> None:
    select()
    publish(PublishSubsetConfig(name="scenes-auto-r20"))
    gone = min(members("scenes-auto-r20"))
    with open_store().connect() as connection:
        image_hash = connection.execute(
            text("SELECT image_hash FROM alchemist.samples WHERE pair_hash = :hash"), {"hash": gone}
        ).scalar_one()
    report = takedown(TakedownConfig(image_hash=bytes(image_hash).hex(), reason="asked for by its author"))
    assert (report.is_new, report.published_subsets) == (True, ["scenes-auto-r20"])
    with pytest.raises(AlchemistError, match="no live location"):
        materialize(MaterializeConfig(subset="scenes-auto-r20", version=1))
    assert select().version == 2
    assert gone not in members("scenes-auto-r20")
