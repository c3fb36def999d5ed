"""The questions to approvers before a promotion or a publishing, and which published subsets lack values (`plan evaluate`)."""

from typing import Any
from urllib.parse import quote

from pydantic import Field
from sqlalchemy import Engine

from alchemist_core.config import BARE_WORD, Command, Config, Result, Seeds, split_commas
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.files import artifact_path
from alchemist_core.lazy import np
from alchemist_core.notifications import code_span, explorer_page
from alchemist_core.protocols.protocol import ProtocolFile, read_protocol
from alchemist_core.rating.acceptance import warnings_of
from alchemist_core.report.arm_names import ArmNames
from alchemist_core.settings import load_settings
from alchemist_core.store.engine import open_store
from alchemist_core.store.manifests import read_first_bits
from alchemist_core.store.models import find_named, find_protocol, models_to_compare, read_evaluations
from alchemist_core.store.raters import find_rater, require_trained
from alchemist_core.store.sample_table import SampleTable
from alchemist_core.store.samples import read_training_samples
from alchemist_core.store.subsets import (
    SubsetRater,
    SubsetRow,
    choose_version,
    list_subsets,
    published_version,
    rater_of_subset,
    seconds_per_member,
    selection_result,
)
from alchemist_core.telemetry import say


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


def plan_promote(config: PlanPromoteConfig) -> PlanPromoteResult:
    """Print what promoting a rater would change, and whether a person must approve it.

    Raises:
        ConfigError: There is no such rater, or it is a scorer or imported scores.
    """
    engine = open_store()
    rater, production = find_rater(engine, config.rater), find_rater(engine, "production")
    if rater is None:
        raise ConfigError("There is no rater to promote. Train a rater: alchemist train-rater.")
    require_trained(rater)
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


class PlanEvaluateConfig(Config):
    """Which arms and seeds every published subset must have values for."""

    evaluation: str | None = Field(
        None,
        description="Evaluation dataset; default: the one set by alchemist dataset set-default, else the one that was registered first",
    )
    protocol: str = Field(
        "heldout_loss", description="Evaluation protocols under which values must exist, separated by commas"
    )
    arms: ArmNames = Field(("subset", "random"), description="Arms that must have a value, separated by commas")
    seeds: Seeds = Field((0,), description="Seeds that must have a value, separated by commas")


class PublishedVersion(Result):
    """A published subset version, with the names of the options that choose it."""

    subset: str
    version: int


class PlanEvaluateResult(Result):
    """Published subsets without a value, and their versions: another version may be published before these are evaluated."""

    subsets: list[str]
    versions: list[PublishedVersion]


def plan_evaluate(config: PlanEvaluateConfig) -> PlanEvaluateResult:
    """List the published subsets that have not been evaluated for all requested arms and seeds.

    A protocol of models that cannot be trained on a subset, because a scorer ranked it, is left out for it.
    """
    engine = open_store()
    from alchemist_core.stages.evaluate import evaluation_dataset  # noqa: PLC0415  imports the image libraries

    rows = read_training_samples(engine, evaluation_dataset(engine, config.evaluation).dataset_id)
    wanted = {(arm, seed) for arm in config.arms for seed in config.seeds}
    files = [read_protocol(name) for name in split_commas(config.protocol)]
    found = []
    for subset in list_subsets(engine, state="published"):
        rater = rater_of_subset(engine, subset)
        measured = [file for file in files if rater.kind == "trained" or _is_flux(file)]
        if not measured:
            say(f"{subset.title} is left out: scorer {rater.name} ranked it, so only FLUX-mini can be trained on it.")
        if any(wanted - _evaluated(engine, subset, rater, file, rows) for file in measured):
            found.append(PublishedVersion(subset=subset.name, version=subset.version))
    return PlanEvaluateResult(subsets=[one.subset for one in found], versions=found)


def _is_flux(file: ProtocolFile) -> bool:
    return file.metric == "heldout_flow_loss" or file.fields.get("sampler") == "flow"


def _evaluated(
    engine: Engine, subset: SubsetRow, rater: SubsetRater, file: ProtocolFile, rows: SampleTable
) -> set[tuple[str, int]]:
    """Return the arms and seeds that have a value under a protocol."""
    from alchemist_core.metrics.heldout import heldout_conditions, heldout_flow_conditions  # noqa: PLC0415  imports the image libraries

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
    model_ids = [
        model.model_id for model in models_to_compare(engine, subset.subset_id, rater.name, is_flux=_is_flux(file))
    ]
    return {(row.arm, row.seed) for row in read_evaluations(engine, model_ids, protocol_id)}


COMMANDS = {
    "promote": Command(PlanPromoteConfig, plan_promote),
    "publish": Command(PlanPublishConfig, plan_publish),
    "evaluate": Command(PlanEvaluateConfig, plan_evaluate),
}
