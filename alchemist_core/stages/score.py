"""Score every sample that a rater has not scored yet; each location of a shard is scored or quarantined exactly once.

Raters and scorers that read images of one side and decode share a pass: a shard is claimed for all of them, and each image is decoded
once.
"""

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING

from pydantic import Field

from alchemist_core.config import Command, Config, Result, counted, later_field
from alchemist_core.cores import n_own_cores
from alchemist_core.errors import (
    ChangedShardError,
    ConfigError,
    DataError,
    LeaseLostError,
    MissingShardError,
    UnreachableRootError,
)
from alchemist_core.files import require_artifact
from alchemist_core.project import load_project, only_train_dataset, train_rater_command
from alchemist_core.scorers.catalogue import find_scorer, scorer_names
from alchemist_core.scorers.registration import load_runner, needs_no_options, output_names, register
from alchemist_core.settings import load_settings
from alchemist_core.shards.decode_versions import UNPINNED, canvas_side
from alchemist_core.shards.storage import has_files, is_s3
from alchemist_core.stages.declared_scorers import find_declared, follows, register_declared, renew
from alchemist_core.stages.devices import hold_device
from alchemist_core.stages.execution import StageRun, execute
from alchemist_core.stages.scope import scoring_scope
from alchemist_core.store import ledger
from alchemist_core.store.ledger import ClaimedShard, Provenance, ScoringScope, ShardOutcome
from alchemist_core.store.raters import NIGHTLY, RaterRow, find_named, find_outputs, find_raters, list_scorers
from alchemist_core.store.registry import StoredShard, list_datasets, unreadable_shards
from alchemist_core.store.samples import read_metadata
from alchemist_core.store.tables import utc_now
from alchemist_core.telemetry import say, warn

if TYPE_CHECKING:
    from alchemist_core.training.scoring import BatchScorer, Claim, PendingShard, ScoringPipeline, Share

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
        description="Name of the rater or scorer, or production, newest, or nightly (the production rater, all shadow raters and all "
        "nightly scorers)",
    )
    scorer: str | None = later_field(
        None,
        description="Name of a scorer, which scores instead of a rater",
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
    """Score with the given rater or scorer, or with all nightly ones, the production rater first.

    Raises:
        DataError: Some shards could not be read, or a scorer failed; everything else was scored.
    """
    raters, notes = _named_raters(config, stage_run)
    if not raters:
        notes.insert(0, "No rater is in production, so nothing was scored.")
        say(notes[0])
        return ScoreResult(rater=None, note="; ".join(notes))
    _require_scorable(raters)
    left: list[str] = []
    result = _together(
        [part for group in _passes(raters) for part in _score_pass(config, group, stage_run, left)], notes
    )
    if left:
        say(
            f"Scored {counted(result.n_shards, 'shard')}: {counted(result.n_scored, 'location')}, {result.n_quarantined:,} quarantined."
        )
        named = list(dict.fromkeys(left))
        more = [f"and {len(named) - MAX_NAMED:,} more: alchemist shard list"] if len(named) > MAX_NAMED else []
        raise DataError("\n".join([*named[:MAX_NAMED], *more, "Everything else was scored."]))
    return result


def _named_raters(config: ScoreConfig, stage_run: StageRun) -> tuple[list[RaterRow], list[str]]:
    """Return the raters that score, after registering scorers as the project file declares them, and a note for each that could not be.

    Raises:
        ConfigError: There is no such rater or scorer, or its section of the project file is of another scorer than the registered one.
    """
    engine, declared = stage_run.engine, load_project().scorers
    if config.scorer is not None:
        if found := find_declared(engine, config.scorer, run_id=stage_run.run_id):
            return found, []
        if config.scorer in scorer_names() and needs_no_options(config.scorer):
            rows, _ = register(engine, config.scorer, config.scorer, {}, run_id=stage_run.run_id, is_shadow=False)
            return rows, []
        names = ", ".join(
            sorted({*declared, *(str(row.config["name"]) for row in list_scorers(engine) if row.kind == "scorer")})
        )
        raise ConfigError(
            f"There is no scorer {config.scorer!r} (scorers: {names or 'none'}). Critic, density ratio: alchemist scorer train. Another: "
            f"declare it in the project file under [scorers.{config.scorer}], or alchemist scorer register {config.scorer} --use …"
        )
    if config.rater == NIGHTLY:
        notes = _follow_project_file(stage_run)
        return find_raters(engine, NIGHTLY), notes
    return [renew(engine, rater, run_id=stage_run.run_id) for rater in find_raters(engine, config.rater)], []


def _follow_project_file(stage_run: StageRun) -> list[str]:
    """Register the nightly scorers of the project file, and apply sections that changed; one that fails is a note of the night."""
    engine, notes = stage_run.engine, list[str]()
    for name, section in load_project().scorers.items():
        rows = find_outputs(engine, name)
        if follows(rows, section) if rows else not section.nightly:
            continue
        try:
            register_declared(engine, name, run_id=stage_run.run_id)
        except Exception as error:  # noqa: BLE001  a scorer's code is not ours
            what = "does not follow the project file" if rows else "was not registered"
            notes.append(f"Scorer {name} {what}: {error}")
            warn(notes[-1])
    return notes


def _require_scorable(raters: Sequence[RaterRow]) -> None:
    for rater in raters:
        if rater.kind == "imported":
            raise ConfigError(
                f"{rater.name} holds imported scores; nothing computes them. Import more: alchemist import scores"
            )
        if rater.kind == "scorer" and rater.state == "retired":
            raise ConfigError(
                f"Scorer {rater.name} is retired: it scores nothing more. To use it again: alchemist scorer register {rater.config['name']}"
            )


def _passes(raters: Sequence[RaterRow]) -> list[list[RaterRow]]:
    """Group raters by the side and the decode of the images that they read, in the order of their first members.

    Each scorer that waits for a server has a pass of its own, after the others, which would wait for it.
    """
    if len(raters) == 1:
        return [list(raters)]
    groups: dict[tuple[tuple[int, int] | None, str | None], list[RaterRow]] = {}
    for rater in sorted(raters, key=lambda rater: _remote_name(rater) is not None):
        groups.setdefault((_decoded_size(rater), _remote_name(rater)), []).append(rater)
    return list(groups.values())


def _remote_name(rater: RaterRow) -> str | None:
    """Return the name of a scorer that waits for a server; None for others, and for one whose class is missing: its pass says so."""
    try:
        is_remote = rater.kind == "scorer" and find_scorer(rater.config["use"]).is_remote
    except ConfigError:
        return None
    return str(rater.config["name"]) if is_remote else None


def _decoded_size(rater: RaterRow) -> tuple[int, int] | None:
    """Return the side of the images that a rater reads, and the least side to which a JPEG is decoded for it; None if it reads none."""
    side = _image_side(rater)
    version = rater.config.get("training", {}).get("decode_version", UNPINNED)
    return None if side is None else (side, canvas_side(side, version))


def _image_side(rater: RaterRow) -> int | None:
    """Return the side that a rater reads, -1 for one whose checkpoint cannot be read: its pass says why."""
    if rater.kind == "scorer":
        side: int | None = rater.config["image_side"]
        return side
    from alchemist_core.training.scoring import read_image_side  # noqa: PLC0415  torch only when there is work

    try:
        return read_image_side(require_artifact(rater.checkpoint_uri, rater.checkpoint_sha256))
    except DataError:
        return -1


def _score_pass(config: ScoreConfig, raters: list[RaterRow], stage_run: StageRun, left: list[str]) -> list[ScoreResult]:
    """Score the unscored shards in scope with the raters of one pass, until each is stored or recorded as failed."""
    scope = scoring_scope(stage_run.engine, raters[0], dataset=config.dataset, crawl_date=config.crawl_date)
    waiting = [rater for rater in raters if ledger.count_unscored(stage_run.engine, scope.of(rater.rater_id))[0]]
    results = [
        ScoreResult(rater=rater.name, note="Everything in scope was scored before.")
        for rater in raters
        if rater not in waiting
    ]
    if waiting:
        scoring = Scoring(waiting, scope, stage_run, has_heuristics=config.heuristics)
        scoring.run(may_fail=config.rater == NIGHTLY)
        results.insert(0, scoring.result())
        left += scoring.errors
    left += [line for rater in raters for line in _describe_unreadable(scope.of(rater.rater_id), stage_run)]
    return results


def _together(results: list[ScoreResult], notes: list[str]) -> ScoreResult:
    if len(results) == 1 and not notes:
        return results[0]
    numbers = [name for name in ScoreResult.model_fields if name not in ("rater", "note")]
    sums = {name: sum(getattr(result, name) for result in results) for name in numbers}
    notes = [*notes, *(f"{result.rater}: {result.note}" for result in results if result.note)]
    names = ", ".join(str(result.rater) for result in results)
    return ScoreResult(rater=names, note="; ".join(notes) or None, **sums)


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
    """Scores a scope with the raters of one pass: claims and commits shards, and counts them.

    Args:
        raters: They read images of the same side and decode.
        scope: What to score; its rater is replaced by each of them.
        stage_run: The run.
        has_heuristics: Also compute the heuristics of images that have none.
    """

    def __init__(
        self, raters: Sequence[RaterRow], scope: ScoringScope, stage_run: StageRun, *, has_heuristics: bool
    ) -> None:
        self.raters, self.scope, self.stage_run, self.has_heuristics = list(raters), scope, stage_run, has_heuristics
        self.n_total = sum(ledger.count_unscored(stage_run.engine, scope.of(rater.rater_id))[1] for rater in raters)
        # Progress counts the passes before this one too, because it is divided by the time since the run began.
        self.n_before: int = stage_run.progress.get("done", 0)
        # Errors of shards that could not be read and are not marked in the store.
        self.errors: list[str] = []
        self.notes: list[str] = []
        # Shards are claimed in one thread and committed in another.
        self._lock = threading.Lock()
        self.counts = dict.fromkeys(("n_shards", "n_samples", "n_scored", "n_reused", "n_quarantined"), 0)
        self.began = time.monotonic()
        # The rater of each output of each scorer of the pass, how it scores, and why scorers stopped.
        self.columns: list[RaterRow] = []
        self.provenances: list[Provenance] = []
        self.failed: Mapping[int, DataError] = {}
        self.reads_metadata = False

    def run(self, *, may_fail: bool) -> None:
        """Score until nothing in scope is left that can be scored.

        Args:
            may_fail: Whether a failure of a shadow rater or a nightly scorer is a note: it must not stop the night's other scores.
        """
        with self.open_pipeline(may_fail=may_fail) as pipeline:
            while pipeline is not None and self._has_unscored():
                n_before = self.n_ended
                pipeline.run(self.claim)
                if self.n_ended == n_before:
                    # Other slots hold the remaining shards: they finish them, or their leases expire.
                    time.sleep(WAIT_S)
        for error in {id(error): error for error in self.failed.values()}.values():
            failed = [self.columns[column] for column in self.failed if self.failed[column] is error]
            is_spared = may_fail and all(row.is_shadow for row in failed)
            self._leave_out(", ".join(row.name for row in failed), error, may_fail=is_spared)

    def _has_unscored(self) -> bool:
        engine = self.stage_run.engine
        return any(ledger.count_unscored(engine, self.scope.of(rater.rater_id))[0] for _, rater in self._scoring())

    def _leave_out(self, name: str, error: Exception, *, may_fail: bool) -> None:
        if may_fail:
            warn(f"{name} scored nothing more: {error}")
            self.notes.append(f"{name} scored nothing more: {error}")
        else:
            self.errors.append(str(error))

    @contextmanager
    def open_pipeline(self, *, may_fail: bool = False) -> "Iterator[ScoringPipeline | None]":
        """Load the raters and start the decoding workers; they stop when the block ends. None if no rater could be loaded."""
        from alchemist_core.shards.decoding import open_decoders  # noqa: PLC0415  only when there is work: it loads the image libraries,
        from alchemist_core.training.scoring import ScoringPipeline  # noqa: PLC0415  and this one torch

        with ExitStack() as opened:
            scorers = self._load_all(opened, may_fail=may_fail)
            if not scorers:
                yield None
                return
            side = scorers[0].image_side
            decoders = (
                None
                if side is None
                else open_decoders(count_decode_workers(self.n_total), side, uses_s3=self._uses_s3())
            )
            names = [rater.name for rater in self.columns]
            spared = [at for at, rater in enumerate(self.columns) if may_fail and rater.is_shadow]
            pipeline = opened.enter_context(
                ScoringPipeline(scorers, decoders, self.commit, rater_names=names, may_fail=spared)
            )
            self.failed = pipeline.failed
            yield pipeline

    def _uses_s3(self) -> bool:
        datasets = list_datasets(self.stage_run.engine)
        return any(is_s3(dataset.root_uri) for dataset in datasets if dataset.dataset_id in self.scope.dataset_ids)

    def _load_all(self, opened: ExitStack, *, may_fail: bool) -> "list[BatchScorer]":
        """Load each rater, and each scorer once for all its outputs."""
        scorers: list[BatchScorer] = []
        for rater in list(self.raters):
            if rater in self.columns or rater not in self.raters:
                continue
            columns = self._outputs(rater)
            try:
                scorer = self._load(rater, columns, opened)
            except LeaseLostError:
                raise
            except Exception as error:
                self.raters = [other for other in self.raters if other not in columns]
                if not (may_fail and rater.is_shadow):
                    raise
                self._leave_out(", ".join(row.name for row in columns), error, may_fail=True)
                continue
            scorers.append(scorer)
            self.columns += columns
            self.provenances += [Provenance(self.stage_run.run_id, scorer.device, scorer.dtype)] * len(columns)
        return scorers

    def _outputs(self, rater: RaterRow) -> list[RaterRow]:
        """Return the rater, or all outputs of a scorer in their order: it computes all of them, whichever are stored."""
        if rater.kind != "scorer":
            return [rater]
        names = output_names(rater.config["name"], rater.config["outputs"])
        row_of = {row.name: row for row in find_named(self.stage_run.engine, names)}
        return [next((own for own in self.raters if own.name == name), row_of[name]) for name in names]

    def _load(self, rater: RaterRow, columns: list[RaterRow], opened: ExitStack) -> "BatchScorer":
        if rater.kind != "scorer" or find_scorer(rater.config["use"]).uses_device:
            hold_device(self.stage_run)
        if rater.kind == "scorer":
            runner = load_runner(columns, _device(rater))
            opened.callback(runner.scorer.close)
            self.reads_metadata |= runner.scorer.reads_metadata
            return runner
        from alchemist_core.training.launching import own_device  # noqa: PLC0415  torch only when there is work
        from alchemist_core.training.scoring import Scorer  # noqa: PLC0415

        return Scorer.load(require_artifact(rater.checkpoint_uri, rater.checkpoint_sha256), own_device())

    @property
    def n_ended(self) -> int:
        """Number of shards that were scored or could not be read, and of scorers that stopped."""
        return self.counts["n_shards"] + len(self.scope.skipped_ids) + len(self.failed)

    def _scoring(self) -> list[tuple[int, RaterRow]]:
        """Return the raters that score, with their columns; not those that have failed."""
        return [(at, rater) for at, rater in enumerate(self.columns) if rater in self.raters and at not in self.failed]

    def claim(self) -> "PendingShard | None":
        """Claim a shard and read its unscored samples; None if every shard is scored, unreadable, or held by another slot."""
        for column, rater in self._scoring():
            while claimed := self._claim_for(rater):
                claims = [self._pair(claimed, column, rater), *self._claim_beside(claimed, column)]
                try:
                    return self.pend(claims)
                except DataError as error:
                    self.leave([claim.claimed for claim in claims], error)
        return None

    def _claim_for(self, rater: RaterRow) -> ClaimedShard | None:
        run_id, ttl_s = self.stage_run.run_id, load_settings().lease_ttl_s
        scope = self.scope.of(rater.rater_id)
        return ledger.claim_unscored_shard(self.stage_run.engine, scope, run_id=run_id, ttl_s=ttl_s)

    def _claim_beside(self, claimed: ClaimedShard, first_column: int) -> "Iterator[Claim]":
        """Claim the shard for the other raters too."""
        engine, run_id, ttl_s = self.stage_run.engine, self.stage_run.run_id, load_settings().lease_ttl_s
        for column, rater in self._scoring():
            if column != first_column:
                own = ledger.claim_beside(engine, claimed, rater.rater_id, run_id=run_id, ttl_s=ttl_s)
                if own is not None:
                    yield self._pair(own, column, rater)

    def _pair(self, claimed: ClaimedShard, column: int, rater: RaterRow) -> "Claim":
        from alchemist_core.training.scoring import Claim  # noqa: PLC0415  torch only when there is work

        rows = ledger.read_unscored_pairs(self.stage_run.engine, claimed.shard.shard_id, rater.rater_id)
        return Claim(claimed, rows, column)

    def pend(self, claims: "Sequence[Claim]") -> "PendingShard":
        """Return a claimed shard with its unscored samples, for the pipeline."""
        from alchemist_core.training.scoring import PendingShard  # noqa: PLC0415  torch only when there is work

        shard = PendingShard(claims, has_heuristics=self.has_heuristics)
        if self.reads_metadata:
            said = read_metadata(self.stage_run.engine, shard.sample_id_N.tolist())
            shard.metadata = [said[sample_id] for sample_id in shard.sample_id_N.tolist()]
        return shard

    def commit(self, shard: "PendingShard") -> None:
        """Store a complete shard, or record an unreadable one and continue with the others."""
        if shard.error is not None:
            self.leave([share.claimed for share in shard.shares], shard.error)
            return
        for share in shard.shares:
            if share.error is not None:
                ledger.give_up_shard(self.stage_run.engine, share.claimed, state=None, reason=str(share.error))
        for share, outcome in shard.outcomes():
            self.store(share, self._with_embeddings(shard, share, outcome))

    def _with_embeddings(self, shard: "PendingShard", share: "Share", outcome: ShardOutcome) -> ShardOutcome:
        """Write the embeddings of a share, whose row commits with its scores. A kill in between leaves a file that no row names."""
        kept = share.embeddings(shard.sample_id_N)
        if kept is None:
            return outcome
        from alchemist_core.embeddings.files import file_uri, write_embeddings  # noqa: PLC0415  imports pyarrow

        lease, run_id = share.claimed.lease, self.stage_run.run_id
        name = f"{share.claimed.shard.shard_id}-{run_id}-{lease.fencing_token}"
        uri = file_uri(self.columns[share.column].rater_id, name)
        return replace(outcome, embeddings=write_embeddings(uri, *kept))

    def leave(self, claims: Sequence[ClaimedShard], error: DataError) -> None:
        """Release an unreadable shard; mark a missing or changed one, so that it is not claimed again."""
        warn(f"Left unscored: {error}")
        shard = claims[0].shard
        is_reachable = not isinstance(error, UnreachableRootError) and has_files(shard.root_uri)
        state = next((name for kind, name in UNREADABLE.items() if is_reachable and isinstance(error, kind)), None)
        with self._lock:
            if not is_reachable:
                self._leave_dataset(shard, error)
            elif state is None:
                self.errors.append(str(error))
            # Record it before releasing it: otherwise this process would claim it again.
            self.scope = replace(self.scope, skipped_ids=(*self.scope.skipped_ids, shard.shard_id))
        reason = f"found by score at {utc_now():%Y-%m-%d %H:%M} UTC"
        # Only the first release marks the shard.
        for claimed, marked in zip(claims, [state, *[None] * len(claims)], strict=False):
            ledger.give_up_shard(self.stage_run.engine, claimed, state=marked, reason=reason)

    def _leave_dataset(self, shard: StoredShard, error: DataError) -> None:
        """Claim no more shards under an unreachable root; their states in the store stay unchanged."""
        if shard.dataset_id in self.scope.dataset_ids:
            self.errors.append(
                f"The root {shard.root_uri} is unreachable ({error}). Mount it, then run alchemist score again."
            )
            others = tuple(other for other in self.scope.dataset_ids if other != shard.dataset_id)
            self.scope = replace(self.scope, dataset_ids=others)

    def store(self, share: "Share", outcome: ShardOutcome) -> None:
        """Store what one rater gave a shard, and count it."""
        scope = self.scope.of(self.columns[share.column].rater_id)
        provenance = self.provenances[share.column]
        counts = ledger.commit_shard(
            self.stage_run.engine, share.claimed, scope, outcome=outcome, provenance=provenance
        )
        self.counts["n_shards"] += 1
        for name in ("n_samples", "n_scored", "n_reused", "n_quarantined"):
            self.counts[name] += getattr(counts, name)
        done, speed = self.counts["n_samples"], self.counts["n_samples"] / (time.monotonic() - self.began)
        before, total = self.n_before, max(self.n_total, done)
        self.stage_run.report(before + done, before + total, f"{speed:,.0f} samples/s", before=before)

    def result(self) -> ScoreResult:
        """Return the counts as the stage's result."""
        names = ", ".join(rater.name for rater in self.raters) or None
        seconds = round(time.monotonic() - self.began, 3)
        return ScoreResult(rater=names, seconds=seconds, note="; ".join(self.notes) or None, **self.counts)


def _device(rater: RaterRow) -> str:
    """Return the device of a scorer's network; torch is imported only for one that has a network."""
    if not find_scorer(rater.config["use"]).uses_device:
        return "cpu"
    from alchemist_core.training.launching import own_device  # noqa: PLC0415  as above

    return str(own_device())


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
    checks = f"alchemist check --suite shards,samples,scores{which}"
    if not config.scorer:
        return f"{checks}, then alchemist night check-drift{which} and alchemist night publish{which}"
    # A night is published under each rater by itself; of several scores of a scorer, one is enough.
    name = result.rater.partition(",")[0]
    of = f"{which} --rater {name}"
    alone = f"{checks}, then alchemist night check-drift{of} and alchemist night publish{of}"
    return f"alchemist select --rank-by rater+{name}, with a rater in production; to publish nights under {name} alone: {alone}"


COMMANDS = {"": Command(ScoreConfig, run, _next)}
