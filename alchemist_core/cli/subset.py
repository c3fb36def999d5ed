"""Subset versions: list, show, diff and compare them, publish, roll back or withdraw one, count buckets, and collect garbage."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field
from sqlalchemy import Connection, Engine

from alchemist_core.config import BARE_WORD, Command, Config, Result, counted, current_names
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.files import artifact_path
from alchemist_core.lazy import np
from alchemist_core.project import load_project, next_of_selected, of_version, train_downstream_command
from alchemist_core.report.versions import GAINS_NOTE, VersionComparison, read_version_comparison
from alchemist_core.selection.config import SelectionPolicy
from alchemist_core.selection.differences import describe_reason
from alchemist_core.store import subsets
from alchemist_core.store.audit import APPROVAL, APPROVED_BY, COMMENT, approval, current_actor
from alchemist_core.store.engine import open_store
from alchemist_core.store.overviews import read_comparisons
from alchemist_core.store.samples import read_sizes
from alchemist_core.store.subsets import (
    VERSION_TEXT,
    CollectableVersion,
    SubsetRow,
    TaintedVersion,
    choose_version,
    describe_withdrawal,
    find_by_id,
    find_predecessor,
    find_subset,
    last_withdrawn,
    list_subsets,
    publish_subset,
    published_version,
    rater_of_subset,
    store_members,
    withdraw_subset,
)
from alchemist_core.subsets.buckets import Buckets
from alchemist_core.subsets.changes import find_changes
from alchemist_core.subsets.selected import load_manifest
from alchemist_core.telemetry import say

N_BARS, BAR_WIDTH = 20, 40
NEXT = {
    "selected": "{measure}",
    "published": "alchemist materialize {name} --version {version}, or {train}",
    "published in a project": "{train}; for tars to train with elsewhere: alchemist materialize {name} --version {version}",
    "superseded": "alchemist subset rollback {name} --version {version} publishes it again; alchemist subset gc removes it",
    "withdrawn": "alchemist subset list shows the other versions; alchemist subset publish {name} --version {version} --reinstate "
    "publishes it again",
}


class SubsetListConfig(Config):
    """No options."""


class SubsetListResult(Result):
    """All subset versions."""

    subsets: list[dict[str, Any]]

    def summary(self) -> str:
        """Return a line for each version."""
        titles = [f"{s['name']} v{s['version']}" for s in self.subsets]
        width = max(map(len, titles), default=0)
        rows = (
            f"{title:<{width}}  {s['state']:<10}  {counted(s['n_samples'], 'sample'):>19}  {s['strategy']} {s['retention']:g}"
            + (f"  {s['withdrawal']}" if s["withdrawal"] else "")
            for title, s in zip(titles, self.subsets, strict=True)
        )
        return "\n".join(rows) or "No subsets. Select one: alchemist select --dataset NAME --retention 0.2"


class SubsetShowConfig(Config):
    """Which subset version to show."""

    name: str = Field(..., description="Name of the subset", json_schema_extra=BARE_WORD)
    version: int | None = Field(None, ge=1, description=VERSION_TEXT)


class SubsetShowResult(Result):
    """One subset version."""

    subset: str
    state: str
    # Who withdrew it, when and why; none if it is not withdrawn.
    withdrawal: str | None
    n_samples: int
    # Samples that an epoch reads, if members are repeated or weighted.
    epoch_size: int | None
    spec: dict[str, Any]
    rater: str
    datasets: list[str]
    manifest_sha256: str
    manifest: str
    copies: list[str]
    curves: dict[str, Any] | None
    next: str

    def summary(self) -> str:
        """Return the fields, the ranks as bars, and the next command."""
        fields = self.model_copy(update={"curves": None, "next": None})
        bars = draw_bars(self.curves) if self.curves else []
        return "\n".join([Result.summary(fields), *bars, f"next: {self.next}"])


def draw_bars(curves: dict[str, Any]) -> list[str]:
    r"""Draw the ranks of a version as text: a full bar is a rank band of which every sample was selected, `|` the target.

    >>> print("\n".join(draw_bars({"n_pool": [10, 10], "n_kept": [0, 5], "target": [0.0, 0.25]})))
    Selected samples by rank (0% = highest score): # selected, | target; a full line is the whole band
        0-50  % |                                        0 of 10
       50-100 % ##########|#########                     5 of 10
    """
    lines = ["Selected samples by rank (0% = highest score): # selected, | target; a full line is the whole band"]
    merge = max(len(curves["n_pool"]) // N_BARS, 1)
    for start in range(0, len(curves["n_pool"]), merge):
        band = slice(start, start + merge)
        n_pool, n_kept = sum(curves["n_pool"][band]), sum(curves["n_kept"][band])
        wanted = sum(share * n for share, n in zip(curves["target"][band], curves["n_pool"][band], strict=True))
        bar = ("#" * round(BAR_WIDTH * n_kept / max(n_pool, 1))).ljust(BAR_WIDTH)
        at = min(round(BAR_WIDTH * wanted / max(n_pool, 1)), BAR_WIDTH - 1)
        low, high = (round(100 * edge / len(curves["n_pool"])) for edge in (start, start + merge))
        lines.append(f"{low:5}-{high:<3} % {bar[:at]}|{bar[at + 1 :]} {n_kept:,} of {n_pool:,}")
    return lines


def list_(_config: SubsetListConfig) -> SubsetListResult:
    """List all subset versions, oldest first."""
    fields = ("name", "version", "state", "n_samples", "strategy", "retention")
    return SubsetListResult(
        subsets=[
            {**{name: getattr(row, name) for name in fields}, "withdrawal": _withdrawal(row)}
            for row in list_subsets(open_store())
        ]
    )


def _withdrawal(row: SubsetRow) -> str | None:
    return describe_withdrawal(row) if row.state == "withdrawn" else None


def show(config: SubsetShowConfig) -> SubsetShowResult:
    """Show one subset version: its strategy, ranks, rater and files."""
    engine = open_store()
    subset = choose_version(engine, config.name, version=config.version, may_be_withdrawn=True)
    rater = rater_of_subset(engine, subset)
    return SubsetShowResult(
        subset=subset.title,
        state=subset.state,
        withdrawal=_withdrawal(subset),
        n_samples=subset.n_samples,
        epoch_size=subset.epoch_size,
        spec=subset.spec,
        rater=rater.name,
        datasets=rater.dataset_names,
        manifest_sha256=subset.manifest_sha256,
        manifest=str(artifact_path(subset.manifest_uri)),
        copies=[_describe_copy(uri) for uri in subset.all_materialized_uris],
        curves=subset.curves,
        next=_next_of(
            subset.state, subset.name, subset.version, scorer=None if rater.kind == "trained" else rater.name
        ),
    )


class DiffSubsetConfig(Config):
    """Which two versions to compare."""

    name: str = Field(..., description="Name of the subset", json_schema_extra=BARE_WORD)
    from_: int | None = Field(
        None,
        ge=1,
        description="Earlier version; none: the predecessor of the later version, else the version before it",
    )
    to: int | None = Field(None, ge=1, description="Later version; none: the newest")


class DiffSubsetResult(Result):
    """Members that left and joined, by reason; the parts add up to the sizes of the versions."""

    before: str
    after: str
    n_before: int
    n_after: int
    n_both: int
    leavers: dict[str, int]
    joiners: dict[str, int]
    # Conditions (--where) of the two versions.
    where_before: str | None = None
    where_after: str | None = None

    def summary(self) -> str:
        """Return the totals, a line for each reason, and the conditions where they are reasons."""
        n_left, n_joined = sum(self.leavers.values()), sum(self.joiners.values())
        sides = ((self.before, self.where_before, self.joiners), (self.after, self.where_after, self.leavers))
        return "\n".join([
            f"{self.before}: {self.n_before:,} samples; {self.after}: {self.n_after:,}; in both: {self.n_both:,}",
            f"left: {n_left:,}", *(f"  {n:>12,}  {describe_reason(reason, self.after)}" for reason, n in self.leavers.items()),
            f"joined: {n_joined:,}", *(f"  {n:>12,}  {describe_reason(reason, self.before)}" for reason, n in self.joiners.items()),
            *(f"Condition of {title}: {where}" for title, where, reasons in sides if where and "predicate" in reasons),
        ])  # fmt: skip


def diff(config: DiffSubsetConfig) -> DiffSubsetResult:
    """Count the members that left and joined between two versions, by reason."""
    engine = open_store()
    after = find_subset(engine, config.name, version=config.to)
    before = _before(engine, after, config.from_)
    changes = find_changes(engine, before, after)
    return DiffSubsetResult(
        before=before.title, after=after.title, n_before=changes.n_before, n_after=changes.n_after, n_both=changes.n_both,
        leavers=changes.leavers, joiners=changes.joiners,
        where_before=_condition(before), where_after=_condition(after),
    )  # fmt: skip


def _condition(subset: SubsetRow) -> str | None:
    return current_names(SelectionPolicy, subset.spec).get("where")


def _before(engine: Engine, after: SubsetRow, version: int | None) -> SubsetRow:
    if version is not None:
        return find_subset(engine, after.name, version=version)
    if after.predecessor_id is not None:
        return find_by_id(engine, after.predecessor_id)
    if after.version == 1:
        raise ConfigError(f"{after.title} is the first version. Give an earlier and a later one: --from N --to N.")
    return find_subset(engine, after.name, version=after.version - 1)


class PublishSubsetConfig(Config):
    """Which subset version to publish."""

    name: str = Field(..., description="Name of the subset", json_schema_extra=BARE_WORD)
    version: int | None = Field(None, ge=1, description="Version number; none: the newest")
    reinstate: bool = Field(False, description="Publish a withdrawn version again")
    approved_by: str | None = Field(None, max_length=200, description=APPROVED_BY)
    comment: str | None = Field(None, max_length=2000, description=COMMENT)
    approval: str | None = Field(None, max_length=200, description=APPROVAL)


class RollbackSubsetConfig(Config):
    """Which version to return to."""

    name: str = Field(..., description="Name of the subset", json_schema_extra=BARE_WORD)
    version: int | None = Field(
        None, ge=1, description="Version number; none: the one that was published before the current one"
    )
    from_: int | None = Field(
        None,
        ge=1,
        description="Bad version to return from; if it is not published any more, nothing changes, so that a second person or a "
        "retry does not go back one version further; none: whichever version is published",
    )


class WithdrawSubsetConfig(Config):
    """Which subset version to withdraw, and why."""

    name: str = Field(..., description="Name of the subset", json_schema_extra=BARE_WORD)
    version: int | None = Field(None, ge=1, description="Version number; none: the published version")
    reason: str = Field(
        ...,
        min_length=3,
        max_length=500,
        description="Why it is withdrawn, 3 to 500 characters; every command that would read the version prints it",
    )


class PublishSubsetResult(Result):
    """The version that is published now."""

    subset: str
    version: int
    n_samples: int
    is_new: bool


class WithdrawSubsetResult(Result):
    """The withdrawn version, and the version that is published now, if any."""

    subset: str
    version: int
    reason: str
    is_new: bool
    published: str | None


def publish(config: PublishSubsetConfig) -> PublishSubsetResult:
    """Publish a subset version; it replaces the version that is published now.

    Raises:
        ConfigError: There is no such version, or it was withdrawn and --reinstate was not given.
    """
    engine = open_store()
    subset = choose_version(
        engine, config.name, version=config.version, is_newest=True, may_be_withdrawn=config.version is not None
    )
    approved = approval(engine, config.approved_by, config.comment, of=subset.title, question=config.approval)
    if subset.state != "withdrawn":
        return _publish(engine, subset, action="publish", approved=approved)
    if not config.reinstate:
        raise ConfigError(_withdrawn(subset))
    return _publish(engine, subset, action="reinstate", approved=approved)


def rollback(config: RollbackSubsetConfig) -> PublishSubsetResult:
    """Publish the previously published version again; withdrawn versions are skipped.

    Raises:
        ConfigError: There is no such version, or it was never published, or it was withdrawn.
    """
    engine = open_store()
    published = published_version(engine, config.name)
    if published is None:
        find_subset(engine, config.name)
        raise ConfigError(
            f"No version of {config.name} is published, so there is none to roll back. Show the versions: alchemist subset list."
        )
    if config.from_ not in (None, published.version):
        bad = find_subset(engine, config.name, version=config.from_)
        say(f"{bad.title} is not published any more, but {published.title} is, so nothing was changed.")
        return PublishSubsetResult(
            subset=published.name, version=published.version, n_samples=published.n_samples, is_new=False
        )
    if config.version is not None:
        target = find_subset(engine, config.name, version=config.version)
    elif (before := find_predecessor(engine, published)) is not None:
        target = before
    else:
        raise ConfigError(
            f"{published.title} has no published predecessor. Give a version: --version N. Show the versions: alchemist subset list."
        )
    if target.state == "selected":
        raise ConfigError(
            f"{target.title} was never published. Publish it: alchemist subset publish {target.name} --version {target.version}."
        )
    if target.state == "withdrawn":
        raise ConfigError(_withdrawn(target))
    return _publish(engine, target, action="rollback")


def withdraw(config: WithdrawSubsetConfig) -> WithdrawSubsetResult:
    """Withdraw a subset version: it cannot be read or evaluated, and its predecessor is published again.

    `subset list`, `subset show`, the report and the audit log keep who withdrew it, when and why.

    Raises:
        ConfigError: There is no such version, or none is named and none is published.
    """
    engine = open_store()
    subset = _to_withdraw(engine, config)
    if is_new := subset.state != "withdrawn":
        _withdraw(engine, subset, config.reason)
        subset = find_subset(engine, subset.name, version=subset.version)
    say(describe_withdrawal(subset))
    published = published_version(engine, subset.name)
    return WithdrawSubsetResult(
        subset=subset.name, version=subset.version, reason=subset.withdrawn_reason or "", is_new=is_new,
        published=published.title if published else None,
    )  # fmt: skip


def _to_withdraw(engine: Engine, config: WithdrawSubsetConfig) -> SubsetRow:
    if config.version is not None:
        return find_subset(engine, config.name, version=config.version)
    published, withdrawn = published_version(engine, config.name), last_withdrawn(engine, config.name)
    if withdrawn is not None and withdrawn.withdrawn_reason == config.reason:
        before = find_predecessor(engine, withdrawn)
        # The command is repeated, for example by a scheduler's retry: it must not withdraw another version.
        if published is None or (before is not None and before.subset_id == published.subset_id):
            return withdrawn
    if published is None:
        find_subset(engine, config.name)
        raise ConfigError(
            f"No version of {config.name} is published. Give the version to withdraw: --version N. "
            "Show the versions: alchemist subset list."
        )
    return published


def _withdraw(engine: Engine, subset: SubsetRow, reason: str) -> None:
    actor = current_actor()
    fallback = find_predecessor(engine, subset) if subset.state == "published" else None
    if fallback is not None:
        try:
            store_members(engine, fallback.subset_id, load_manifest(engine, fallback))
            withdraw_subset(engine, subset, reason=reason, actor=actor, fallback=fallback)
        except (ConfigError, DataError) as error:
            say(f"{fallback.title} cannot be published in its place: {error}")
        else:
            return
    withdraw_subset(engine, subset, reason=reason, actor=actor, fallback=None)


def _withdrawn(subset: SubsetRow) -> str:
    return (
        f"{describe_withdrawal(subset)} To publish it again: "
        f"alchemist subset publish {subset.name} --version {subset.version} --reinstate."
    )


def _publish(
    engine: Engine, subset: SubsetRow, *, action: str, approved: dict[str, str] | None = None
) -> PublishSubsetResult:
    manifest = load_manifest(engine, subset)
    is_new = publish_subset(engine, subset, manifest, actor=current_actor(), action=action, approved=approved)
    return PublishSubsetResult(subset=subset.name, version=subset.version, n_samples=subset.n_samples, is_new=is_new)


class GcSubsetConfig(Config):
    """Which versions to remove."""

    name: str | None = Field(None, description="Name of the subset; none: all subsets", json_schema_extra=BARE_WORD)
    min_age_days: float = Field(
        7,
        ge=0,
        le=36_500,
        description="Days since a version was last selected, published, materialized or withdrawn before it is removed",
    )
    dry_run: bool = Field(True, description="Only list what would be removed; --no-dry-run removes it")


class GcSubsetResult(Result):
    """What was removed, or would be."""

    is_dry_run: bool
    n_bytes: int
    removed: list[str]
    left: list[str]

    def summary(self) -> str:
        """Return a line for each version, and the total."""
        total = f"{len(self.removed)} to remove, {_megabytes(self.n_bytes)}"
        if not self.is_dry_run:
            total = f"removed {len(self.removed)}, {_megabytes(self.n_bytes)}"
        elif self.removed:
            total += ". Nothing was removed. To remove it: alchemist subset gc --no-dry-run"
        return "\n".join([*self.removed, *(f"left: {line}" for line in self.left), total])


@dataclass(frozen=True, slots=True)
class Holding:
    """Storage of one version: its row, its manifests and its materialized datasets."""

    row: CollectableVersion | TaintedVersion
    manifests: tuple[Path, ...]
    copies: tuple[str, ...]
    n_bytes: int

    def __str__(self) -> str:
        """Return a line that names the files and their size."""
        from alchemist_core.subsets.materialized import display_address  # noqa: PLC0415  loads the image libraries

        parts = [*map(str, self.manifests), *map(display_address, self.copies)]
        if _members_bytes(self.row):
            parts.insert(0, "membership")
        listed = ", ".join(parts) or "a materialized dataset that no longer exists"
        return f"{self.row.name} v{self.row.version} ({self.row.state}): {listed}, {_megabytes(self.n_bytes)}"


def gc(config: GcSubsetConfig) -> GcSubsetResult:
    """List subset versions that are not used any more; --no-dry-run removes their manifests and materialized datasets."""
    engine = open_store()
    removed, n_bytes = [], 0
    holdings, left = _holdings(engine, config)
    for holding in holdings:
        try:
            is_gone = config.dry_run or _collect(engine, holding, config)
        except DataError as error:
            left.append(f"{holding.row.name} v{holding.row.version}: {error}")
            continue
        if is_gone:
            removed.append(str(holding))
            n_bytes += holding.n_bytes
        else:
            left.append(
                f"{holding.row.name} v{holding.row.version} is in use or being read. Run alchemist subset gc again."
            )
    for path in _orphans(engine, config):
        removed.append(f"manifest without a version: {path}")
        n_bytes += path.stat().st_size
        if not config.dry_run:
            path.unlink()
    return GcSubsetResult(is_dry_run=config.dry_run, n_bytes=n_bytes, removed=removed, left=left)


def _holdings(engine: Engine, config: GcSubsetConfig) -> tuple[list[Holding], list[str]]:
    """Return what may be removed, and a line for each version whose files cannot be reached or are not its own."""
    found, left = [], []
    for row in _free_rows(engine, config):
        try:
            found.append(_holding(engine, row))
        except DataError as error:
            left.append(f"{row.name} v{row.version}: {error}")
    return [holding for holding in found if holding.n_bytes or holding.row.all_materialized_uris], left


def _free_rows(engine: Engine, config: GcSubsetConfig) -> Iterator[CollectableVersion | TaintedVersion]:
    with engine.connect() as connection:
        free = subsets.find_collectable(connection, config.name, config.min_age_days)
        tainted = subsets.find_tars_with_taken_down(connection, config.name)
    yield from free
    known = {row.subset_id for row in free}
    for row in tainted:
        if row.state == "published":
            say(
                f"{row.name} v{row.version} is published and its tars contain {row.n_taken_down:,} images that were taken down. "
                "Publish a new version, then run alchemist subset gc again."
            )
        elif row.subset_id not in known:
            yield row


def _members_bytes(row: CollectableVersion | TaintedVersion) -> int:
    return row.members_bytes if isinstance(row, CollectableVersion) else 0


def _describe_copy(uri: str) -> str:
    from alchemist_core.subsets.materialized import display_address, is_finished  # noqa: PLC0415  loads the image libraries

    return display_address(uri) if is_finished(uri) else f"{display_address(uri)} (not finished)"


def _holding(engine: Engine, row: CollectableVersion | TaintedVersion) -> Holding:
    """Find the files of a version. Every address is compared first, so that of a version with a foreign one nothing is removed.

    Raises:
        DataError: An address is not one that select or materialize makes for the version, or its files cannot be reached or recognised.
    """
    from alchemist_core.subsets.materialized import (  # noqa: PLC0415  loads the image libraries
        materialized_size,
        require_own_address,
    )

    manifests = [_own_manifest(row)] if isinstance(row, CollectableVersion) else []
    for uri in row.all_materialized_uris:
        require_own_address(uri, row.name, row.version)
    sizes = {uri: materialized_size(uri) for uri in row.all_materialized_uris}
    sizes = {uri: size for uri, size in sizes.items() if size and _is_own(engine, row, uri)}
    there = tuple(path for path in manifests if path.exists())
    n_bytes = _members_bytes(row) + sum(path.stat().st_size for path in there) + sum(sizes.values())
    return Holding(row, there, tuple(sizes), n_bytes)


def _is_own(engine: Engine, row: CollectableVersion | TaintedVersion, uri: str) -> bool:
    """Return whether the files at an address are a dataset of the version; False if they are another one, such as of another home.

    Raises:
        DataError: They carry no identity, or several, or the members of the version cannot be found.
    """
    from alchemist_core.subsets.materialized import (  # noqa: PLC0415  loads the image libraries
        display_address,
        find_identities,
        identify_members,
        is_in_home,
        layout_of,
    )

    if is_in_home(uri) or not (found := find_identities(uri)):
        return True
    manifest = load_manifest(engine, subsets.find_by_id(engine, row.subset_id), must_store=False)
    own = identify_members(manifest.pair_hash_K32, manifest.weight_K, layout_of(uri))
    if found == {own}:
        return True
    if own in found or None in found:
        raise DataError(
            f"{display_address(uri)} holds files that are not part of this version's materialized dataset, so nothing of this version "
            "is removed. Move or remove them, then run again."
        )
    say(f"{display_address(uri)} holds another dataset than that of {row.name} v{row.version}. It is not removed.")
    return False


def _own_manifest(row: CollectableVersion) -> Path:
    path, folder = artifact_path(row.manifest_uri), artifact_path(f"subsets/{row.name}")
    if path.parent != folder:
        raise DataError(
            f"{row.manifest_uri!r} is not a manifest in {folder}, so nothing of this version is removed. "
            "Find out who changed this row of the store."
        )
    return path


def _collect(engine: Engine, holding: Holding, config: GcSubsetConfig) -> bool:
    row = holding.row

    def is_still_free(connection: Connection) -> bool:
        found = (
            subsets.find_collectable(connection, row.name, config.min_age_days)
            if isinstance(row, CollectableVersion)
            else [one for one in subsets.find_tars_with_taken_down(connection, row.name) if one.state != "published"]
        )
        return row.subset_id in {one.subset_id for one in found}

    return subsets.collect(
        engine, row, is_still_free=is_still_free,
        remove_copies=lambda: _remove_copies(holding), remove_manifest=lambda: _remove_manifest(holding),
    )  # fmt: skip


def _remove_copies(holding: Holding) -> None:
    from alchemist_core.subsets.materialized import remove_materialized  # noqa: PLC0415  loads the image libraries

    for uri in holding.copies:
        remove_materialized(uri)


def _remove_manifest(holding: Holding) -> None:
    for path in holding.manifests:
        path.unlink(missing_ok=True)


def _orphans(engine: Engine, config: GcSubsetConfig) -> Iterator[Path]:
    """Find manifests without a row: their selection was interrupted before it stored one."""
    root, known = artifact_path("subsets"), subsets.manifest_uris(engine)
    # A new manifest may belong to a process that has not stored its row yet.
    least_s = max(86400 * config.min_age_days, 3600)
    for path in sorted(root.glob(f"{config.name or '*'}/*.parquet*")):
        try:
            written = path.stat().st_mtime
        except FileNotFoundError:
            continue  # Renamed or removed since it was listed.
        if written <= time.time() - least_s and path.relative_to(root.parent).as_posix() not in known:
            yield path


def _megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.1f} MB"


class CompareConfig(Config):
    """Which subset version to compare."""

    subset: str = Field(..., description="Name of the subset", json_schema_extra=BARE_WORD)
    version: int | None = Field(None, ge=1, description=VERSION_TEXT)
    against: int | None = Field(
        None,
        ge=1,
        description="Also compare with this version: held-out losses under the same protocol, paired by seed; none: the version that "
        "was published before, or the newest earlier one, if it was evaluated",
    )


class CompareResult(Result):
    """A row for each metric and arm, and the difference to another version."""

    subset: str
    rows: list[dict[str, Any]]
    # Both losses, their difference with its interval, and the verdict; none if no other version was evaluated under the same protocol.
    versions: dict[str, Any] | None = None

    def summary(self) -> str:
        """Return a line for each arm, and how to read a gain."""
        metric, arm = (max(len(name), *(len(row[name]) for row in self.rows)) for name in ("metric", "arm"))
        gains = [_gain(row, "gain") for row in self.rows]
        width = max(len("gain over random"), *map(len, gains))
        lines = [
            f"{'metric':<{metric}}  {'arm':<{arm}}  seeds        mean  {'gain over random':<{width}}  gain over full"
        ]
        lines += [
            f"{row['metric']:<{metric}}  {row['arm']:<{arm}}  {row['n_seeds']:>5}  {row['mean']:>10.4f}  {gain:<{width}}  "
            f"{_gain(row, 'gain_over_full')}"
            for row, gain in zip(self.rows, gains, strict=True)
        ]
        lines = [
            self.subset,
            *lines,
            "A positive gain is better, for losses and for scores. It is over the seeds that both arms have.",
        ]
        if (found := self.versions) is not None:
            lines += [f"{found['title']}: {found['text']}", GAINS_NOTE]
        return "\n".join(lines)


def compare(config: CompareConfig) -> CompareResult:
    """Print the values of the trained models, their gains over a random subset and over all data, and the difference to a version before.

    Raises:
        ConfigError: No model of this version was evaluated, or it cannot be compared with the version `against`.
    """
    engine = open_store()
    subset = choose_version(engine, config.subset, version=config.version)
    rows = [row._asdict() for row in read_comparisons(engine, subset.subset_id)]
    if not rows:
        raise ConfigError(
            f"No model of {subset.title} was evaluated. Run {train_downstream_command(subset.name, subset.version)}, then "
            f"alchemist evaluate {of_version(subset.name, subset.version)}."
        )
    found = read_version_comparison(engine, subset, config.against)
    return CompareResult(subset=subset.title, rows=rows, versions=None if found is None else _as_json(found))


def _as_json(found: VersionComparison) -> dict[str, Any]:
    return {
        "title": found.title, "verdict": found.verdict, "text": found.text, "version": found.own.version, "against": found.other.version,
        "loss": found.own.loss.mean, "loss_of_other": found.other.loss.mean, "difference": found.difference.mean,
        "difference_low": found.difference.low, "difference_high": found.difference.high, "n_seeds": found.difference.n,
        "protocol_id": found.protocol_id,
    }  # fmt: skip


def _gain(row: dict[str, Any], name: str) -> str:
    gain, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if gain is None:
        return "–"
    return f"{gain:+.4f}" if low is None else f"{gain:+.4f} [{low:+.4f}, {high:+.4f}]"


def _next_compare(config: CompareConfig, result: CompareResult) -> str:
    if any(row["gain_low"] is not None for row in result.rows):
        return "alchemist report"
    return f"{train_downstream_command(config.subset, config.version)} --seeds 0,1,2; one common seed gives no interval"


def _next_of(state: str, name: str, version: int, *, scorer: str | None = None) -> str:
    """Return what can be done with a version in this state; `scorer` is the one that ranked it, if it was no rater."""
    if state == "published" and load_project().downstream:
        state = "published in a project"
    return NEXT[state].format(
        name=name,
        version=version,
        train=train_downstream_command(name, version),
        measure=next_of_selected(name, version, scorer=scorer),
    )


def _next_publish(_config: PublishSubsetConfig, result: PublishSubsetResult) -> str:
    return _next_of("published", result.subset, result.version)


class BucketsConfig(Config):
    """A subset version, and sizes to which its images would be cropped."""

    name: str = Field(..., description="Name of the subset", json_schema_extra=BARE_WORD)
    version: int | None = Field(None, ge=1, description=VERSION_TEXT)
    buckets: Buckets = Field(default_factory=Buckets, description="Sizes of the buckets")


class BucketRow(Result):
    """The images of one bucket."""

    width: int
    height: int
    n_samples: int
    n_enlarged: int
    # Mean share of an image's area that is cropped off, 0-1.
    cropped_ratio: float


class BucketsResult(Result):
    """How many samples fall into each bucket, and how much of them is cropped; empty buckets are left out."""

    subset: str
    n_samples: int
    n_enlarged: int
    cropped_ratio: float
    rows: list[BucketRow]

    def summary(self) -> str:
        """Return a line for each bucket."""
        lines = [f"{'bucket':>11}  {'samples':>12}  {'share':>6}  {'cropped':>7}  {'enlarged':>10}"]
        lines += [
            f"{row.width:>5} x {row.height:<5}{row.n_samples:>12,}  {row.n_samples / self.n_samples:>6.1%}  {row.cropped_ratio:>7.1%}  "
            f"{row.n_enlarged:>10,}"
            for row in self.rows
        ]
        what = f"{self.subset}: {counted(self.n_samples, 'sample')} in {counted(len(self.rows), 'bucket')}"
        lines.append(
            f"{what}; {self.cropped_ratio:.1%} of an image is cropped on average, {self.n_enlarged:,} are enlarged."
        )
        return "\n".join(lines)


def count_buckets(config: BucketsConfig) -> BucketsResult:
    """Count the members of a version, each once, by the buckets of aspect ratio and resolution of `SubsetDataset(…, buckets=…)`."""
    engine = open_store()
    subset = choose_version(engine, config.name, version=config.version)
    size_N2 = read_sizes(engine, load_manifest(engine, subset, must_store=False).pair_hash_K32)
    found = config.buckets.assign(*size_N2.T.astype(np.int64))
    is_enlarged_N = found.scale_N > 1
    n_B = np.bincount(found.bucket_N, minlength=len(found.sizes))
    n_enlarged_B = np.bincount(found.bucket_N, is_enlarged_N, minlength=len(found.sizes))
    cropped_B = np.bincount(found.bucket_N, found.cropped_N, minlength=len(found.sizes)) / np.maximum(n_B, 1)
    rows = [
        BucketRow(
            width=width, height=height, n_samples=int(n_B[at]), n_enlarged=int(n_enlarged_B[at]), cropped_ratio=round(cropped_B[at], 6)
        )
        for at, (width, height) in enumerate(found.sizes)
        if n_B[at]
    ]  # fmt: skip
    return BucketsResult(
        subset=subset.title, n_samples=len(size_N2), n_enlarged=int(is_enlarged_N.sum()),
        cropped_ratio=round(float(found.cropped_N.mean()), 6), rows=rows,
    )  # fmt: skip


COMMANDS = {
    "list": Command(SubsetListConfig, list_),
    "show": Command(SubsetShowConfig, show),
    "buckets": Command(BucketsConfig, count_buckets),
    "diff": Command(DiffSubsetConfig, diff),
    "compare": Command(CompareConfig, compare, _next_compare),
    "publish": Command(PublishSubsetConfig, publish, _next_publish),
    "rollback": Command(RollbackSubsetConfig, rollback),
    "withdraw": Command(WithdrawSubsetConfig, withdraw),
    "gc": Command(GcSubsetConfig, gc),
}
