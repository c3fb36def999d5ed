"""Try again what a rater could not score, by reason: what succeeds moves from set aside to scored in one transaction a shard."""

from typing import TYPE_CHECKING

from pydantic import Field

from alchemist_core.config import Command, Config, Report
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.settings import load_settings
from alchemist_core.stages.execution import StageRun, execute
from alchemist_core.stages.scope import scoring_scope
from alchemist_core.stages.score import Scoring
from alchemist_core.store import ledger
from alchemist_core.store.ledger import TRANSIENT, Retry
from alchemist_core.store.raters import RaterRow, find_rater
from alchemist_core.telemetry import say

if TYPE_CHECKING:
    from alchemist_core.training.scoring_pipeline import PendingShard


class RetryQuarantineConfig(Config):
    """What to try again."""

    reason: str = Field(
        TRANSIENT, min_length=1, description="Reason code, or transient for all that may have passed by itself"
    )
    dataset: str | None = Field(None, description="Dataset; none: every registered training dataset")
    rater: str = Field("production", description="Rater by name, or production, or newest")


class RetryQuarantineReport(Report):
    """What became of it."""

    rater: str | None
    n_shards: int = 0
    n_tried: int = 0
    n_scored: int = 0
    n_still_quarantined: int = 0
    note: str | None = None


def run(config: RetryQuarantineConfig) -> RetryQuarantineReport:
    """Put back, score and count anew; killed anywhere, a shard is as it was or done."""
    return execute(
        "retry_quarantine", config, lambda stage_run: retry_quarantine(config, stage_run), RetryQuarantineReport
    )


def retry_quarantine(config: RetryQuarantineConfig, stage_run: StageRun) -> RetryQuarantineReport:
    """Try the locations of every shard that has some, by the way on which they were scored the first time."""
    rater = find_rater(stage_run.engine, config.rater)
    if rater is None:
        say("no production rater: nothing was set aside")
        return RetryQuarantineReport(rater=None, note="no production rater: nothing was set aside")
    retrying = Retrying(config, rater, stage_run)
    if retrying.n_total == 0:
        return RetryQuarantineReport(rater=rater.name, note=retrying.refusal())
    with retrying.open_pipeline() as pipeline:
        pipeline.run(retrying.claim)
    return retrying.outcome()


class Retrying(Scoring):
    """Scoring of what was set aside: claims and commits are those of retries, all between is the same."""

    def __init__(self, config: RetryQuarantineConfig, rater: RaterRow, stage_run: StageRun) -> None:
        scope = scoring_scope(stage_run.engine, rater, dataset=config.dataset, crawl_date=None)
        super().__init__(rater, scope, stage_run, has_heuristics=True)
        self.reason = config.reason
        found = ledger.find_retryable(stage_run.engine, scope, config.reason)
        self.n_total, self._waiting = sum(found.values()), list(found)
        self._retries: dict[int, Retry] = {}
        self._n_held = 0

    def claim(self) -> "PendingShard | None":
        """Claim the next shard that nobody holds."""
        from alchemist_core.training.scoring_pipeline import PendingShard  # noqa: PLC0415  as scoring does

        engine, run_id, ttl_s = self.stage_run.engine, self.stage_run.run_id, load_settings().lease_ttl_s
        while self._waiting:
            shard_id = self._waiting.pop(0)
            retry = ledger.claim_retry(engine, self.scope, shard_id, reason=self.reason, run_id=run_id, ttl_s=ttl_s)
            if retry is not None:
                self._retries[shard_id] = retry
                return PendingShard(retry.claimed, retry.rows, has_heuristics=self.has_heuristics)
            self._n_held += 1
        return None

    def store(self, shard: "PendingShard") -> None:
        """Store what a shard's locations came to."""
        retry, outcome = self._retries.pop(shard.claimed.shard.shard_id), shard.outcome()
        ledger.commit_retry(self.stage_run.engine, retry, self.scope, outcome=outcome, provenance=self.provenance)
        n_bad = len(outcome.faults)
        self.counts["n_shards"] += 1
        self.counts["n_samples"] += len(retry.ordinals)
        self.counts["n_quarantined"] += n_bad
        self.counts["n_scored"] += len(retry.ordinals) - n_bad
        self.stage_run.report(self.counts["n_samples"], self.n_total)

    def outcome(self) -> RetryQuarantineReport:
        """Return the counts.

        Raises:
            DataError: Some shards could not be read; all others were tried.
        """
        if n_unread := len(self.scope.skipped_ids):
            raise DataError(
                f"{n_unread:,} shards could not be read and stay as they are; {self.counts['n_shards']:,} were tried again. "
                "alchemist shard list shows which are missing or have changed."
            )
        held = f"{self._n_held} shards are held by another run: try again later" if self._n_held else None
        return RetryQuarantineReport(
            rater=self.rater.name, n_shards=self.counts["n_shards"], n_tried=self.counts["n_samples"],
            n_scored=self.counts["n_scored"], n_still_quarantined=self.counts["n_quarantined"], note=held,
        )  # fmt: skip

    def refusal(self) -> str:
        """Say that nothing is to be tried; a reason that nothing was ever set aside for is a mistake.

        Raises:
            ConfigError: If the reason is unknown; the text lists those that exist.
        """
        engine, rater_id = self.stage_run.engine, self.rater.rater_id
        if n_of_ingest := ledger.count_at_ingest(engine, self.scope, self.reason):
            return (
                f"{n_of_ingest:,} locations were quarantined by ingest as {self.reason}, which no rater has seen: ingest reads a shard "
                "again when its bytes have changed. To read one again now: alchemist shard reread SHARD --reason WHY"
            )
        known = ledger.known_reasons(engine, rater_id)
        if self.reason != TRANSIENT and self.reason not in known:
            raise ConfigError(
                f"--reason {self.reason}: {self.rater.name} has quarantined nothing for it (its reasons: {', '.join(known) or 'none'})."
            )
        return f"nothing is quarantined as {self.reason}"


COMMANDS = {"": Command(RetryQuarantineConfig, run)}
