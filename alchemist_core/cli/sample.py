"""Samples: explain why one was selected, flag them, take an image down, and retry quarantined samples."""

import shlex
from collections.abc import Collection
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field
from sqlalchemy import Engine

from alchemist_core.cli.effective import declared_names
from alchemist_core.cli.subset import PublishSubsetConfig, publish
from alchemist_core.config import BARE_WORD, Command, Config, Result, counted, lay_out
from alchemist_core.errors import AlchemistError, ConfigError, DataError
from alchemist_core.files import FEATURE_CACHE, artifact_path, clear_block_cache, remove_reports
from alchemist_core.scorers.vlm import forget_answers
from alchemist_core.selection.config import SelectionPolicy, asked_options
from alchemist_core.selection.differences import locate
from alchemist_core.selection.exclusions import EXCLUSIONS
from alchemist_core.selection.fusion import signals_of
from alchemist_core.settings import load_settings
from alchemist_core.shards.pictures import own_cache
from alchemist_core.stages.declared_scorers import renew
from alchemist_core.stages.execution import StageRun, execute
from alchemist_core.stages.scope import scoring_scope
from alchemist_core.stages.score import Scoring
from alchemist_core.stages.select import SelectConfig
from alchemist_core.stages.select import run as select
from alchemist_core.store import ledger
from alchemist_core.store.audit import current_actor
from alchemist_core.store.engine import open_store
from alchemist_core.store.flags import LABELS, MOST_COMMENT, PREFIX, as_label, list_flagged, set_flags
from alchemist_core.store.ledger import TRANSIENT, Retry, ShardOutcome
from alchemist_core.store.manifests import hash_rows
from alchemist_core.store.raters import RaterRow, find_rater, rater_option
from alchemist_core.store.samples import (
    FoundSample,
    find_images,
    find_near_duplicates,
    find_possible_models,
    find_reach,
    find_sample,
    find_validation_models,
    reason_of_takedown,
    take_down,
    why_not_eligible,
)
from alchemist_core.store.subsets import VERSION_TEXT, SubsetRow, choose_version, published_version, rater_of_subset
from alchemist_core.subsets.materialized import display_address
from alchemist_core.subsets.selected import Selected, reselect
from alchemist_core.telemetry import say
from alchemist_core.training.feature_cache import forget

if TYPE_CHECKING:
    from alchemist_core.training.scoring import PendingShard, Share


# Keys: reasons of the query why_not_eligible. `places` are nights, or datasets if the sample is in no night.
OUTSIDE = {
    "taken down": "its image was taken down ({detail}) before this version was selected",
    "held": (
        "its night is held ({detail}): {places}. Inspect it, then run alchemist night release --dataset NAME --crawl-date "
        "DATE{of_rater} --reason WHY, and select again"
    ),
    "rejected": "its night was rejected ({detail}): {places}. If that was wrong, release it: alchemist night release{of_rater}",
    "night not decided": (
        "its night is not published: {places}. Run alchemist check --suite scores and alchemist night publish{of_rater}, and select again"
    ),
    "new pair": "its night was published after this version was selected: {places}. Select again to include it",
    "held out": "it belongs to {places}: only samples of training datasets are selected",
    "other dataset": "it belongs to {places}, from which this version was not selected. Name both datasets: alchemist select --dataset A,B",
    "retired": (
        "every shard with it was retired or replaced before this version was selected ({detail}). To use a retired one again: "
        "alchemist shard reread SHARD --reason WHY"
    ),
    "no score": (
        "it had no score {detail}, by which this version ranks. Add the score (alchemist score, alchemist import scores), and select again"
    ),
    "quarantined": "it is quarantined ({detail}). Retry it: alchemist sample retry-quarantine",
    "not scored": "the rater has not scored it: {places}. Score, check and publish its night, and select again",
    "eligible": "it is eligible now, but was not when this version was selected: a takedown, a shard or a score was changed by hand",
}
EXCLUDED = {
    "duplicate": "another sample of its group of duplicates is kept (--dedup, --dedup-keep)",
    "rejected": "its score is lower than the lowest one that the selection accepts (--min-score, --accept auto, --retention auto)",
    "semantic_duplicate": "its embedding is similar to that of a sample that is kept (--dedup semantic)",
    "contaminated": "its image, or a near-duplicate of it, is in a dataset of --decontaminate",
    "predicate": "the condition --where excludes it",
    "cap": "samples with larger keys fill the share of its dataset, source or cluster that --max-share allows",
}


class ExplainConfig(Config):
    """Which sample, in which version."""

    sample: str = Field(
        ...,
        min_length=1,
        description="Sample: DATASET/SHARD/KEY, 8 or more digits of its hash, or its sample id, also as id:N",
        json_schema_extra=BARE_WORD,
    )
    subset: str = Field(..., description="Name of the subset")
    version: int | None = Field(None, ge=1, description=VERSION_TEXT)


class ExplainResult(Result):
    """Whether the sample is in the version, and why; rank and key are none if it was not eligible."""

    pair: str
    sample_id: int
    caption: str
    subset: str
    is_member: bool
    reason: str
    because: str
    rank: float | None = None
    key: float | None = None
    threshold: float | None = None
    # Rank by each score that the selection fuses (--rank-by A+B); empty if it fuses none.
    signal_ranks: dict[str, float] = Field(default_factory=dict)

    def summary(self) -> str:
        """Return two lines: the sample, and the reason."""
        verdict = "in" if self.is_member else "not in"
        return f"Sample {self.pair[:16]} (id {self.sample_id}), {self.caption[:80]!r}\n{verdict} {self.subset}: {self.because}."


def explain(config: ExplainConfig) -> ExplainResult:
    """Explain why a sample is in a subset version or not: its rank, its key and the threshold, or what excludes it."""
    engine = open_store()
    subset = choose_version(engine, config.subset, version=config.version, may_be_withdrawn=True)
    pair = find_sample(engine, config.sample)
    drawn = reselect(engine, subset)
    place = int(locate(drawn.snapshot.pairs.pair_hash_N32, hash_rows([bytes(pair.pair_hash)]))[0])
    fields = _outside(engine, subset, pair, drawn.snapshot.rater) if place < 0 else _inside(drawn, place)
    if fields["is_member"] and (reason := reason_of_takedown(engine, pair.sample_id)) is not None:
        fields["because"] = f"{fields['because']}; its image was taken down later ({reason}), so readers skip it"
    return ExplainResult(
        pair=bytes(pair.pair_hash).hex(), sample_id=pair.sample_id, caption=pair.caption, subset=subset.title, **fields
    )


def _outside(engine: Engine, subset: SubsetRow, pair: FoundSample, rater: RaterRow) -> dict[str, object]:
    (row,) = why_not_eligible(engine, subset.snapshot_id, hash_rows([bytes(pair.pair_hash)]))
    because = OUTSIDE[row.reason].format(
        detail=row.detail or "no reason given",
        places=", ".join(row.places),
        of_rater=rater_option(rater.name, rater.state),
    )
    return {"is_member": False, "reason": row.reason, "because": because}


def _inside(drawn: Selected, place: int) -> dict[str, object]:
    rank, key = float(drawn.snapshot.rank_N[place]), float(drawn.final_key_N[place])
    is_member = bool(drawn.is_member_N[place])
    threshold, among = _threshold(drawn, place)
    fields: dict[str, object] = {
        "is_member": is_member, "rank": rank, "key": key if key > -np.inf else None, "threshold": threshold,
    }  # fmt: skip
    signals = _signal_ranks(drawn, place)
    said = f"rank {rank:.4f}" + (
        f" ({', '.join(f'{name} {value:.4f}' for name, value in signals.items())})" if signals else ""
    )
    fields["signal_ranks"] = signals
    if excluded := EXCLUSIONS.get(int(drawn.excluded_N[place])):
        return fields | {"reason": excluded, "because": f"{said}; {EXCLUDED[excluded]}"}
    if key == -np.inf:
        because = f"{said}, from which strategy {drawn.strategy.name} selects no sample ({drawn.strategy})"
        return fields | {"reason": "rank", "because": because}
    if threshold is None:
        because = (
            f"{said}; key {key:.4f}, but its {drawn.policy.stratify_by} has too few eligible samples for a member at retention "
            f"{drawn.policy.retention:g} (--stratify)"
        )
        return fields | {"reason": "stratum", "because": because}
    compared = f"key {key:.4f} {'reaches' if is_member else 'is below'} {threshold:.4f}, the smallest of {among}"
    return fields | {"reason": "key", "because": f"{said}; {compared}"}


def _signal_ranks(drawn: Selected, place: int) -> dict[str, float]:
    """Return the sample's rank by each score that the selection fuses; empty if it fuses none."""
    if (signal_N := drawn.snapshot.pairs.signal_N) is None:
        return {}
    return dict(zip(signals_of(drawn.policy.rank_by), signal_N[place].tolist(), strict=True))


def _threshold(drawn: Selected, place: int) -> tuple[float | None, str]:
    """Return the smallest key of the members that the sample competes with, and who these are; None if its stratum has no member."""
    if drawn.group_N is not None:
        if (found := drawn.thresholds.get(int(drawn.group_N[place]))) is not None:
            return found, "the members of its dataset, source or cluster"
        if drawn.policy.stratify:
            return None, ""
    return drawn.threshold, f"{len(drawn.member_K):,} members"


class FlagConfig(Config):
    """Which samples to flag, and as what."""

    sample: tuple[str, ...] = Field(
        ...,
        min_length=1,
        max_length=1_000,
        description="Samples, separated by spaces: DATASET/SHARD/KEY, 8 or more digits of the hash, or the sample id",
        json_schema_extra=BARE_WORD,
    )
    as_: str = Field(
        ...,
        min_length=1,
        description=f"{', '.join(LABELS)}, or a word of your own: letters, digits and underscores",
    )
    comment: str | None = Field(None, max_length=MOST_COMMENT, description="Comment; stored with the flag")
    undo: bool = Field(False, description="Undo the flag, whoever set it; its history is kept")


class FlagResult(Result):
    """What became of the samples."""

    label: str
    is_set: bool
    n_changed: int
    n_same: int

    def summary(self) -> str:
        """Return one line."""
        same = (
            f" ({self.n_same:,} {'were' if self.is_set else 'had not been'} flagged so before)" if self.n_same else ""
        )
        done = (
            f"Flagged {counted(self.n_changed, 'sample')} as"
            if self.is_set
            else f"Undid {counted(self.n_changed, 'flag')}:"
        )
        return f"{done} {self.label}{same}. Select without them: --where 'not {PREFIX}{self.label}'"


def flag(config: FlagConfig) -> FlagResult:
    """Flag samples as good, bad, wrong_caption, unsafe or by a word of your own; or undo such a flag.

    Raises:
        ConfigError: A sample is not in the store, or the label is not valid; then nothing is flagged.
    """
    engine, label = open_store(), as_label(config.as_)
    sample_ids = [find_sample(engine, named).sample_id for named in config.sample]
    counts = set_flags(engine, sample_ids, label, actor=current_actor(), comment=config.comment, undo=config.undo)
    return FlagResult(label=label, is_set=not config.undo, n_changed=counts.n_changed, n_same=counts.n_same)


class FlagsConfig(Config):
    """Which flags to list."""

    as_: str | None = Field(None, min_length=1, description="Label; none: every label")
    by: str | None = Field(None, min_length=1, description="Person who set the flag; none: everybody")
    limit: int = Field(50, ge=1, le=100_000, description="Flags to list, newest first")


class ListedFlag(Result):
    """A sample with a flag."""

    sample_id: int
    label: str
    comment: str | None
    flagged_by: str
    flagged_at: datetime
    caption: str
    is_taken_down: bool


class FlagsResult(Result):
    """Flags that are set, the newest first."""

    flags: list[ListedFlag]

    def summary(self) -> str:
        """Return a line for each flag."""
        lines = [
            f"{one.sample_id}  {one.label}  {one.flagged_by}  {one.flagged_at.astimezone(UTC):%Y-%m-%d %H:%M}  "
            f"{one.caption[:60]!r}{'  (taken down)' if one.is_taken_down else ''}{f'  {one.comment!r}' if one.comment else ''}"
            for one in self.flags
        ]
        return "\n".join(lines) or "No flags. Flag samples: alchemist sample flag SAMPLE --as bad"


def flags(config: FlagsConfig) -> FlagsResult:
    """List the flags of samples that are set now, the newest first, with who set them."""
    label = None if config.as_ is None else as_label(config.as_)
    found = list_flagged(open_store(), label=label, flagged_by=config.by, n=config.limit)
    return FlagsResult(flags=[ListedFlag(**row._asdict()) for row in found])


class TakedownConfig(Config):
    """Which image to take down, named in one of three ways, and why."""

    image_hash: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the bytes of the image, 64 hex digits"
    )
    url: str | None = Field(None, min_length=1, description="A URL from which a crawl downloaded it")
    sample: str | None = Field(
        None, pattern=r"^[^/]+/.+/.+$", description="A sample with this image: DATASET/SHARD/KEY"
    )
    reason: str = Field(
        ...,
        min_length=3,
        max_length=500,
        description="Why it is taken down; stored in the audit log, 3 to 500 characters",
    )
    successors: bool = Field(
        True, description="Select and publish a new version of every published subset that contains the image"
    )


class TakedownResult(Result):
    """What the takedown affects, and what remains for a person to decide."""

    image_hashes: list[str]
    is_new: bool
    n_pairs: int
    n_forgotten: int
    published_subsets: list[str]
    successors: list[str] = Field(default_factory=list)
    models: list[str] = Field(default_factory=list)
    models_that_may: list[str] = Field(default_factory=list)
    raters_that_may: list[str] = Field(default_factory=list)
    materialized: list[str] = Field(default_factory=list)
    near_duplicates: list[dict[str, Any]] = Field(default_factory=list)
    to_do: list[str] = Field(default_factory=list)

    def summary(self) -> str:
        """Return the result without the near-duplicates, which were printed when they were found."""
        return lay_out({
            "taken down" if self.is_new else "had been taken down before": self.image_hashes,
            "samples with it": self.n_pairs,
            "cached features and answers of models deleted": self.n_forgotten,
            "published subsets with it": self.published_subsets,
            "new versions published": self.successors,
            "models trained on it": self.models,
            "models possibly trained on it": self.models_that_may,
            "raters possibly trained on it": self.raters_that_may,
            "materialized datasets that still contain it": self.materialized,
            "to do": self.to_do,
        })  # fmt: skip


def takedown(config: TakedownConfig) -> TakedownResult:
    """Take an image down: no sample with it is selected again, and published subsets get a new version without it."""
    engine = open_store()
    images = _images(config)
    n_new, n_pairs = take_down(engine, images, config.reason, actor=current_actor())
    n_answers, failures = forget_answers(images)
    n_forgotten = forget(artifact_path(FEATURE_CACHE), images) + n_answers
    own_cache().forget(images)
    clear_block_cache()
    if n_pages := remove_reports():
        say(f"Deleted {counted(n_pages, 'page')} of the report, which may show it. To make one again: alchemist report")
    reached, taught = find_reach(engine, images), find_validation_models(engine, images)
    possible = find_possible_models(engine, images)
    published = sorted({row.name for row in reached if row.state == "published"})
    successors, to_do = _succeed(published) if config.successors else ([], [_commands(name) for name in published])
    near_duplicates = _near_duplicates(images)
    for other in near_duplicates:
        say(
            f"Near-duplicate ({other['distance']} bits): {other['n_pairs']} samples, {other['caption']!r}. "
            f"To take it down: {other['command']}"
        )
    return TakedownResult(
        image_hashes=[image.hex() for image in images], is_new=n_new > 0, n_pairs=n_pairs, n_forgotten=n_forgotten,
        published_subsets=published,
        successors=successors, models=sorted({*taught, *(model for row in reached for model in row.models)}),
        models_that_may=possible.models, raters_that_may=possible.raters,
        materialized=[display_address(uri) for row in reached for uri in row.all_materialized_uris],
        near_duplicates=near_duplicates, to_do=[*map(str, failures), *to_do],
    )  # fmt: skip


def _images(config: TakedownConfig) -> list[bytes]:
    given = [name for name in ("image_hash", "url", "sample") if getattr(config, name) is not None]
    if len(given) != 1:
        raise ConfigError(f"Give exactly one of --image-hash, --url and --sample (given: {len(given)}).")
    if config.image_hash is not None:
        # The image may be unknown: then ingest refuses it in later crawls.
        return [bytes.fromhex(config.image_hash)]
    images = find_images(open_store(), url=config.url, sample=config.sample)
    if not images:
        raise ConfigError(
            f"No sample has --{given[0].replace('_', '-')} {getattr(config, given[0])}. "
            "Nothing was taken down. Give the hash of the image: --image-hash."
        )
    return images


def _near_duplicates(images: list[bytes]) -> list[dict[str, Any]]:
    found = {bytes(row.image_hash): row for image in images for row in find_near_duplicates(open_store(), image)}
    return [
        {
            "image_hash": image_hash.hex(), "distance": row.distance, "n_pairs": row.n_pairs, "caption": row.caption[:80],
            "source_url": row.source_url, "command": f"alchemist sample takedown --image-hash {image_hash.hex()} --reason WHY",
        }
        for image_hash, row in found.items() if image_hash not in images
    ]  # fmt: skip


def _succeed(published: list[str]) -> tuple[list[str], list[str]]:
    """Select and publish each subset again; return the new versions, and the commands for those that failed."""
    made, left = [], []
    for name in published:
        try:
            result = select(_select_config(name))
            publish(PublishSubsetConfig(name=name, version=result.version))
            made.append(f"{name} v{result.version}")
        except AlchemistError as error:
            left.append(f"{_commands(name)}  # failed: {error}")
    return made, left


def _select_config(name: str) -> SelectConfig:
    """Return the config that selects a published subset again with its own strategy and rater."""
    subset = published_version(open_store(), name)
    assert subset is not None
    rater = rater_of_subset(open_store(), subset)
    policy = SelectionPolicy.model_validate(asked_options(subset.spec))
    return SelectConfig(dataset=tuple(rater.dataset_names), name=subset.name, rater=rater.name, policy=policy)


def _commands(name: str) -> str:
    config = _select_config(name)
    try:
        names: Collection[str] = declared_names("select")
    except ConfigError:
        # The file has to be mended before the command runs, and may then give any of them.
        names = SelectionPolicy.model_fields
    own = config.policy.model_dump(mode="json", exclude_defaults=True)
    policy = {"retention": config.policy.retention, **config.policy.written_out(names), **own}
    if config.policy.keeps_all_accepted:
        policy["retention"] = "auto"
    words = ["alchemist", "select", "--dataset", ",".join(config.dataset)]
    for flag, value in {**policy, "rater": config.rater, "name": name}.items():
        words.append(f"--{'no-' if value is False else ''}{flag.replace('_', '-')}")
        if not isinstance(value, bool):
            words.append(",".join(value) if isinstance(value, (list, tuple)) else str(value))
    return f"{shlex.join(words)} && alchemist subset publish {name}"


class RetryQuarantineConfig(Config):
    """Which quarantined samples to retry."""

    reason: str = Field(
        TRANSIENT, min_length=1, description="Reason code, or transient for all reasons that may resolve by themselves"
    )
    dataset: str | None = Field(None, description="Dataset; none: every registered training dataset")
    rater: str = Field("production", description="Rater by name, or production, or newest")


class RetryQuarantineResult(Result):
    """Outcome of the retry."""

    rater: str | None
    n_shards: int = 0
    n_tried: int = 0
    n_scored: int = 0
    n_still_quarantined: int = 0
    note: str | None = None


def retry_quarantine(config: RetryQuarantineConfig) -> RetryQuarantineResult:
    """Score quarantined samples again, by reason; each shard is updated in one transaction."""
    return execute(
        "retry_quarantine", config, lambda stage_run: retry_locations(config, stage_run), RetryQuarantineResult
    )


def retry_locations(config: RetryQuarantineConfig, stage_run: StageRun) -> RetryQuarantineResult:
    """Retry the quarantined locations of every shard, by the pipeline that scores new ones."""
    rater = find_rater(stage_run.engine, config.rater)
    if rater is None:
        say("There is no rater in production, so nothing was quarantined by one.")
        return RetryQuarantineResult(
            rater=None, note="There is no rater in production, so nothing was quarantined by one."
        )
    rater = renew(stage_run.engine, rater, run_id=stage_run.run_id)
    retrying = Retrying(config, rater, stage_run)
    if retrying.n_total == 0:
        return RetryQuarantineResult(rater=rater.name, note=retrying.refusal())
    with retrying.open_pipeline() as pipeline:
        assert pipeline is not None  # a rater that cannot be loaded raises
        pipeline.run(retrying.claim)
    for error in retrying.failed.values():
        raise error
    return retrying.outcome()


class Retrying(Scoring):
    """Scoring of quarantined samples: it claims and commits retries, and is otherwise the same."""

    def __init__(self, config: RetryQuarantineConfig, rater: RaterRow, stage_run: StageRun) -> None:
        scope = scoring_scope(stage_run.engine, rater, dataset=config.dataset, crawl_date=None)
        super().__init__([rater], scope, stage_run, has_heuristics=True)
        self.reason = config.reason
        found = ledger.find_retryable(stage_run.engine, scope, config.reason)
        self.n_total, self._waiting = sum(found.values()), list(found)
        self._retries: dict[int, Retry] = {}
        self._n_held = 0

    def claim(self) -> "PendingShard | None":
        """Claim the next shard that no other run holds."""
        engine, run_id, ttl_s = self.stage_run.engine, self.stage_run.run_id, load_settings().lease_ttl_s
        while self._waiting:
            shard_id = self._waiting.pop(0)
            retry = ledger.claim_retry(engine, self.scope, shard_id, reason=self.reason, run_id=run_id, ttl_s=ttl_s)
            if retry is not None:
                self._retries[shard_id] = retry
                return self._pend_retry(retry)
            self._n_held += 1
        return None

    def _pend_retry(self, retry: Retry) -> "PendingShard":
        from alchemist_core.training.scoring import Claim  # noqa: PLC0415  torch only when there is work

        return self.pend([Claim(retry.claimed, retry.rows, self._column)])

    @property
    def _column(self) -> int:
        """Place of the rater among the outputs of its scorer."""
        return self.columns.index(self.raters[0])

    def store(self, share: "Share", outcome: ShardOutcome) -> None:
        """Store the outcome of a shard."""
        retry = self._retries.pop(share.claimed.shard.shard_id)
        provenance = self.provenances[share.column]
        ledger.commit_retry(self.stage_run.engine, retry, self.scope, outcome=outcome, provenance=provenance)
        n_bad = len(outcome.faults)
        self.counts["n_shards"] += 1
        self.counts["n_samples"] += len(retry.ordinals)
        self.counts["n_quarantined"] += n_bad
        self.counts["n_scored"] += len(retry.ordinals) - n_bad
        self.stage_run.report(self.counts["n_samples"], self.n_total)

    def outcome(self) -> RetryQuarantineResult:
        """Return the counts.

        Raises:
            DataError: Some shards could not be read; all others were retried.
        """
        if n_unread := len(self.scope.skipped_ids):
            raise DataError(
                f"{n_unread:,} shards could not be read and were not changed; {self.counts['n_shards']:,} were retried. "
                "Show which are missing or have changed: alchemist shard list."
            )
        held = f"Held by another run: {counted(self._n_held, 'shard')}. Retry later." if self._n_held else None
        return RetryQuarantineResult(
            rater=self.raters[0].name, n_shards=self.counts["n_shards"], n_tried=self.counts["n_samples"],
            n_scored=self.counts["n_scored"], n_still_quarantined=self.counts["n_quarantined"], note=held,
        )  # fmt: skip

    def refusal(self) -> str:
        """Return why there is nothing to retry; a reason that the rater never recorded is an error.

        Raises:
            ConfigError: If the reason is unknown; the message lists the known ones.
        """
        engine, rater_id = self.stage_run.engine, self.raters[0].rater_id
        if n_of_ingest := ledger.count_at_ingest(engine, self.scope, self.reason):
            return (
                f"{n_of_ingest:,} locations were quarantined by ingest as {self.reason}, not by a rater. Ingest reads a shard again "
                "when its bytes change. To read it now: alchemist shard reread SHARD --reason WHY."
            )
        known = ledger.known_reasons(engine, rater_id)
        if self.reason != TRANSIENT and self.reason not in known:
            raise ConfigError(
                f"--reason {self.reason}: {self.raters[0].name} quarantined nothing for this reason. "
                f"Its reasons: {', '.join(known) or 'none'}."
            )
        return f"Nothing is quarantined as {self.reason}."


COMMANDS = {
    "explain": Command(ExplainConfig, explain),
    "flag": Command(FlagConfig, flag),
    "flags": Command(FlagsConfig, flags),
    "takedown": Command(TakedownConfig, takedown),
    "retry-quarantine": Command(RetryQuarantineConfig, retry_quarantine),
}
