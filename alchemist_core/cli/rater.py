"""Examine a rater and store its health certificate; only a certified rater is promoted.

What it must show, the project file says: `[acceptance]`.
"""

from typing import Any

from pydantic import Field

from alchemist_core.config import BARE_WORD, Command, Config, Report, current_names
from alchemist_core.errors import CheckFailedError, ConfigError
from alchemist_core.files import require_artifact
from alchemist_core.project import load_project
from alchemist_core.stages.devices import hold_device
from alchemist_core.stages.execution import StageRun, execute
from alchemist_core.store.audit import APPROVED_BY, COMMENT, approval, current_actor
from alchemist_core.store.engine import open_store
from alchemist_core.store.raters import RaterRow, find_rater, find_twin, mark_shadow, promote_rater, record_certificate
from alchemist_core.store.registry import find_dataset
from alchemist_core.store.samples import read_training_samples
from alchemist_core.telemetry import say
from alchemist_core.training.config import RaterTrainingConfig
from alchemist_core.training.sample_reading import read_images


class CertifyConfig(Config):
    """Which rater, on how much."""

    rater: str = Field("newest", description="Rater by name, or newest, or production", json_schema_extra=BARE_WORD)
    max_pairs: int = Field(1024, ge=64, le=100_000, description="At most this many clean pairs, first by hash")


class CertifyReport(Report):
    """The certificate."""

    rater: str
    twin: str | None
    # As the certificate stores them: name, value, bounds (a bound of None is open).
    checks: list[dict[str, Any]]

    def summary(self) -> str:
        """Return a line a check, beside its bounds."""
        lines = [
            f"{check['name']:<28} {_check_value(check['value']):>12}  {_check_bounds(check)}" for check in self.checks
        ]
        head = f"{'check':<28} {'value':>12}  must be"
        return "\n".join([f"{self.rater} is certified", head, *lines])


def certify(config: CertifyConfig) -> CertifyReport:
    """Examine a rater on clean pairs and on plants; the certificate is stored whether it passes or not.

    Raises:
        CheckFailedError: A check failed; the text names each with its bound.
    """
    return execute("certify", config, lambda stage_run: examine(config, stage_run), CertifyReport)


def examine(config: CertifyConfig, stage_run: StageRun) -> CertifyReport:
    """Read the clean pairs, examine the rater on them, store the certificate."""
    engine = stage_run.engine
    rater = find_rater(engine, config.rater)
    if rater is None:
        raise ConfigError(
            "There is no rater to certify. Train one: alchemist train-rater --dataset NAME --validation NAME."
        )
    training = RaterTrainingConfig.from_stored(rater.config["training"])
    validation = find_dataset(engine, rater.config["validation"])
    rows = read_training_samples(engine, validation.dataset_id, max_pairs=config.max_pairs)
    if not rows:
        raise ConfigError(f"Dataset {validation.name!r} has no pairs any more: nothing to certify {rater.name} on.")
    images, captions, *_ = read_images(rows, training.resolution, stage_run.report)
    hold_device(stage_run, is_on_cpu=True)
    twin = find_twin(engine, rater, lambda training: current_names(RaterTrainingConfig, training))
    checks, failed = _examine(rater, twin, training, (images, captions))
    record_certificate(engine, rater, checks, is_certified=not failed, actor=current_actor())
    if failed:
        lines = "".join(f"\n  {line}" for line in failed)
        raise CheckFailedError(
            f"Rater {rater.name} is not certified:{lines}\n"
            "Train longer (--n-steps) or with more validation pairs; the runbook's heading certify says what else helps."
        )
    return CertifyReport(rater=rater.name, twin=twin.name if twin else None, checks=checks)


def _examine(
    rater: RaterRow, twin: RaterRow | None, training: RaterTrainingConfig, clean: Any
) -> tuple[list[dict[str, Any]], list[str]]:
    from alchemist_core.training.acceptance_report import Training, certify, failures  # noqa: PLC0415  torch is imported only when there is a rater
    from alchemist_core.training.samples import Samples  # noqa: PLC0415  as above
    from alchemist_core.training.scoring import Scorer  # noqa: PLC0415  as above

    scorers = [Scorer.load(require_artifact(row.checkpoint_uri, row.checkpoint_sha256)) for row in (rater, twin) if row]
    checks = certify(
        scorers[0], Samples(*clean), Training(rater.acceptance_report, training.rule, training.group_size),
        twin=scorers[1] if twin else None, tokenizer=scorers[0].tokenizer, limits=load_project().acceptance,
    )  # fmt: skip
    return [check.as_json() for check in checks], failures(checks)


def _check_value(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"


def _check_bounds(check: dict[str, Any]) -> str:
    bounds = (("≥", check["low"]), ("≤", check["high"]))
    return " and ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None) or "anything"


class PromoteConfig(Config):
    """Which rater."""

    rater: str = Field("newest", description="Rater by name, or newest", json_schema_extra=BARE_WORD)
    without_certificate: str | None = Field(
        None, min_length=3, description="Why a rater that is not certified goes into production; kept in the audit log"
    )
    shadow: bool | None = Field(
        None,
        description="Leave production as it is; the candidate scores every night beside it (--no-shadow: no longer)",
    )
    approved_by: str | None = Field(None, max_length=200, description=APPROVED_BY)
    comment: str | None = Field(None, max_length=2000, description=COMMENT)


class PromoteReport(Report):
    """The change."""

    rater: str
    was: str | None
    is_shadow: bool = False


def promote(config: PromoteConfig) -> PromoteReport:
    """Promote a rater; the one in production retires."""
    engine = open_store()
    rater, before = find_rater(engine, config.rater), find_rater(engine, "production")
    if rater is None:
        raise ConfigError(
            "There is no rater to promote. Train one: alchemist train-rater --dataset NAME --validation NAME."
        )
    if config.shadow is not None:
        mark_shadow(engine, rater, is_shadow=config.shadow, actor=current_actor())
        if config.shadow:
            say(
                "It scores every night from now on; the pool before it only when it is asked to (alchemist plan score estimates it)."
            )
        return PromoteReport(rater=rater.name, was=before.name if before else None, is_shadow=config.shadow)
    if not rater.acceptance_report.get("is_certified") and config.without_certificate is None:
        raise CheckFailedError(
            f"Rater {rater.name} is not certified. Run alchemist rater certify {rater.name}, or give the reason: "
            "alchemist rater promote --without-certificate 'REASON'."
        )
    if before is None:
        say("The store had no rater in production: the first one is promoted without approval.")
    said = approval(config.approved_by, config.comment)
    promote_rater(engine, rater, actor=current_actor(), reason=config.without_certificate, said=said)
    return PromoteReport(rater=rater.name, was=before.name if before else None)


def _next_promote(_config: PromoteConfig, report: PromoteReport) -> str:
    return f"alchemist score --rater {report.rater}" if report.is_shadow else "alchemist score"


COMMANDS = {
    "certify": Command(CertifyConfig, certify, lambda _, report: f"alchemist rater promote {report.rater}"),
    "promote": Command(PromoteConfig, promote, _next_promote),
}
