"""Plans: show what a command would do, how long it would take and what it would cost, without changing anything."""

import os
from collections.abc import Iterable
from datetime import date
from typing import Any
from urllib.parse import quote

from pydantic import Field
from sqlalchemy import Engine

from alchemist_core.cli import estimates
from alchemist_core.config import BARE_WORD, Command, Config, Result, Seeds, Words, counted, split_commas
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.files import artifact_path
from alchemist_core.lazy import np
from alchemist_core.notifications import code_span, explorer_page
from alchemist_core.presets import gigabytes
from alchemist_core.prices import cost_at
from alchemist_core.project import effective_prices, load_project
from alchemist_core.protocols.protocol import ProtocolFile, read_protocol
from alchemist_core.rating.acceptance import warnings_of
from alchemist_core.report.comparison import ArmNames
from alchemist_core.settings import load_settings
from alchemist_core.stages.execution import CPU
from alchemist_core.stages.scope import datasets_in_scope, scoring_scope
from alchemist_core.store.checks import failed_checks
from alchemist_core.store.datasets import describe_datasets
from alchemist_core.store.engine import open_store
from alchemist_core.store.ledger import count_unscored, scoring_speed
from alchemist_core.store.manifests import read_first_bits
from alchemist_core.store.models import find_named, find_protocol, models_to_compare, read_evaluations
from alchemist_core.store.nights import late_nights, read_night
from alchemist_core.store.raters import RaterRow, find_rater, find_raters
from alchemist_core.store.registry import list_datasets
from alchemist_core.store.sample_table import SampleTable
from alchemist_core.store.samples import read_training_samples
from alchemist_core.store.subsets import (
    SubsetRow,
    choose_version,
    list_subsets,
    published_version,
    rater_of_subset,
    seconds_per_member,
    selection_result,
)
from alchemist_core.training.gpus import DEFAULT_UTILISATION, GpuName


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
        "production", description="Rater by name, or production, newest, or nightly (production and all shadow raters)"
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
        unknown = "time unknown" if self.note else "time unknown (nothing was scored yet; estimate it with --gpu)"
        took = unknown if self.seconds is None else f"about {self.seconds:,.0f} s"
        speed = "" if self.pairs_per_s is None else f" at {self.pairs_per_s:,.0f} samples/s per slot"
        cost = (
            "cost unknown (set core_hour or gpu_hour in [prices] of alchemist.toml)"
            if self.cost is None
            else f"cost about {self.cost:,.2f} {self.currency}".rstrip()
        )
        shadow, note = " (shadow rater)" if self.is_shadow else "", f" ({self.note})" if self.note else ""
        memory = "" if self.memory_bytes is None else f", {gigabytes(self.memory_bytes)} of memory"
        if self.flops_per_sample is not None:
            memory += f", {estimates.flop_text(self.flops_per_sample)} a sample"
        shards, samples = counted(self.n_shards, "shard"), counted(self.n_samples, "sample")
        return f"{self.rater}{shadow}: {shards}, at most {samples}, {took}{speed}, {cost}{memory}{note}"


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


class PlanNightResult(Result):
    """Nights to ingest, check and score, each by itself."""

    datasets: list[str]
    nights: list[NightPlan]
    """One night for each dataset, then earlier nights whose shards were still being uploaded when they ran."""

    def summary(self) -> str:
        """Return a line for each night."""
        lines = [f"{night.dataset} {night.crawl_date}" for night in self.nights]
        return (
            "\n".join(lines)
            or "No training dataset is registered. Ingest one: alchemist ingest --dataset NAME --root FOLDER"
        )


class PlanEvaluateConfig(Config):
    """Which arms and seeds every published subset must have values for."""

    evaluation: str | None = Field(
        None, description="Evaluation dataset; none: the default (alchemist dataset set-default)"
    )
    protocol: str = Field(
        "heldout_loss", description="Evaluation protocols under which values must exist, separated by commas"
    )
    arms: ArmNames = Field(("subset", "random"), description="Arms that must have a value, separated by commas")
    seeds: Seeds = Field((0,), description="Seeds that must have a value, separated by commas")


class PlanPromoteConfig(Config):
    """Which rater to plan the promotion of."""

    rater: str = Field("newest", description="Rater by name, or newest", json_schema_extra=BARE_WORD)


class PlanPromoteResult(Result):
    """The question to the approver; the first rater needs no approval."""

    rater: str
    dataset: str
    """The dataset that the rater was trained on."""
    production: str | None
    is_approval_needed: bool
    question: str


class PlanEvaluateResult(Result):
    """Published subsets without a value."""

    subsets: list[str]


def plan_night(config: PlanNightConfig) -> PlanNightResult:
    """List the datasets that a run of nightly_rescore processes, including those whose root is unreachable (their task then fails)."""
    engine = open_store()
    rows = [row for row in list_datasets(engine, role="train") if config.dataset in (None, row.name)]
    # A dataset that is given, or that the project file declares, may not be registered yet: its first ingest registers it.
    named = [row.name for row in rows] + _declared(engine) if config.dataset is None else [config.dataset]
    late = late_nights(engine, [row.dataset_id for row in rows], config.crawl_date)
    # A night that a check has stopped waits until a person releases it.
    late = [row for row in late if not failed_checks(engine, row.dataset, row.crawl_date)]
    nights = [NightPlan(dataset=name, crawl_date=config.crawl_date) for name in named]
    nights += [NightPlan(dataset=row.dataset, crawl_date=row.crawl_date) for row in late]
    return PlanNightResult(datasets=named, nights=nights)


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
    work = [
        ScoreTask(dataset=night[0], crawl_date=night[1], slot=slot)
        for night in nights
        for slot in range(_count_slots(of_night[night]))
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
    """Return dataset and crawl date of each night, without unregistered datasets and nights that a check has stopped.

    `alchemist night release` scores a stopped night after a person has inspected it.
    """
    if not config.nights:
        return [(row.name, config.crawl_date) for row in datasets_in_scope(engine, config.dataset)]
    registered = {row.name for row in list_datasets(engine, role="train")}
    nights = [night for night in map(read_night, config.nights) if night[0] in registered]
    return [night for night in nights if not failed_checks(engine, *night)]


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
    ahead = {"rater": rater.name, "is_shadow": rater.is_shadow, "n_shards": n_shards, "n_samples": n_samples}
    speed = scoring_speed(engine, rater.rater_id)
    price = None if speed is None else price_per_slot_hour(speed.device, n_slots)
    note = "estimated from runs of another rater" if speed and speed.rater_id != rater.rater_id else None
    pairs_per_s = None if speed is None else speed.pairs_per_s
    if config.gpu is not None and rater.kind == "trained":
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


def plan_promote(config: PlanPromoteConfig) -> PlanPromoteResult:
    """Print what promoting a rater would change, and whether a person must approve it.

    Raises:
        ConfigError: There is no such rater.
    """
    engine = open_store()
    rater, production = find_rater(engine, config.rater), find_rater(engine, "production")
    if rater is None:
        raise ConfigError("There is no rater to promote. Train a rater: alchemist train-rater.")
    checks = rater.acceptance_report.get("checks", [])
    measured = [check for check in checks if check["value"] is not None]
    lines = [f"- {code_span(check['name'])}: {code_span(format(check['value'], '.4g'))}" for check in measured]
    lines += [f"- Warning: {code_span(warning)}" for warning in warnings_of(rater.acceptance_report)]
    lines += _look(explorer_page("raters", rater.name))
    accepted = (
        "acceptance checks passed" if rater.acceptance_report.get("is_certified") else "acceptance checks NOT passed"
    )
    is_there = production is not None and production.rater_id == rater.rater_id
    was = f"instead of {code_span(production.name)}" if production else "as the first one"
    change = "is in production already" if is_there else f"goes into production {was}"
    return PlanPromoteResult(
        rater=rater.name,
        dataset=rater.config["dataset"],
        production=production.name if production else None,
        is_approval_needed=production is not None and not is_there,
        question="\n".join([f"Rater {code_span(rater.name)} ({rater.rule}, {accepted}) {change}.", "", *lines]),
    )


def plan_evaluate(config: PlanEvaluateConfig) -> PlanEvaluateResult:
    """List the published subsets that have not been evaluated for all requested arms and seeds."""
    engine = open_store()
    from alchemist_core.stages.evaluate import evaluation_dataset  # noqa: PLC0415  imports the image libraries

    rows = read_training_samples(engine, evaluation_dataset(engine, config.evaluation).dataset_id)
    wanted = {(arm, seed) for arm in config.arms for seed in config.seeds}
    files = [read_protocol(name) for name in split_commas(config.protocol)]
    return PlanEvaluateResult(
        subsets=[
            subset.name
            for subset in list_subsets(engine, state="published")
            if any(wanted - _evaluated(engine, subset, file, rows) for file in files)
        ]
    )


def _evaluated(engine: Engine, subset: SubsetRow, file: ProtocolFile, rows: SampleTable) -> set[tuple[str, int]]:
    """Return the arms and seeds that have a value under a protocol."""
    rater = rater_of_subset(engine, subset)
    from alchemist_core.metrics.heldout import heldout_conditions, heldout_flow_conditions  # noqa: PLC0415  imports the image libraries

    is_flux = file.metric == "heldout_flow_loss" or file.fields.get("sampler") == "flow"
    if file.metric == "heldout_loss":
        protocol_id = find_protocol(engine, heldout_conditions(rater, rows))
    elif file.metric == "heldout_flow_loss":
        protocol_id = find_protocol(engine, heldout_flow_conditions(rows))
    else:
        # Values under a name share all conditions, which the first one pinned.
        named = find_named(engine, file.name)
        protocol_id = None if named is None else named.protocol_id
    if protocol_id is None:
        return set()
    model_ids = [model.model_id for model in models_to_compare(engine, subset.subset_id, rater.name, is_flux=is_flux)]
    return {(row.arm, row.seed) for row in read_evaluations(engine, model_ids, protocol_id)}


WINDOW = ("drop_top_ratio", "mean_rank", "std_rank", "start_rank")
UNITS = ("B", "kB", "MB", "GB", "TB")


class PlanPublishConfig(Config):
    """Which subset version to plan the publishing of."""

    name: str = Field(..., description="Name of the subset", json_schema_extra=BARE_WORD)
    version: int | None = Field(None, ge=1, description="Version number; none: the newest")


class PlanPublishResult(Result):
    """The question to the approver. Sizes and times are estimates, none if nothing was measured."""

    subset: str
    version: int
    n_samples: int
    published_version: int | None
    # Members that would join, leave and stay; none without a published version or its manifest.
    n_in: int | None
    n_out: int | None
    n_stay: int | None
    n_bytes: int | None
    training_seconds: float | None
    strategy: str
    retention: float
    window: dict[str, float]
    seed: int
    rater: str
    datasets: list[str]
    warnings: list[str]
    report: str | None
    page: str | None = None
    question: str

    def summary(self) -> str:
        """Return the question."""
        return self.question


def plan_publish(config: PlanPublishConfig) -> PlanPublishResult:
    """Print what publishing a subset version would change, and how long training on it would take."""
    engine = open_store()
    subset = choose_version(engine, config.name, version=config.version, is_newest=True)
    published = published_version(engine, config.name)
    rater, selected = rater_of_subset(engine, subset), selection_result(engine, subset)
    speed = seconds_per_member(engine)
    n_in, n_out, n_stay = _difference(subset, published)
    facts: dict[str, Any] = {
        "subset": subset.name,
        "version": subset.version,
        "n_samples": subset.n_samples,
        "published_version": published.version if published else None,
        "n_in": n_in,
        "n_out": n_out,
        "n_stay": n_stay,
        "n_bytes": selected.get("n_bytes"),
        "training_seconds": None if speed is None else round(speed * subset.n_reads, 1),
        "strategy": subset.strategy,
        "retention": subset.retention,
        "window": {name: subset.spec[name] for name in WINDOW if subset.spec.get(name) is not None},
        "seed": subset.seed,
        "rater": rater.name,
        "datasets": rater.dataset_names,
        "warnings": selected.get("warnings", []),
        "report": _report_address(rater.dataset_names),
        "page": explorer_page("subsets", subset.name, subset.version),
    }
    return PlanPublishResult(**facts, question=_question(facts))


def _difference(subset: SubsetRow, published: SubsetRow | None) -> tuple[int | None, int | None, int | None]:
    if published is None:
        return None, None, None
    try:
        now, before = (read_first_bits(artifact_path(version.manifest_uri)) for version in (subset, published))
    except DataError:
        return None, None, None
    n_stay = len(np.intersect1d(now, before))
    return len(now) - n_stay, len(before) - n_stay, n_stay


def _report_address(datasets: list[str]) -> str | None:
    """Return the URL of the newest report page below ALCHEMIST_REPORTS_URL, else its file; none if there is no report."""
    pages = [artifact_path(f"reports/{name}.html") for name in (*datasets, "all")]
    found = max((page for page in pages if page.is_file()), key=lambda page: page.stat().st_mtime, default=None)
    if found is None:
        return None
    base = load_settings().reports_url
    return f"{base.rstrip('/')}/{quote(found.name)}" if base else str(found)


def _question(facts: dict[str, Any]) -> str:
    """Return the facts as Markdown; every value is code, so that a name is never a link, HTML or a heading."""
    window = ", ".join(f"{name.replace('_', ' ')} {code_span(f'{value:g}')}" for name, value in facts["window"].items())
    seconds, n_bytes = facts["training_seconds"], facts["n_bytes"]
    size = code_span(f"about {_size(n_bytes)}") if n_bytes is not None else "unknown"
    training = code_span(f"about {_duration(seconds)}") if seconds is not None else "unknown, no training was measured"
    strategy = f"{code_span(facts['strategy'])}, retention {code_span(format(facts['retention'], 'g'))}"
    lines = [
        f"Publish {code_span(facts['subset'])} version {code_span(facts['version'])}?",
        "",
        f"- Members: {code_span(format(facts['n_samples'], ','))}",
        f"- Compared with the published version: {_compared(facts)}",
        f"- Size: {size}",
        f"- Training on it: {training}",
        f"- Strategy: {strategy}{f', {window}' if window else ''}, seed {code_span(facts['seed'])}",
        f"- Rater: {code_span(facts['rater'])}; datasets: {', '.join(map(code_span, facts['datasets']))}",
        *(f"- Warning: {code_span(warning)}" for warning in facts["warnings"]),
        f"- Report: {_link(facts['report'])}",
        *_look(facts["page"]),
    ]
    return "\n".join(lines)


def _compared(facts: dict[str, Any]) -> str:
    if facts["published_version"] is None:
        return "no version is published"
    if facts["n_in"] is None:
        return f"version {code_span(facts['published_version'])}, whose manifest cannot be read"
    join, leave, stay = (code_span(format(facts[name], ",")) for name in ("n_in", "n_out", "n_stay"))
    return f"version {code_span(facts['published_version'])}: {join} join, {leave} leave, {stay} stay"


def _look(page: str | None) -> list[str]:
    """Return the line that leads to the page of the explorer with the pictures and figures that decide."""
    return [] if page is None else [f"- Look at it: {_link(page)}"]


def _link(report: str | None) -> str:
    if report is None:
        return "none; write it with `alchemist report`"
    # A path is shown as code, because browsers do not open local files from a web page.
    return f"[{report}](<{report}>)" if report.startswith(("https://", "http://")) else code_span(report)


def _size(n_bytes: float) -> str:
    """Return a size in readable units.

    >>> _size(999), _size(1_250_000_000)
    ('999 B', '1.2 GB')
    """
    power = max(power for power in range(len(UNITS)) if power == 0 or n_bytes >= 1000**power)
    return f"{n_bytes / 1000**power:.{1 if power else 0}f} {UNITS[power]}"


def _duration(seconds: float) -> str:
    """Return a duration in readable units.

    >>> _duration(50), _duration(5400)
    ('50 s', '1.5 hours')
    """
    return f"{seconds / 3600:,.1f} hours" if seconds >= 3600 else f"{seconds:,.0f} s"


COMMANDS = {
    **estimates.COMMANDS,
    "night": Command(PlanNightConfig, plan_night),
    "score": Command(PlanScoreConfig, plan_score),
    "promote": Command(PlanPromoteConfig, plan_promote),
    "publish": Command(PlanPublishConfig, plan_publish),
    "evaluate": Command(PlanEvaluateConfig, plan_evaluate),
}
