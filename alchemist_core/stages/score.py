"""Score every sample that the rater has not scored yet; each location of a shard is scored or quarantined exactly once."""

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
from alchemist_core.project import only_train_dataset, train_rater_command
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
"""Number of shards that an error names; it counts the others."""
UNREADABLE: dict[type[DataError], str] = {MissingShardError: "missing", ChangedShardError: "changed"}
PAIRS_A_WORKER = 1000
"""Decoding fewer samples takes less time than starting a worker process."""


class ScoreConfig(Config):
    """Samples to score, and the rater."""

    dataset: str | None = Field(None, description="Dataset to score; default: all registered training datasets")
    crawl_date: date | None = Field(
        None, description="Score only shards of this crawl date (YYYY-MM-DD); default: all unscored shards"
    )
    rater: str = Field(
        "production",
        description="Name of the rater, or production, newest, or nightly (the production rater and all shadow raters)",
    )
    heuristics: bool = Field(
        True, description="Also compute clarity, frequency and edge density of images that do not have them yet"
    )


class ScoreResult(Result):
    """Counts of shards and samples."""

    rater: str | None
    n_shards: int = 0
    n_samples: int = 0
    n_scored: int = 0
    n_reused: int = 0
    n_quarantined: int = 0
    seconds: float = 0.0
    note: str | None = None


def run(config: ScoreConfig, *, slot: int = 0) -> ScoreResult:
    """Score the unscored shards; each slot claims shards until none is left."""
    return execute("score", config, lambda stage_run: score(config, stage_run), ScoreResult, slot=own_slot(slot))


def own_slot(slot: int) -> int:
    """Return this process's slot: each process of torchrun or accelerate launch has a slot of its own."""
    return slot * int(os.environ.get("WORLD_SIZE", "1")) + int(os.environ.get("RANK", "0"))


def score(config: ScoreConfig, stage_run: StageRun) -> ScoreResult:
    """Score with the given rater, or with all nightly raters one after the other, the production rater first.

    Raises:
        DataError: Some shards could not be read; all others were scored.
    """
    raters = find_raters(stage_run.engine, config.rater)
    if not raters:
        say("No rater is in production, so nothing was scored.")
        return ScoreResult(rater=None, note="No rater is in production, so nothing was scored.")
    left: list[str] = []
    result = _together([_score_safely(config, rater, stage_run, left) for rater in raters])
    if left:
        say(f"Scored {result.n_shards:,} shards: {result.n_scored:,} locations, {result.n_quarantined:,} quarantined.")
        named = list(dict.fromkeys(left))
        more = [f"and {len(named) - MAX_NAMED:,} more: alchemist shard list"] if len(named) > MAX_NAMED else []
        raise DataError("\n".join([*named[:MAX_NAMED], *more, "Everything else was scored."]))
    return result


def _score_safely(config: ScoreConfig, rater: RaterRow, stage_run: StageRun, left: list[str]) -> ScoreResult:
    try:
        return score_with(config, rater, stage_run, left)
    except DataError as error:
        if not rater.is_shadow:
            raise
        # A shadow rater that cannot be loaded must not stop the night's other scores.
        warn(f"Shadow rater {rater.name} scored nothing: {error}")
        return ScoreResult(rater=rater.name, note=f"Shadow rater {rater.name} scored nothing: {error}")


def _together(results: list[ScoreResult]) -> ScoreResult:
    if len(results) == 1:
        return results[0]
    numbers = [name for name in ScoreResult.model_fields if name not in ("rater", "note")]
    sums = {name: sum(getattr(result, name) for result in results) for name in numbers}
    notes = "; ".join(f"{result.rater}: {result.note}" for result in results if result.note)
    return ScoreResult(rater=", ".join(str(result.rater) for result in results), note=notes or None, **sums)


def score_with(config: ScoreConfig, rater: RaterRow, stage_run: StageRun, left: list[str]) -> ScoreResult:
    """Score the unscored shards in scope with one rater, until each is stored or recorded as failed."""
    scope = scoring_scope(stage_run.engine, rater, dataset=config.dataset, crawl_date=config.crawl_date)
    if ledger.count_unscored(stage_run.engine, scope)[0] == 0:
        left += _describe_unreadable(scope, stage_run)
        return ScoreResult(rater=rater.name, note="Everything in scope was scored before.")
    scoring = Scoring(rater, scope, stage_run, has_heuristics=config.heuristics)
    with scoring.open_pipeline() as pipeline:
        while ledger.count_unscored(stage_run.engine, scoring.scope)[0]:
            n_before = scoring.n_ended
            pipeline.run(scoring.claim)
            if scoring.n_ended == n_before:
                # Other slots hold the remaining shards: they finish them, or their leases expire.
                time.sleep(WAIT_S)
    left += [*scoring.errors, *_describe_unreadable(scope, stage_run)]
    return scoring.result()


def _describe_unreadable(scope: ScoringScope, stage_run: StageRun) -> list[str]:
    """List the shards in scope that are unscored because they are missing or changed."""
    with stage_run.engine.connect() as connection:
        rows = unreadable_shards(connection, scope.dataset_ids, scope.crawl_date, rater_id=scope.rater_id)
    return [
        f"{row.dataset}: {row.uri} is {row.state} ({row.reason}). Restore its bytes and ingest again; "
        f"or alchemist shard reread {row.shard_id} --reason WHY; or alchemist shard retire {row.shard_id} --reason WHY"
        for row in rows
    ]


class Scoring:
    """Scores a scope with one rater: claims and commits shards, and counts them."""

    def __init__(self, rater: RaterRow, scope: ScoringScope, stage_run: StageRun, *, has_heuristics: bool) -> None:
        self.rater, self.scope, self.stage_run, self.has_heuristics = rater, scope, stage_run, has_heuristics
        self.n_total = ledger.count_unscored(stage_run.engine, scope)[1]
        # Errors of shards that could not be read and are not marked in the store.
        self.errors: list[str] = []
        # Shards are claimed in one thread and committed in another.
        self._lock = threading.Lock()
        self.counts = dict.fromkeys(("n_shards", "n_samples", "n_scored", "n_reused", "n_quarantined"), 0)
        self.began = time.monotonic()

    @contextmanager
    def open_pipeline(self) -> "Iterator[ScoringPipeline]":
        """Load the rater and start the decoding workers; they stop when the block ends."""
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
        """Number of shards that were scored or could not be read."""
        return self.counts["n_shards"] + len(self.scope.skipped_ids)

    def claim(self) -> "PendingShard | None":
        """Claim a shard and read its unscored samples; None if every shard is scored, unreadable, or held by another slot."""
        engine, run_id, ttl_s = self.stage_run.engine, self.stage_run.run_id, load_settings().lease_ttl_s
        while claimed := ledger.claim_unscored_shard(engine, self.scope, run_id=run_id, ttl_s=ttl_s):
            rows = ledger.read_unscored_pairs(engine, claimed.shard.shard_id, self.scope.rater_id)
            try:
                return self.pend(claimed, rows)
            except DataError as error:
                self.leave(claimed, error)
        return None

    def pend(self, claimed: ClaimedShard, rows: Sequence[UnscoredLocation]) -> "PendingShard":
        """Return a claimed shard with its unscored samples, for the pipeline."""
        from alchemist_core.training.scoring import PendingShard  # noqa: PLC0415  torch only when there is work

        return PendingShard(claimed, rows, has_heuristics=self.has_heuristics)

    def commit(self, shard: "PendingShard") -> None:
        """Store a complete shard, or record an unreadable one and continue with the others."""
        if shard.error is None:
            self.store(shard)
        else:
            self.leave(shard.claimed, shard.error)

    def leave(self, claimed: ClaimedShard, error: DataError) -> None:
        """Release an unreadable shard; mark a missing or changed one, so that it is not claimed again."""
        warn(f"Left unscored: {error}")
        is_reachable = not isinstance(error, UnreachableRootError) and has_files(claimed.shard.root_uri)
        state = next((name for kind, name in UNREADABLE.items() if is_reachable and isinstance(error, kind)), None)
        with self._lock:
            if not is_reachable:
                self._leave_dataset(claimed.shard, error)
            elif state is None:
                self.errors.append(str(error))
            # Record it before releasing it: otherwise this process would claim it again.
            self.scope = replace(self.scope, skipped_ids=(*self.scope.skipped_ids, claimed.shard.shard_id))
        reason = f"found by score at {utc_now():%Y-%m-%d %H:%M} UTC"
        ledger.give_up_shard(self.stage_run.engine, claimed, state=state, reason=reason)

    def _leave_dataset(self, shard: StoredShard, error: DataError) -> None:
        """Claim no more shards under an unreachable root; their states in the store stay unchanged."""
        if shard.dataset_id in self.scope.dataset_ids:
            self.errors.append(
                f"The root {shard.root_uri} is unreachable ({error}). Mount it, then run alchemist score again."
            )
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
        self.stage_run.report(done, max(self.n_total, done), f"{speed:,.0f} samples/s")

    def result(self) -> ScoreResult:
        """Return the counts as the stage's result."""
        return ScoreResult(rater=self.rater.name, seconds=round(time.monotonic() - self.began, 3), **self.counts)


def count_decode_workers(n_pairs: int) -> int:
    """Return how many worker processes decode: as configured, else one per core, or fewer if there are few samples."""
    if (n_set := load_settings().decode_workers) is not None:
        return n_set
    return min(n_own_cores(), n_pairs // PAIRS_A_WORKER)


def _next(config: ScoreConfig, result: ScoreResult) -> str | None:
    if result.rater is None:
        return train_rater_command()
    if not result.n_shards:
        return None
    dataset = config.dataset or only_train_dataset()
    which = f" --dataset {dataset}" if dataset else ""
    steps = f"alchemist night check-drift{which} and alchemist night publish{which}"
    return f"alchemist check --suite shards,samples,scores{which}, then {steps}"


COMMANDS = {"": Command(ScoreConfig, run, _next)}
