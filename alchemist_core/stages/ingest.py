"""Find new shards, verify them, and register every pair and where its bytes lie; bad ones are quarantined with a reason."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal

from pydantic import Field

from alchemist_core.command import Command
from alchemist_core.config import Config, Report, Words
from alchemist_core.data.shard_reading import ShardContent, read_shards
from alchemist_core.data.storage import ShardFile, absolute_root, join_uri, list_shards, sha256_of
from alchemist_core.data.workers import n_own_cores
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.settings import load_settings
from alchemist_core.stages.execution import StageRun, execute
from alchemist_core.store import registry
from alchemist_core.store.engine import read_clock
from alchemist_core.store.registry import DatasetRow, KnownShard, NewShard
from alchemist_core.telemetry import say

DATED_FOLDER = re.compile(r"(?:^|/)(\d{4}-\d{2}-\d{2})(?=/)")
BYTES_A_READER = 1 << 24
"""Less than this is read sooner than a worker process starts."""
CLOCK_SLACK = timedelta(seconds=2)
"""File systems round times down, and a storage's clock may be a little behind the database's."""


class IngestConfig(Config):
    """What to ingest."""

    dataset: str | None = Field(None, description="Dataset to ingest; none: every registered training dataset")
    root: str | None = Field(
        None, description="Folder or s3:// address of the shards; needed once, when a dataset is new"
    )
    role: Literal["train", "validation", "evaluation"] = Field(
        "train", description="What the dataset is for; only train is selectable"
    )
    crawl_date: date | None = Field(
        None,
        description="Only shards of this day (YYYY-MM-DD): a dated folder in a shard's path decides, else this date is noted",
    )
    perceptual_hash: bool = Field(
        True,
        description="Also decode each picture, reduced, to a 64-bit fingerprint: finds near-duplicates and cut pictures",
    )
    imported_scores: Words = Field(
        ("aesthetic", "aesthetic_score", "clarity_score", "pwatermark", "punsafe", "similarity"),
        description="Numbers of the records' JSON to keep beside the heuristics, by name, comma between them",
    )


class IngestReport(Report):
    """What was found."""

    n_shards: int
    n_known: int
    n_rejected: int
    n_locations: int
    n_new_pairs: int
    n_quarantined: int
    quarantined: dict[str, int]


def run(config: IngestConfig, *, slot: int = 0) -> IngestReport:
    """Ingest the new shards of one dataset, or of every registered training dataset."""
    return execute("ingest", config, lambda stage_run: ingest(config, stage_run), IngestReport, slot=slot)


def ingest(config: IngestConfig, stage_run: StageRun) -> IngestReport:
    """Register what is new, shard by shard; each shard is one transaction."""
    tally = Tally()
    # By the clock that all machines share, and before anything is listed: what changes from now on is looked at again.
    with stage_run.engine.connect() as connection:
        began_at = read_clock(connection)
    for dataset in _datasets(config, stage_run):
        try:
            _ingest_dataset(config, stage_run, dataset, began_at, tally)
        except DataError as error:
            tally.unreachable.append(f"{dataset.name}: {error} Not all of it was ingested.")
    tally.refuse_incomplete()
    return tally.report()


def _ingest_dataset(
    config: IngestConfig, stage_run: StageRun, dataset: DatasetRow, began_at: datetime, tally: "Tally"
) -> None:
    known = registry.known_shards(stage_run.engine, dataset.dataset_id)
    wanted = _wanted_shards(config, dataset, tally, today=began_at.date())
    fresh = [shard for shard in wanted if not _is_known(stage_run, known.get(shard.uri), shard.file, began_at, tally)]
    n_done = len(wanted) - len(fresh)
    files = [shard.file for shard in fresh]
    contents = read_shards(files, n_workers=_count_readers(files), has_perceptual_hash=config.perceptual_hash)
    for shard, content in zip(fresh, contents, strict=True):
        new = NewShard(
            dataset.dataset_id, shard.uri, content.sha256, shard.file.size_bytes, shard.crawl_date,
            stage_run.run_id, began_at,
        )  # fmt: skip
        _store_shard(config, stage_run, new, content, tally)
        n_done += 1
        stage_run.report(n_done, len(wanted), dataset.name)
    if not fresh:
        stage_run.report(n_done, len(wanted), dataset.name)


@dataclass(frozen=True, slots=True)
class WantedShard:
    """A tar in scope: where it lies, its address below the root, and the day that it belongs to."""

    file: ShardFile
    uri: str
    crawl_date: date


class Tally:
    """Counts over the shards of one run."""

    def __init__(self) -> None:
        self.n_shards = self.n_known = self.n_rejected = self.n_locations = self.n_new_pairs = 0
        self.quarantined: dict[str, int] = {}
        self.replaced: list[str] = []
        self.unreachable: list[str] = []
        self.undated: set[str] = set()

    def refuse_incomplete(self) -> None:
        """Stop after all else was ingested.

        Raises:
            DataError: A dataset, or a shard of it, cannot be read; a folder is named like a day that no calendar has; or a shard is
                another one than was registered.
        """
        texts = list(self.unreachable)
        if self.undated:
            texts.append(
                f"No calendar has the day of {', '.join(sorted(self.undated))}: nothing in there was ingested. Correct the folder's name."
            )
        if self.replaced:
            texts.append(
                f"Replaced under the same address: {', '.join(self.replaced)}. Scores belong to the bytes that were registered. "
                "Put the new shard under a new name, or restore the old bytes."
            )
        if texts:
            raise DataError("\n".join([*texts, "All else was ingested."]))

    def report(self) -> IngestReport:
        """Return the counts as the stage's report."""
        counts = {name: value for name, value in vars(self).items() if name.startswith("n_")}
        return IngestReport(**counts, n_quarantined=sum(self.quarantined.values()), quarantined=self.quarantined)


def _datasets(config: IngestConfig, stage_run: StageRun) -> list[DatasetRow]:
    if config.dataset is None:
        if config.root is not None:
            raise ConfigError(f"--root {config.root} needs --dataset: whose shards are they?")
        return registry.list_datasets(stage_run.engine, role="train")
    if config.root is not None:
        # Before it is registered: every later night would stop at an address that was mistyped once.
        list_shards(config.root)
    root_uri = None if config.root is None else absolute_root(config.root)
    return [registry.register_dataset(stage_run.engine, config.dataset, root_uri=root_uri, role=config.role)]


def _wanted_shards(config: IngestConfig, dataset: DatasetRow, tally: Tally, *, today: date) -> list[WantedShard]:
    found, files = [], list_shards(dataset.root_uri)
    if not files:
        say(f"No .tar lies under {dataset.root_uri}: nothing to ingest.")
    for file in files:
        uri = file.uri.removeprefix(dataset.root_uri.rstrip("/")).lstrip("/")
        crawl_date = config.crawl_date or today
        if folder := DATED_FOLDER.search(uri):
            try:
                crawl_date = date.fromisoformat(folder[1])
            except ValueError:
                tally.undated.add(join_uri(dataset.root_uri, uri[: folder.end()]))
                continue
        if config.crawl_date in (None, crawl_date):
            found.append(WantedShard(file, uri, crawl_date))
    if files and not found and config.crawl_date is not None:
        say(f"{len(files):,} shards lie under {dataset.root_uri}, none of {config.crawl_date}.")
    return found


def _is_known(stage_run: StageRun, known: KnownShard | None, file: ShardFile, began_at: datetime, tally: Tally) -> bool:
    """Tell whether a shard is registered; one whose bytes are others than then is noted as replaced."""
    if known is None or _is_repaired(known, file):
        return False
    if known.size_bytes != file.size_bytes or not _is_unchanged(stage_run, known, file, began_at):
        tally.replaced.append(file.uri)
    tally.n_known += 1
    return True


def _is_repaired(known: KnownShard, file: ShardFile) -> bool:
    """Nothing in the store rests on a rejected shard's bytes: it is read anew as soon as they are others."""
    if known.state != "rejected":
        return False
    return known.size_bytes != file.size_bytes or sha256_of(file.uri) != known.sha256


def _is_unchanged(stage_run: StageRun, known: KnownShard, file: ShardFile, began_at: datetime) -> bool:
    """Read a shard again only if it was touched since it was last read: a name, a size and a time say less than a hash."""
    if known.verified_at is None or file.changed_at < known.verified_at - CLOCK_SLACK:
        return True
    is_same = sha256_of(file.uri) == known.sha256
    if is_same and file.changed_at > known.verified_at:
        registry.confirm_shard(stage_run.engine, known.shard_id, began_at)
    return is_same


def _count_readers(files: Sequence[ShardFile]) -> int:
    """Return how many worker processes read shards: as set, else one a core, fewer where starting them would not pay."""
    if (n_set := load_settings().decode_workers) is not None:
        return n_set
    return min(n_own_cores(), len(files), sum(file.size_bytes for file in files) // BYTES_A_READER)


def _store_shard(config: IngestConfig, stage_run: StageRun, new: NewShard, content: ShardContent, tally: Tally) -> None:
    if content.rejection is not None:
        registry.reject_shard(stage_run.engine, new, content.rejection)
        tally.n_rejected += 1
        return
    pairs, faults, imported = content.pairs, content.faults, config.imported_scores
    n_new = registry.register_shard(stage_run.engine, new, pairs, faults, imported=imported)
    if n_new is None:
        tally.n_known += 1
        return
    tally.n_shards += 1
    tally.n_locations += len(pairs) + len(faults)
    tally.n_new_pairs += n_new
    for fault in faults:
        tally.quarantined[fault.reason] = tally.quarantined.get(fault.reason, 0) + 1


def _next(config: IngestConfig, report: IngestReport) -> str | None:
    name = config.dataset or "NAME"
    if report.n_quarantined:
        return "select shard_id, key, reason, detail from alchemist.quarantined_samples (alchemist db psql) shows what was set aside"
    if not report.n_shards:
        return None
    if config.role == "validation":
        return f"alchemist train-rater --dataset NAME --validation {name}"
    if config.role == "train":
        return f"alchemist score --dataset {name}; without a rater: alchemist train-rater --dataset {name} --validation NAME"
    return None


COMMANDS = {"": Command(IngestConfig, run, _next)}
