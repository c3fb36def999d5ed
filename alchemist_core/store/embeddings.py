"""Rows of the files of embeddings, and of what is found by them: clusters and semantic duplicates.

Letters: M samples that were taken down · B samples of a block · P semantic duplicates.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    bindparam,
    cast,
    delete,
    func,
    insert,
    select,
    text,
    union,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as upsert

from alchemist_core.errors import ConfigError, StoreError
from alchemist_core.lazy import NDArray, np
from alchemist_core.store.copy import copy_columns, copy_out
from alchemist_core.store.export import FILTER_COLUMNS, filter_rows, read_known
from alchemist_core.store.tables import (
    ClusterCentroids,
    ClusterMember,
    Rater,
    Sample,
    SemanticDuplicate,
    ShardEmbeddings,
    Takedown,
    semantic_block_ids,
)


@dataclass(frozen=True, slots=True)
class EmbeddingFile:
    """A complete file of embeddings that no row names yet."""

    uri: str
    sha256: bytes
    n_samples: int
    dim: int
    first_sample_id: int
    last_sample_id: int


class StoredFile(NamedTuple):
    """A file of embeddings in the store."""

    embedding_file_id: int
    shard_id: int
    uri: str
    sha256: bytes
    n_samples: int
    dim: int
    first_sample_id: int
    last_sample_id: int
    is_compared: bool


def insert_file(connection: Connection, rater_id: int, shard_id: int, file: EmbeddingFile) -> None:
    """Store the row of a file, in the transaction that stores the scores of its samples."""
    connection.execute(insert(ShardEmbeddings).values(rater_id=rater_id, shard_id=shard_id, **asdict(file)))


def list_files(engine: Engine, rater_id: int) -> list[StoredFile]:
    """Return the files of a scorer, in the order of their first samples."""
    return _read_files(engine, ShardEmbeddings.rater_id == rater_id)


def find_file(engine: Engine, embedding_file_id: int) -> StoredFile | None:
    """Return what the row of a file says now; None if the row was deleted."""
    return next(iter(_read_files(engine, ShardEmbeddings.embedding_file_id == embedding_file_id)), None)


def _read_files(engine: Engine, where: ColumnElement[bool]) -> list[StoredFile]:
    table = ShardEmbeddings
    columns = (getattr(table, name) for name in StoredFile._fields)
    statement = select(*columns).where(where).order_by(table.first_sample_id, table.embedding_file_id)
    with engine.connect() as connection:
        rows = connection.execute(statement)
        return [StoredFile._make(row)._replace(sha256=bytes(row.sha256)) for row in rows]


def list_raters_with_files(engine: Engine) -> list[int]:
    """Return the rater_id of every rater that has files of embeddings, whatever its name."""
    with engine.connect() as connection:
        return sorted(connection.execute(select(ShardEmbeddings.rater_id).distinct()).scalars())


def embedding_scorers(engine: Engine) -> dict[str, int]:
    """Return the scorers that have embeddings: the rater_id of each one's first output, by the scorer's name."""
    name = Rater.config["name"].as_string()
    statement = select(name, Rater.rater_id).where(
        Rater.rater_id.in_(select(ShardEmbeddings.rater_id).distinct()), Rater.kind == "scorer"
    )
    with engine.connect() as connection:
        return {row[0]: row[1] for row in connection.execute(statement.order_by(Rater.rater_id))}


def list_uris(engine: Engine) -> set[str]:
    """Return the addresses of all files of embeddings and of centroids."""
    with engine.connect() as connection:
        return set(connection.execute(union(select(ShardEmbeddings.uri), select(ClusterCentroids.uri))).scalars())


def read_taken_down_hashes(engine: Engine) -> list[bytes]:
    """Return the sha256 of every image that was taken down."""
    with engine.connect() as connection:
        return [bytes(image_hash) for image_hash in connection.execute(select(Takedown.image_hash)).scalars()]


def read_taken_down_ids(engine: Engine) -> NDArray[np.int64]:
    """Return the ids of the samples whose image was taken down, ascending."""
    statement = select(Sample.sample_id).join(Takedown, Takedown.image_hash == Sample.image_hash)
    with engine.connect() as connection:
        found = list(connection.execute(statement.order_by(Sample.sample_id)).scalars())
    return np.array(found, np.int64)


def replace_file(engine: Engine, old: StoredFile, new: EmbeddingFile | None) -> bool:
    """Let the row of a file name another one, which lacks some samples; without another one, delete the row.

    Returns:
        False if the row names a different file by now; nothing is changed then.
    """
    is_same = (ShardEmbeddings.embedding_file_id == old.embedding_file_id, ShardEmbeddings.uri == old.uri)
    statement = (
        delete(ShardEmbeddings).where(*is_same)
        if new is None
        else update(ShardEmbeddings).where(*is_same).values(asdict(new))
    )
    with engine.begin() as connection:
        return connection.execute(statement).rowcount == 1


def set_keeping(engine: Engine, rater_ids: Sequence[int], *, is_kept: bool) -> None:
    """Store whether the embeddings of a scorer are kept from now on; what is stored stays."""
    flag = cast({"keep_embeddings": is_kept}, JSONB)
    is_changed = func.coalesce(Rater.config["keep_embeddings"].as_boolean(), True) != is_kept
    statement = update(Rater).where(Rater.rater_id.in_(rater_ids), is_changed)
    with engine.begin() as connection:
        connection.execute(statement.values(config=Rater.config.concat(flag)))


def keeps_embeddings(config: Mapping[str, object]) -> bool:
    """Return whether the embeddings of a registered scorer are kept, by the config of its row."""
    return config.get("keep_embeddings", True) is not False


class CentroidsRow(NamedTuple):
    """The centroids of a scorer, and how its samples are compared."""

    rater_id: int
    uri: str
    sha256: bytes
    n_clusters: int
    n_probes: int
    n_sampled: int
    seed: int
    threshold: float
    last_block_id: int
    is_whitened: bool


def find_centroids(engine: Engine, rater_id: int) -> CentroidsRow | None:
    """Return the centroids of a scorer; None if they were not made yet."""
    columns = (getattr(ClusterCentroids, name) for name in CentroidsRow._fields)
    with engine.connect() as connection:
        row = connection.execute(select(*columns).where(ClusterCentroids.rater_id == rater_id)).one_or_none()
    return None if row is None else CentroidsRow._make(row)._replace(sha256=bytes(row.sha256))


CLUSTERS_OF_EXPERIMENTS = "clusters_"
"""Prefix of the scorers whose clusters experiments made for a corpus of their own; 12 digits of a hash follow."""


def own_scorers(names: Iterable[str]) -> list[str]:
    """Return the scorers that no experiment made.

    >>> own_scorers(["clip", "clusters_0123456789ab", "clusters_dino"])
    ['clip', 'clusters_dino']
    """
    return [name for name in names if not re.fullmatch(f"{CLUSTERS_OF_EXPERIMENTS}[0-9a-f]{{12}}", name)]


def find_compared(connection: Connection, scorer: str | None) -> CentroidsRow:
    """Return the centroids of a scorer by its name; None: of the user's only one that has some, or of an experiment's if that is alone.

    Raises:
        ConfigError: It has none, or several have some and none is named.
    """
    name = Rater.config["name"].as_string().label("name")
    columns = (getattr(ClusterCentroids, field) for field in CentroidsRow._fields)
    statement = select(name, *columns).join(Rater, Rater.rater_id == ClusterCentroids.rater_id)
    found = {row.name: CentroidsRow._make(row[1:]) for row in connection.execute(statement.order_by(Rater.rater_id))}
    own = own_scorers(found)
    if scorer is None and len(known := own or list(found)) == 1:
        return found[known[0]]
    if scorer is not None and scorer in found:
        return found[scorer]
    if scorer is None and own:
        raise ConfigError(
            f"Samples were compared by several scorers: {', '.join(own)}. Name one: --semantic-scorer NAME."
        )
    if scorer is None and found:
        raise ConfigError(
            f"Only experiments compared samples: {', '.join(found)}. Name one of these, --semantic-scorer NAME, or compare them "
            "by a scorer of your own: alchemist duplicates find-semantic"
        )
    which = "No samples were" if scorer is None else f"With scorer {scorer!r} no samples were"
    raise ConfigError(f"{which} compared by their embeddings. Compare them first: alchemist duplicates find-semantic")


def compared_scorers(engine: Engine) -> list[str]:
    """Return the scorers whose embeddings were clustered, the oldest first; those of experiments only if there are no others."""
    name = Rater.config["name"].as_string()
    statement = select(name).join(ClusterCentroids, ClusterCentroids.rater_id == Rater.rater_id)
    with engine.connect() as connection:
        found = list(connection.execute(statement.order_by(Rater.rater_id)).scalars())
    return own_scorers(found) or found


def count_waiting(engine: Engine) -> int:
    """Count the embeddings that were not compared yet, of scorers whose samples have clusters."""
    statement = select(func.coalesce(func.sum(ShardEmbeddings.n_samples), 0)).where(
        ShardEmbeddings.is_compared.is_(False), ShardEmbeddings.rater_id.in_(select(ClusterCentroids.rater_id))
    )
    with engine.connect() as connection:
        return int(connection.execute(statement).scalar_one())


def count_unclustered(engine: Engine, rater_id: int, dataset_id: int) -> int:
    """Count the samples of a dataset that a trained rater has scored, and that have no cluster of a scorer.

    Args:
        engine: The store.
        rater_id: First output of the scorer.
        dataset_id: The dataset.
    """
    statement = text("""
        SELECT count(DISTINCT located.sample_id) FROM alchemist.live_locations AS located
        INNER JOIN alchemist.scores ON located.sample_id = scores.sample_id
        WHERE located.dataset_id = :dataset_id
        AND scores.rater_id IN (SELECT raters.rater_id FROM alchemist.raters WHERE raters.kind = 'trained')
        AND NOT EXISTS (
            SELECT FROM alchemist.clusters WHERE clusters.rater_id = :rater_id AND clusters.sample_id = located.sample_id
        )
    """)
    with engine.connect() as connection:
        return int(connection.execute(statement, {"rater_id": rater_id, "dataset_id": dataset_id}).scalar_one())


def insert_centroids(engine: Engine, row: CentroidsRow, *, is_restart: bool = False) -> bool:
    """Store the centroids of a scorer; returns False if another run has stored some first.

    Args:
        engine: The store.
        row: The centroids.
        is_restart: Delete the scorer's clusters, semantic duplicates and centroids first, so that all its samples are compared again.
    """
    statement = upsert(ClusterCentroids).values(row._asdict()).on_conflict_do_nothing()
    with engine.begin() as connection:
        if is_restart:
            _forget_clusters(connection, row.rater_id)
        return connection.execute(statement).rowcount == 1


def _forget_clusters(connection: Connection, rater_id: int) -> None:
    # A run that stores a block holds this row, so that it has committed, or finds other centroids.
    connection.execute(select(ClusterCentroids.rater_id).where(ClusterCentroids.rater_id == rater_id).with_for_update())
    for table in (SemanticDuplicate, ClusterMember, ClusterCentroids):
        connection.execute(delete(table).where(table.rater_id == rater_id))
    connection.execute(update(ShardEmbeddings).where(ShardEmbeddings.rater_id == rater_id).values(is_compared=False))


@dataclass(frozen=True, slots=True)
class ComparedBlock:
    """Samples with their clusters, and the semantic duplicates among them."""

    sample_id_B: NDArray[np.int64]
    cluster_B: NDArray[np.int32]
    duplicate_id_P: NDArray[np.int64]
    first_id_P: NDArray[np.int64]
    similarity_P: NDArray[np.float32]

    def tables(self) -> dict[str, dict[str, NDArray[Any]]]:
        """Return the columns of each table."""
        found: dict[str, NDArray[Any]] = {"sample_id": self.duplicate_id_P}
        found |= {"first_sample_id": self.first_id_P, "similarity": self.similarity_P}
        return {
            "clusters": {"sample_id": self.sample_id_B, "cluster": self.cluster_B},
            "semantic_duplicates": found,
        }


def store_block(
    engine: Engine, centroids: CentroidsRow, block: ComparedBlock, compared_files: Sequence[StoredFile]
) -> CentroidsRow:
    """Store a block in one transaction, and mark the files whose samples are all compared; returns the row with the new block.

    Raises:
        StoreError: Another run has stored a block, or other centroids, since this one was compared with the earlier samples.
    """
    rater_id = centroids.rater_id
    # New centroids begin with the same block as the old ones did; those of another threshold may be the same file.
    same = ("rater_id", "last_block_id", "sha256", "n_probes", "threshold")
    is_last = [getattr(ClusterCentroids, name) == getattr(centroids, name) for name in same]
    file_ids = [file.embedding_file_id for file in compared_files]
    with engine.begin() as connection:
        block_id = connection.execute(select(semantic_block_ids.next_value())).scalar_one()
        if connection.execute(update(ClusterCentroids).where(*is_last).values(last_block_id=block_id)).rowcount != 1:
            raise StoreError("Another run is finding semantic duplicates with this scorer. Wait for it, or stop it.")
        for name, columns in block.tables().items():
            n_rows = len(columns["sample_id"])
            both = {"rater_id": np.full(n_rows, rater_id, np.int32), "block_id": np.full(n_rows, block_id, np.int32)}
            copy_columns(connection, f"alchemist.{name}", {**both, **columns})
        connection.execute(
            update(ShardEmbeddings).where(ShardEmbeddings.embedding_file_id.in_(file_ids)).values(is_compared=True)
        )
    return centroids._replace(last_block_id=block_id)


_CLUSTERED = text("""
    SELECT sample_id, cluster FROM alchemist.clusters
    WHERE rater_id = :rater_id AND sample_id = ANY(CAST(:sample_ids AS bigint[])) ORDER BY sample_id
""")
_FIRSTS = text("""
    SELECT clusters.sample_id, clusters.cluster FROM alchemist.clusters
    WHERE clusters.rater_id = :rater_id AND clusters.sample_id = ANY(CAST(:sample_ids AS bigint[])) AND NOT EXISTS (
        SELECT FROM alchemist.semantic_duplicates AS found
        WHERE found.rater_id = clusters.rater_id AND found.sample_id = clusters.sample_id
        -- If the first sample of a group was taken down, all others are compared instead of it.
        AND found.first_sample_id NOT IN (
            SELECT samples.sample_id FROM alchemist.takedowns
            INNER JOIN alchemist.samples ON takedowns.image_hash = samples.image_hash
        )
    )
    ORDER BY clusters.sample_id
""")


class Clustered(NamedTuple):
    """Samples with their clusters, in the order of their ids."""

    sample_id_B: NDArray[np.int64]
    cluster_B: NDArray[np.int32]


def read_clustered(
    engine: Engine, rater_id: int, sample_id_K: NDArray[np.int64], *, only_firsts: bool = False
) -> Clustered:
    """Return those of the samples that have a cluster: no others, however far apart the ids are, so that memory is bounded.

    Args:
        engine: The store.
        rater_id: First output of the scorer.
        sample_id_K: The samples.
        only_firsts: Leave out semantic duplicates of others.
    """
    given = {"rater_id": rater_id, "sample_ids": sample_id_K.tolist()}
    with engine.connect() as connection:
        rows = copy_out(
            connection, _FIRSTS if only_firsts else _CLUSTERED, given, {"sample_id": ">i8", "cluster": ">i4"}
        )
    return Clustered(rows["sample_id"].astype(np.int64), rows["cluster"].astype(np.int32))


def last_clustered_id(engine: Engine, rater_id: int) -> int:
    """Return the highest sample id that has a cluster; -1 if none has."""
    statement = select(func.coalesce(func.max(ClusterMember.sample_id), -1)).where(ClusterMember.rater_id == rater_id)
    with engine.connect() as connection:
        return int(connection.execute(statement).scalar_one())


def read_cluster_members(engine: Engine, rater_id: int, clusters: Sequence[int]) -> NDArray[np.int64]:
    """Return the samples of some clusters, ascending."""
    statement = text("""
        SELECT sample_id FROM alchemist.clusters
        WHERE rater_id = :rater_id AND cluster = ANY(CAST(:clusters AS integer[])) ORDER BY sample_id
    """)
    given = {"rater_id": rater_id, "clusters": list(clusters)}
    with engine.connect() as connection:
        found = copy_out(connection, statement, given, {"sample_id": ">i8"})["sample_id"]
    member_id_N: NDArray[np.int64] = found.astype(np.int64)
    return member_id_N


class SemanticGroup(NamedTuple):
    """Semantic duplicates of one sample."""

    first_sample_id: int
    n_samples: int
    min_similarity: float
    caption: str


def list_semantic_groups(engine: Engine, rater_id: int, *, threshold: float, n_groups: int) -> list[SemanticGroup]:
    """Return the largest groups of semantic duplicates; the number of samples includes the first one."""
    statement = text("""
        WITH groups AS (
            SELECT first_sample_id, 1 + count(*) AS n_samples, min(similarity) AS min_similarity
            FROM alchemist.semantic_duplicates WHERE rater_id = :rater_id AND similarity >= CAST(:threshold AS real)
            GROUP BY first_sample_id ORDER BY n_samples DESC, first_sample_id LIMIT :n
        )
        SELECT first_sample_id, n_samples, min_similarity, samples.caption
        FROM groups INNER JOIN alchemist.samples ON first_sample_id = sample_id ORDER BY n_samples DESC, first_sample_id
    """)
    with engine.connect() as connection:
        rows = connection.execute(statement, {"rater_id": rater_id, "threshold": threshold, "n": n_groups})
        return [SemanticGroup._make(row) for row in rows]


_IDS_A_READ = 100_000


def read_matching(engine: Engine, where: str, sample_id_N: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which samples satisfy a condition; no other sample is read.

    Raises:
        ConfigError: The condition is not valid.
    """
    is_matching_N = np.zeros(len(sample_id_N), np.bool_)
    with engine.connect() as connection:
        known = read_known(connection)
        for start in range(0, len(sample_id_N), _IDS_A_READ):
            part = slice(start, start + _IDS_A_READ)
            id_B = sample_id_N[part]
            span = {"after_sample_id": int(id_B.min()) - 1, "last_sample_id": int(id_B.max())}
            statement = filter_rows("filterable_samples", FILTER_COLUMNS, where, span, known=known)
            (sample_id,) = statement.selected_columns
            statement = statement.where(sample_id == func.any(bindparam("sample_ids", type_=ARRAY(BigInteger))))
            found = copy_out(connection, statement, span | {"sample_ids": id_B.tolist()}, {"sample_id": ">i8"})
            is_matching_N[part] = np.isin(id_B, found["sample_id"].astype(np.int64))
    return is_matching_N


def describe_samples(engine: Engine, sample_ids: Sequence[int]) -> dict[int, dict[str, str | None]]:
    """Return the caption of samples and the address of their first readable location, by sample_id."""
    statement = text("""
        SELECT samples.sample_id, samples.caption, at.dataset || '/' || at.shard || '/' || at.key AS address
        FROM alchemist.samples LEFT JOIN LATERAL alchemist.first_location(samples.sample_id) AS at ON TRUE
        WHERE samples.sample_id = ANY(CAST(:sample_ids AS bigint[]))
    """)
    with engine.connect() as connection:
        rows = connection.execute(statement, {"sample_ids": list(sample_ids)})
        return {row.sample_id: {"caption": row.caption, "address": row.address} for row in rows}
