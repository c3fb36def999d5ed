"""Raters: list them, run the acceptance checks of one, and promote it to production.

The section `[acceptance]` of the project file sets the bounds of the checks.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple

from pydantic import Field
from sqlalchemy import Engine

from alchemist_core.config import BARE_WORD, Command, Config, Formerly, Result, current_names
from alchemist_core.errors import CheckFailedError, ConfigError
from alchemist_core.files import require_artifact
from alchemist_core.lazy import np
from alchemist_core.project import load_project, train_rater_command
from alchemist_core.rating.acceptance import warnings_of
from alchemist_core.shards.decode_versions import UNPINNED
from alchemist_core.stages.devices import hold_device
from alchemist_core.stages.execution import StageRun, execute
from alchemist_core.store.audit import APPROVAL, APPROVED_BY, COMMENT, approval, current_actor
from alchemist_core.store.engine import open_store
from alchemist_core.store.flags import WORST, flagged_hashes
from alchemist_core.store.manifests import hash_rows
from alchemist_core.store.raters import (
    RaterRow,
    find_rater,
    find_twin,
    list_raters,
    mark_shadow,
    promote_rater,
    record_acceptance_report,
    require_trained,
)
from alchemist_core.store.registry import find_dataset
from alchemist_core.store.samples import median_image_side, read_first_locations, read_training_samples
from alchemist_core.telemetry import OnProgress, say, warn
from alchemist_core.training.config import RaterTrainingConfig
from alchemist_core.training.pinning import without_places
from alchemist_core.training.sample_reading import ReadSamples, read_images


class RaterListConfig(Config):
    """No options."""


class ListedRater(Result):
    """One rater. `is_certified` states whether it passed its acceptance checks; None if they never ran."""

    name: str
    state: str
    rule: str
    dataset: str
    validation: str
    trained_at: datetime
    is_certified: bool | None
    decode_version: int = UNPINNED


class RaterListResult(Result):
    """All raters."""

    raters: list[ListedRater]

    def summary(self) -> str:
        """Return a table with a line for each rater; the production rater is marked with *."""
        if not self.raters:
            return f"No raters. Train one: {train_rater_command()}"
        rows = [("  name", "state", "acceptance", "rule", "dataset", "validation", "decode", "trained (UTC)")]
        rows += [
            (
                f"{'*' if row.state == 'production' else ' '} {row.name}", row.state, CERTIFIED[row.is_certified], row.rule,
                row.dataset, row.validation, str(row.decode_version), f"{row.trained_at.astimezone(UTC):%Y-%m-%d %H:%M}",
            )
            for row in self.raters
        ]  # fmt: skip
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        )


CERTIFIED = {True: "passed", False: "failed", None: "not checked"}


def list_(_config: RaterListConfig) -> RaterListResult:
    """List the raters, oldest first, with state, acceptance, datasets, decode version and time of training; * marks production."""
    return RaterListResult(
        raters=[
            ListedRater(
                name=row.name, state="shadow" if row.is_shadow else row.state, rule=row.rule, dataset=row.dataset,
                validation=row.validation, trained_at=row.trained_at, is_certified=row.acceptance_report.get("is_certified"),
                decode_version=row.decode_version,
            )
            for row in list_raters(open_store())
        ]
    )  # fmt: skip


class CertifyConfig(Config):
    """Which rater to check, on how many samples."""

    rater: str = Field("newest", description="Rater by name, or newest, or production", json_schema_extra=BARE_WORD)
    max_samples: Annotated[int, Formerly("max_pairs")] = Field(
        1024, ge=64, le=100_000, description="Largest number of validation samples, taken in the order of their hash"
    )


class CertifyResult(Result):
    """The acceptance report."""

    rater: str
    dataset: str
    twin: str | None
    # As stored: name, value and bounds of each check; a bound of None is open.
    checks: list[dict[str, Any]]

    def summary(self) -> str:
        """Return a line for each check, with its bounds."""
        lines = [
            f"{check['name']:<28} {_check_value(check['value']):>12}  {_check_bounds(check)}" for check in self.checks
        ]
        head = f"{'check':<28} {'value':>12}  must be"
        return "\n".join([f"{self.rater} has passed its acceptance checks.", head, *lines])


def certify(config: CertifyConfig) -> CertifyResult:
    """Run the acceptance checks of a rater and store its acceptance report, whether it passes or not.

    Raises:
        CheckFailedError: A check failed; the message names each failed check with its bound.
    """
    return execute("certify", config, lambda stage_run: examine(config, stage_run), CertifyResult)


def examine(config: CertifyConfig, stage_run: StageRun) -> CertifyResult:
    """Read validation samples, run the checks on them and store the acceptance report."""
    engine = stage_run.engine
    rater = find_rater(engine, config.rater)
    if rater is None:
        raise ConfigError(f"There is no rater to check. Train a rater: {train_rater_command()}.")
    require_trained(rater)
    training = RaterTrainingConfig.from_stored(rater.config["training"])
    validation = find_dataset(engine, rater.config["validation"])
    rows = read_training_samples(engine, validation.dataset_id, max_samples=config.max_samples)
    if not rows:
        raise ConfigError(
            f"Dataset {validation.name!r} has no samples left. The acceptance checks of {rater.name} need them. Ingest it again."
        )
    images, captions, *_ = read_images(rows, training.resolution, stage_run.report, training.decode_version)
    hold_device(stage_run, is_on_cpu=True)
    twin = find_twin(
        engine,
        rater,
        lambda training: without_places(RaterTrainingConfig, current_names(RaterTrainingConfig, training)),
    )
    trained_on = find_dataset(engine, rater.config["dataset"])
    median_side = median_image_side(engine, trained_on.dataset_id)
    flagged = _read_flagged(engine, trained_on.dataset_id, training, stage_run.report)
    checks, failed = _examine((rater, twin), ((images, captions), flagged), median_side, stage_run.report)
    for warning in warnings_of({"checks": checks}):
        warn(f"{warning}.")
    record_acceptance_report(engine, rater, checks, is_certified=not failed, actor=current_actor())
    if failed:
        lines = "".join(f"\n  {line}" for line in failed)
        n_validation = len(rows) if len(rows) < config.max_samples else None
        raise CheckFailedError(
            f"Rater {rater.name} has not passed its acceptance checks:{lines}\n{_remedy(rater, training, n_validation)}"
        )
    dataset, of_twin = str(rater.config["dataset"]), twin.name if twin else None
    return CertifyResult(rater=rater.name, dataset=dataset, twin=of_twin, checks=checks)


def _remedy(rater: RaterRow, training: RaterTrainingConfig, n_validation: int | None) -> str:
    """Return what helps a rater that has failed: more steps do not if its training had stopped by itself.

    More patience is worth a try only once, and only if the held-out loss was falling again when the training stopped.
    """
    metrics, n_planned = rater.acceptance_report, training.proxy_warmup_steps + training.max_train_steps
    # A larger dataset is examined on a part of it.
    more = f"more validation samples{f' (it had {n_validation:,})' if n_validation is not None else ''}"
    if metrics.get("stopped_early"):
        advice = (
            f"Its training stopped after {metrics['n_steps']:,} of {n_planned:,} steps, because the held-out loss had not fallen since "
            f"step {metrics['best_step']:,}: a larger --max-train-steps changes nothing. Ingest {more}, or train with another "
            "--text-encoder or a larger --preset."
        )
        if training.early_stopping_patience <= DEFAULT_PATIENCE and _was_falling_again(metrics):
            patience = f"alchemist train-rater --early-stopping-patience {2 * training.early_stopping_patience}"
            advice += f" Its loss was falling again when it stopped, so waiting longer may help too: {patience}."
    else:
        advice = (
            f"Train longer: alchemist train-rater --max-train-steps {2 * training.max_train_steps}. Or ingest {more}."
        )
    return (
        f"{advice} To use it all the same: alchemist rater promote {rater.name} --without-acceptance 'REASON'. "
        "What each check means: alchemist docs runbook#rater-certify"
    )


DEFAULT_PATIENCE = RaterTrainingConfig.model_fields["early_stopping_patience"].default


def _was_falling_again(metrics: dict[str, Any]) -> bool:
    """Return whether the last held-out loss of a training is the lowest one since its best step."""
    history = metrics.get("history", ())
    losses = [row["held_out_loss"] for row in history if "held_out_loss" in row and row["step"] > metrics["best_step"]]
    return len(losses) > 1 and losses[-1] < min(losses[:-1])


N_FLAGGED = 1_000
"""Samples that are scored of each kind of flag."""
MIN_GOOD_FLAGS = 10
"""Fewer samples that are flagged good are not compared with; unflagged ones are."""


class Flagged(NamedTuple):
    """Images and captions of samples that people call bad, and of others."""

    bad: ReadSamples
    others: ReadSamples
    are_flagged_good: bool
    """Whether people call the others good; otherwise they are unflagged samples of the training dataset."""


def _read_flagged(
    engine: Engine, dataset_id: int, training: RaterTrainingConfig, on_progress: OnProgress
) -> Flagged | None:
    """Read the flagged samples, and unflagged ones if too few are flagged good; None if none is flagged bad."""
    bad = flagged_hashes(engine, WORST, n=N_FLAGGED)
    if not bad:
        return None
    good = sorted(set(flagged_hashes(engine, ["good"], n=N_FLAGGED)) - set(bad))
    are_flagged_good = len(good) >= MIN_GOOD_FLAGS
    bad_rows = read_first_locations(engine, hash_rows(bad))
    if are_flagged_good:
        other_rows = read_first_locations(engine, hash_rows(good))
    else:
        # Samples in the order of their hash are a random choice.
        drawn, flagged = read_training_samples(engine, dataset_id, max_samples=N_FLAGGED), {*bad, *good}
        kept = [at for at, pair_hash in enumerate(drawn.hashes("pair_hash")) if pair_hash.tobytes() not in flagged]
        other_rows = drawn.take(np.array(kept, np.int64))
    read = [
        read_images(rows, training.resolution, on_progress, training.decode_version) for rows in (bad_rows, other_rows)
    ]
    return Flagged(read[0], read[1], are_flagged_good) if all(one.captions for one in read) else None


def _examine(
    raters: tuple[RaterRow, RaterRow | None],
    samples: tuple[Any, Flagged | None],
    median_side: int | None,
    on_progress: OnProgress,
) -> tuple[list[dict[str, Any]], list[str]]:
    from alchemist_core.training.acceptance_report import (  # noqa: PLC0415  imports torch
        Judged,
        ReportingScorer,
        Training,
        certify,
        check_flags,
        check_resolution,
        failures,
    )
    from alchemist_core.training.samples import Samples  # noqa: PLC0415  as above
    from alchemist_core.training.scoring import Scorer  # noqa: PLC0415  as above

    (rater, _), (clean, flagged) = raters, samples
    scorers = [Scorer.load(require_artifact(row.checkpoint_uri, row.checkpoint_sha256)) for row in raters if row]
    training, limits = RaterTrainingConfig.from_stored(rater.config["training"]), load_project().acceptance
    facts, n_samples = Training(rater.acceptance_report, training.rule, training.group_size), len(clean[1])
    n_held_out = facts.count_held_out(n_samples)
    facts = facts._replace(n_held_out=n_held_out)
    checks = certify(
        ReportingScorer(scorers[0], n_samples, on_progress, n_held_out=n_held_out), Samples(*clean), facts,
        twin=scorers[1] if len(scorers) > 1 else None, tokenizer=scorers[0].tokenizer, limits=limits,
    )  # fmt: skip
    checks.append(check_resolution(training.resolution, rater.config["dataset"], median_side, limits))
    if flagged is not None:
        bad_N, others_N = (scorers[0].score(read.images, read.captions) for read in (flagged.bad, flagged.others))
        checks.append(check_flags(Judged(bad_N, others_N, flagged.are_flagged_good)))
    return [check.as_json() for check in checks], failures(checks)


def _check_value(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"


def _check_bounds(check: dict[str, Any]) -> str:
    bounds = (("≥", check["low"]), ("≤", check["high"]))
    text = " and ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)
    return text or ("anything" if check["warns_from"] is None else f"anything; warns from {check['warns_from']:g} on")


class PromoteConfig(Config):
    """Which rater to promote."""

    rater: str = Field("newest", description="Rater by name, or newest", json_schema_extra=BARE_WORD)
    without_acceptance: Annotated[str | None, Formerly("without_certificate")] = Field(
        None,
        min_length=3,
        description="Promote a rater that has not passed its acceptance checks, for this reason; stored in the audit log",
    )
    shadow: bool | None = Field(
        None,
        description="Make the rater a shadow rater: it scores every night beside the production rater; --no-shadow ends that",
    )
    approved_by: str | None = Field(None, max_length=200, description=APPROVED_BY)
    comment: str | None = Field(None, max_length=2000, description=COMMENT)
    approval: str | None = Field(None, max_length=200, description=APPROVAL)


class PromoteResult(Result):
    """The rater, and the one that it replaced."""

    rater: str
    was: str | None
    is_shadow: bool = False


def promote(config: PromoteConfig) -> PromoteResult:
    """Promote a rater to production; the current one is retired. The first rater needs no approval."""
    engine = open_store()
    rater, before = find_rater(engine, config.rater), find_rater(engine, "production")
    if rater is None:
        raise ConfigError(f"There is no rater to promote. Train a rater: {train_rater_command()}.")
    if config.shadow is not None:
        if rater.kind == "imported":
            raise ConfigError(f"{rater.name} holds imported scores; nothing computes them every night.")
        mark_shadow(engine, rater, is_shadow=config.shadow, actor=current_actor())
        if config.shadow:
            say(
                f"{rater.name} scores every night from now on. Score earlier nights too: alchemist score --rater {rater.name}."
            )
        return PromoteResult(rater=rater.name, was=before.name if before else None, is_shadow=config.shadow)
    require_trained(rater)
    if not rater.acceptance_report.get("is_certified") and config.without_acceptance is None:
        is_checked = "is_certified" in rater.acceptance_report
        first = "" if is_checked else f"Run them: alchemist rater certify {rater.name}. "
        raise CheckFailedError(
            f"Rater {rater.name} has {'failed' if is_checked else 'not passed'} its acceptance checks. {first}"
            f"To promote it all the same, give a reason: alchemist rater promote {rater.name} --without-acceptance 'REASON'."
        )
    for warning in warnings_of(rater.acceptance_report):
        warn(f"{warning}.")
    # As `plan promote` decides: train_rater does not ask about the first rater, nor about one that is in production already.
    is_asked = before is not None and before.rater_id != rater.rater_id
    question = config.approval if is_asked else None
    approved = approval(engine, config.approved_by, config.comment, of=rater.name, question=question)
    promote_rater(engine, rater, actor=current_actor(), reason=config.without_acceptance, approved=approved)
    return PromoteResult(rater=rater.name, was=before.name if before else None)


def _next_list(result: RaterListResult) -> str | None:
    """Return the command for the newest rater, unless it is in production or was retired; after a failure both ways on."""
    newest = result.raters[-1] if result.raters else None
    if newest is None or newest.state != "candidate":
        return None
    if newest.is_certified is False:
        promote = f"alchemist rater promote {newest.name} --without-acceptance 'REASON'"
        return f"train another one (alchemist rater certify {newest.name} says what may help), or {promote}"
    return f"alchemist rater {'promote' if newest.is_certified else 'certify'} {newest.name}"


def _next_promote(_config: PromoteConfig, result: PromoteResult) -> str:
    return f"alchemist score --rater {result.rater}" if result.is_shadow else "alchemist score"


COMMANDS = {
    "list": Command(RaterListConfig, list_, lambda _, result: _next_list(result)),
    "certify": Command(CertifyConfig, certify, lambda _, result: f"alchemist rater promote {result.rater}"),
    "promote": Command(PromoteConfig, promote, _next_promote),
}
