"""Find new shards, verify them, and register every pair and where its bytes lie; bad ones are quarantined with a reason."""

import re
from datetime import date
from typing import Literal

from pydantic import Field

from alchemist_core.command import Command
from alchemist_core.config import Config, Report
from alchemist_core.data.faults import Fault
from alchemist_core.data.pairs import Pair, read_pairs
from alchemist_core.data.storage import ShardFile, list_shards, open_shard, sha256_of
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.stages.execution import StageRun, execute
from alchemist_core.store import registry
from alchemist_core.store.registry import DatasetRow, NewShard
from alchemist_core.store.tables import utc_now

DATED_FOLDER = re.compile(r"(?:^|/)(\d{4}-\d{2}-\d{2})(?=/)")


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
    for dataset in _datasets(config, stage_run):
        known = registry.known_shards(stage_run.engine, dataset.dataset_id)
        wanted = list(_wanted_shards(config, dataset))
        for done, (file, uri, crawl_date) in enumerate(wanted, 1):
            if not _is_known(known.get(uri), file, tally):
                shard = NewShard(
                    dataset.dataset_id, uri, sha256_of(file.uri), file.size_bytes, crawl_date, stage_run.run_id
                )
                _ingest_shard(stage_run, shard, file, tally)
            stage_run.report(done, len(wanted), dataset.name)
    if tally.replaced:
        raise DataError(
            f"Replaced under the same address: {', '.join(tally.replaced)}. Scores belong to the bytes that were registered. "
            "Put the new shard under a new name, or restore the old bytes; the other shards were ingested."
        )
    return tally.report()


class Tally:
    """Counts over the shards of one run."""

    def __init__(self) -> None:
        self.n_shards = self.n_known = self.n_rejected = self.n_locations = self.n_new_pairs = 0
        self.quarantined: dict[str, int] = {}
        self.replaced: list[str] = []

    def report(self) -> IngestReport:
        """Return the counts as the stage's report."""
        counts = {name: value for name, value in vars(self).items() if name.startswith("n_")}
        return IngestReport(**counts, n_quarantined=sum(self.quarantined.values()), quarantined=self.quarantined)


def _datasets(config: IngestConfig, stage_run: StageRun) -> list[DatasetRow]:
    if config.dataset is None:
        if config.root is not None:
            raise ConfigError(f"--root {config.root} needs --dataset: whose shards are they?")
        return registry.list_datasets(stage_run.engine, role="train")
    return [registry.register_dataset(stage_run.engine, config.dataset, root_uri=config.root, role=config.role)]


def _wanted_shards(config: IngestConfig, dataset: DatasetRow) -> "list[tuple[ShardFile, str, date]]":
    found = []
    for file in list_shards(dataset.root_uri):
        uri = file.uri.removeprefix(dataset.root_uri.rstrip("/")).lstrip("/")
        folder = DATED_FOLDER.search(uri)
        crawl_date = date.fromisoformat(folder[1]) if folder else config.crawl_date or utc_now().date()
        if config.crawl_date in (None, crawl_date):
            found.append((file, uri, crawl_date))
    return found


def _is_known(known: tuple[int, str] | None, file: ShardFile, tally: Tally) -> bool:
    if known is None:
        return False
    size_bytes, state = known
    if size_bytes != file.size_bytes and state == "rejected":
        return False
    if size_bytes != file.size_bytes:
        tally.replaced.append(file.uri)
    tally.n_known += 1
    return True


def _ingest_shard(stage_run: StageRun, shard: NewShard, file: ShardFile, tally: Tally) -> None:
    try:
        with open_shard(file.uri) as handle:
            records = list(read_pairs(handle, file.size_bytes))
    except DataError as error:
        registry.reject_shard(stage_run.engine, shard, str(error))
        tally.n_rejected += 1
        return
    pairs = [record for record in records if isinstance(record, Pair)]
    faults = [record for record in records if isinstance(record, Fault)]
    _, n_new = registry.register_shard(stage_run.engine, shard, pairs, faults)
    tally.n_shards += 1
    tally.n_locations += len(records)
    tally.n_new_pairs += n_new
    for fault in faults:
        tally.quarantined[fault.reason] = tally.quarantined.get(fault.reason, 0) + 1


COMMANDS = {"": Command(IngestConfig, run)}
