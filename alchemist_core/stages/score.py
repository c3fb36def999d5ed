"""Score every pair that the rater has not scored yet; every location of a shard ends scored or quarantined, exactly once."""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING

from pydantic import Field

from alchemist_core.config import Command, Config, Result
from alchemist_core.errors import ChangedShardError, DataError, MissingShardError, UnreachableRootError
from alchemist_core.files import require_artifact
from alchemist_core.settings import load_settings
from alchemist_core.shards.decoding import open_decoders
from alchemist_core.shards.storage import has_files
from alchemist_core.shards.workers import n_own_cores
from alchemist_core.stages.devices import hold_device
from alchemist_core.stages.execution import StageRun, execute
from alchemist_core.stages.scope import scoring_scope
from alchemist_core.store import ledger
from alchemist_core.store.ledger import ClaimedShard, Provenance, ScoringScope, UnscoredLocation
from alchemist_core.store.raters import RaterRow, find_raters
from alchemist_core.store.registry import StoredShard, unreadable_shards
from alchemist_core.store.tables import utc_now
from alchemist_core.telemetry import say, warn

if TYPE_CHECKING:
    from alchemist_core.training.scoring import PendingShard, ScoringPipeline

WAIT_S = 1.0
MAX_NAMED = 20
"""Shards that an error names; it counts the rest."""
UNREADABLE: dict[type[DataError], str] = {MissingShardError: "missing", ChangedShardError: "changed"}
PAIRS_A_WORKER = 1000
"""Fewer than this are decoded sooner than a worker process starts."""


class ScoreConfig(Config):
    """What to score, and with which rater."""

    dataset: str | None = Field(None, description="Dataset to score; none: every registered training dataset")
    crawl_date: date | None = Field(
        None, description="Only shards of this crawl date (YYYY-MM-DD); none: all that are unscored"
    )
    rater: str = Field(
        "production", description="Rater by name, or production, newest, or nightly (production and every shadow)"
    )
    heuristics: bool = Field(
        True, description="Also measure clarity, frequency and edge density of pictures that were never measured"
    )


class ScoreResult(Result):
    """What was scored."""

    rater: str | None
    n_shards: int = 0
    n_samples: int = 0
    n_scored: int = 0
    n_reused: int = 0
    n_quarantined: int = 0
    seconds: float = 0.0
    note: str | None = None


def run(config: ScoreConfig, *, slot: int = 0) -> ScoreResult:
    """Score what the rater has not scored yet; each slot claims shards until none is left."""
    return execute("score", config, lambda stage_run: score(config, stage_run), ScoreResult, slot=own_slot(slot))


def own_slot(slot: int) -> int:
    """Return this process's slot: each rank that torchrun or accelerate started claims shards as a slot of its own."""
    return slot * int(os.environ.get("WORLD_SIZE", "1")) + int(os.environ.get("RANK", "0"))


def score(config: ScoreConfig, stage_run: StageRun) -> ScoreResult:
    """Score with the rater that is meant, or one after the other with all of the night's, production first.

    Raises:
        DataError: Some shards could not be read; all else was scored.
    """
    raters = find_raters(stage_run.engine, config.rater)
    if not raters:
        say("no production rater: nothing scored")
        return ScoreResult(rater=None, note="no production rater: nothing scored")
    left: list[str] = []
    result = _together([_score_safely(config, rater, stage_run, left) for rater in raters])
    if left:
        say(f"Scored {result.n_shards:,} shards: {result.n_scored:,} locations, {result.n_quarantined:,} quarantined.")
        named = list(dict.fromkeys(left))
        more = [f"and {len(named) - MAX_NAMED:,} more: alchemist shard list"] if len(named) > MAX_NAMED else []
        raise DataError("\n".join([*named[:MAX_NAMED], *more, "All else was scored."]))
    return result


def _score_safely(config: ScoreConfig, rater: RaterRow, stage_run: StageRun, left: list[str]) -> ScoreResult:
    try:
        return score_with(config, rater, stage_run, left)
    except DataError as error:
        if not rater.is_shadow:
            raise
        # A shadow that cannot be loaded costs the night nothing but its own scores.
        warn(f"shadow {rater.name} scored nothing: {error}")
        return ScoreResult(rater=rater.name, note=f"shadow {rater.name} scored nothing: {error}")


def _together(results: list[ScoreResult]) -> ScoreResult:
    if len(results) == 1:
        return results[0]
    numbers = [name for name in ScoreResult.model_fields if name not in ("rater", "note")]
    sums = {name: sum(getattr(result, name) for result in results) for name in numbers}
    notes = "; ".join(f"{result.rater}: {result.note}" for result in results if result.note)
    return ScoreResult(rater=", ".join(str(result.rater) for result in results), note=notes or None, **sums)


def score_with(config: ScoreConfig, rater: RaterRow, stage_run: StageRun, left: list[str]) -> ScoreResult:
    """Score the unscored shards in scope with one rater, until each is in the ledger or among those that are left."""
    scope = scoring_scope(stage_run.engine, rater, dataset=config.dataset, crawl_date=config.crawl_date)
    if ledger.count_unscored(stage_run.engine, scope)[0] == 0:
        left += _describe_unreadable(scope, stage_run)
        return ScoreResult(rater=rater.name, note="everything in scope was scored before")
    scoring = Scoring(rater, scope, stage_run, has_heuristics=config.heuristics)
    with scoring.open_pipeline() as pipeline:
        while ledger.count_unscored(stage_run.engine, scoring.scope)[0]:
            n_before = scoring.n_ended
            pipeline.run(scoring.claim)
            if scoring.n_ended == n_before:
                # Other slots hold what is left: they finish it, or their leases expire.
                time.sleep(WAIT_S)
    left += [*scoring.errors, *_describe_unreadable(scope, stage_run)]
    return scoring.result()


def _describe_unreadable(scope: ScoringScope, stage_run: StageRun) -> list[str]:
    """Name the shards in scope that are unscored because they are missing or have changed, whoever found that."""
    with stage_run.engine.connect() as connection:
        rows = unreadable_shards(connection, scope.dataset_ids, scope.crawl_date, rater_id=scope.rater_id)
    return [
        f"{row.dataset}: {row.uri} is {row.state} ({row.reason}). Restore its bytes and ingest; or alchemist shard reread {row.shard_id} "
        f"--reason WHY; or alchemist shard retire {row.shard_id} --reason WHY"
        for row in rows
    ]


class Scoring:
    """One rater at work on a scope: how a shard is claimed and committed, and the counts so far."""

    def __init__(self, rater: RaterRow, scope: ScoringScope, stage_run: StageRun, *, has_heuristics: bool) -> None:
        self.rater, self.scope, self.stage_run, self.has_heuristics = rater, scope, stage_run, has_heuristics
        self.n_total = ledger.count_unscored(stage_run.engine, scope)[1]
        # What could not be read and is not marked in the store, by its text.
        self.errors: list[str] = []
        # Shards are claimed in one thread and committed in another.
        self._lock = threading.Lock()
        self.counts = dict.fromkeys(("n_shards", "n_samples", "n_scored", "n_reused", "n_quarantined"), 0)
        self.began = time.monotonic()

    @contextmanager
    def open_pipeline(self) -> "Iterator[ScoringPipeline]":
        """Load the rater and start what decodes for it; all of it ends with the block."""
        hold_device(self.stage_run)
        from alchemist_core.training.launching import own_device  # noqa: PLC0415  torch only when there is work
        from alchemist_core.training.scoring import Scorer, ScoringPipeline  # noqa: PLC0415

        scorer = Scorer.load(require_artifact(self.rater.checkpoint_uri, self.rater.checkpoint_sha256), own_device())
        self.provenance = Provenance(self.stage_run.run_id, scorer.device, scorer.dtype)
        decoders = open_decoders(count_decode_workers(self.n_total), scorer.image_side)
        with ScoringPipeline(scorer, decoders, self.commit, rater_name=self.rater.name) as pipeline:
            yield pipeline

    @property
    def n_ended(self) -> int:
        """How many shards were scored, or left because they could not be read."""
        return self.counts["n_shards"] + len(self.scope.skipped_ids)

    def claim(self) -> "PendingShard | None":
        """Claim a shard and read its unscored pairs; none when every shard is scored, left, or held by another slot."""
        engine, run_id, ttl_s = self.stage_run.engine, self.stage_run.run_id, load_settings().lease_ttl_s
        while claimed := ledger.claim_unscored_shard(engine, self.scope, run_id=run_id, ttl_s=ttl_s):
            rows = ledger.read_unscored_pairs(engine, claimed.shard.shard_id, self.scope.rater_id)
            try:
                return self.pend(claimed, rows)
            except DataError as error:
                self.leave(claimed, error)
        return None

    def pend(self, claimed: ClaimedShard, rows: Sequence[UnscoredLocation]) -> "PendingShard":
        """Return a claimed shard with its unscored pairs, for the pipeline."""
        from alchemist_core.training.scoring import PendingShard  # noqa: PLC0415  torch only when there is work

        return PendingShard(claimed, rows, has_heuristics=self.has_heuristics)

    def commit(self, shard: "PendingShard") -> None:
        """Store a complete shard, or leave one that could not be read: no shard stops another."""
        if shard.error is None:
            self.store(shard)
        else:
            self.leave(shard.claimed, shard.error)

    def leave(self, claimed: ClaimedShard, error: DataError) -> None:
        """Give a shard back that cannot be read; one that is gone or has changed is marked so, and claimed by nobody any more."""
        warn(f"Left unscored: {error}")
        is_reachable = not isinstance(error, UnreachableRootError) and has_files(claimed.shard.root_uri)
        state = next((name for kind, name in UNREADABLE.items() if is_reachable and isinstance(error, kind)), None)
        with self._lock:
            if not is_reachable:
                self._leave_dataset(claimed.shard, error)
            elif state is None:
                self.errors.append(str(error))
            # Before it is given back, or this process would claim it again.
            self.scope = replace(self.scope, skipped_ids=(*self.scope.skipped_ids, claimed.shard.shard_id))
        reason = f"found by score at {utc_now():%Y-%m-%d %H:%M} UTC"
        ledger.give_up_shard(self.stage_run.engine, claimed, state=state, reason=reason)

    def _leave_dataset(self, shard: StoredShard, error: DataError) -> None:
        """Claim no more shards under a root that is away: nothing is known of them, so their states stay as they are."""
        if shard.dataset_id in self.scope.dataset_ids:
            self.errors.append(f"The root {shard.root_uri} is unreachable ({error}). Mount it, then score again.")
            others = tuple(other for other in self.scope.dataset_ids if other != shard.dataset_id)
            self.scope = replace(self.scope, dataset_ids=others)

    def store(self, shard: "PendingShard") -> None:
        """Store a complete shard and count it."""
        counts = ledger.commit_shard(
            self.stage_run.engine, shard.claimed, self.scope, outcome=shard.outcome(), provenance=self.provenance
        )
        self.counts["n_shards"] += 1
        for name in ("n_samples", "n_scored", "n_reused", "n_quarantined"):
            self.counts[name] += getattr(counts, name)
        done, speed = self.counts["n_samples"], self.counts["n_samples"] / (time.monotonic() - self.began)
        self.stage_run.report(done, max(self.n_total, done), f"{speed:,.0f} pairs/s")

    def result(self) -> ScoreResult:
        """Return the counts as the stage's result."""
        return ScoreResult(rater=self.rater.name, seconds=round(time.monotonic() - self.began, 3), **self.counts)


def count_decode_workers(n_pairs: int) -> int:
    """Return how many worker processes decode: as set, else one a core, and fewer where starting them would not pay."""
    if (n_set := load_settings().decode_workers) is not None:
        return n_set
    return min(n_own_cores(), n_pairs // PAIRS_A_WORKER)


def _next(config: ScoreConfig, result: ScoreResult) -> str | None:
    if result.rater is None:
        return "alchemist train-rater --dataset NAME --validation NAME"
    if not result.n_shards:
        return None
    which = f" --dataset {config.dataset}" if config.dataset else ""
    return f"alchemist check --suite scores{which}, then alchemist night check-drift{which} and alchemist night publish{which}"


COMMANDS = {"": Command(ScoreConfig, run, _next)}
