"""`alchemist subset gc`: give back what versions take up that nobody reads; their spec can make them again."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field
from sqlalchemy import Connection, Engine

from alchemist_core.config import Config, Report
from alchemist_core.errors import DataError
from alchemist_core.files import artifact_path
from alchemist_core.store import subsets
from alchemist_core.store.engine import open_store
from alchemist_core.store.tables import AnyRow
from alchemist_core.subsets.materialized import copy_size, place_of, remove_copy
from alchemist_core.telemetry import say


class GcSubsetConfig(Config):
    """What may go."""

    name: str | None = Field(None, description="Name of a subset; none: all of them")
    min_age_days: float = Field(
        7, ge=0, le=36_500, description="Days since a version was made, published or first copied before it may go"
    )
    dry_run: bool = Field(True, description="Only list what would go; --no-dry-run removes it")


class GcSubsetReport(Report):
    """What went, or would."""

    is_dry_run: bool
    n_bytes: int
    removed: list[str]
    left: list[str]

    def summary(self) -> str:
        """Return one line a version, and how to go on."""
        total = f"{len(self.removed)} to remove, {_megabytes(self.n_bytes)}"
        if not self.is_dry_run:
            total = f"removed {len(self.removed)}, {_megabytes(self.n_bytes)}"
        elif self.removed:
            total += ". Nothing was removed yet: alchemist subset gc --no-dry-run"
        return "\n".join([*self.removed, *(f"left: {line}" for line in self.left), total])


@dataclass(frozen=True, slots=True)
class Holding:
    """What one version takes up: a row of the store, its manifest, its copies, and a line about it."""

    row: AnyRow
    manifests: tuple[Path, ...]
    copies: tuple[str, ...]
    n_bytes: int

    def __str__(self) -> str:
        """Return a line for a person."""
        parts = [*map(str, self.manifests), *map(place_of, self.copies)]
        if getattr(self.row, "members_bytes", 0):
            parts.insert(0, "membership")
        listed = ", ".join(parts) or "a copy that is gone"
        return f"{self.row.name} v{self.row.version} ({self.row.state}): {listed}, {_megabytes(self.n_bytes)}"


def gc(config: GcSubsetConfig) -> GcSubsetReport:
    """Collect versions that are neither published nor needed: first a list, then, with --no-dry-run, in earnest."""
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
            left.append(f"{holding.row.name} v{holding.row.version} is in use again, or being read: run gc once more")
    for path in _orphans(engine, config):
        removed.append(f"no version's manifest: {path}")
        n_bytes += path.stat().st_size
        if not config.dry_run:
            path.unlink()
    return GcSubsetReport(is_dry_run=config.dry_run, n_bytes=n_bytes, removed=removed, left=left)


def _holdings(engine: Engine, config: GcSubsetConfig) -> tuple[list[Holding], list[str]]:
    """Return what may go, and a line for each version that is left because a copy of it cannot be reached."""
    found, left = [], []
    for row, *manifests in _free_rows(engine, config):
        try:
            found.append(_holding(row, *manifests))
        except DataError as error:
            left.append(f"{row.name} v{row.version}: {error}")
    return [holding for holding in found if holding.n_bytes or holding.row.all_materialized_uris], left


def _free_rows(engine: Engine, config: GcSubsetConfig) -> Iterator[tuple[Any, ...]]:
    with engine.connect() as connection:
        free = subsets.find_collectable(connection, config.name, config.min_age_days)
        tainted = subsets.find_tars_with_taken_down(connection, config.name)
    yield from ((row, artifact_path(row.manifest_uri)) for row in free)
    known = {row.subset_id for row in free}
    for row in tainted:
        if row.state == "published":
            say(
                f"{row.name} v{row.version} is published and its tars hold {row.n_taken_down:,} pictures that were taken down: "
                "publish a successor, then run gc again."
            )
        elif row.subset_id not in known:
            yield (row,)


def _holding(row: AnyRow, *manifests: Path) -> Holding:
    there = tuple(path for path in manifests if path.exists())
    sizes = {uri: copy_size(uri) for uri in row.all_materialized_uris}
    n_bytes = getattr(row, "members_bytes", 0) + sum(path.stat().st_size for path in there) + sum(sizes.values())
    return Holding(row, there, tuple(uri for uri, size in sizes.items() if size), n_bytes)


def _collect(engine: Engine, holding: Holding, config: GcSubsetConfig) -> bool:
    row = holding.row

    def is_still_free(connection: Connection) -> bool:
        found = (
            subsets.find_collectable(connection, row.name, config.min_age_days)
            if hasattr(row, "members_bytes")
            else [one for one in subsets.find_tars_with_taken_down(connection, row.name) if one.state != "published"]
        )
        return row.subset_id in {one.subset_id for one in found}

    return subsets.collect(
        engine, row, is_still_free=is_still_free,
        remove_copies=lambda: _remove_copies(holding), remove_manifest=lambda: _remove_manifest(holding),
    )  # fmt: skip


def _remove_copies(holding: Holding) -> None:
    for uri in holding.copies:
        remove_copy(uri)


def _remove_manifest(holding: Holding) -> None:
    for path in holding.manifests:
        path.unlink(missing_ok=True)


def _orphans(engine: Engine, config: GcSubsetConfig) -> Iterator[Path]:
    """Find manifests without a row, whole or half written: their selection was interrupted before it stored one."""
    root, known = artifact_path("subsets"), subsets.manifest_uris(engine)
    # One of this moment may be another process's, which has yet to finish it or to store its row.
    least_s = max(86400 * config.min_age_days, 3600)
    for path in sorted(root.glob(f"{config.name or '*'}/*.parquet*")):
        is_old = path.exists() and path.stat().st_mtime <= time.time() - least_s
        if is_old and path.relative_to(root.parent).as_posix() not in known:
            yield path


def _megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.1f} MB"
