"""Rows for people: the views, and the queries of the report and the metrics."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import NamedTuple

from sqlalchemy import Engine, select, text

from alchemist_core.prices import Prices
from alchemist_core.rating.config import RATER_SCORE
from alchemist_core.store.queries import load_query
from alchemist_core.store.raters import RaterRow
from alchemist_core.store.tables import AnyRow, RankSnapshot
from alchemist_core.store.tables import RankScale as RankScaleTable


class NightOverview(NamedTuple):
    """A crawl date of one dataset: a row of the view `nightly_overview`."""

    dataset: str
    crawl_date: date
    n_shards: int
    n_locations: int
    n_scored: int
    n_quarantined: int
    status: str
    n_unscored_shards: int = 0

    @property
    def n_missing(self) -> int:
        """Return the locations that are neither scored nor quarantined."""
        return self.n_locations - self.n_scored - self.n_quarantined

    @property
    def is_open(self) -> bool:
        """Whether scoring is unfinished, also because a check stopped it, so that missing locations are not an error."""
        return self.n_unscored_shards > 0 or self.status.startswith(("nothing scored", "empty"))

    @property
    def is_rejected(self) -> bool:
        """Whether a person has rejected it."""
        return self.status.startswith("rejected")

    @property
    def rejected_under(self) -> str | None:
        """Return the other rater under which a person rejected all of it, while the production rater has scored nothing of it.

        >>> NightOverview("web", date(2026, 1, 2), 1, 5, 0, 0, "rejected under rater r1: wrong captions").rejected_under
        'r1'
        """
        before, _, rest = self.status.partition("rejected under rater ")
        return rest.partition(": ")[0] if rest and not before else None


def read_nights(engine: Engine, dataset: str | None) -> list[NightOverview]:
    """Return the rows of `nightly_overview`, of one dataset or all."""
    statement = text("""
        SELECT dataset, crawl_date, n_shards, n_locations, n_scored, n_quarantined, status, n_unscored_shards
        FROM alchemist.nightly_overview
        WHERE CAST(:dataset AS text) IS NULL OR dataset = :dataset ORDER BY dataset, crawl_date
    """)
    with engine.connect() as connection:
        return [NightOverview._make(row) for row in connection.execute(statement, {"dataset": dataset})]


def failed_ingests(engine: Engine, nights: Sequence[tuple[str, date]]) -> dict[tuple[str, date], str]:
    """Return the error of each night whose newest ingest failed."""
    return {
        (row.dataset, row.crawl_date): row.error or "" for row in _of_nights(engine, "failed_ingests_of_nights", nights)
    }


class NightQuarantine(NamedTuple):
    """The locations of a night that were quarantined for one reason; `shard_id` is the shard with most of them."""

    dataset: str
    crawl_date: date
    reason: str
    n_locations: int
    shard_id: int


def quarantine_of_nights(engine: Engine, nights: Sequence[tuple[str, date]]) -> list[NightQuarantine]:
    """Return the quarantined locations of nights by reason, the commonest reason of a night first."""
    return [NightQuarantine._make(row) for row in _of_nights(engine, "quarantine_of_nights", nights)]


class QuarantinedRecord(NamedTuple):
    """A quarantined record of a night: its shard, its key in it, the stage that quarantined it, and what it found."""

    shard_id: int
    uri: str
    key: str
    stage: str
    detail: str


def quarantined_records(
    engine: Engine, dataset: str, crawl_date: date, reason: str, *, limit: int
) -> list[QuarantinedRecord]:
    """Return records of a night that were quarantined for one reason, the last quarantined first."""
    statement = text("""
        SELECT shards.shard_id, shards.uri, found.key, found.stage, found.detail
        FROM alchemist.datasets JOIN alchemist.shards USING (dataset_id) JOIN alchemist.quarantined_samples AS found USING (shard_id)
        WHERE datasets.name = :dataset AND shards.crawl_date = :crawl_date AND found.reason = :reason
            AND shards.state NOT IN ('retired', 'superseded')
            AND NOT EXISTS (  -- each rater has a row of its own
                SELECT FROM alchemist.quarantined_samples AS later
                WHERE later.shard_id = found.shard_id AND later.ordinal = found.ordinal AND later.reason = found.reason
                    AND later.quarantine_id > found.quarantine_id
            )
        ORDER BY found.quarantine_id DESC LIMIT :limit
    """)
    given = {"dataset": dataset, "crawl_date": crawl_date, "reason": reason, "limit": limit}
    with engine.connect() as connection:
        return [QuarantinedRecord._make(row) for row in connection.execute(statement, given)]


def _of_nights(engine: Engine, query: str, nights: Sequence[tuple[str, date]]) -> Sequence[AnyRow]:
    parameters = {"datasets": [name for name, _ in nights], "crawl_dates": [day for _, day in nights]}
    with engine.connect() as connection:
        return connection.execute(load_query(query), parameters).all()


class QuarantineReason(NamedTuple):
    """Number of locations that a stage quarantined for one reason, with the detail of one of them."""

    reason: str
    stage: str
    n_locations: int
    example: str


def read_quarantine(engine: Engine, dataset: str | None) -> list[QuarantineReason]:
    """Return the reasons of the quarantined locations of one training dataset, or of all; the commonest first."""
    with engine.connect() as connection:
        rows = connection.execute(load_query("quarantine_reasons"), {"dataset": dataset})
        return [QuarantineReason._make(row) for row in rows]


def newest_snapshot(engine: Engine, rater: RaterRow, dataset: str | None) -> int | None:
    """Return the newest snapshot that ranks by a rater's own score, of one dataset or of any."""
    statement = (
        select(RankSnapshot.snapshot_id)
        .join(RankScaleTable, RankScaleTable.rank_scale_id == RankSnapshot.rank_scale_id)
        .where(RankScaleTable.rater_id == rater.rater_id, RankScaleTable.score == RATER_SCORE)
        .order_by(RankSnapshot.snapshot_id.desc())
        .limit(1)
    )
    if dataset is not None:
        statement = statement.where(RankSnapshot.dataset_names.any_() == dataset)
    with engine.connect() as connection:
        return connection.execute(statement).scalar()


class MeasuredDrift(NamedTuple):
    """Distance of one night's scores from those of the accepted nights: a row of `score_distributions`."""

    dataset: str
    crawl_date: date
    n_tested: int
    psi: float | None
    ks_distance: float | None
    verdict: str


def read_drift(engine: Engine, rater_id: int, dataset: str | None) -> list[MeasuredDrift]:
    """Return the measured drift of a rater's nights, of one dataset or all; removed datasets are left out."""
    statement = text("""
        SELECT datasets.name, nights.crawl_date, tested.n_tested, tested.psi, tested.ks_distance, tested.verdict
        FROM alchemist.score_distributions AS tested JOIN alchemist.nights USING (night_id) JOIN alchemist.datasets USING (dataset_id)
        WHERE nights.rater_id = :rater_id AND datasets.removed_at IS NULL AND (CAST(:dataset AS text) IS NULL OR datasets.name = :dataset)
        ORDER BY datasets.name, nights.crawl_date, nights.night_id
    """)
    with engine.connect() as connection:
        rows = connection.execute(statement, {"rater_id": rater_id, "dataset": dataset})
        return [MeasuredDrift._make(row) for row in rows]


class SubsetCost(NamedTuple):
    """Cost of a subset version, in seconds of work of one device."""

    kind: str
    name: str
    device: str
    seconds: float


def read_costs(engine: Engine, subsets: Sequence[str]) -> list[SubsetCost]:
    """Return the costs of the named subset versions from the view `costs`, without shared work."""
    statement = text("""
        SELECT kind, name, device, sum(seconds) AS seconds FROM alchemist.costs
        WHERE kind = 'subset' AND name = ANY(:subsets) AND NOT is_shared GROUP BY kind, name, device ORDER BY name, device
    """)
    with engine.connect() as connection:
        return [SubsetCost._make(row) for row in connection.execute(statement, {"subsets": list(subsets)})]


class ImageMetric(NamedTuple):
    """A metric of the images that one trained model generates, under a named evaluation protocol."""

    protocol: str
    metric: str
    arm: str
    seed: int
    value: float


def read_image_metrics(engine: Engine, subset_id: int) -> list[ImageMetric]:
    """Return the metrics of images of the models by which a version is compared, by protocol, metric and arm."""
    with engine.connect() as connection:
        rows = connection.execute(load_query("image_metrics"), {"subset_id": subset_id})
        return [ImageMetric._make(row) for row in rows]


class NightShards(NamedTuple):
    """The scored shards of one night of a snapshot: their number, and the first and last of their addresses."""

    dataset: str
    crawl_date: date
    n_shards: int
    first_uri: str
    last_uri: str


def read_snapshot_shards(engine: Engine, snapshot_id: int) -> list[NightShards]:
    """Return the shards that the samples of a snapshot were scored from, by night."""
    with engine.connect() as connection:
        rows = connection.execute(load_query("snapshot_shards"), {"snapshot_id": snapshot_id})
        return [NightShards._make(row) for row in rows]


class VersionOverview(NamedTuple):
    """A subset version: a row of the view `subset_overview`."""

    name: str
    version: int
    state: str
    rater: str
    strategy: str
    retention: float
    n_samples: int
    subset_heldout_loss: float | None
    random_heldout_loss: float | None
    n_seeds: int
    created_at: datetime
    published_at: datetime | None


def read_versions(engine: Engine, name: str | None = None) -> list[VersionOverview]:
    """Return all subset versions, of one name or all: the published ones first, then the newest."""
    statement = text("""
        SELECT
            name, version, state, rater, strategy, retention, n_samples, subset_heldout_loss, random_heldout_loss, n_seeds, created_at,
            published_at
        FROM alchemist.subset_overview WHERE CAST(:name AS text) IS NULL OR name = :name
        ORDER BY state = 'published' DESC, subset_id DESC
    """)
    with engine.connect() as connection:
        return [VersionOverview._make(row) for row in connection.execute(statement, {"name": name})]


class Comparison(NamedTuple):
    """An arm's mean of a metric, and its gains over random and full with their intervals: a row of `subset_comparisons`."""

    metric: str
    arm: str
    n_seeds: int
    mean: float
    gain: float | None
    gain_low: float | None
    gain_high: float | None
    n_common_seeds: int
    """Seeds that random has too, over which `gain` is the mean."""
    gain_over_full: float | None
    gain_over_full_low: float | None
    gain_over_full_high: float | None
    protocol_id: int


def read_comparisons(engine: Engine, subset_id: int) -> list[Comparison]:
    """Return the comparisons of a subset version, by metric and arm."""
    statement = text("""
        SELECT
            metric, arm, n_seeds, mean, gain, gain_low, gain_high, n_common_seeds, gain_over_full, gain_over_full_low,
            gain_over_full_high, protocol_id
        FROM alchemist.subset_comparisons
        WHERE subset_id = :subset_id ORDER BY metric, arm
    """)
    with engine.connect() as connection:
        return [Comparison._make(row) for row in connection.execute(statement, {"subset_id": subset_id})]


QUERIES = (
    "measure_stages", "measure_samples", "measure_nights", "measure_freshness", "measure_checks", "measure_operations", "measure_subsets",
)  # fmt: skip
TIMEOUT_MS = 10_000
"""Far above the normal duration of a query. Without a limit, hanging scrapes would pile up."""


def read_measurements(engine: Engine, prices: Prices) -> dict[str, list[tuple[tuple[str, ...], float]]]:
    """Return the labels and value of every series by metric name, from one snapshot of the store.

    Args:
        engine: The store.
        prices: Prices of devices, and the budget per day; costs are returned if a price is set.
    """
    is_priced = prices.gpu_hour is not None or prices.core_hour is not None
    found: dict[str, list[tuple[tuple[str, ...], float]]] = {}
    if prices.budget_per_day is not None:
        found["alchemist_budget_per_day"] = [((), prices.budget_per_day)]
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        connection.execute(text(f"SET LOCAL statement_timeout = {TIMEOUT_MS}"))
        size_bytes = connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one()
        found["alchemist_store_size_bytes"] = [((), float(size_bytes))]
        for name in QUERIES:
            for row in connection.execute(
                load_query(name), {"is_priced": is_priced} if name == "measure_stages" else {}
            ):
                found.setdefault(row.metric, []).append((tuple(row.labels), float(row.value)))
    return found
