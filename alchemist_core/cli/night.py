"""List nights: how each ended, what was left out of it, and what to do about that."""

from collections.abc import Sequence
from datetime import date

from pydantic import Field
from sqlalchemy import Engine

from alchemist_core.cli.shard import UNREAD, remedy_of_shard
from alchemist_core.config import Command, Config, Report, Words
from alchemist_core.stages.ingest import ALL_ELSE
from alchemist_core.store import registry
from alchemist_core.store.engine import open_store
from alchemist_core.store.nights import read_night
from alchemist_core.store.overviews import failed_ingests, quarantine_of_nights, read_nights
from alchemist_core.store.tables import AnyRow
from alchemist_core.telemetry import on_one_line

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
    remedy: str | None


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
    not_ingested: list[str] = Field([])
    """What the newest ingest of this night left, each with what to do; empty where it succeeded."""
    quarantined: dict[str, int] = Field({})
    """Reasons, with how many locations have each."""
    remedies: list[str] = Field([])

    def lines(self) -> list[str]:
        """Return a line for the night, and below it one for each trouble and each next step."""
        counts = f"{self.n_shards:,} shards, {self.n_scored:,} scored, {self.n_quarantined:,} quarantined"
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in self.quarantined.items())
        left = [
            *self.not_ingested,
            *(
                f"{on_one_line(one.uri)}: {one.state}, {one.reason or 'no reason noted'}; next: {one.remedy}"
                for one in self.unread
            ),
        ]
        return [
            f"{self.dataset} {self.crawl_date}: {self.status}; {counts}{f' ({reasons})' if reasons else ''}",
            *(f"  {line}" for line in left),
            *(
                [f"  and {self.n_more_unread:,} more shards: alchemist shard list --dataset {self.dataset}"]
                if self.n_more_unread
                else []
            ),
            *(f"  next: {remedy}" for remedy in self.remedies),
        ]


class NightListReport(Report):
    """Nights, each with what was left."""

    nights: list[ListedNight]

    def summary(self) -> str:
        """Return a line for each night, and below it one for each trouble; nights with trouble come last, where a log is read."""
        lines = [line for night in sorted(self.nights, key=_has_trouble) for line in night.lines()]
        return "\n".join(lines) or "no night yet: alchemist ingest --dataset NAME --root FOLDER"


def _has_trouble(night: ListedNight) -> bool:
    return bool(night.unread or night.not_ingested or night.status not in ("selectable", "empty"))


def list_(config: NightListConfig) -> NightListReport:
    """List nights with their status, the shards that are not part of them, and the next step for each."""
    engine = open_store()
    if config.dataset is not None:
        registry.find_dataset(engine, config.dataset)
    wanted = dict.fromkeys(map(read_night, config.nights))
    rows = [row for row in read_nights(engine, config.dataset) if not wanted or (row.dataset, row.crawl_date) in wanted]
    newest = [row for name in dict.fromkeys(row.dataset for row in rows) for row in _of(rows, name)[-config.limit :]]
    return NightListReport(nights=_listed(engine, newest))


def _of(rows: Sequence[AnyRow], dataset: str) -> list[AnyRow]:
    return [row for row in rows if row.dataset == dataset]


def _listed(engine: Engine, rows: Sequence[AnyRow]) -> list[ListedNight]:
    nights = [(row.dataset, row.crawl_date) for row in rows]
    errors, reasons = failed_ingests(engine, nights), quarantine_of_nights(engine, nights)
    unread = [
        shard for shard in registry.find_shards(engine, states=UNREAD) if (shard.dataset, shard.crawl_date) in nights
    ]
    return [
        _describe(
            row,
            [shard for shard in unread if shard.dataset == row.dataset],
            [reason for reason in reasons if (reason.dataset, reason.crawl_date) == night],
            errors.get(night),
        )
        for row, night in zip(rows, nights, strict=True)
    ]


def _describe(night: AnyRow, shown: Sequence[AnyRow], reasons: Sequence[AnyRow], error: str | None) -> ListedNight:
    unread = [shard for shard in shown if shard.crawl_date == night.crawl_date]
    shards = [
        UnreadShard(shard_id=row.shard_id, uri=row.uri, state=row.state, reason=row.reason, remedy=remedy_of_shard(row))
        for row in unread[:MOST_SHARDS]
    ]
    left = _left_by_ingest(night, shown, error)
    return ListedNight(
        dataset=night.dataset, crawl_date=night.crawl_date, n_shards=night.n_shards, n_locations=night.n_locations,
        status="not ingested" if error and night.status == "empty" else night.status,
        n_scored=night.n_scored, n_quarantined=night.n_quarantined, unread=shards, n_more_unread=len(unread) - len(shards),
        not_ingested=left, quarantined={row.reason: row.n_locations for row in reasons},
        remedies=_remedies_of_night(night, reasons, is_left=bool(left)),
    )  # fmt: skip


def _left_by_ingest(night: AnyRow, shown: Sequence[AnyRow], error: str | None) -> list[str]:
    """Return the lines of an ingest's error that tell of this dataset and not of a shard that is shown; of another error all."""
    text, prefix = (error or "").partition(": ")[2], f"{night.dataset}: "
    lines = text.removesuffix(ALL_ELSE).strip().splitlines()
    if text.endswith(ALL_ELSE):
        lines = [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]
    names = tuple(f"{on_one_line(shard.uri)}: " for shard in shown)
    return [line for line in lines if not line.startswith(names)]


def _remedies_of_night(night: AnyRow, reasons: Sequence[AnyRow], *, is_left: bool) -> list[str]:
    which = f"--dataset {night.dataset} --crawl-date {night.crawl_date}"
    steps = [f"mend that, then alchemist ingest {which}"] if is_left else []
    if reasons:
        steps += [f"look at what is quarantined: alchemist shard show {reasons[0].shard_id}"]
    release = f"alchemist release night {which} --reason WHY"
    if night.status.startswith("held"):
        steps += [f"look at it, then {release}"]
    elif night.status.startswith("stopped"):
        steps += [
            f"alchemist check --suite shards,samples,scores {which} shows what was found; if the night is good all the same, {release}"
        ]
    elif night.status.startswith("partly"):
        steps += [f"alchemist score {which}"]
    elif night.status == "scored":
        steps += [f"alchemist publish night {which}"]
    return steps


COMMANDS = {"list": Command(NightListConfig, list_)}
