"""Registered datasets: list them, set the default evaluation dataset, rename and remove them."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, func, select, text, update

from alchemist_core.errors import ConfigError
from alchemist_core.selection.config import hash_spec
from alchemist_core.store.audit import current_actor, record_event
from alchemist_core.store.queries import load_query
from alchemist_core.store.registry import DatasetRow, find_dataset
from alchemist_core.store.tables import CheckResult, Dataset, RankSnapshot, Rater, Subset


class DatasetOverview(NamedTuple):
    """A dataset with the counts of its verified shards and of its undecided nights (query `list_datasets`)."""

    dataset_id: int
    name: str
    role: str
    root_uri: str
    n_shards: int
    n_samples: int
    n_waiting: int
    first_crawl_date: date | None
    last_crawl_date: date | None
    is_default: bool
    created_at: datetime
    removed_at: datetime | None
    removed_reason: str | None


class SubsetState(NamedTuple):
    """A subset version and its state."""

    name: str
    version: int
    state: str

    @property
    def title(self) -> str:
        """Name and version, such as `web-r20 v3`."""
        return f"{self.name} v{self.version}"


def describe_datasets(engine: Engine, name: str | None = None) -> list[DatasetOverview]:
    """Return one dataset or all, removed ones too (query `list_datasets`)."""
    with engine.connect() as connection:
        return [DatasetOverview._make(row) for row in connection.execute(load_query("list_datasets"), {"name": name})]


def default_evaluation(engine: Engine) -> DatasetRow | None:
    """Return the default evaluation dataset: the one that was set, else the first registered."""
    statement = (
        select(Dataset.dataset_id, Dataset.name, Dataset.root_uri, Dataset.role)
        .where(Dataset.role == "evaluation", Dataset.removed_at.is_(None))
        .order_by(Dataset.is_default.desc(), Dataset.dataset_id)
        .limit(1)
    )
    with engine.connect() as connection:
        row = connection.execute(statement).one_or_none()
    return None if row is None else DatasetRow(*row)


_SHARED_IMAGES = text("""
    WITH images AS MATERIALIZED (
        SELECT DISTINCT dataset_id, image_hash FROM alchemist.live_locations
        WHERE dataset_id = ANY(:choosing) OR dataset_id = ANY(:reporting)
    )
    SELECT count(DISTINCT images.image_hash) FILTER (WHERE others.dataset_id IS NOT NULL), count(DISTINCT images.image_hash)
    FROM images LEFT JOIN images AS others ON images.image_hash = others.image_hash
        AND images.dataset_id <> others.dataset_id AND others.dataset_id = ANY(:choosing)
    WHERE images.dataset_id = ANY(:reporting)
""")


def count_shared_images(engine: Engine, choosing: Sequence[int], reporting: Sequence[int]) -> tuple[int, int]:
    """Return how many images of the reporting datasets are also in another dataset, which chooses; and how many images they have.

    Images are the same if their files have the same sha256.

    Args:
        engine: The store.
        choosing: Keys of the datasets on which a setting is chosen.
        reporting: Keys of the datasets on which results are reported; a key may be in both.
    """
    with engine.connect() as connection:
        given = {"choosing": list(choosing), "reporting": list(reporting)}
        n_shared, n_images = connection.execute(_SHARED_IMAGES, given).one()
    return n_shared, n_images


def set_default(engine: Engine, name: str) -> str | None:
    """Set the default evaluation dataset; return the name of the former default.

    Raises:
        ConfigError: There is no such dataset, or it has another role.
    """
    row, former = find_dataset(engine, name), default_evaluation(engine)
    if row.role != "evaluation":
        raise ConfigError(
            f"Dataset {name!r} has the role {row.role}; only an evaluation dataset can be the default. "
            "Show the datasets: alchemist dataset list."
        )
    before = None if former is None else former.name
    with engine.begin() as connection:
        connection.execute(update(Dataset).where(Dataset.is_default).values(is_default=False))
        connection.execute(update(Dataset).where(Dataset.dataset_id == row.dataset_id).values(is_default=True))
        record_event(
            connection, current_actor(), "set default", f"dataset {name}",
            before={"default": before}, after={"default": name},
        )  # fmt: skip
    return before


def rename(engine: Engine, name: str, new_name: str) -> None:
    """Rename a dataset in every table that stores its name. Shards, samples, scores, nights and subsets do not change.

    Raises:
        ConfigError: There is no such dataset, the new name is taken, or a run in progress has the name among its options.
    """
    with engine.begin() as connection:
        ids = {row.name: row.dataset_id for row in connection.execute(select(Dataset.name, Dataset.dataset_id))}
        if name not in ids:
            raise ConfigError(f"Dataset {name!r} is not registered (registered: {', '.join(sorted(ids)) or 'none'}).")
        if new_name in ids:
            raise ConfigError(f"The name {new_name!r} is taken. Choose another one: alchemist dataset list shows all.")
        connection.execute(update(Dataset).where(Dataset.dataset_id == ids[name]).values(name=new_name))
        connection.execute(update(CheckResult).where(CheckResult.dataset_name == name).values(dataset_name=new_name))
        _rename_in_snapshots(connection, name, new_name)
        _rename_in_specs(connection, name, new_name)
        _rename_in_raters(connection, name, new_name)
        # Last, so that a run is seen that began meanwhile.
        _require_no_run(connection, name)
        record_event(
            connection, current_actor(), "rename", f"dataset {new_name}",
            before={"name": name}, after={"name": new_name},
        )  # fmt: skip


_LIVE_RUN = text("""
    SELECT runs.run_id, runs.stage, runs.host, runs.pid
    FROM alchemist.runs INNER JOIN alchemist.leases ON runs.run_id = leases.run_id
    WHERE starts_with(leases.resource, 'run:') AND alchemist.is_live_lease(leases.expires_at)
        -- A string, or a list of strings.
        AND (
            runs.config -> 'dataset' ? :name OR runs.config -> 'validation' ? :name
            OR runs.config #> '{policy,decontaminate}' ? :name
        )
    ORDER BY runs.run_id
    LIMIT 1
""")


def _require_no_run(connection: Connection, name: str) -> None:
    """Refuse while a run in progress was given the name: at its end it would store a rater or a subset of an unknown dataset."""
    if (run := connection.execute(_LIVE_RUN, {"name": name}).one_or_none()) is not None:
        raise ConfigError(
            f"Run {run.run_id} ({run.stage}, host {run.host}, pid {run.pid}) uses dataset {name!r} by its name. Wait until it "
            "ends, or stop it, then rename the dataset."
        )


def _rename_in_snapshots(connection: Connection, name: str, new_name: str) -> None:
    rows = connection.execute(select(RankSnapshot.snapshot_id, RankSnapshot.dataset_names, RankSnapshot.options)).all()
    for row in rows:
        names = sorted(new_name if one == name else one for one in row.dataset_names)
        options = _renamed(row.options, name, new_name)
        if (names, options) != (row.dataset_names, row.options):
            same = RankSnapshot.snapshot_id == row.snapshot_id
            connection.execute(update(RankSnapshot).where(same).values(dataset_names=names, options=options))


def _rename_in_specs(connection: Connection, name: str, new_name: str) -> None:
    for row in connection.execute(select(Subset.subset_id, Subset.spec)).all():
        spec = _renamed(row.spec, name, new_name)
        if spec != row.spec:
            same = Subset.subset_id == row.subset_id
            connection.execute(update(Subset).where(same).values(spec=spec, spec_hash=hash_spec(spec)))


def _rename_in_raters(connection: Connection, name: str, new_name: str) -> None:
    for row in connection.execute(select(Rater.rater_id, Rater.config)).all():
        own = {key: new_name for key in ("dataset", "validation") if row.config.get(key) == name}
        if own:
            same = Rater.rater_id == row.rater_id
            connection.execute(update(Rater).where(same).values(config=row.config | own))


def _renamed(options: dict[str, Any], name: str, new_name: str) -> dict[str, Any]:
    """Return selection options with the new name; of the options only `decontaminate` names datasets."""
    names = options.get("decontaminate")
    if not names or name not in names:
        return options
    return options | {"decontaminate": [new_name if one == name else one for one in names]}


def remove(engine: Engine, row: DatasetRow, *, reason: str) -> None:
    """Mark a dataset as removed; its rows are kept.

    Raises:
        ConfigError: Published subsets were selected from it.
    """
    with engine.begin() as connection:
        # Excludes a concurrent `publish` of a subset of this dataset.
        connection.execute(text("LOCK TABLE alchemist.subsets IN SHARE ROW EXCLUSIVE MODE"))
        published = [one for one in _subsets_of(connection, row.name) if one.state == "published"]
        if published:
            titles = ", ".join(one.title for one in published)
            raise ConfigError(
                f"Published subsets were selected from {row.name!r}: {titles}. Publish selections without it "
                "(alchemist select, alchemist subset publish), or withdraw these (alchemist subset withdraw NAME --reason TEXT), "
                "then remove the dataset."
            )
        values = {"removed_at": func.clock_timestamp(), "removed_reason": reason, "is_default": False}
        connection.execute(update(Dataset).where(Dataset.dataset_id == row.dataset_id).values(values))
        record_event(
            connection, current_actor(), "remove", f"dataset {row.name}",
            before={"role": row.role, "root_uri": row.root_uri}, after={"reason": reason},
        )  # fmt: skip


def subsets_of(engine: Engine, name: str) -> list[SubsetState]:
    """Return the subset versions that were selected from a dataset."""
    with engine.connect() as connection:
        return _subsets_of(connection, name)


def _subsets_of(connection: Connection, name: str) -> list[SubsetState]:
    statement = (
        select(Subset.name, Subset.version, Subset.state)
        .join(RankSnapshot, RankSnapshot.snapshot_id == Subset.snapshot_id)
        .where(RankSnapshot.dataset_names.any_() == name)
        .order_by(Subset.name, Subset.version)
    )
    return [SubsetState._make(row) for row in connection.execute(statement)]


def raters_of(engine: Engine, name: str) -> list[str]:
    """Return the production and shadow raters that were trained or validated on a dataset."""
    statement = (
        select(Rater.name)
        .where((Rater.config["dataset"].astext == name) | (Rater.config["validation"].astext == name))
        .where((Rater.state == "production") | Rater.is_shadow)
        .order_by(Rater.name)
    )
    with engine.connect() as connection:
        return list(connection.execute(statement).scalars())
