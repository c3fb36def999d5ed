"""Draw a subset version from a rank snapshot: exactly k members, a pure function of snapshot, strategy, retention and seed."""

from typing import Any

from pydantic import Field

from alchemist_core.command import Command
from alchemist_core.config import Config, Report, Words, fingerprint
from alchemist_core.data.artifacts import artifact_path
from alchemist_core.data.manifests import Manifest, read_manifest, write_manifest
from alchemist_core.errors import AlchemistError, DataError
from alchemist_core.selection.config import SelectionPolicy, strategy_spec
from alchemist_core.selection.draw import draw_members, retention_to_k
from alchemist_core.selection.ranks import needs_rescale, share_above_cut
from alchemist_core.selection.strategies import Strategy, mixed_pairing_warning
from alchemist_core.stages.execution import StageRun, execute
from alchemist_core.store.audit import current_actor
from alchemist_core.store.engine import open_store
from alchemist_core.store.raters import RaterRow, find_rater
from alchemist_core.store.snapshots import Snapshot, take_snapshot
from alchemist_core.store.subsets import SubsetRow, find_by_spec, list_subsets, store_subset


class SelectConfig(Config):
    """What to select, and how."""

    dataset: Words = Field(..., description="Training datasets to draw from, comma between them")
    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="Name of the subset; none: <dataset>-<strategy>-r<percent>",
    )
    rater: str = Field(
        "production", description="Whose scores rank the pairs: a rater's name, or production, or newest"
    )
    policy: SelectionPolicy = Field(default_factory=SelectionPolicy, description="Strategy and its parameters")
    rescale: bool = Field(
        False, description="Fit a new rank scale to today's scores; members may then leave because ranks moved"
    )
    dry_run: bool = Field(False, description="Only say what would be selected; no row is written")


class SelectReport(Report):
    """What was selected."""

    name: str
    version: int | None
    is_new: bool
    strategy: str
    retention: float
    n_eligible: int
    n_samples: int
    rater: str
    manifest_sha256: str
    overlap_with_published: float | None
    warnings: list[str]


def run(config: SelectConfig, *, slot: int = 0) -> SelectReport:
    """Select a subset version; the same spec on the same eligible set gives the version that exists."""
    if config.dry_run:
        return Selection(config, should_store=False).report(None, is_new=True)
    return execute("select", config, lambda stage_run: select(config, stage_run), SelectReport, slot=slot)


def select(config: SelectConfig, stage_run: StageRun) -> SelectReport:
    """Draw, write the manifest, then the row that names it."""
    selection = Selection(config, should_store=True)
    spec = selection.spec()
    known = find_by_spec(stage_run.engine, selection.name, fingerprint(spec))
    manifest = selection.manifest()
    uri = f"subsets/{selection.name}/{fingerprint(spec)}.parquet"
    if known is None or not artifact_path(uri).exists():
        write_manifest(artifact_path(uri), manifest)
    if known is not None:
        if known.manifest_sha256 != manifest.sha256():
            raise DataError(
                f"Subset {known.title} was {known.manifest_sha256}, the same spec now gives {manifest.sha256()}: not stored."
            )
        read_manifest(artifact_path(uri), sha256=known.manifest_sha256)
        return selection.report(known, is_new=False)
    subset = store_subset(
        stage_run.engine,
        name=selection.name, snapshot_id=selection.snapshot.snapshot_id, strategy=selection.strategy.name,
        retention=config.policy.retention, seed=config.policy.seed, spec=spec, spec_hash=fingerprint(spec),
        n_samples=len(manifest), manifest_sha256=manifest.sha256(), manifest_uri=uri,
        created_by=current_actor(), run_id=stage_run.run_id,
    )  # fmt: skip
    return selection.report(subset, is_new=True)


class Selection:
    """One draw: the snapshot, the resolved strategy and the members."""

    def __init__(self, config: SelectConfig, *, should_store: bool) -> None:
        self.config, engine = config, open_store()
        self.rater = _require_rater(config)
        self.snapshot: Snapshot = take_snapshot(
            engine, self.rater, config.dataset, rescale=config.rescale, should_store=should_store
        )
        self.strategy: Strategy = config.policy.resolve(self.rater.rule)  # type: ignore[arg-type]  # the table's CHECK allows two words
        self.name = (
            config.name or f"{'+'.join(config.dataset)}-{config.policy.strategy}-r{config.policy.retention * 100:g}"
        )
        n_kept = retention_to_k(config.policy.retention, len(self.snapshot.rank_N))
        pair_hash64_N = self.snapshot.pairs.pair_hash64_N
        self.member_K = draw_members(
            self.snapshot.rank_N, pair_hash64_N, k=n_kept, strategy=self.strategy, seed=config.policy.seed
        )

    def spec(self) -> dict[str, Any]:
        """Return all that the members depend on; hashes, not ids, name the snapshot."""
        return {
            **strategy_spec(self.strategy),
            "retention": self.config.policy.retention,
            "seed": self.config.policy.seed,
            "rater": self.rater.name,
            "eligible_hash": self.snapshot.eligible_hash,
            "scale": fingerprint([self.snapshot.scale.knot_scores.tolist(), self.snapshot.scale.knot_ranks.tolist()]),
        }

    def manifest(self) -> Manifest:
        """Return the members with rank and score."""
        pairs = self.snapshot.pairs
        return Manifest(
            pairs.pair_hash_N32[self.member_K], self.snapshot.rank_N[self.member_K], pairs.score_N[self.member_K]
        )

    def warnings(self) -> list[str]:
        """Return what a person should know before spending anything."""
        found = [mixed_pairing_warning(self.strategy, self.rater.rule)]  # type: ignore[arg-type]  # as above
        cut = getattr(self.strategy, "drop_top_ratio", 0.0)
        if needs_rescale(self.snapshot.rank_N, cut):
            share = share_above_cut(self.snapshot.rank_N, cut)
            found.append(
                f"The head cut {cut} drops {share:.3f} of today's pool: the pool has moved. Consider --rescale."
            )
        return [warning for warning in found if warning]

    def report(self, subset: SubsetRow | None, *, is_new: bool) -> SelectReport:
        """Say what was drawn."""
        return SelectReport(
            name=self.name, version=subset.version if subset else None, is_new=is_new, strategy=self.strategy.name,
            retention=self.config.policy.retention, n_eligible=len(self.snapshot.rank_N), n_samples=len(self.member_K),
            rater=self.rater.name, manifest_sha256=self.manifest().sha256(),
            overlap_with_published=self._overlap(), warnings=self.warnings(),
        )  # fmt: skip

    def _overlap(self) -> float | None:
        published = [row for row in list_subsets(open_store(), state="published") if row.name == self.name]
        if not published or not artifact_path(published[0].manifest_uri).exists():
            return None
        before = read_manifest(artifact_path(published[0].manifest_uri), sha256=published[0].manifest_sha256)
        kept = set(before.pair_hashes()).intersection(self.manifest().pair_hashes())
        return round(len(kept) / len(self.member_K), 4)


def _require_rater(config: SelectConfig) -> RaterRow:
    rater = find_rater(open_store(), config.rater)
    if rater is None:
        raise AlchemistError(
            "There is no rater in production: train one (alchemist train-rater) and promote it (alchemist promote)."
        )
    return rater


COMMANDS = {"": Command(SelectConfig, run)}
