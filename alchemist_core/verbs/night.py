"""List nights: how each ended, what was left out of it, and what to do about that."""

from collections.abc import Sequence
from datetime import date

from pydantic import Field
from sqlalchemy import Engine

from alchemist_core.command import Command
from alchemist_core.config import Config, Report, Words
from alchemist_core.store import registry
from alchemist_core.store.engine import open_store
from alchemist_core.store.nights import read_night
from alchemist_core.store.overviews import read_nights
from alchemist_core.store.tables import AnyRow

UNREAD = ("growing", "missing", "changed", "rejected")
MOST_SHARDS = 10


class NightListConfig(Config):
    """Which nights."""

    dataset: str | None = Field(None, description="Dataset; none: every training dataset")
    nights: Words = Field((), description="Nights as DATASET:YYYY-MM-DD, comma between them, in place of --dataset")
    limit: int = Field(14, ge=1, le=10_000, description="Newest nights of each dataset to list")


class UnreadShard(Report):
    """A shard that is not part of its night, and why."""

    shard_id: int
    uri: str
    state: str
    reason: str | None
    remedy: str


class ListedNight(Report):
    """One dataset's crawl date."""

    dataset: str
    crawl_date: date
    status: str
    n_shards: int
    n_locations: int
    n_scored: int
    n_quarantined: int
    unread: list[UnreadShard]
    n_more_unread: int = 0
    remedy: str | None


class NightListReport(Report):
    """Nights, each with what was left."""

    nights: list[ListedNight]

    def summary(self) -> str:
        """Return a line for each night, and below it one for each shard that was left out."""
        lines = []
        for night in self.nights:
            counts = f"{night.n_shards:,} shards, {night.n_scored:,} scored, {night.n_quarantined:,} quarantined"
            lines.append(f"{night.dataset} {night.crawl_date}: {night.status}; {counts}")
            lines += [
                f"  {one.uri}: {one.state}, {one.reason or 'no reason noted'}; next: {one.remedy}"
                for one in night.unread
            ]
            lines += [f"  and {night.n_more_unread:,} more shards"] if night.n_more_unread else []
            lines += [f"  next: {night.remedy}"] if night.remedy else []
        return "\n".join(lines) or "no night yet: alchemist ingest --dataset NAME --root FOLDER"


def list_(config: NightListConfig) -> NightListReport:
    """List nights with their status, the shards that are not part of them, and the next step for each."""
    engine = open_store()
    if config.dataset is not None:
        registry.find_dataset(engine, config.dataset)
    wanted = dict.fromkeys(map(read_night, config.nights))
    rows = [row for row in read_nights(engine, config.dataset) if not wanted or (row.dataset, row.crawl_date) in wanted]
    newest = [row for name in dict.fromkeys(row.dataset for row in rows) for row in _of(rows, name)[-config.limit :]]
    return NightListReport(nights=[_listed(engine, row) for row in newest])


def _of(rows: Sequence[AnyRow], dataset: str) -> list[AnyRow]:
    return [row for row in rows if row.dataset == dataset]


def _listed(engine: Engine, night: AnyRow) -> ListedNight:
    shards = registry.find_shards(engine, dataset=night.dataset, states=UNREAD)
    left = [shard for shard in shards if shard.crawl_date == night.crawl_date]
    unread = [
        UnreadShard(
            shard_id=row.shard_id, uri=row.uri, state=row.state, reason=row.reason, remedy=_remedy_of_shard(row)
        )
        for row in left[:MOST_SHARDS]
    ]
    return ListedNight(
        dataset=night.dataset, crawl_date=night.crawl_date, status=night.status, n_shards=night.n_shards,
        n_locations=night.n_locations, n_scored=night.n_scored, n_quarantined=night.n_quarantined, unread=unread,
        n_more_unread=len(left) - len(unread), remedy=_remedy_of_night(night),
    )  # fmt: skip


def _remedy_of_shard(shard: AnyRow) -> str:
    if shard.state == "growing":
        return "none, it is read by itself when it is whole"
    if shard.state == "missing":
        return f"restore the file, or alchemist shard retire {shard.shard_id} --reason WHY"
    if shard.state == "changed":
        return f"restore the old bytes, or alchemist shard reread {shard.shard_id} --reason WHY"
    return f"upload a readable tar, or alchemist shard retire {shard.shard_id} --reason WHY"


def _remedy_of_night(night: AnyRow) -> str | None:
    which = f"--dataset {night.dataset} --crawl-date {night.crawl_date}"
    if night.status.startswith(("held", "stopped")):
        return f"look at it, then alchemist release night {which} --reason WHY"
    if night.status.startswith("partly"):
        return f"alchemist score {which}"
    if night.status == "scored":
        return f"alchemist publish night {which}"
    return None


COMMANDS = {"list": Command(NightListConfig, list_)}
