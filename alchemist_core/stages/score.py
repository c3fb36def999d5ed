"""Score every pair that the rater has not scored yet; every location of a shard ends scored or quarantined, exactly once."""

import time
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from alchemist_core.command import Command
from alchemist_core.config import Config, Report
from alchemist_core.data.artifacts import require_artifact
from alchemist_core.data.faults import Fault, Reason
from alchemist_core.data.images import BadImageError, decode_image
from alchemist_core.data.members import image_member
from alchemist_core.data.storage import join_uri, read_ranges, sha256_of
from alchemist_core.errors import DataError
from alchemist_core.settings import load_settings
from alchemist_core.stages.execution import StageRun, execute
from alchemist_core.stages.scope import scoring_scope
from alchemist_core.store import ledger
from alchemist_core.store.ledger import ClaimedShard, Provenance, ScoringScope
from alchemist_core.store.raters import RaterRow, find_rater
from alchemist_core.store.tables import AnyRow
from alchemist_core.telemetry import say

if TYPE_CHECKING:
    from alchemist_core.loops.scoring import Scorer

WAIT_S = 1.0
CHUNK_PAIRS = 2048


class ScoreConfig(Config):
    """What to score, and with which rater."""

    dataset: str | None = Field(None, description="Dataset to score; none: every registered training dataset")
    crawl_date: date | None = Field(
        None, description="Only shards of this crawl date (YYYY-MM-DD); none: all that are unscored"
    )
    rater: str = Field("production", description="Rater by name, or production, or newest")


class ScoreReport(Report):
    """What was scored."""

    rater: str | None
    n_shards: int = 0
    n_samples: int = 0
    n_scored: int = 0
    n_reused: int = 0
    n_quarantined: int = 0
    seconds: float = 0.0
    note: str | None = None


def run(config: ScoreConfig, *, slot: int = 0) -> ScoreReport:
    """Score what the rater has not scored yet; each slot claims shards until none is left."""
    return execute("score", config, lambda stage_run: score(config, stage_run), ScoreReport, slot=slot)


def score(config: ScoreConfig, stage_run: StageRun) -> ScoreReport:
    """Claim a shard, score it, commit it; until every shard in scope is in the ledger."""
    rater = find_rater(stage_run.engine, config.rater)
    if rater is None:
        say("no production rater: nothing scored")
        return ScoreReport(rater=None, note="no production rater: nothing scored")
    scope = scoring_scope(stage_run.engine, rater, dataset=config.dataset, crawl_date=config.crawl_date)
    n_shards, n_total = ledger.count_unscored(stage_run.engine, scope)
    if n_shards == 0:
        return ScoreReport(rater=rater.name, note="everything in scope was scored before")
    scoring = Scoring(rater, scope, stage_run, n_total)
    while (claimed := _next_shard(stage_run, scope)) is not None:
        scoring.score_shard(claimed)
    return scoring.report()


def _next_shard(stage_run: StageRun, scope: ScoringScope) -> ClaimedShard | None:
    """Claim the next shard; where only leased ones are left, wait for their holders to finish or to be declared dead."""
    ttl_s = load_settings().lease_ttl_s
    while True:
        claimed = ledger.claim_unscored_shard(stage_run.engine, scope, run_id=stage_run.run_id, ttl_s=ttl_s)
        if claimed is not None:
            return claimed
        if ledger.count_unscored(stage_run.engine, scope)[0] == 0:
            return None
        time.sleep(WAIT_S)


class Scoring:
    """One rater at work on a scope: the loaded scorer and the counts so far."""

    def __init__(self, rater: RaterRow, scope: ScoringScope, stage_run: StageRun, n_total: int) -> None:
        self.rater, self.scope, self.stage_run, self.n_total = rater, scope, stage_run, n_total
        self.scorer = _load_scorer(rater)
        self.provenance = Provenance(stage_run.run_id, self.scorer.device, self.scorer.dtype)
        self.counts = dict.fromkeys(("n_shards", "n_samples", "n_scored", "n_reused", "n_quarantined"), 0)
        self.began = time.monotonic()

    def score_shard(self, claimed: ClaimedShard) -> None:
        """Score one shard and commit it; where another slot scored one of its pairs meanwhile, that score is reused."""
        _require_unchanged(claimed.shard)
        counts = None
        while counts is None:
            rows = ledger.read_shard_pairs(self.stage_run.engine, claimed.shard.shard_id, self.scope.rater_id)
            scores, faults = self.score_rows(claimed.shard, rows)
            counts = ledger.commit_shard(
                self.stage_run.engine, claimed, self.scope, scores=scores, faults=faults, provenance=self.provenance
            )
        self.counts["n_shards"] += 1
        for name in ("n_samples", "n_scored", "n_reused", "n_quarantined"):
            self.counts[name] += getattr(counts, name)
        speed = self.counts["n_samples"] / (time.monotonic() - self.began)
        self.stage_run.report(
            self.counts["n_samples"], max(self.n_total, self.counts["n_samples"]), f"{speed:,.0f} pairs/s"
        )

    def score_rows(self, shard: AnyRow, rows: Sequence[AnyRow]) -> tuple[dict[int, float], list[Fault]]:
        """Return the new scores by sample, and the locations whose image or score is bad."""
        scores: dict[int, float] = {}
        faults: list[Fault] = []
        fresh = [row for row in rows if not row.is_scored]
        for start in range(0, len(fresh), CHUNK_PAIRS):
            chunk = fresh[start : start + CHUNK_PAIRS]
            self._score_chunk(join_uri(shard.root_uri, shard.uri), chunk, scores, faults)
        return scores, faults

    def _score_chunk(self, uri: str, rows: Sequence[AnyRow], scores: dict[int, float], faults: list[Fault]) -> None:
        images, good = [], []
        for row, data in zip(rows, read_ranges(uri, [image_member(row) for row in rows]), strict=True):
            try:
                images.append(decode_image(data, self.scorer.image_side))
                good.append(row)
            except BadImageError as error:
                faults.append(Fault(row.ordinal, row.key, error.reason, error.detail, is_transient=False))
        if not good:
            return
        score_B = self.scorer.score(np.stack(images), [row.caption for row in good])
        for row, value in zip(good, score_B.tolist(), strict=True):
            if np.isfinite(value):
                scores[row.sample_id] = value
            else:
                detail = f"rater {self.rater.name} gave {value}"
                faults.append(Fault(row.ordinal, row.key, Reason.SCORE_NOT_FINITE, detail, is_transient=False))

    def report(self) -> ScoreReport:
        """Return the counts as the stage's report."""
        return ScoreReport(rater=self.rater.name, seconds=round(time.monotonic() - self.began, 3), **self.counts)


def _load_scorer(rater: RaterRow) -> "Scorer":
    from alchemist_core.loops.scoring import Scorer  # noqa: PLC0415  torch is imported only when there is something to score

    return Scorer.load(require_artifact(rater.checkpoint_uri, rater.checkpoint_sha256))


def _require_unchanged(shard: AnyRow) -> None:
    uri = join_uri(shard.root_uri, shard.uri)
    if sha256_of(uri) != shard.sha256:
        raise DataError(
            f"Shard {uri} is not the tar that was registered (its sha256 differs). Scores belong to registered bytes: "
            "restore it, or put the new tar under a new name and ingest it."
        )


COMMANDS = {"": Command(ScoreConfig, run)}
