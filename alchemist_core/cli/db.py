"""The database: start and stop the embedded server, print its URL, open psql, migrate, set passwords, compute a checksum, back up, restore.

A backup holds the database at one moment, the folder `artifacts`, and a checksum over the rows and the artifacts that they name. It
does not hold shards, which belong to the user, nor what can be made again (materialized datasets, reports, caches).
"""

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import AwareDatetime, Field

from alchemist_core.config import BARE_WORD, Command, Config, Result, counted
from alchemist_core.cores import n_own_cores
from alchemist_core.errors import ConfigError, DataError, StoreError
from alchemist_core.files import (
    BLOCK_CACHE,
    FEATURE_CACHE,
    PICTURE_CACHE,
    atomic_folder,
    atomic_write,
    file_sha256,
    partial_path,
)
from alchemist_core.local.processes import hold_lock
from alchemist_core.settings import load_settings
from alchemist_core.store.backups import (
    BEGIN_RESTORED,
    checksum,
    clear_for_restore,
    export_snapshot,
    last_restored,
    list_artifacts,
    names_of_restored,
    record_restored,
)
from alchemist_core.store.eligible import forget_kept
from alchemist_core.store.engine import (
    LOGIN_SECRETS,
    connection_options,
    create_store,
    current_revision,
    database_url,
    head_revision,
    migrate,
    open_store,
    refuse_newer,
    role_url,
)
from alchemist_core.store.postgres import (
    Role,
    client_program,
    pipe_programs,
    psql_path,
    run_program,
    stop_postgres,
)
from alchemist_core.telemetry import say, warn


class NoConfig(Config):
    """No options."""


class UrlConfig(Config):
    """Which URL to print."""

    role: Role = Field(
        "reader",
        description="Database role. reader: queries only; writer: what stages need; owner: migrations; airflow: Airflow's own "
        "database",
    )


class PsqlConfig(Config):
    """Role and arguments of psql."""

    role: Role = Field(
        "reader",
        description="Database role: reader (queries only), writer or owner; give it before the options of psql. On your own server "
        "the user of the URL always logs in, and reader means read-only transactions",
    )
    arguments: list[str] = Field(default_factory=list, description="Arguments of psql, for example -c 'SELECT 1'")


class UrlResult(Result):
    """URL of the database."""

    url: str

    def summary(self) -> str:
        """Return only the URL, for use in a shell."""
        return self.url


class ChecksumResult(Result):
    """Checksum of the data."""

    checksum: str

    def summary(self) -> str:
        """Return only the checksum."""
        return self.checksum


def start(_config: NoConfig) -> UrlResult:
    """Start the embedded server if it does not run, create the schema if it is missing, and print the URL of the reader."""
    _require_embedded()
    create_store()
    open_store()
    return UrlResult(url=role_url("reader"))


def stop(_config: NoConfig) -> None:
    """Stop the embedded server; its data is kept."""
    _require_embedded()
    home = load_settings().home
    if stop_postgres(home):
        say("Stopped the embedded Postgres. To start it again: alchemist db start")
    else:
        say(f"No embedded Postgres of {home.resolve()} is running.")


def url(config: UrlConfig) -> UrlResult:
    """Print the libpq URL of the database for one role."""
    address = role_url(config.role)
    if urlsplit(address).password is None:
        say(
            f"ALCHEMIST_DATABASE_URL contains the password of another role, so this URL of the {config.role} has none. "
            "Ask the administrator of the server for it, and set PGPASSWORD."
        )
    return UrlResult(url=address)


def psql(config: PsqlConfig) -> None:
    """Open psql as the reader, or as --role; all other arguments are passed to psql unchanged."""
    # A given server has only the login of its URL, so the reader is that login in read-only transactions.
    is_given = load_settings().database_url is not None
    given = connection_options(database_url() if is_given else role_url(config.role))
    # Names without a schema are those of alchemist. Options of a URL would replace the variable.
    options = [given.pop("options", os.environ.get("PGOPTIONS", "")), "-c search_path=alchemist,public"]
    if config.role == "reader":
        options.append("-c default_transaction_read_only=on")
    place = _place_of(given)
    os.environ["PGOPTIONS"] = " ".join(options).strip()
    os.environ.update(_password_of(given))
    # psql replaces this process, so that it controls the terminal and its exit code is returned.
    os.execv(str(psql_path()), ["psql", place, *config.arguments])  # noqa: S606  no shell is meant


def _password_of(options: dict[str, str]) -> dict[str, str]:
    """Return the variable of the password, because arguments are visible in the list of processes; none: the caller's own holds."""
    return {"PGPASSWORD": options["password"]} if "password" in options else {}


def _place_of(options: dict[str, str]) -> str:
    """Return the other options as one argument; libpq has no variables for the secrets among them, so those are refused."""
    if found := [name for name in LOGIN_SECRETS if name in options]:
        raise ConfigError(
            f"ALCHEMIST_DATABASE_URL contains {found[0]}, which the programs of Postgres would show in the list of processes. Write it "
            "into ~/.pg_service.conf, below a line [alchemist], for its owner only (chmod 600), and put service=alchemist in its place."
        )
    quoted = {name: re.sub(r"([\\'])", r"\\\1", value) for name, value in options.items() if name != "password"}
    return " ".join(f"{name}='{value}'" for name, value in quoted.items())


def migrate_schema(_config: NoConfig) -> None:
    """Migrate the schema to the revision of this code. Besides it, only db restore, stack up and demo change a schema."""
    from alchemist_core.store.engine import migrate as upgrade  # noqa: PLC0415

    create_store()
    has_changed = upgrade(database_url())
    say(f"The schema is {'now' if has_changed else 'already'} at revision {head_revision()}.")


def provision(_config: NoConfig) -> None:
    """Give the roles of a server of your own their passwords, and create Airflow's database. Run it after db migrate; safe to repeat.

    The passwords are read from STORE_READER_PASSWORD, STORE_WRITER_PASSWORD and AIRFLOW_DATABASE_PASSWORD, or from the files that
    the variables with the ending _FILE name.
    """
    from alchemist_core.store.logins import create_airflow_database, set_passwords  # noqa: PLC0415  imports psycopg2

    if load_settings().database_url is None:
        raise ConfigError(
            "The embedded server has passwords already. Set ALCHEMIST_DATABASE_URL to the owner's URL of your own server."
        )
    passwords = {role: _read_secret(variable) for role, variable in PASSWORD_VARIABLES.items()}
    set_passwords(database_url(), passwords)
    is_new = create_airflow_database(database_url())
    say(f"{len(passwords)} roles have their passwords. Airflow's database {'was created' if is_new else 'exists'}.")


PASSWORD_VARIABLES: dict[Role, str] = {
    "reader": "STORE_READER_PASSWORD",
    "writer": "STORE_WRITER_PASSWORD",
    "airflow": "AIRFLOW_DATABASE_PASSWORD",
}


def _read_secret(variable: str) -> str:
    """Return a secret from a variable, or from the file that the variable NAME_FILE names, as images of databases do."""
    path = os.environ.get(f"{variable}_FILE")
    secret = Path(path).read_text(encoding="utf-8").strip() if path else os.environ.get(variable, "")
    if not secret:
        raise ConfigError(
            f"{variable} is not set. Set it, or set {variable}_FILE to the path of a file with the password."
        )
    return secret


def print_checksum(_config: NoConfig) -> ChecksumResult:
    """Print a checksum of all data except ids and times; two databases with the same content have the same checksum."""
    from alchemist_core.store.backups import checksum as take  # noqa: PLC0415  reads every table

    open_store()
    return ChecksumResult(checksum=take(database_url()))


def _require_embedded() -> None:
    if load_settings().database_url is not None:
        raise ConfigError("ALCHEMIST_DATABASE_URL names a server of your own. Start and stop it with its own tools.")


_NOTE, _DATABASE, _ARTIFACTS = "backup.json", "database", "artifacts"
_MADE_AGAIN = (BLOCK_CACHE, FEATURE_CACHE, PICTURE_CACHE, "materialized", "reports")
_TRIES = 3
_FileState = tuple[int, int, int]
"""Inode, size and time of change of a file."""


class BackupConfig(Config):
    """Where to write the backup."""

    folder: Path = Field(..., description="Folder to create; it must not exist", json_schema_extra=BARE_WORD)


class RestoreConfig(Config):
    """Which backup to restore, into the database and the home of the settings."""

    folder: Path = Field(..., description="Folder written by `alchemist db backup`", json_schema_extra=BARE_WORD)


class BackupResult(Result):
    """The backup that was written or restored."""

    folder: str
    checksum: str
    revision: str
    n_files: int
    n_bytes: int


class RestoreResult(BackupResult):
    """The backup that was restored. `revision` is that of the store now; `migrated_from` is that of the backup, if it was older."""

    migrated_from: str | None = None


class _Note(Result):
    """Content of `backup.json`."""

    checksum: str
    revision: str
    files: dict[str, str]
    missing: list[str] = Field(default_factory=list)
    """Artifacts that the store names and the home did not have."""
    made_at: AwareDatetime | None = None
    """When the snapshot was taken, or shortly before; None in backups of versions before 0.2.0."""


def backup(config: BackupConfig) -> BackupResult:
    """Write the database and its artifacts into a new folder; stages may keep running.

    Raises:
        ConfigError: The folder exists.
        DataError: The home lacks files that the store names. The backup was written without them.
    """
    # Absolute, because the programs of Postgres run in another working directory.
    folder = config.folder.absolute()
    if folder.exists():
        raise ConfigError(f"{folder} exists. Give a new folder: a backup is never overwritten.")
    open_store().dispose()
    # Refuses a secret in the URL before anything is copied.
    _address(database_url())
    try:
        with atomic_folder(folder) as partial:
            note, missing = _fill(partial)
    finally:
        # The next backup has another name, so nothing else would delete what a failed one has written.
        shutil.rmtree(partial_path(folder), ignore_errors=True)
    if missing:
        raise DataError(
            f"{folder} was written without {counted(len(missing), 'artifact')} that the store names, because the home does not have "
            f"them. The first is {missing[0]}. Copy them from an earlier backup into {load_settings().artifacts}, then make another one."
        )
    return _result(folder, note)


def _fill(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Copy the artifacts, and dump a snapshot whose rows name only artifacts of the copy; return the note and what is missing.

    An artifact is complete before a row names it, and deleted after no row does, so that those of a snapshot exist when it begins. One
    that was deleted before it could be copied is not named by the next snapshot.
    """
    url, copied, taken = database_url(), dict[Path, _FileState](), ""
    # Most are copied before the snapshot, which is then held for a shorter time.
    _copy_artifacts(folder / _ARTIFACTS, copied)
    for n_tries_left in reversed(range(_TRIES)):
        made_at = datetime.now(UTC)
        with export_snapshot(url) as pg_snapshot:
            _copy_artifacts(folder / _ARTIFACTS, copied)
            named = list_artifacts(url, pg_snapshot=pg_snapshot)
            missing = sorted(uri for uri in named if not (folder / _ARTIFACTS / uri).exists())
            if not missing or not n_tries_left:
                taken = _dump(url, folder / _DATABASE, pg_snapshot)
                break
    _drop_deleted(folder / _ARTIFACTS, copied, named)
    note = {
        "checksum": taken, "revision": current_revision(url), "files": _hash_files(folder), "missing": missing,
        "made_at": made_at.isoformat(),
    }  # fmt: skip
    (folder / _NOTE).write_text(json.dumps(note, indent=1), encoding="utf-8")
    return note, missing


def _dump(url: str, folder: Path, pg_snapshot: str) -> str:
    """Dump a snapshot of the database; return its checksum."""
    jobs = ("--format=directory", f"--jobs={n_own_cores()}", f"--snapshot={pg_snapshot}")
    _run("pg_dump", url, *jobs, "--schema=alchemist", "--no-owner", "--no-privileges", f"--file={folder}")
    return checksum(url, pg_snapshot=pg_snapshot)


def _copy_artifacts(target: Path, copied: dict[Path, _FileState]) -> None:
    """Copy the artifacts that are new or were replaced since the last call. One that is deleted meanwhile is left out."""
    source = load_settings().artifacts
    for path in _list_files(source):
        name = path.relative_to(source)
        try:
            status = path.stat()
            state = status.st_ino, status.st_size, status.st_mtime_ns
            if copied.get(name) != state:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target / name)
                copied[name] = state
        except OSError:
            # A network file system may report a deleted file as stale.
            if path.exists():
                raise
            (target / name).unlink(missing_ok=True)


def _list_files(folder: Path, left_out: tuple[str, ...] = _MADE_AGAIN) -> Iterator[Path]:
    """Yield the files that a backup copies. Hidden ones, and those of trainings that have not ended, are not complete."""
    try:
        found = sorted(folder.iterdir())
    except FileNotFoundError:
        return
    for path in found:
        if path.name.startswith(".") or path.name.endswith(".partial") or path.name in left_out:
            continue
        if path.is_dir():
            yield from _list_files(path, ())
        else:
            yield path


def _drop_deleted(target: Path, copied: dict[Path, _FileState], named: set[str]) -> None:
    """Delete from the copy what was deleted from the home and is not named: a file with embeddings that were taken down."""
    source = load_settings().artifacts
    for name in copied:
        is_named = any(part.as_posix() in named for part in (name, *name.parents))
        if not is_named and not (source / name).exists():
            (target / name).unlink(missing_ok=True)


def restore(config: RestoreConfig) -> RestoreResult:
    """Restore a backup into an empty database, and compare its checksum. The same command resumes after a kill.

    It is atomic: the empty schema is dropped in one transaction, the backup is restored in another, and until `migrate` has
    granted the roles, the schema counts as incomplete. The audit log says which backup was restored, and what it became.

    Raises:
        ConfigError: The database contains other data.
        DataError: The backup is damaged, an artifact of the home differs, or the restored data differs.
        StoreError: Newer code wrote the backup; nothing was written.
    """
    folder = config.folder.resolve()
    note = _read_note(folder)
    refuse_newer(note["revision"], what="The backup")
    create_store()
    url = database_url()
    # A second restore waits for the first one, and then finds the data.
    with hold_lock(load_settings().home.resolve() / "restore.lock", should_wait=True):
        _restore_artifacts(folder, note["files"])
        _restore_database(url, folder, note)
        # A restored database has no grants, even if its schema counts as complete.
        migrate(url, should_reapply=True)
        found = checksum(url)
        # A newer schema may have columns that the checksum of the backup did not cover.
        is_same_code = note["revision"] == head_revision()
        if is_same_code and found != note["checksum"]:
            raise DataError(
                f"The restored data has checksum {found}, but the backup has {note['checksum']}. Do not use it: restore another backup."
            )
        record_restored(url, note["checksum"], found)
    if lacking := [uri for uri in note["missing"] if not (load_settings().artifacts / uri).exists()]:
        warn(
            f"The backup was written without {counted(len(lacking), 'artifact')} that the store names. The first is {lacking[0]}. Copy "
            f"what you have of them from another backup into {load_settings().artifacts}."
        )
    since = f"{note['made_at']:%Y-%m-%d %H:%M:%S} UTC" if note["made_at"] else "the backup was made"
    warn(
        f"Takedowns after {since} are not in the backup, so their images can be selected and published again. Repeat them: "
        "alchemist sample takedown."
    )
    migrated_from = None if is_same_code else note["revision"]
    written = _result(folder, note).model_dump() | {"revision": head_revision()}
    return RestoreResult(**written, migrated_from=migrated_from)


def _next_restore(_config: RestoreConfig, _result: RestoreResult) -> str:
    """Return the command that makes the store usable: a backup contains no passwords of a server of the user's own."""
    return "alchemist stack up" if load_settings().database_url is None else "alchemist db provision"


def _restore_database(url: str, folder: Path, note: dict[str, Any]) -> None:
    address, variables = _address(url)
    if clear_for_restore(url):
        forget_kept()
        # Comments are omitted: the schema's would mark it as complete before it has its grants.
        options = ("--format=directory", "--file=-", "--no-owner", "--no-comments")
        # pg_restore would commit by itself, without the event. Here only this process does, after both.
        names = {"ON_ERROR_STOP": "1", **names_of_restored(note["checksum"])}
        loading = ("--no-psqlrc", "--quiet", "--output=/dev/null", *(f"--set={name}={names[name]}" for name in names))
        with _refused():
            pipe_programs(
                [client_program("pg_restore"), *options, str(folder / _DATABASE)],
                [client_program("psql"), address, *loading],
                before="BEGIN;\n",
                after=f"{BEGIN_RESTORED} COMMIT;\n",
                env=variables,
            )
    elif not _is_same(url, note):
        raise ConfigError(
            "The database contains data. Restore into a new ALCHEMIST_HOME or another database, then switch to it."
        )


def _is_same(url: str, note: dict[str, Any]) -> bool:
    """Return whether the database contains the data of the backup, and no other: a restore was killed, or is repeated."""
    is_head = current_revision(url) == head_revision()
    restored = last_restored(url)
    if note["revision"] == head_revision() or restored is None or restored.checksum != note["checksum"]:
        return bool(is_head and note["revision"] == head_revision() and checksum(url) == note["checksum"])
    # Of an older backup: it was killed before its migration was recorded, or nothing has changed since.
    return restored.became is None or bool(is_head and checksum(url) == restored.became)


def _run(name: str, url: str, *arguments: str) -> None:
    address, variables = _address(url)
    with _refused():
        run_program([client_program(name), address, *arguments], env=variables)


def _address(url: str) -> tuple[str, dict[str, str]]:
    """Return the option that names a database, and the variables of the program that gets it."""
    options = connection_options(url)
    # As for all other commands, the caller's variables hold for what the URL leaves out.
    variables = {name: value for name, value in os.environ.items() if name != "PGOPTIONS"}
    return f"--dbname={_place_of(options)}", variables | _password_of(options)


@contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except StoreError as error:
        # Only the first line is the message; the SQL statement follows it.
        raise StoreError(
            f"{str(error).partition(chr(10))[0]}. Remove the cause, then run the same command again."
        ) from error


def _hash_files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): file_sha256(path).hex()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != _NOTE
    }


def _sha256_of(folder: Path, name: str) -> str | None:
    """Return the hash of a file of a backup; None if it is missing, or if its name leads out of the folder."""
    is_outside = Path(name).is_absolute() or ".." in Path(name).parts
    return file_sha256(folder / name).hex() if not is_outside and (folder / name).is_file() else None


def _read_note(folder: Path) -> dict[str, Any]:
    try:
        note = _Note.model_validate_json((folder / _NOTE).read_text(encoding="utf-8")).model_dump()
    except (OSError, ValueError) as error:
        why = "backup.json is damaged" if isinstance(error, ValueError) else error.strerror
        raise DataError(f"{folder} is not a backup ({why}). Give a folder that alchemist db backup wrote.") from error
    # Files of others are not even read: they may belong to another account.
    if wrong := sorted(name for name, sha256 in note["files"].items() if _sha256_of(folder, name) != sha256):
        raise DataError(
            f"Missing or changed in {folder}: {counted(len(wrong), 'file')}, of which the first is {wrong[0]}. Use another backup."
        )
    return note


def _restore_artifacts(folder: Path, of_backup: Iterable[str]) -> None:
    """Copy the artifacts that the home lacks; write nothing if one of the same name differs.

    Other files in the folder, such as those that a file manager or a network file system makes, are left out.
    """
    source, target = folder / _ARTIFACTS, load_settings().artifacts
    files = [Path(name).relative_to(_ARTIFACTS) for name in of_backup if name.startswith(f"{_ARTIFACTS}/")]
    for name in files:
        if (target / name).exists() and file_sha256(target / name) != file_sha256(source / name):
            raise DataError(f"{target / name} differs from the file in the backup. Restore into a new ALCHEMIST_HOME.")
    for name in files:
        if not (target / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(target / name, is_sole_writer=True) as partial:
                shutil.copy2(source / name, partial)


def _result(folder: Path, note: dict[str, Any]) -> BackupResult:
    return BackupResult(
        folder=str(folder), checksum=note["checksum"], revision=note["revision"], n_files=len(note["files"]),
        n_bytes=sum((folder / name).stat().st_size for name in note["files"]),
    )  # fmt: skip


COMMANDS = {
    "start": Command(NoConfig, start),
    "stop": Command(NoConfig, stop),
    "url": Command(UrlConfig, url),
    "psql": Command(PsqlConfig, psql),
    "migrate": Command(NoConfig, migrate_schema),
    "provision": Command(NoConfig, provision),
    "checksum": Command(NoConfig, print_checksum),
    "backup": Command(
        BackupConfig,
        backup,
        lambda _, result: f"alchemist db restore {shlex.quote(result.folder)}, under a new ALCHEMIST_HOME",
    ),
    "restore": Command(RestoreConfig, restore, _next_restore),
}
