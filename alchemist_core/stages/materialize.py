"""Copy a subset's bytes into tar shards with a verified manifest; what has no live location any more is refused by name."""

from pydantic import Field

from alchemist_core.command import Command
from alchemist_core.config import Config, Report
from alchemist_core.data.artifacts import artifact_path
from alchemist_core.data.copying import Layout, copy_members
from alchemist_core.data.shard_copying import Verify
from alchemist_core.data.subset_members import locate_all
from alchemist_core.stages.execution import StageRun, execute
from alchemist_core.store.subsets import find_subset, mark_materialized


class MaterializeConfig(Config):
    """Which subset to copy, and into what."""

    subset: str = Field(..., description="Name of the subset")
    version: int | None = Field(None, ge=1, description="Version number; none: the newest")
    shard_size: int = Field(1000, ge=1, le=1_000_000, description="Samples a tar shard")
    shuffle_seed: int | None = Field(
        None,
        ge=0,
        le=2**63 - 1,
        description="Put the samples in an order by hash and this seed, so that training needs no shuffle buffer; none: in the "
        "sources' order, which disks read fastest",
    )
    verify: Verify = Field(
        "read_back",
        description="What is checked before a copy counts. source: every member as it is read, against what ingest registered; "
        "read_back: also every tar as the disk gives it back",
    )


class MaterializeReport(Report):
    """What was copied."""

    subset: str
    folder: str
    n_shards: int
    n_samples: int
    n_bytes_written: int
    verified: str


def run(config: MaterializeConfig, *, slot: int = 0) -> MaterializeReport:
    """Materialize a subset version by copying byte ranges from the source shards."""
    return execute(
        "materialize", config, lambda stage_run: materialize(config, stage_run), MaterializeReport, slot=slot
    )


def materialize(config: MaterializeConfig, stage_run: StageRun) -> MaterializeReport:
    """Find each member's bytes, copy them, verify them, note the folder."""
    subset = find_subset(stage_run.engine, config.subset, version=config.version)
    members = locate_all(stage_run.engine, subset)
    layout = Layout(config.shard_size, config.shuffle_seed)
    order = "" if config.shuffle_seed is None else f"-s{config.shuffle_seed}"
    uri = f"materialized/{subset.name}/v{subset.version}-{config.shard_size}{order}"
    copy = copy_members(members, artifact_path(uri), layout, verify=config.verify, report=stage_run.report)
    mark_materialized(stage_run.engine, subset.subset_id, uri)
    return MaterializeReport(
        subset=subset.title,
        folder=str(copy.folder),
        n_shards=len(copy.shards),
        n_samples=sum(shard.n_samples for shard in copy.shards),
        n_bytes_written=copy.n_bytes_written,
        verified=config.verify,
    )


COMMANDS = {"": Command(MaterializeConfig, run)}
