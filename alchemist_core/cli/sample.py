"""Take an image down: every caption, location and later re-crawl of it stops being selectable at once."""

import shlex
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field
from sqlalchemy import Engine

from alchemist_core.cli.subset import PublishSubsetConfig, publish
from alchemist_core.config import BARE_WORD, Command, Config, Report, lay_out
from alchemist_core.errors import AlchemistError, ConfigError, DataError
from alchemist_core.files import FEATURE_CACHE, artifact_path
from alchemist_core.selection.config import policy_of
from alchemist_core.selection.differences import locate
from alchemist_core.selection.exclusions import EXCLUSIONS
from alchemist_core.settings import load_settings
from alchemist_core.stages.execution import StageRun, execute
from alchemist_core.stages.scope import scoring_scope
from alchemist_core.stages.score import Scoring
from alchemist_core.stages.select import SelectConfig
from alchemist_core.stages.select import run as select
from alchemist_core.store import ledger
from alchemist_core.store.audit import current_actor
from alchemist_core.store.engine import open_store
from alchemist_core.store.ledger import TRANSIENT, Retry
from alchemist_core.store.manifests import hash_rows
from alchemist_core.store.raters import RaterRow, find_rater
from alchemist_core.store.samples import (
    find_images,
    find_near_duplicates,
    find_reach,
    find_sample,
    reason_of_takedown,
    take_down,
    why_not_eligible,
)
from alchemist_core.store.subsets import VERSION_TEXT, SubsetRow, choose_version, published_version, rater_of_subset
from alchemist_core.store.tables import AnyRow
from alchemist_core.subsets.materialized import display_address
from alchemist_core.subsets.selected import Selected, reselect
from alchemist_core.telemetry import say
from alchemist_core.training.feature_cache import forget

if TYPE_CHECKING:
    from alchemist_core.training.scoring import PendingShard


# By the reasons of the query why_not_eligible; `places` are nights, or datasets where it lies in no night.
OUTSIDE = {
    "taken down": "its picture was taken down ({detail}) before this version was drawn",
    "held": (
        "its night is held ({detail}): {places}. Look at it, then alchemist night release --dataset NAME --crawl-date DATE "
        "--reason WHY, and select again"
    ),
    "night not decided": (
        "its night has not passed its checks: {places}. alchemist check --suite scores, then alchemist night publish, and select again"
    ),
    "new pair": "its night was decided after this version was drawn: {places}. Select again to draw from it too",
    "held out": "it is of {places}: what is held out is never selected, so that what is measured on it means something",
    "other dataset": "it is of {places}, which this version was not drawn from. alchemist select --dataset draws from several",
    "quarantined": "the rater set it aside ({detail}). alchemist sample retry-quarantine tries it again",
    "not scored": "the rater has not scored it: {places}. alchemist score, check and publish its night, and select again",
    "eligible": "it may be drawn now, and could not when this version was drawn: a takedown, a shard or a score was changed by hand",
}
EXCLUDED = {
    "duplicate": "a pair that was seen before it has the same picture (--duplicates near: or one like it) and stands for both",
    "contaminated": "it looks like a picture of an evaluation dataset (--decontaminate)",
    "predicate": "the condition --where leaves it out",
    "cap": "others of its dataset or source have better keys, and together they have the share that --max-share allows",
}


class ExplainConfig(Config):
    """Which pair, in which version."""

    sample: str = Field(
        ...,
        min_length=1,
        description="The pair, as DATASET/SHARD/KEY, by 8 or more digits of its hash, or by its sample id",
        json_schema_extra=BARE_WORD,
    )
    subset: str = Field(..., description="Name of the subset")
    version: int | None = Field(None, ge=1, description=VERSION_TEXT)


class ExplainReport(Report):
    """Where the pair stands towards the version; rank and key are none where it could not be drawn."""

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

    def summary(self) -> str:
        """Return two lines for a person."""
        verdict = "in" if self.is_member else "not in"
        return f"pair {self.pair[:16]} (sample {self.sample_id}), {self.caption[:80]!r}\n{verdict} {self.subset}: {self.because}."


def explain(config: ExplainConfig) -> ExplainReport:
    """Draw the version again and say where the pair stands."""
    engine = open_store()
    subset = choose_version(engine, config.subset, version=config.version, may_be_withdrawn=True)
    pair = find_sample(engine, config.sample)
    drawn = reselect(engine, subset)
    place = int(locate(drawn.snapshot.pairs.pair_hash_N32, hash_rows([bytes(pair.pair_hash)]))[0])
    fields = _outside(engine, subset, pair) if place < 0 else _inside(drawn, place)
    if fields["is_member"] and (reason := reason_of_takedown(engine, pair.sample_id)) is not None:
        fields["because"] = f"{fields['because']}; its picture was taken down since ({reason}), and readers skip it"
    return ExplainReport(
        pair=bytes(pair.pair_hash).hex(), sample_id=pair.sample_id, caption=pair.caption, subset=subset.title, **fields
    )


def _outside(engine: Engine, subset: SubsetRow, pair: AnyRow) -> dict[str, object]:
    (row,) = why_not_eligible(engine, subset.snapshot_id, hash_rows([bytes(pair.pair_hash)]))
    because = OUTSIDE[row.reason].format(detail=row.detail or "no reason was given", places=", ".join(row.places))
    return {"is_member": False, "reason": row.reason, "because": because}


def _inside(drawn: Selected, place: int) -> dict[str, object]:
    rank, key = float(drawn.snapshot.rank_N[place]), float(drawn.key_N[place])
    is_member, threshold = bool(drawn.is_member_N[place]), _threshold(drawn, place)
    fields = {"is_member": is_member, "rank": rank, "key": key if key > -np.inf else None, "threshold": threshold}
    if excluded := EXCLUSIONS.get(int(drawn.excluded_N[place])):
        return fields | {"reason": excluded, "because": f"rank {rank:.4f}; {EXCLUDED[excluded]}"}
    if key == -np.inf:
        because = f"rank {rank:.4f}, of which strategy {drawn.strategy.name} keeps no pair ({drawn.strategy})"
        return fields | {"reason": "rank", "because": because}
    among = f"{len(drawn.member_K):,} members" if drawn.group_N is None else "the members of its dataset or source"
    compared = f"key {key:.4f} {'reaches' if is_member else 'is below'} {threshold:.4f}, the smallest of {among}"
    return fields | {"reason": "key", "because": f"rank {rank:.4f}; {compared}"}


def _threshold(drawn: Selected, place: int) -> float:
    """Return the smallest key of those with whom a pair competes; where none of them is a member, of all."""
    group = 0 if drawn.group_N is None else int(drawn.group_N[place])
    return drawn.thresholds.get(group, drawn.threshold)


class TakedownConfig(Config):
    """Which image, named in one of three ways, and why."""

    image_hash: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="sha256 of the image's bytes, 64 hex digits"
    )
    url: str | None = Field(None, min_length=1, description="Address at which a crawl found it")
    sample: str | None = Field(None, pattern=r"^[^/]+/.+/.+$", description="A sample that has it, as DATASET/SHARD/KEY")
    reason: str = Field(..., min_length=3, max_length=500, description="Why it must go; kept for the record")
    successors: bool = Field(
        True, description="Select and publish a successor, without it, of every published subset that contains it"
    )


class TakedownReport(Report):
    """What it touches, and what is left for a person to decide."""

    image_hashes: list[str]
    is_new: bool
    n_pairs: int
    n_forgotten: int
    published_subsets: list[str]
    successors: list[str] = Field(default_factory=list)
    models: list[str] = Field(default_factory=list)
    models_that_may: list[str] = Field(default_factory=list)
    materialized: list[str] = Field(default_factory=list)
    lookalikes: list[dict[str, Any]] = Field(default_factory=list)
    to_do: list[str] = Field(default_factory=list)

    def summary(self) -> str:
        """Return what a person must know; lookalikes were told one by one when they were found."""
        return lay_out({
            "taken down" if self.is_new else "was taken down before": self.image_hashes,
            "pairs with it": self.n_pairs,
            "cached features deleted": self.n_forgotten,
            "published subsets with it": self.published_subsets,
            "successors published": self.successors,
            "models trained on it": self.models,
            "models that may have been": self.models_that_may,
            "copies that still hold it": self.materialized,
            "to do": self.to_do,
        })  # fmt: skip


def takedown(config: TakedownConfig) -> TakedownReport:
    """Record the takedown, name subsets, models and tars that contain the image, and list what looks like it."""
    engine = open_store()
    images = _images(config)
    n_new, n_pairs = take_down(engine, images, config.reason, actor=current_actor())
    n_forgotten = forget(artifact_path(FEATURE_CACHE), images)
    reached = find_reach(engine, images)
    published = sorted({row.name for row in reached if row.state == "published"})
    successors, to_do = _succeed(published) if config.successors else ([], [_commands(name) for name in published])
    lookalikes = _lookalikes(images)
    for other in lookalikes:
        say(
            f"looks like it ({other['distance']} bits): {other['n_pairs']} pairs, {other['caption']!r}. Decide: {other['command']}"
        )
    return TakedownReport(
        image_hashes=[image.hex() for image in images], is_new=n_new > 0, n_pairs=n_pairs, n_forgotten=n_forgotten,
        published_subsets=published,
        successors=successors, models=sorted({model for row in reached for model in row.models}),
        models_that_may=sorted({model for row in reached for model in row.other_models}),
        materialized=[display_address(uri) for row in reached for uri in row.all_materialized_uris],
        lookalikes=lookalikes, to_do=to_do,
    )  # fmt: skip


def _images(config: TakedownConfig) -> list[bytes]:
    given = [name for name in ("image_hash", "url", "sample") if getattr(config, name) is not None]
    if len(given) != 1:
        raise ConfigError(f"Name the image by one of --image-hash, --url and --sample (given: {len(given)}).")
    if config.image_hash is not None:
        # Also one that no crawl has brought yet: it is refused when it comes.
        return [bytes.fromhex(config.image_hash)]
    images = find_images(open_store(), url=config.url, sample=config.sample)
    if not images:
        raise ConfigError(
            f"No pair in the store has --{given[0]} {getattr(config, given[0])}. Nothing was taken down; name its bytes by --image-hash."
        )
    return images


def _lookalikes(images: list[bytes]) -> list[dict[str, Any]]:
    found = {bytes(row.image_hash): row for image in images for row in find_near_duplicates(open_store(), image)}
    return [
        {
            "image_hash": image_hash.hex(), "distance": row.distance, "n_pairs": row.n_pairs, "caption": row.caption[:80],
            "source_url": row.source_url, "command": f"alchemist sample takedown --image-hash {image_hash.hex()} --reason WHY",
        }
        for image_hash, row in found.items() if image_hash not in images
    ]  # fmt: skip


def _succeed(published: list[str]) -> tuple[list[str], list[str]]:
    """Select and publish each subset again; what could not be made is returned as the commands to run."""
    made, left = [], []
    for name in published:
        try:
            report = select(_select_config(name))
            publish(PublishSubsetConfig(name=name, version=report.version))
            made.append(f"{name} v{report.version}")
        except AlchemistError as error:
            left.append(f"{_commands(name)}  # not made: {error}")
    return made, left


def _select_config(name: str) -> SelectConfig:
    """Return the config that selects a published subset again, with the strategy and the rater that it was selected with."""
    subset = published_version(open_store(), name)
    assert subset is not None
    rater = rater_of_subset(open_store(), subset)
    policy = policy_of(subset.spec)
    return SelectConfig(dataset=tuple(rater.dataset_names), name=subset.name, rater=rater.name, policy=policy)


def _commands(name: str) -> str:
    config = _select_config(name)
    policy = {"retention": config.policy.retention, **config.policy.model_dump(mode="json", exclude_defaults=True)}
    words = ["alchemist", "select", "--dataset", ",".join(config.dataset)]
    for flag, value in {**policy, "rater": config.rater, "name": name}.items():
        words.append(f"--{flag.replace('_', '-')}")
        if value is not True:
            words.append(",".join(value) if isinstance(value, list) else str(value))
    return f"{shlex.join(words)} && alchemist subset publish {name}"


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


def retry_quarantine(config: RetryQuarantineConfig) -> RetryQuarantineReport:
    """Put back, score and count anew; killed anywhere, a shard is as it was or done."""
    return execute(
        "retry_quarantine", config, lambda stage_run: retry_locations(config, stage_run), RetryQuarantineReport
    )


def retry_locations(config: RetryQuarantineConfig, stage_run: StageRun) -> RetryQuarantineReport:
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
        engine, run_id, ttl_s = self.stage_run.engine, self.stage_run.run_id, load_settings().lease_ttl_s
        while self._waiting:
            shard_id = self._waiting.pop(0)
            retry = ledger.claim_retry(engine, self.scope, shard_id, reason=self.reason, run_id=run_id, ttl_s=ttl_s)
            if retry is not None:
                self._retries[shard_id] = retry
                return self.pend(retry.claimed, retry.rows)
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


COMMANDS = {
    "explain": Command(ExplainConfig, explain),
    "takedown": Command(TakedownConfig, takedown),
    "retry-quarantine": Command(RetryQuarantineConfig, retry_quarantine),
}
