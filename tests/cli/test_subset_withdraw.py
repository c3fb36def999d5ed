"""A withdrawn version is not read or evaluated any more, and the history keeps who withdrew it, when and why."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError, InternalError

from alchemist_core.__main__ import main
from alchemist_core.cli.export import ExportSubsetConfig
from alchemist_core.cli.export import subset as export_subset
from alchemist_core.cli.sample import ExplainConfig, TakedownConfig, explain, takedown
from alchemist_core.cli.subset import (
    CompareConfig,
    GcSubsetConfig,
    PublishSubsetConfig,
    RollbackSubsetConfig,
    SubsetShowConfig,
    WithdrawSubsetConfig,
    WithdrawSubsetResult,
    compare,
    gc,
    publish,
    rollback,
    show,
    withdraw,
)
from alchemist_core.errors import ConfigError
from alchemist_core.stages.evaluate import EvaluateConfig
from alchemist_core.stages.evaluate import run as evaluate
from alchemist_core.stages.materialize import MaterializeConfig
from alchemist_core.stages.materialize import run as materialize
from alchemist_core.stages.train_downstream import TrainDownstreamConfig
from alchemist_core.stages.train_downstream import run as train_downstream
from alchemist_core.store.engine import open_store
from alchemist_core.store.subsets import find_subset, list_subsets, published_version
from alchemist_core.subsets.dataset import SubsetDataset
from tests.drawn_versions import NAME, current, fill_pool, members, run_publish, select
from tests.trained_store import TrainedStore, copy_store, store_once, use_store, used

pytestmark = pytest.mark.db
REASON = "captions of the wrong crawl"
COUNT = f"SELECT count(*) FROM alchemist.current_subset_samples('{NAME}')"


@pytest.fixture(scope="module")
def versions_once(make_database: Callable[..., str]) -> TrainedStore:
    """A store with two versions of 200 and 400 samples, of which 2 replaced 1; made once, to be copied."""

    def make(home: Path) -> TrainedStore:
        with used(store := TrainedStore(make_database(), home)):
            fill_pool(open_store())
            for version, retention in enumerate((0.1, 0.2), 1):
                select(retention=retention)
                run_publish(version)
        return store

    return store_once("two-versions", make)


@pytest.fixture
def versions(
    versions_once: TrainedStore, make_database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Engine:
    """A copy of the store with two versions, which settings name."""
    use_store(monkeypatch, copy_store(versions_once, make_database, tmp_path / "home-0"))
    return open_store()


def withdraw_it(version: int | None = None, reason: str = REASON) -> WithdrawSubsetResult:
    return withdraw(WithdrawSubsetConfig(name=NAME, version=version, reason=reason))


def states(engine: Engine) -> list[str]:
    return [row.state for row in list_subsets(engine)]


def count(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text(COUNT)).scalar_one())


def test_who_asks_by_name_gets_the_version_that_was_published_before(
    versions: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = withdraw_it()
    assert (found.version, found.published, found.is_new) == (2, f"{NAME} v1", True)
    assert (states(versions), count(versions)) == (["published", "withdrawn"], 200)
    capsys.readouterr()
    assert export_subset(ExportSubsetConfig(name=NAME, out=tmp_path / "m.csv")).n_rows == 200
    said = capsys.readouterr().err
    assert f"Using {NAME} v1, the published version" in said
    assert f"{NAME} v2 was withdrawn on " in said
    assert REASON in said


READERS = {
    "SubsetDataset": lambda _: SubsetDataset(NAME, version=2),
    "export": lambda out: export_subset(ExportSubsetConfig(name=NAME, version=2, out=out / "m.csv")),
    "materialize": lambda _: materialize(MaterializeConfig(subset=NAME, version=2)),
    "train": lambda _: train_downstream(TrainDownstreamConfig(subset=NAME, version=2)),
    "evaluate": lambda _: evaluate(EvaluateConfig(subset=NAME, version=2)),
    "compare": lambda _: compare(CompareConfig(subset=NAME, version=2)),
}


@pytest.mark.parametrize("reader", READERS)
def test_who_names_the_version_gets_the_reason_and_what_to_use(versions: Engine, tmp_path: Path, reader: str) -> None:
    withdraw_it()
    with pytest.raises(ConfigError, match=f"v2 was withdrawn on .*{REASON}.* Use the published version {NAME} v1"):
        READERS[reader](tmp_path)


def test_without_a_version_to_return_to_every_reader_gets_an_error_and_none_an_empty_subset(
    versions: Engine, tmp_path: Path
) -> None:
    withdraw_it(1)
    withdraw_it(2)
    assert (states(versions), published_version(versions, NAME)) == (["withdrawn", "withdrawn"], None)
    select(retention=0.3)
    with pytest.raises(ConfigError, match=f"{REASON}.*No version of {NAME} is published now"):
        export_subset(ExportSubsetConfig(name=NAME, out=tmp_path / "m.csv"))
    with pytest.raises(InternalError, match=f"subset {NAME} v2 was withdrawn on .*: {REASON}"):
        count(versions)
    # What was selected since is the next to be published.
    assert publish(PublishSubsetConfig(name=NAME)).version == 3
    assert count(versions) == 600


def test_withdrawing_twice_is_withdrawing_once_by_name_too(versions: Engine) -> None:
    first = withdraw_it()
    again = [withdraw_it(), withdraw_it(2, reason="another one")]
    assert [(found.version, found.is_new, found.reason) for found in again] == [(2, False, REASON)] * 2
    assert {found.published for found in (first, *again)} == {f"{NAME} v1"}
    with versions.connect() as connection:
        statement = text("SELECT subject, after FROM alchemist.audit_events WHERE action = 'withdraw'")
        (event,) = connection.execute(statement).all()
    assert (event.subject, event.after["reason"]) == (f"subset {NAME}", REASON)
    # Another reason is another decision.
    assert withdraw_it(reason="this one too").version == 1


def test_a_version_with_an_image_that_was_taken_down_does_not_come_back(
    versions: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    with versions.connect() as connection:
        image = "SELECT encode(image_hash, 'hex') FROM alchemist.samples WHERE pair_hash = :hash"
        found = connection.execute(text(image), {"hash": min(members(versions, 1))}).scalar_one()
    takedown(TakedownConfig(image_hash=found, reason="asked for", successors=False))
    assert withdraw_it().published is None
    assert f"{NAME} v1 cannot be published in its place: 1 of 200 members" in capsys.readouterr().err
    assert states(versions) == ["superseded", "withdrawn"]


def test_rollback_and_publish_pass_over_what_was_withdrawn(versions: Engine) -> None:
    select(retention=0.3)
    run_publish(3)
    withdraw_it(2)
    assert states(versions) == ["superseded", "withdrawn", "published"]
    with pytest.raises(ConfigError, match=f"{NAME} v2 was withdrawn"):
        rollback(RollbackSubsetConfig(name=NAME, version=2))
    assert rollback(RollbackSubsetConfig(name=NAME)).version == current(versions).version == 1
    assert publish(PublishSubsetConfig(name=NAME)).version == 3


def test_two_versions_that_replaced_each_other_can_both_be_withdrawn(versions: Engine) -> None:
    run_publish(1)
    run_publish(2)
    withdraw_it(1)
    assert withdraw_it(2).published is None
    assert states(versions) == ["withdrawn", "withdrawn"]


def test_a_withdrawn_version_is_published_again_only_by_its_own_flag(versions: Engine) -> None:
    withdraw_it()
    with pytest.raises(ConfigError, match=f"publish {NAME} --version 2 --reinstate"):
        publish(PublishSubsetConfig(name=NAME, version=2))
    with pytest.raises(ConfigError, match=f"This selection is {NAME} v2.*--reinstate"):
        select(retention=0.2)
    assert publish(PublishSubsetConfig(name=NAME, version=2, reinstate=True)).is_new
    row = find_subset(versions, NAME, version=2)
    assert (row.state, row.withdrawn_at, row.withdrawn_reason) == ("published", None, None)
    with versions.connect() as connection:
        actions = connection.execute(text("SELECT action FROM alchemist.audit_events ORDER BY 1")).scalars().all()
    assert actions == ["publish", "publish", "reinstate", "rollback", "withdraw"]


def test_the_store_refuses_a_version_that_is_withdrawn_and_published(versions: Engine) -> None:
    withdraw_it()
    with pytest.raises(IntegrityError, match="ck_subsets_withdrawn"), versions.begin() as connection:
        connection.execute(text("UPDATE alchemist.subsets SET state = 'superseded' WHERE version = 2"))


def test_list_show_and_explain_keep_it_with_the_reason(versions: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    withdraw_it()
    capsys.readouterr()
    assert main(["subset", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out.splitlines()[-1])["subsets"]
    assert [row["state"] for row in listed] == ["published", "withdrawn"]
    assert REASON in listed[1]["withdrawal"]
    assert main(["subset", "list"]) == 0
    assert REASON in capsys.readouterr().out.splitlines()[-1]
    shown = show(SubsetShowConfig(name=NAME, version=2))
    assert (shown.state, "--reinstate" in shown.next) == ("withdrawn", True)
    pair = min(members(versions, 2)).hex()
    assert explain(ExplainConfig(sample=pair, subset=NAME, version=2)).is_member


def test_gc_collects_it_and_spares_what_a_rollback_goes_back_to(versions: Engine) -> None:
    select(retention=0.3)
    run_publish(3)
    withdraw_it(2)
    assert gc(GcSubsetConfig(min_age_days=1)).removed == []
    assert [line.split(" (")[0] for line in gc(GcSubsetConfig(min_age_days=0)).removed] == [f"{NAME} v2"]


def test_without_a_published_version_it_must_be_named(pool: Engine) -> None:
    select()
    with pytest.raises(ConfigError, match=f"No version of {NAME} is published. Give the version to withdraw"):
        withdraw_it()
    assert withdraw_it(1).is_new
    with pytest.raises(ConfigError, match=r"There is no subset 'best' v9 \(versions: 1\)"):
        withdraw_it(9)
