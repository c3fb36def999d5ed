"""Plans: show what a command would do, how long it would take and what it would cost, without changing anything."""

import os
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from pydantic import Field
from sqlalchemy import Engine

from alchemist_core.config import Command, Config, Result, Words, counted
from alchemist_core.errors import ConfigError
from alchemist_core.presets import gigabytes
from alchemist_core.prices import cost_at
from alchemist_core.project import NEVER, effective_prices, load_project
from alchemist_core.settings import load_settings
from alchemist_core.stages.scope import datasets_in_scope, scoring_scope
from alchemist_core.store.audit import current_airflow_run
from alchemist_core.store.checks import failed_checks
from alchemist_core.store.datasets import describe_datasets
from alchemist_core.store.engine import open_store
from alchemist_core.store.ledger import count_unscored, scoring_speed
from alchemist_core.store.nights import EarlierNight, late_nights, missed_nights, read_night
from alchemist_core.store.raters import RaterRow, find_raters
from alchemist_core.store.registry import DatasetRow, list_datasets
from alchemist_core.telemetry import say
from alchemist_core.training.gpus import CPU, DEFAULT_UTILISATION, GpuName


class PlanScoreConfig(Config):
    """Which scoring to plan."""

    dataset: str | None = Field(None, description="Dataset; none: every registered training dataset")
    crawl_date: date | None = Field(
        None, description="Crawl date (YYYY-MM-DD); default: all crawl dates with unscored samples"
    )
    nights: Words = Field(
        (), description="Nights as DATASET:YYYY-MM-DD, separated by commas; replaces --dataset and --crawl-date"
    )
    rater: str = Field(
        "production",
        description="Name of the rater or scorer, or production, newest, or nightly (the production rater, all shadow raters and all "
        "nightly scorers)",
    )
    gpu: GpuName | None = Field(
        None,
        description="GPU to estimate for, by counted arithmetic, until this rater has scored on one; none: measured runs only",
    )
    utilisation: float = Field(
        DEFAULT_UTILISATION, gt=0, le=1, description="Share of the GPU's peak that scoring reaches, for --gpu"
    )
    price_per_gpu_hour: float | None = Field(
        None, ge=0, description="Price of one GPU hour, for --gpu; none: gpu_hour in [prices] of alchemist.toml"
    )


class RaterPlan(Result):
    """Unscored samples of one rater, with time, cost and, for a named GPU, its memory; None without a measurement or a price."""

    rater: str
    is_shadow: bool
    # trained or scorer.
    kind: str
    n_shards: int
    n_samples: int
    pairs_per_s: float | None
    seconds: float | None
    cost: float | None
    currency: str = ""
    note: str | None
    memory_bytes: int | None = None
    flops_per_sample: float | None = None

    def summary(self) -> str:
        """Return the plan of this rater on one line."""
        unknown = f"time unknown ({self._why_unknown()})" if self.note is None else "time unknown"
        took = unknown if self.seconds is None else f"about {self.seconds:,.0f} s"
        speed = "" if self.pairs_per_s is None else f" at {self.pairs_per_s:,.0f} samples/s per slot"
        cost = (
            "cost unknown (set core_hour or gpu_hour in [prices] of alchemist.toml)"
            if self.cost is None
            else f"cost about {self.cost:,.2f} {self.currency}".rstrip()
        )
        nightly = "nightly scorer" if self.kind == "scorer" else "shadow rater"
        shadow, note = f" ({nightly})" if self.is_shadow else "", f" ({self.note})" if self.note else ""
        memory = "" if self.memory_bytes is None else f", {gigabytes(self.memory_bytes)} of memory"
        if self.flops_per_sample is not None:
            from alchemist_core.cli.estimates import flop_text  # noqa: PLC0415  an estimate for a GPU was asked for

            memory += f", {flop_text(self.flops_per_sample)} a sample"
        shards, samples = counted(self.n_shards, "shard"), counted(self.n_samples, "sample")
        return f"{self.rater}{shadow}: {shards}, at most {samples}, {took}{speed}, {cost}{memory}{note}"

    def _why_unknown(self) -> str:
        if self.kind == "scorer":
            return "this scorer has not scored yet"
        return "nothing was scored yet; estimate it with --gpu, of a machine without one by --gpu cpu"


class ScoreTask(Result):
    """One scoring process: the dataset and crawl date whose shards it claims, and its slot."""

    dataset: str
    crawl_date: date | None
    slot: int


class PlanScoreResult(Result):
    """Unscored samples. `slots` is never empty, because Airflow skips all tasks after an empty mapping; `work` may be."""

    slots: list[int]
    work: list[ScoreTask]
    rater: str | None
    n_shards: int
    n_samples: int
    raters: list[RaterPlan] = Field(default_factory=list)

    def summary(self) -> str:
        """Return a line for each rater."""
        lines = [plan.summary() for plan in self.raters] or [
            "There is no rater in production, so nothing would be scored."
        ]
        return "\n".join([*lines, f"worker slots: {len(self.slots)}"])


class PlanNightConfig(Config):
    """Which night to plan."""

    crawl_date: date = Field(..., description="Crawl date (YYYY-MM-DD)")
    dataset: str | None = Field(None, description="Dataset; none: every registered training dataset")


class NightPlan(Result):
    """A crawl date of one dataset."""

    dataset: str
    crawl_date: date


MOST_ITEMS = 256
"""Items of a mapped task. Airflow refuses lists of more than 1,024 (`core.max_map_length`)."""


class PlanNightResult(Result):
    """Nights to ingest, check and score, each by itself."""

    datasets: list[str]
    nights: list[NightPlan]
    """One night for each dataset, then earlier nights: those that were missed, and those with shards that lack scores."""
    n_waiting: int = 0
    """Earlier nights that are left for the next runs."""

    def summary(self) -> str:
        """Return a line for each night."""
        lines = [f"{night.dataset} {night.crawl_date}" for night in self.nights]
        return (
            "\n".join(lines)
            or "No training dataset is registered. Ingest one: alchemist ingest --dataset NAME --root FOLDER"
        )


def plan_night(config: PlanNightConfig) -> PlanNightResult:
    """List the datasets that a run of nightly_rescore processes, including those whose root is unreachable (their task then fails).

    Raises:
        ConfigError: The crawl date is later than tomorrow in the time zone of the schedule.
    """
    _require_begun(config.crawl_date)
    engine = open_store()
    rows = [row for row in list_datasets(engine, role="train") if config.dataset in (None, row.name)]
    # A dataset that is given, or that the project file declares, may not be registered yet: its first ingest registers it.
    named = [row.name for row in rows] + _declared(engine) if config.dataset is None else [config.dataset]
    earlier = _earlier_nights(engine, rows, config.crawl_date)
    n_earlier = max(0, MOST_ITEMS - len(named))
    nights = [NightPlan(dataset=name, crawl_date=config.crawl_date) for name in named]
    nights += [NightPlan(dataset=row.dataset, crawl_date=row.crawl_date) for row in earlier[:n_earlier]]
    if waiting := earlier[n_earlier:]:
        say(
            f"{counted(len(earlier), 'earlier night')} were missed, or have shards that lack scores. {len(waiting):,} are left for "
            "the next runs."
        )
    return PlanNightResult(datasets=named, nights=nights, n_waiting=len(waiting))


def _require_begun(crawl_date: date) -> None:
    """Refuse a crawl date that no crawl can have yet; tomorrow is allowed for a crawler east of the schedule's time zone."""
    timezone = load_project().schedule.timezone
    tomorrow = datetime.now(ZoneInfo(timezone)).date() + timedelta(days=1)
    if crawl_date > tomorrow:
        raise ConfigError(
            f"--crawl-date {crawl_date} is later than tomorrow ({tomorrow}, {timezone}). Give the date of a crawl that has begun."
        )


def _earlier_nights(engine: Engine, rows: list[DatasetRow], before: date) -> list[EarlierNight]:
    """Return the earlier nights to take: those that no ingest has ended for, the oldest first, then late ones, the newest first.

    A night that a check of shards or samples has stopped waits until a person releases it, and one that a person has rejected is left
    out. A failed check of scores keeps no night out, because its scores decide the check anew.
    """
    missed = _missed_nights(engine, rows, before)
    if missed:
        say(
            f"No ingest of {counted(len(missed), 'earlier night')} has ended: the start of the run was missed, or its process died."
        )
    late = [one for one in late_nights(engine, [row.dataset_id for row in rows], before) if one not in missed]
    late.sort(key=lambda one: one.crawl_date, reverse=True)
    return [one for one in [*missed, *late] if not _is_stopped(engine, one)]


def _is_stopped(engine: Engine, night: EarlierNight) -> bool:
    return any(one.stops_scoring or one.is_rejected for one in failed_checks(engine, night.dataset, night.crawl_date))


def _missed_nights(engine: Engine, rows: list[DatasetRow], before: date) -> list[EarlierNight]:
    """Return the nights that no ingest has ended for: none without a schedule, and none of datasets whose crawl has ended."""
    project = load_project()
    if project.schedule.nightly == NEVER:
        return []
    ids = [row.dataset_id for row in rows if project.of_dataset(row.name).ingest.crawl_interval_days != 0]
    return missed_nights(engine, ids, before, timezone=project.schedule.timezone, airflow_run=current_airflow_run())


def _declared(engine: Engine) -> list[str]:
    """Return the training datasets that the project file declares with a root, and that were never ingested."""
    registered = {row.name for row in describe_datasets(engine)}
    datasets = load_project().datasets.items()
    return [name for name, own in datasets if own.role == "train" and own.root and name not in registered]


def plan_score(config: PlanScoreConfig) -> PlanScoreResult:
    """Count the shards and samples without a score, and estimate time and cost of scoring them."""
    engine = open_store()
    raters = find_raters(engine, config.rater)
    nights = _nights_to_score(engine, config)
    unscored = {(rater.rater_id, night): _count(engine, rater, *night) for rater in raters for night in nights}
    of_rater = {
        rater.rater_id: _add(counts for (rater_id, _), counts in unscored.items() if rater_id == rater.rater_id)
        for rater in raters
    }
    n_slots = _count_slots(of_rater.values())
    of_night = {night: [counts for (_, other), counts in unscored.items() if other == night] for night in nights}
    most_slots = max(1, MOST_ITEMS // max(1, len(nights)))
    work = [
        ScoreTask(dataset=night[0], crawl_date=night[1], slot=slot)
        for night in nights
        for slot in range(min(most_slots, _count_slots(of_night[night])))
    ]
    n_shards, n_samples = _add(of_rater.values())
    return PlanScoreResult(
        slots=list(range(n_slots)),
        work=work,
        rater=", ".join(rater.name for rater in raters) or None,
        n_shards=n_shards,
        n_samples=n_samples,
        raters=[_estimate(engine, rater, of_rater[rater.rater_id], n_slots, config) for rater in raters],
    )


def _nights_to_score(engine: Engine, config: PlanScoreConfig) -> list[tuple[str, date | None]]:
    """Return dataset and crawl date of each night, without unregistered datasets and nights that a check of shards or samples has stopped.

    `alchemist night release` scores such a night after a person has inspected it. A failed check of scores keeps no night from being
    scored, because its scores decide the check anew.
    """
    if not config.nights:
        return [(row.name, config.crawl_date) for row in datasets_in_scope(engine, config.dataset)]
    registered = {row.name for row in list_datasets(engine, role="train")}
    nights = [night for night in map(read_night, config.nights) if night[0] in registered]
    return [night for night in nights if not any(one.stops_scoring for one in failed_checks(engine, *night))]


def _count(engine: Engine, rater: RaterRow, dataset: str, crawl_date: date | None) -> tuple[int, int]:
    return count_unscored(engine, scoring_scope(engine, rater, dataset=dataset, crawl_date=crawl_date))


def _add(counts: Iterable[tuple[int, int]]) -> tuple[int, int]:
    both = list(counts)
    return sum(n_shards for n_shards, _ in both), sum(n_samples for _, n_samples in both)


def _count_slots(counts: Iterable[tuple[int, int]]) -> int:
    """Return the number of scoring processes: the setting, at most the number of shards, at least one."""
    return max(1, min(load_settings().score_slots, max((n_shards for n_shards, _ in counts), default=0)))


def _estimate(
    engine: Engine, rater: RaterRow, unscored: tuple[int, int], n_slots: int, config: PlanScoreConfig
) -> RaterPlan:
    n_shards, n_samples = unscored
    ahead = {
        "rater": rater.name, "is_shadow": rater.is_shadow, "kind": rater.kind, "n_shards": n_shards, "n_samples": n_samples,
    }  # fmt: skip
    speed = scoring_speed(engine, rater.rater_id, rater.kind)
    price = None if speed is None else price_per_slot_hour(speed.device, n_slots)
    note = "estimated from runs of another rater" if speed and speed.rater_id != rater.rater_id else None
    pairs_per_s = None if speed is None else speed.pairs_per_s
    if config.gpu is not None and rater.kind == "trained":
        from alchemist_core.cli import estimates  # noqa: PLC0415  loads the configs of trainings

        hardware = estimates.Hardware.model_validate({
            name: getattr(config, name) for name in ("gpu", "utilisation", "price_per_gpu_hour")
        })  # fmt: skip
        estimate = estimates.estimate_scoring(rater.config["training"], hardware)
        ahead |= {"memory_bytes": estimate.memory_bytes, "flops_per_sample": estimate.flops}
        if speed is None or speed.rater_id != rater.rater_id or not estimate.is_of(speed.device):
            pairs_per_s, note = estimate.samples_per_s, estimate.basis
        # Slots share the cores of a machine, but not a GPU.
        price = price_per_slot_hour(CPU, n_slots) if config.gpu == CPU else estimate.price_per_hour
    if pairs_per_s is None:
        return RaterPlan(**ahead, pairs_per_s=None, seconds=None, cost=None, note=note)
    slot_seconds = n_samples / pairs_per_s
    return RaterPlan(
        **ahead,
        pairs_per_s=round(pairs_per_s, 2),
        seconds=round(slot_seconds / max(1, min(n_slots, n_shards)), 1),
        cost=None if price is None else round(cost_at(slot_seconds, price), 4),
        currency=effective_prices().currency,
        note=note,
    )


def price_per_slot_hour(device: str, n_slots: int) -> float | None:
    """Return the price of a worker slot per hour: a GPU, or its share of the cores; none if no price is set."""
    n_cores = max(1, len(os.sched_getaffinity(0)) // n_slots)
    return effective_prices().of_device(device, n_devices=1, n_cores=n_cores)


COMMANDS = {
    "night": Command(PlanNightConfig, plan_night),
    "score": Command(PlanScoreConfig, plan_score),
}
