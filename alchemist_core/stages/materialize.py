"""Copy a subset's bytes into tar shards with a verified manifest; what has no live location any more is refused by name."""

from pydantic import Field

from alchemist_core.command import Command
from alchemist_core.config import Config, Report
from alchemist_core.data.artifacts import artifact_path
from alchemist_core.data.copying import MemberSource, materialize_shards
from alchemist_core.data.manifests import Manifest, read_manifest
from alchemist_core.data.storage import join_uri
from alchemist_core.errors import DataError
from alchemist_core.stages.execution import StageRun, execute
from alchemist_core.store.pairs import read_pair_locations
from alchemist_core.store.subsets import SubsetRow, find_subset, mark_materialized


class MaterializeConfig(Config):
    """Which subset to copy."""

    subset: str = Field(..., description="Name of the subset")
    version: int | None = Field(None, ge=1, description="Version number; none: the newest")
    shard_size: int = Field(1000, ge=1, le=1_000_000, description="Samples a tar shard")


class MaterializeReport(Report):
    """What was copied."""

    subset: str
    folder: str
    n_shards: int
    n_samples: int
    n_bytes_written: int


def run(config: MaterializeConfig, *, slot: int = 0) -> MaterializeReport:
    """Materialize a subset version by copying byte ranges from the source shards."""
    return execute(
        "materialize", config, lambda stage_run: materialize(config, stage_run), MaterializeReport, slot=slot
    )


def materialize(config: MaterializeConfig, stage_run: StageRun) -> MaterializeReport:
    """Find each member's bytes, copy them, verify them, note the folder."""
    subset = find_subset(stage_run.engine, config.subset, version=config.version)
    manifest = read_manifest(artifact_path(subset.manifest_uri), sha256=subset.manifest_sha256)
    uri = f"materialized/{subset.name}/v{subset.version}-{config.shard_size}"
    sources = _member_sources(stage_run, subset, manifest)
    shards = materialize_shards(sources, artifact_path(uri), shard_size=config.shard_size, report=stage_run.report)
    mark_materialized(stage_run.engine, subset.subset_id, uri)
    return MaterializeReport(
        subset=subset.title, folder=str(artifact_path(uri)), n_shards=len(shards),
        n_samples=sum(shard.n_samples for shard in shards), n_bytes_written=sum(shard.n_bytes_written for shard in shards),
    )  # fmt: skip


def _member_sources(stage_run: StageRun, subset: SubsetRow, manifest: Manifest) -> list[MemberSource]:
    rank_of = dict(zip(manifest.pair_hashes(), manifest.rank_K.tolist(), strict=True))
    rows = read_pair_locations(stage_run.engine, list(rank_of))
    if missing := rank_of.keys() - {bytes(row.pair_hash) for row in rows}:
        raise DataError(
            f"{len(missing):,} of {len(rank_of):,} members of {subset.title} have no live location (taken down, or their shard was "
            f"retired), the first is pair {min(missing).hex()[:16]}. Select again: the new version leaves them out."
        )
    return [
        MemberSource(
            join_uri(row.root_uri, row.uri),
            row.key,
            tuple(row.member_exts),
            tuple(row.member_offsets),
            tuple(row.member_sizes),
            bytes(row.pair_hash),
            rank_of[bytes(row.pair_hash)],
        )
        for row in rows
    ]


COMMANDS = {"": Command(MaterializeConfig, run)}
