"""A restored platform equals the one that was backed up: same checksum, same subset bit for bit; a damaged backup is refused."""

import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, make_url, text

from alchemist_core.cli import db
from alchemist_core.cli.db import COMMANDS, BackupConfig, RestoreConfig, backup, restore
from alchemist_core.cli.subset import GcSubsetConfig, PublishSubsetConfig, gc, publish
from alchemist_core.embeddings.upkeep import remove_orphans
from alchemist_core.errors import ConfigError, DataError, StoreError
from alchemist_core.files import PICTURE_CACHE, artifact_path, file_sha256, partial_path
from alchemist_core.settings import load_settings
from alchemist_core.stages.select import SelectResult
from alchemist_core.store import engine as store_engine
from alchemist_core.store.backups import checksum
from alchemist_core.store.embeddings import read_taken_down_hashes
from alchemist_core.store.engine import (
    MIGRATIONS,
    SQL,
    close_stores,
    current_revision,
    head_revision,
    make_engine,
    open_store,
    schema_state,
)
from alchemist_core.store.postgres import client_program, run_program
from alchemist_core.store.samples import take_down
from alchemist_core.store.subsets import find_subset
from alchemist_core.training.checkpoints import finish, partial_folder
from tests.drawn_versions import pool, run_publish, select
from tests.trained_store import TrainedStore, copy_store, select_subset, store_once, use_store, used

__all__ = ["pool"]

pytestmark = [pytest.mark.db, pytest.mark.e2e]


def choose(name: str) -> SelectResult:
    return select_subset(name, 0.3, strategy="gsample", std_rank=0.2, seed=7)


@pytest.fixture(scope="module")
def backed_up_once(make_database: Callable[..., str], scored_once: TrainedStore) -> TrainedStore:
    """A scored store with a published subset, backed up into a folder beside its home; made once, to be copied."""

    def make(home: Path) -> TrainedStore:
        with used(store := copy_store(scored_once, make_database, home)), pytest.MonkeyPatch.context() as patch:
            choose("first")
            publish(PublishSubsetConfig(name="first"))
            # As a user names it, relative to the working directory.
            patch.chdir(home.parent)
            report = backup(BackupConfig(folder=Path("backups/monday")))
            assert report.checksum == checksum(store.url)
        return store

    return store_once("backed-up", make)


@pytest.fixture
def backed_up(
    backed_up_once: TrainedStore, make_database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A copy of the backup; settings name a copy of the store that it was made of."""
    use_store(monkeypatch, copy_store(backed_up_once, make_database, tmp_path / "home-0"))
    return Path(shutil.copytree(backed_up_once.home.parent / "backups/monday", tmp_path / "backups/monday"))


@pytest.fixture
def elsewhere(make_database: Callable[..., str], tmp_path: Path) -> TrainedStore:
    """Another database and another home."""
    return TrainedStore(make_database(template=None), tmp_path / "other-home")


def test_a_restored_platform_selects_and_publishes_the_same_subset_bit_for_bit(
    backed_up: Path, elsewhere: TrainedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = choose("second")
    published = find_subset(open_store(), "first")
    use_store(monkeypatch, elsewhere)
    # From another database of this home, whose ids and times may equal those of the restored one.
    (other_pool := elsewhere.home / "snapshots" / "1" / "pool.json").parent.mkdir(parents=True)
    other_pool.write_text("{}")
    report = restore(RestoreConfig(folder=backed_up))
    assert not other_pool.exists()
    assert report.checksum == checksum(elsewhere.url)
    assert (report.revision, report.migrated_from) == (head_revision(), None)
    assert COMMANDS["restore"].next_step(RestoreConfig(folder=backed_up), report) == "alchemist db provision"
    assert find_subset(open_store(), "first").manifest_sha256 == published.manifest_sha256
    found = choose("second")
    assert (found.manifest_sha256, found.n_samples) == (expected.manifest_sha256, expected.n_samples)
    publish(PublishSubsetConfig(name="second"))
    assert find_subset(open_store(), "second").state == "published"


def test_a_restore_names_the_time_after_which_takedowns_have_to_be_repeated(
    backed_up: Path,
    elsewhere: TrainedStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, since = tmp_path / "tuesday", datetime.now(UTC).replace(microsecond=0)
    take_down(open_store(), [b"1" * 32], "before", actor="ann")
    backup(BackupConfig(folder=folder))
    take_down(open_store(), [b"2" * 32], "after", actor="ann")
    use_store(monkeypatch, elsewhere)
    restore(RestoreConfig(folder=folder))
    assert read_taken_down_hashes(open_store()) == [b"1" * 32]
    said = capsys.readouterr().err
    (named,) = re.findall(r"Takedowns after (.{19}) UTC are not in the backup", said)
    assert since <= datetime.fromisoformat(f"{named}+00:00") <= datetime.now(UTC)
    # A backup of a version that did not store the time.
    note = json.loads((folder / "backup.json").read_text())
    del note["made_at"]
    (folder / "backup.json").write_text(json.dumps(note))
    restore(RestoreConfig(folder=folder))
    assert "Takedowns after the backup was made are not in the backup" in capsys.readouterr().err


def test_a_url_of_sqlalchemy_whose_password_is_in_a_variable_is_backed_up_and_restored(
    database_url: str, elsewhere: TrainedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", str(make_url(database_url).password))
    use_store(monkeypatch, TrainedStore(without_password(database_url), tmp_path / "home"))
    written = backup(BackupConfig(folder=tmp_path / "backup"))
    use_store(monkeypatch, TrainedStore(without_password(elsewhere.url), elsewhere.home))
    assert restore(RestoreConfig(folder=tmp_path / "backup")).checksum == written.checksum == checksum(elsewhere.url)


def test_the_account_of_the_jobs_may_back_up(
    backed_up: Path,
    elsewhere: TrainedStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    log_in_at: Callable[[str, str], str],
) -> None:
    settings = load_settings()
    assert settings.database_url is not None
    owner = settings.database_url.get_secret_value()
    use_store(monkeypatch, TrainedStore(log_in_at(owner, "alchemist_writer"), settings.home))
    written = backup(BackupConfig(folder=tmp_path / "by-writer"))
    assert written.checksum == checksum(owner)
    use_store(monkeypatch, elsewhere)
    assert restore(RestoreConfig(folder=tmp_path / "by-writer")).checksum == written.checksum


def test_a_restore_sets_no_parameter_that_servers_before_postgres_17_refuse(
    backed_up: Path, elsewhere: TrainedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, psql = tmp_path / "script", tmp_path / "psql"
    psql.write_text(f'#!/bin/sh\ntee {script} | {client_program("psql")} "$@"\n')
    psql.chmod(0o755)
    monkeypatch.setattr(db, "client_program", lambda name: psql if name == "psql" else client_program(name))
    use_store(monkeypatch, elsewhere)
    restore(RestoreConfig(folder=backed_up))
    named = [line for line in script.read_bytes().splitlines() if b"transaction_timeout" in line]
    # A server that does not have the parameter finds no row, and one that has it sets it.
    assert named == [b"SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'transaction_timeout';"]


def test_a_restore_by_a_user_who_may_not_create_schemas_keeps_the_schema_and_names_the_right(
    backed_up: Path, elsewhere: TrainedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a managed server, where an administrator made the schema."""
    url = make_url(elsewhere.url)
    role, admin = f"owner_{url.database}", make_engine(elsewhere.url)
    theirs = url.set(username=role, password="change-me").render_as_string(hide_password=False)
    try:
        with admin.begin() as connection:
            connection.execute(
                text(f"""
                CREATE ROLE {role} LOGIN PASSWORD 'change-me'; GRANT {role} TO CURRENT_USER; CREATE SCHEMA alchemist AUTHORIZATION {role}
            """)
            )
        store_engine.migrate(theirs)
        use_store(monkeypatch, TrainedStore(theirs, elsewhere.home))
        with pytest.raises(StoreError, match=f"GRANT CREATE ON DATABASE {url.database} TO {role};"):
            restore(RestoreConfig(folder=backed_up))
        assert current_revision(theirs) == head_revision()
        with admin.begin() as connection:
            connection.execute(text(f"GRANT CREATE ON DATABASE {url.database} TO {role}"))
        assert restore(RestoreConfig(folder=backed_up)).checksum == checksum(theirs)
    finally:
        close_stores()
        with admin.begin() as connection:
            connection.execute(text(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}"))
        admin.dispose()


@pytest.mark.parametrize("may_create", [False, True])
def test_a_restore_by_the_account_of_the_jobs_asks_for_the_owner(
    backed_up: Path,
    elsewhere: TrainedStore,
    monkeypatch: pytest.MonkeyPatch,
    log_in_at: Callable[[str, str], str],
    may_create: bool,
) -> None:
    """It would own the schema, the audit log too."""
    theirs, admin = log_in_at(elsewhere.url, "alchemist_writer"), make_engine(elsewhere.url)
    if may_create:
        with admin.begin() as connection:
            connection.execute(text(f"GRANT CREATE ON DATABASE {admin.url.database} TO alchemist_writer"))
    admin.dispose()
    use_store(monkeypatch, TrainedStore(theirs, elsewhere.home))
    with pytest.raises(StoreError, match="to the address of the owner") as refused:
        restore(RestoreConfig(folder=backed_up))
    assert "GRANT" not in str(refused.value)


@pytest.mark.parametrize("command", ["backup", "restore", "psql"])
def test_a_secret_that_the_programs_of_postgres_get_only_as_an_argument_is_refused(
    backed_up: Path, elsewhere: TrainedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Arguments are visible in the list of processes."""
    settings = load_settings()
    assert settings.database_url is not None
    url = elsewhere.url if command == "restore" else settings.database_url.get_secret_value()
    store_engine.migrate(url)
    monkeypatch.setattr(db.os, "execv", lambda *given: pytest.fail(str(given)))
    use_store(monkeypatch, TrainedStore(f"{url}?sslpassword=hunter2", settings.home))
    wanted: dict[str, Callable[[], object]] = {
        "backup": lambda: backup(BackupConfig(folder=tmp_path / "new")),
        "restore": lambda: restore(RestoreConfig(folder=backed_up)),
        "psql": lambda: db.psql(db.PsqlConfig()),
    }
    with pytest.raises(ConfigError, match="contains sslpassword, which") as refused:
        wanted[command]()
    assert "hunter2" not in str(refused.value)
    assert "PGOPTIONS" not in os.environ, "later connections of this process would only read"
    assert current_revision(url) == head_revision()
    # The way that the error names.
    (services := tmp_path / "services").write_text("[alchemist]\nsslpassword=hunter2\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    use_store(monkeypatch, TrainedStore(f"{url}?service=alchemist", settings.home))
    if command != "psql":
        wanted[command]()


def without_password(url: str) -> str:
    given = make_url(url)
    return f"postgresql+psycopg2://{given.username}@{given.host}:{given.port}/{given.database}"


def test_restored_rows_are_granted_to_readers_again(
    backed_up: Path, elsewhere: TrainedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_store(monkeypatch, elsewhere)
    restore(RestoreConfig(folder=backed_up))
    with make_engine(elsewhere.url).connect() as connection:
        granted = "SELECT has_table_privilege('alchemist_reader', 'alchemist.scores', 'SELECT')"
        assert connection.exec_driver_sql(granted).scalar()


def test_a_store_with_data_is_never_overwritten_and_neither_is_a_backup(backed_up: Path) -> None:
    choose("second")
    with pytest.raises(ConfigError, match="contains data"):
        restore(RestoreConfig(folder=backed_up))
    with pytest.raises(ConfigError, match="exists"):
        backup(BackupConfig(folder=backed_up))


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_backup_is_refused_by_the_file_before_anything_is_restored(
    backed_up: Path, elsewhere: TrainedStore, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    victim = next(path for path in sorted((backed_up / "artifacts").rglob("*")) if path.is_file())
    if damage == "changed":
        victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    else:
        victim.unlink()
    use_store(monkeypatch, elsewhere)
    with pytest.raises(DataError, match=f"1 file, of which the first is artifacts/.*{victim.name}"):
        restore(RestoreConfig(folder=backed_up))
    assert not elsewhere.home.joinpath("artifacts").exists()


def test_files_that_others_put_into_a_backup_are_left_out_of_its_restore(
    backed_up: Path, elsewhere: TrainedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    strays = [backed_up / folder / ".DS_Store" for folder in ("", "artifacts", "artifacts/subsets", "database")]
    n_bytes = sum(path.stat().st_size for path in backed_up.rglob("*") if path.is_file() and path.name != "backup.json")
    for path in strays:
        path.write_bytes(b"x")

    def of_another_account(path: Path) -> bytes:
        if path.name == ".DS_Store":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return file_sha256(path)

    monkeypatch.setattr(db, "file_sha256", of_another_account)
    use_store(monkeypatch, elsewhere)
    restored = restore(RestoreConfig(folder=backed_up))
    assert (restored.checksum, restored.n_bytes) == (checksum(elsewhere.url), n_bytes)
    assert find_subset(open_store(), "first").state == "published"
    assert not list(elsewhere.home.rglob(".DS_Store"))


def test_a_note_that_names_a_file_outside_of_its_backup_is_refused(backed_up: Path) -> None:
    outside, note = backed_up.parent / "outside", json.loads((backed_up / "backup.json").read_text())
    outside.write_bytes(b"x")
    for name in (str(outside), "../outside"):
        damaged = note | {"files": note["files"] | {name: hashlib.sha256(b"x").hexdigest()}}
        (backed_up / "backup.json").write_text(json.dumps(damaged))
        with pytest.raises(DataError, match=f"1 file, of which the first is {name}"):
            restore(RestoreConfig(folder=backed_up))


def test_a_backup_that_fails_leaves_nothing(
    trained_store: TrainedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup of the next night has another name, so it would not replace what this one left."""

    def fail(*_given: Any, **_how: Any) -> None:
        raise StoreError("no space left")

    monkeypatch.setattr(db, "checksum", fail)
    with pytest.raises(StoreError, match="no space left"):
        backup(BackupConfig(folder=tmp_path / "backups/monday"))
    assert not list((tmp_path / "backups").iterdir())


def test_a_backup_takes_no_harm_from_a_training_that_ends_and_from_orphans_that_are_deleted_beside_it(
    trained_store: TrainedStore, tmp_path: Path
) -> None:
    folder, trained = tmp_path / "monday", artifact_path("raters/new")
    for many in (partial_folder(trained) / "resume", artifact_path("embeddings/99")):
        many.mkdir(parents=True)
        for i in range(2000):
            (many / f"{i:04}.arrow").write_bytes(b"x")
    (partial_folder(trained) / "rater.safetensors").write_bytes(b"x")
    artifact_path(PICTURE_CACHE).mkdir()
    (artifact_path(PICTURE_CACHE) / "cached.jpg").write_bytes(b"x")

    def delete() -> None:
        deadline = time.monotonic() + 120
        while not (partial_path(folder) / "artifacts").exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        finish(trained)
        assert remove_orphans(open_store(), min_age_s=0) == 2000

    with ThreadPoolExecutor(1) as pool:
        beside = pool.submit(delete)
        backup(BackupConfig(folder=folder))
        beside.result()
    copied = {path.relative_to(folder / "artifacts") for path in (folder / "artifacts").rglob("*") if path.is_file()}
    assert not [path for path in copied if PICTURE_CACHE in path.parts or "new.partial" in path.parts]
    assert {path.name for path in copied if "new" in path.parts} <= {"rater.safetensors"}
    assert [path for path in copied if path.parts[0] == "raters" and "new" not in path.parts]


@pytest.mark.parametrize("step", [pytest.param("list_artifacts", marks=pytest.mark.slow), "checksum"])
def test_a_backup_keeps_the_members_of_a_version_that_gc_would_remove_meanwhile(
    pool: Engine, elsewhere: TrainedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Between snapshot and dump, and between dump and checksum."""
    artifact_path("raters/r").mkdir(parents=True)
    (artifact_path("raters/r") / "rater.safetensors").write_bytes(b"x")
    for retention in (0.1, 0.2, 0.3):
        run_publish(select(retention=retention).version)
    unchanged, left = getattr(db, step), []

    def collect_first(*given: Any, **how: Any) -> Any:
        left.extend(gc(GcSubsetConfig(dry_run=False, min_age_days=0)).left)
        return unchanged(*given, **how)

    with monkeypatch.context() as beside:
        beside.setattr(db, step, collect_first)
        written = backup(BackupConfig(folder=tmp_path / "backup"))
    use_store(monkeypatch, elsewhere)
    assert restore(RestoreConfig(folder=tmp_path / "backup")).checksum == written.checksum
    assert [line for line in left if line.startswith("best v1 is in use or being read")]


def test_a_backup_and_its_restore_name_the_artifacts_that_the_home_lacked(
    backed_up: Path,
    elsewhere: TrainedStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    choose("second")
    # As garbage collection does with a version that select can make again.
    artifact_path(find_subset(open_store(), "second").manifest_uri).unlink()
    backup(BackupConfig(folder=tmp_path / "tuesday"))
    published = find_subset(open_store(), "first").manifest_uri
    artifact_path(published).unlink()
    with pytest.raises(DataError, match=f"without 1 artifact that(?s:.*) {published}"):
        backup(BackupConfig(folder=tmp_path / "wednesday"))
    files = (json.loads((tmp_path / day / "backup.json").read_text())["files"] for day in ("tuesday", "wednesday"))
    whole, lacking = ({name for name in one if name.startswith("artifacts/")} for one in files)
    assert whole - lacking == {f"artifacts/{published}"}
    use_store(monkeypatch, elsewhere)
    restore(RestoreConfig(folder=tmp_path / "wednesday"))
    assert f"without 1 artifact that the store names. The first is {published}" in capsys.readouterr().err
    # With the file in place, as the warning advises, nothing is left to warn of.
    artifact_path(published).parent.mkdir(parents=True)
    shutil.copy2(tmp_path / "tuesday/artifacts" / published, artifact_path(published))
    restore(RestoreConfig(folder=tmp_path / "wednesday"))
    assert "without" not in capsys.readouterr().err


def test_an_artifact_that_is_another_one_here_is_refused(
    backed_up: Path, elsewhere: TrainedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = next((backed_up / "artifacts" / "subsets").rglob("*.parquet"))
    use_store(monkeypatch, elsewhere)
    mine = artifact_path(manifest.relative_to(backed_up / "artifacts").as_posix())
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    with pytest.raises(DataError, match="differs from"):
        restore(RestoreConfig(folder=backed_up))
    assert mine.read_bytes() == b"mine"


def test_a_backup_of_newer_code_is_refused_before_anything_is_written(
    backed_up: Path, elsewhere: TrainedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = json.loads((backed_up / "backup.json").read_text())
    (backed_up / "backup.json").write_text(json.dumps(note | {"revision": "9999"}))
    use_store(monkeypatch, elsewhere)
    with pytest.raises(StoreError, match=r"The backup is at revision 9999, but this code supports up to \d+\. Update"):
        restore(RestoreConfig(folder=backed_up))
    assert current_revision(elsewhere.url) is None
    assert not elsewhere.home.joinpath("artifacts").exists()


@pytest.fixture
def older(backed_up: Path) -> Path:
    """The backup as code of an earlier revision made it: its dump has the schema of then, and its checksum is that of then."""
    url = load_settings().database_url.get_secret_value()  # type: ignore[union-attr]
    close_stores()
    downgrade(url)
    shutil.rmtree(backed_up / "database")
    options = ("--format=directory", "--schema=alchemist", "--no-owner", "--no-privileges")
    run_program([client_program("pg_dump"), f"--dbname={url}", *options, f"--file={backed_up / 'database'}"])
    note = json.loads((backed_up / "backup.json").read_text())
    files = [name for name in note["files"] if not name.startswith("database/")]
    files += [f"database/{path.name}" for path in (backed_up / "database").iterdir()]
    note |= {"revision": EARLIER, "checksum": "0" * 64, "files": dict.fromkeys(files)}
    (backed_up / "backup.json").write_text(json.dumps(note))
    seal(backed_up)
    return backed_up


EARLIER = f"{int(head_revision()) - 3:04}"


def downgrade(url: str) -> None:
    """Downgrade a store to an earlier revision; views depend on its columns, so they are dropped first."""
    engine, config = make_engine(url), Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        for path in sorted((SQL / "views").glob("*.sql"), reverse=True):
            connection.exec_driver_sql(f"DROP VIEW IF EXISTS alchemist.{path.stem}")
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, EARLIER)
    engine.dispose()


RESTORES = text("SELECT subject, after FROM alchemist.audit_events WHERE action = 'restore' ORDER BY audit_event_id")


def test_a_backup_of_older_code_is_restored_and_migrated_and_may_be_restored_again_until_the_store_is_used(
    older: Path, elsewhere: TrainedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_store(monkeypatch, elsewhere)
    report = restore(RestoreConfig(folder=older))
    assert (report.revision, report.migrated_from) == (head_revision(), EARLIER)
    assert f"migrated from: {EARLIER}" in " ".join(report.summary().split())
    assert current_revision(elsewhere.url) == head_revision()
    assert find_subset(open_store(), "first").state == "published"
    assert restore(RestoreConfig(folder=older)) == report
    with open_store().connect() as connection:
        events = [tuple(row) for row in connection.execute(RESTORES)]
    name = f"backup {'0' * 64}"
    assert events == [(name, None), (name, {"checksum": checksum(elsewhere.url), "revision": head_revision()})]
    choose("second")
    with pytest.raises(ConfigError, match="contains data"):
        restore(RestoreConfig(folder=older))


@pytest.mark.parametrize("step", ["_upgrade", "_apply_code"])
def test_a_restore_of_an_older_backup_that_was_killed_while_it_migrated_is_completed_by_the_next(
    older: Path, elsewhere: TrainedStore, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    use_store(monkeypatch, elsewhere)
    with monkeypatch.context() as killed:
        killed.setattr(store_engine, step, die)
        with pytest.raises(KeyboardInterrupt):
            restore(RestoreConfig(folder=older))
    assert current_revision(elsewhere.url) == (EARLIER if step == "_upgrade" else head_revision())
    assert not schema_state(elsewhere.url).is_created
    report = restore(RestoreConfig(folder=older))
    assert (report.revision, report.migrated_from) == (head_revision(), EARLIER)
    assert schema_state(elsewhere.url).is_current
    assert find_subset(open_store(), "first").state == "published"


def test_a_folder_that_is_no_backup_reports_it(trained_store: TrainedStore, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a backup"):
        restore(RestoreConfig(folder=tmp_path))


@pytest.mark.parametrize("note", ["{", "[1]", '{"checksum": "x"}', ""])
def test_a_damaged_backup_note_reports_it(trained_store: TrainedStore, tmp_path: Path, note: str) -> None:
    (tmp_path / "backup.json").write_text(note)
    with pytest.raises(DataError, match=r"is not a backup \(backup.json is damaged\)"):
        restore(RestoreConfig(folder=tmp_path))


def test_a_schema_that_a_killed_restore_of_older_code_left_is_replaced(
    backed_up: Path, elsewhere: TrainedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(elsewhere.url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA alchemist")
        connection.exec_driver_sql("CREATE TABLE alchemist.datasets (name text)")
        connection.exec_driver_sql("INSERT INTO alchemist.datasets VALUES ('half')")
    engine.dispose()
    use_store(monkeypatch, elsewhere)
    assert restore(RestoreConfig(folder=backed_up)).checksum == checksum(elsewhere.url)


def test_a_restore_that_is_repeated_finds_its_own_data(
    backed_up: Path, elsewhere: TrainedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_store(monkeypatch, elsewhere)
    assert restore(RestoreConfig(folder=backed_up)) == restore(RestoreConfig(folder=backed_up))


def test_a_restore_that_is_refused_in_the_middle_leaves_nothing(
    backed_up: Path, elsewhere: TrainedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_store(monkeypatch, elsewhere)
    # A session that blocks one of the last tables of the backup; its data come last.
    toc = backed_up / "database" / "toc.dat"
    whole = toc.read_bytes()
    toc.write_bytes(whole.replace(b"COPY alchemist.shards ", b"COPY alchemist.shardz ", 1))
    seal(backed_up)
    with pytest.raises(StoreError, match="shardz") as refused:
        restore(RestoreConfig(folder=backed_up))
    assert len(str(refused.value).splitlines()) == 1
    assert current_revision(elsewhere.url) is None
    toc.write_bytes(whole)
    seal(backed_up)
    assert restore(RestoreConfig(folder=backed_up)).checksum == checksum(elsewhere.url)


def seal(folder: Path) -> None:
    """Write the hashes of the files as they are now."""
    note = json.loads((folder / "backup.json").read_text())
    note["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in note["files"]}
    (folder / "backup.json").write_text(json.dumps(note))
