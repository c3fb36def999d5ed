"""Copy a subset's members into tar shards with a verified manifest; refuse a version with members that have no live location."""

import shlex
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from alchemist_core.config import BARE_WORD, Command, Config, Located, Result
from alchemist_core.errors import DataError
from alchemist_core.shards.storage import is_s3, join_uri
from alchemist_core.stages.execution import StageRun, execute
from alchemist_core.stages.sharing import hold_resource
from alchemist_core.store.locations import fill_checksums
from alchemist_core.store.subsets import (
    NEWEST_TEXT,
    VERSION_TEXT,
    SubsetRow,
    choose_version,
    count_taken_down,
    find_subset,
    forget_copy,
    mark_materialized,
    note_copy,
    refuse_two_versions,
    store_members,
)
from alchemist_core.subsets.materialized import (
    DATASETS,
    FoundChecksums,
    Layout,
    Verify,
    dataset_name,
    display_address,
    is_in_home,
    materialize_to,
    materialized_size,
    remove_materialized,
    require_reachable,
)
from alchemist_core.subsets.member_table import MemberTable
from alchemist_core.subsets.members import locate_all
from alchemist_core.subsets.selected import load_manifest


class MaterializeConfig(Config):
    """Subset to copy, and the layout of the materialized dataset."""

    subset: str = Field(..., description="Name of the subset", json_schema_extra=BARE_WORD)
    version: int | None = Field(None, ge=1, description=VERSION_TEXT)
    newest: bool = Field(False, description=NEWEST_TEXT)
    shard_size: int = Field(1000, ge=1, le=1_000_000, description="Samples per tar shard")
    shuffle_seed: int | None = Field(
        None,
        ge=0,
        le=2**63 - 1,
        description="Shuffle the samples with this seed, so that training needs no shuffle buffer; default: the order of the "
        "source shards, which is the fastest to read",
    )
    verify: Verify = Field(
        "read_back",
        description="Verification before the dataset is marked as materialized: source (compare every member with the hash that "
        "ingest registered) or read_back (also read every written tar again)",
    )
    to: Annotated[str | None, Located()] = Field(
        None,
        min_length=1,
        description="Folder or s3:// address; the dataset is written to its subfolder NAME/vVERSION-…; default: "
        "artifacts/materialized/ under the home",
    )

    _names_one_version = model_validator(mode="after")(refuse_two_versions)


class MaterializeResult(Result):
    """The materialized dataset."""

    subset: str
    folder: str
    n_shards: int
    n_samples: int
    n_bytes_written: int
    verified: str


def run(config: MaterializeConfig, *, slot: int = 0) -> MaterializeResult:
    """Materialize a subset version by copying byte ranges from the source shards."""
    return execute(
        "materialize", config, lambda stage_run: materialize(config, stage_run), MaterializeResult, slot=slot
    )


def materialize(config: MaterializeConfig, stage_run: StageRun) -> MaterializeResult:
    """Locate each member's bytes, copy and verify them, and store the address."""
    engine = stage_run.engine
    subset = choose_version(engine, config.subset, version=config.version, is_newest=config.newest)
    # Store the membership first, so that a takedown finds the materialized datasets of unpublished versions too.
    store_members(engine, subset.subset_id, load_manifest(engine, subset))
    members, uri = locate_all(engine, subset), copy_uri(config, subset)
    require_reachable(uri)
    layout = Layout(config.shard_size, config.shuffle_seed)

    def note(has_files: bool) -> None:  # noqa: FBT001  an `OnFound`
        if has_files:
            # Read the version again: a run that this one waited for may have noted the address since.
            _require_own(find_subset(engine, subset.name, version=subset.version), uri)
        note_copy(engine, subset.subset_id, uri)

    # Runs that differ in --verify alone write to one address.
    with hold_resource(stage_run, f"copy:{uri}"):
        try:
            dataset = materialize_to(
                members, uri, layout, verify=config.verify, on_found=note, on_progress=stage_run.report
            )
        except Exception:
            _forget_if_empty(stage_run, subset, uri)
            raise
    if dataset.found is not None:
        _keep_checksums(stage_run, members, dataset.found)
    _require_none_taken_down(stage_run, subset, uri)
    mark_materialized(engine, subset.subset_id, uri)
    return MaterializeResult(
        subset=subset.title,
        folder=display_address(uri),
        n_shards=len(dataset.shards),
        n_samples=sum(shard.n_samples for shard in dataset.shards),
        n_bytes_written=dataset.n_bytes_written,
        verified=config.verify,
    )


def _keep_checksums(stage_run: StageRun, members: MemberTable, found: FoundChecksums) -> None:
    """Store the checksums of members that an older version ingested, so that the next copy compares them faster."""
    shard_id_K, ordinal_K = (members.table.column(name).to_numpy()[found.row_K] for name in ("shard_id", "ordinal"))
    fill_checksums(stage_run.engine, shard_id_K, ordinal_K, found.checksum_K16)


def copy_uri(config: MaterializeConfig, subset: SubsetRow) -> str:
    """Return the address of a version's materialized dataset; each layout has its own."""
    name = dataset_name(subset.name, subset.version, Layout(config.shard_size, config.shuffle_seed))
    if config.to is None:
        return f"{DATASETS}/{name}"
    return join_uri(config.to if is_s3(config.to) else str(Path(config.to).absolute()), name)


def _require_own(subset: SubsetRow, uri: str) -> None:
    """Refuse a dataset that this store has not recorded: the same members and layout do not show whose it is.

    A recorded one is deleted when the version is garbage-collected or an image of it is taken down.
    """
    if not (is_in_home(uri) or uri in subset.all_materialized_uris):
        raise DataError(
            f"{display_address(uri)} exists and was not written for {subset.title} of this store: it may belong to another home. "
            "Name another address, or remove it."
        )


def _forget_if_empty(stage_run: StageRun, subset: SubsetRow, uri: str) -> None:
    """Delete the row of a dataset of which nothing was written, so that no takedown or garbage collection looks there."""
    # Raise the error that ended the copy, not one from this cleanup.
    with suppress(DataError):
        if materialized_size(uri) == 0:
            forget_copy(stage_run.engine, subset.subset_id, uri)


def _require_none_taken_down(stage_run: StageRun, subset: SubsetRow, uri: str) -> None:
    with stage_run.engine.connect() as connection:
        n_taken_down = count_taken_down(connection, subset.subset_id)
    if n_taken_down:
        remove_materialized(uri)
        forget_copy(stage_run.engine, subset.subset_id, uri)
        raise DataError(
            f"{n_taken_down:,} members of {subset.title} were taken down while it was copied, so the copy was removed. "
            "Materialize the version that replaces it: alchemist subset list."
        )


def _next(_config: MaterializeConfig, result: MaterializeResult) -> str | None:
    return None if is_s3(result.folder) else f"cd {shlex.quote(result.folder)} && sha256sum --check SHA256SUMS"


COMMANDS = {"": Command(MaterializeConfig, run, _next)}
