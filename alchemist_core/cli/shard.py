"""Shards: list and show them, retire one, or read one again."""

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from sqlalchemy import Engine

from alchemist_core.config import BARE_WORD, Command, Config, Result
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.project import load_project
from alchemist_core.settings import load_settings
from alchemist_core.store import registry
from alchemist_core.store.audit import current_actor, record_event
from alchemist_core.store.engine import open_store, read_clock
from alchemist_core.store.registry import NewShard, QuarantinedRecord, ShardRow
from alchemist_core.telemetry import on_one_line

if TYPE_CHECKING:
    from alchemist_core.shards.reading import ShardContent
    from alchemist_core.stages.execution import StageRun

UNREAD = ("growing", "missing", "changed", "rejected")
MOST_QUARANTINED = 20
SUBJECT = "Shard: its id, its path below the root, or its full address"
State = Literal["growing", "verified", "missing", "changed", "rejected", "retired", "superseded"]


class ListConfig(Config):
    """Which shards to list."""

    dataset: str | None = Field(None, description="Dataset; none: all")
    state: State | None = Field(
        None,
        description="growing: still being uploaded. verified: read and registered. missing: the file does not exist. changed: the bytes "
        "differ from those registered. rejected: not a readable tar. retired: by `shard retire`. superseded: replaced by a later revision. "
        "none: growing, missing, changed and rejected",
    )
    limit: int = Field(100, ge=1, le=100_000, description="Largest number of shards to list")


class ListedShard(Result):
    """One shard, and the reason if it is not read."""

    shard_id: int
    dataset: str
    uri: str
    crawl_date: date
    state: str
    since: datetime
    reason: str | None
    remedy: str | None


class ListResult(Result):
    """Shards, and the number of shards in each state."""

    counts: dict[str, int]
    shards: list[ListedShard]

    def summary(self) -> str:
        """Return a line for each shard."""
        counted = ", ".join(f"{n:,} {state}" for state, n in self.counts.items()) or "none"
        lines = [
            f"{shard.shard_id:>8}  {shard.dataset}  {on_one_line(shard.uri)}  {shard.state} "
            f"since {shard.since.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
            + (f"  {shard.reason}" if shard.reason else "")
            + (f"; next: {shard.remedy}" if shard.remedy else "")
            for shard in self.shards
        ]
        return "\n".join([f"shards: {counted}", *lines])


class ShowConfig(Config):
    """Which shard to show."""

    shard: str = Field(..., min_length=1, description=SUBJECT, json_schema_extra=BARE_WORD)


class ShowResult(ListedShard):
    """One shard with its counts."""

    address: str
    size_bytes: int
    sha256: str
    verified_at: datetime | None
    n_samples: int
    n_quarantined: int
    n_unreadable: int
    """Quarantined samples that ingest could not read; the others have no score of a rater or scorer."""
    n_raters: int
    quarantined_records: list[str] = Field([])
    """The first quarantined samples, each with its reason."""
    retry_options: str | None = None
    """Options of `sample retry-quarantine` for the first sample that can be scored again; None if there is none."""


class ChangeConfig(ShowConfig):
    """Which shard to change, and why."""

    reason: str = Field(
        ..., min_length=3, max_length=500, description="Reason, 3 to 500 characters; stored in the audit log"
    )


class RetireResult(Result):
    """The shard after the change."""

    shard_id: int
    dataset: str
    uri: str
    state: str
    note: str | None = None


class RereadResult(RetireResult):
    """The shard as it was read."""

    n_locations: int = 0
    n_new_pairs: int = 0
    n_quarantined: int = 0


def list_(config: ListConfig) -> ListResult:
    """List the shards that cannot be read, with the reason, or the shards in one state."""
    engine = open_store()
    if config.dataset is not None:
        registry.find_dataset(engine, config.dataset)
    states = UNREAD if config.state is None else (config.state,)
    rows = registry.find_shards(engine, dataset=config.dataset, states=states)[: config.limit]
    return ListResult(
        counts=registry.count_shards(engine, dataset=config.dataset),
        shards=[ListedShard(**_listed(row)) for row in rows],
    )


def show(config: ShowConfig) -> ShowResult:
    """Show one shard: its address, its state, and the samples found in it."""
    row = _find(open_store(), config.shard)
    counts = {
        name: getattr(row, name)
        for name in ("size_bytes", "verified_at", "n_samples", "n_quarantined", "n_unreadable", "n_raters")
    }
    bad = registry.quarantined_in(open_store(), row.shard_id, limit=MOST_QUARANTINED)
    records = [on_one_line(f"{one.key}: {one.reason} ({_stage(one)}), {one.detail}") for one in bad]
    records += [f"and {row.n_quarantined - len(bad):,} more"] if row.n_quarantined > len(bad) else []
    return ShowResult(
        **_listed(row), **counts, address=_address(row), sha256=row.sha256.hex(), quarantined_records=records,
        retry_options=_retry_options(row),
    )  # fmt: skip


def _stage(record: QuarantinedRecord) -> str:
    return record.stage if record.rater is None else f"{record.stage} by {record.rater}"


def _retry_options(row: ShardRow) -> str | None:
    if (found := registry.find_retryable_rater(open_store(), row.shard_id)) is None:
        return None
    rater, reason = found
    return f"--rater {rater} --reason {reason}"


def retire(config: ChangeConfig) -> RetireResult:
    """Stop using a shard. Its samples can be selected only if another shard contains them; its scores are kept."""
    engine = open_store()
    row = _find(engine, config.shard)
    with engine.begin() as connection:
        is_new = registry.retire_shard(connection, row.shard_id, reason=config.reason)
        if is_new:
            record_event(
                connection, current_actor(), "retire", _title(row),
                before={"shard_id": row.shard_id, "state": row.state}, after={"state": "retired", "reason": config.reason},
            )  # fmt: skip
    note = None if is_new else f"It had been retired before ({row.reason})."
    return RetireResult(shard_id=row.shard_id, dataset=row.dataset, uri=row.uri, state="retired", note=note)


def reread(config: ChangeConfig) -> RereadResult:
    """Read a shard again; new bytes, or records that are read differently now, become its next revision."""
    from alchemist_core.stages.execution import execute  # noqa: PLC0415  the other commands execute no stage

    return execute("shard_reread", config, lambda stage_run: _reread(config, stage_run), RereadResult)


def _reread(config: ChangeConfig, stage_run: "StageRun") -> RereadResult:
    from alchemist_core.stages.ingest import IngestConfig  # noqa: PLC0415  loads what an ingest needs

    engine = stage_run.engine
    row = _find(engine, config.shard)
    # Before the tar is read, because a removed dataset is refused.
    dataset_id = registry.find_dataset(engine, row.dataset).dataset_id
    with engine.connect() as connection:
        began_at = read_clock(connection)
    content = _read(_address(row), row.dataset)
    subject = {"dataset": row.dataset, "uri": row.uri, "state": "verified"}
    if _is_registered(engine, row, content):
        registry.confirm_shard(engine, row.shard_id, began_at, content.size_bytes)
        return RereadResult(
            **subject, shard_id=row.shard_id, note="Its bytes and records are those that were registered."
        )
    new = NewShard(dataset_id, row.uri, content.sha256, content.size_bytes, row.crawl_date, stage_run.run_id, began_at)
    imported = registry.imported_names(engine, dataset_id, row.uri)
    if imported is None:
        imported = IngestConfig.model_fields["imported_scores"].default
    n_new = registry.register_shard(
        engine, new, content.samples, content.faults, imported=imported, supersedes=row.shard_id
    )
    # By its dataset, because another one may have the same root.
    found = registry.find_shards(engine, dataset=row.dataset, subject=row.uri)
    now = next(one for one in found if one.uri == row.uri)
    with engine.begin() as connection:
        record_event(
            connection, current_actor(), "reread", _title(row),
            before={"shard_id": row.shard_id, "state": row.state}, after={"shard_id": now.shard_id, "reason": config.reason},
        )  # fmt: skip
    return RereadResult(
        **subject,
        shard_id=now.shard_id,
        n_locations=now.n_samples,
        n_new_pairs=n_new or 0,
        n_quarantined=now.n_quarantined,
    )


def _is_registered(engine: Engine, row: ShardRow, content: "ShardContent") -> bool:
    """Whether the bytes and the records are the registered ones: more memory, time or repairs can make other records readable."""
    if content.sha256 != bytes(row.sha256) or row.state not in registry.READABLE:
        return False
    repairs = {sample.record.ordinal: sample.repair for sample in content.samples}
    reasons = {fault.ordinal: fault.reason for fault in content.faults}
    is_same = (repairs, reasons) == registry.read_findings(engine, row.shard_id)
    return is_same and row.n_samples == len(repairs) + len(reasons)


def _read(address: str, dataset: str) -> "ShardContent":
    from alchemist_core.shards.reading import read_shards  # noqa: PLC0415  loads the image libraries
    from alchemist_core.shards.samples import Reading  # noqa: PLC0415
    from alchemist_core.shards.storage import stat_shard  # noqa: PLC0415

    file = stat_shard(address)
    reading = Reading(repair=load_project().of_dataset(dataset).ingest.repair)
    # Read in another process, because a malformed image may crash it.
    n_workers = 0 if load_settings().decode_workers == 0 else 1
    (content,) = read_shards([file], n_workers=n_workers, reading=reading)
    if isinstance(content, DataError):
        raise content
    if content.rejection is not None:
        raise DataError(
            f"Shard {address} cannot be read: {content.rejection}. Replace it by a readable tar, or retire it: alchemist shard "
            f"retire {address} --reason WHY."
        )
    return content


def _find(engine: Engine, subject: str) -> ShardRow:
    rows = registry.find_shards(engine, subject=subject)
    if not rows:
        raise ConfigError(
            f"No shard {subject!r} is registered. List the shards: alchemist shard list --state verified."
        )
    if len(rows) > 1:
        in_use = {dataset.name for dataset in registry.list_datasets(engine)}
        rows = [row for row in rows if row.dataset in in_use] or rows
    if len(rows) > 1:
        found = ", ".join(f"{row.shard_id} of {row.dataset}" for row in rows[:5])
        raise ConfigError(f"{subject!r} matches {len(rows)} shards: {found}. Give the id of one.")
    return rows[0]


def remedy_of_shard(shard: ShardRow) -> str | None:
    """Return the remedy for a shard that cannot be read; none for other shards."""
    retire = f"alchemist shard retire {shard.shard_id} --reason WHY"
    return {
        "growing": "nothing to do, it is read when its upload is complete",
        "missing": f"restore the file, or {retire}",
        "changed": f"restore the old bytes, or alchemist shard reread {shard.shard_id} --reason WHY",
        "rejected": f"upload a readable tar, remove the file, or {retire}",
    }.get(shard.state)


def _listed(row: ShardRow) -> dict[str, object]:
    fields = {name: getattr(row, name) for name in ListedShard.model_fields if name != "remedy"}
    return {**fields, "remedy": remedy_of_shard(row)}


def _address(row: ShardRow) -> str:
    from alchemist_core.shards.storage import join_uri  # noqa: PLC0415  lists name shards by their path below the root

    return join_uri(row.root_uri, row.uri)


def _title(row: ShardRow) -> str:
    return f"shard {row.dataset}/{row.uri}"


def _next_show(_config: ShowConfig, result: ShowResult) -> str | None:
    if result.state != "verified":
        return None
    if result.n_unreadable:
        return (
            f"samples that ingest quarantined are not used, all others are; to use them, repair the tar, or give the machine more memory "
            f"(decoder_died) or time (too_slow: ALCHEMIST_DECODE_LIMIT_S), then run alchemist shard reread {result.shard_id} --reason WHY"
        )
    if result.retry_options is not None:
        return (
            "a quarantined sample has no score of the rater or scorer that could not score it; to score it again: "
            f"alchemist sample retry-quarantine --dataset {result.dataset} {result.retry_options}"
        )
    return None


def _next_retire(_config: ChangeConfig, result: RetireResult) -> str:
    return f"alchemist select --dataset {result.dataset} selects a version without it; alchemist subset list shows the published ones"


def _next_reread(_config: ChangeConfig, result: RereadResult) -> str | None:
    return f"alchemist score --dataset {result.dataset}" if result.n_locations else None


COMMANDS = {
    "list": Command(ListConfig, list_),
    "show": Command(ShowConfig, show, _next_show),
    "retire": Command(ChangeConfig, retire, _next_retire),
    "reread": Command(ChangeConfig, reread, _next_reread),
}
