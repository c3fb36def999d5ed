"""Tables of embeddings: the files that hold them, and what is found by them: clusters and semantic duplicates."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, Sequence
from sqlalchemy.dialects.postgresql import DOUBLE_PRECISION, REAL

from alchemist_core.store.tables.schema import Table, Typed, column, created, identity

# Numbers of the blocks of all scorers. They grow for ever, so that a snapshot's block never names other samples after a restart.
semantic_block_ids = Sequence("semantic_block_ids", schema="alchemist", metadata=Table.metadata)


class ShardEmbeddings(Table):
    """Files of embeddings: those of one shard's samples by one scorer, stored in the transaction that marks the shard as scored."""

    __tablename__ = "shard_embeddings"
    __table_args__ = (
        CheckConstraint("octet_length(sha256) = 32", name="sha256_bytes"),
        CheckConstraint("n_samples > 0 AND dim > 0 AND first_sample_id <= last_sample_id", name="counts"),
        ForeignKeyConstraint(
            ["rater_id", "shard_id"], ["alchemist.shard_scores.rater_id", "alchemist.shard_scores.shard_id"]
        ),
        Index("ix_shard_embeddings_rater_id_shard_id", "rater_id", "shard_id"),
    )

    embedding_file_id: Typed[int] = identity(comment="Key of the file")
    rater_id: Typed[int] = column(comment="First output of the scorer that embedded the samples")
    shard_id: Typed[int] = column(
        BigInteger, comment="Shard of the samples; a retry of quarantined samples adds a file"
    )
    uri: Typed[str] = column(unique=True, comment="File, relative to the artifacts")
    sha256: Typed[bytes] = column(comment="sha256 of the file (32 bytes)")
    n_samples: Typed[int] = column(comment="Number of samples in the file")
    dim: Typed[int] = column(comment="Numbers of an embedding")
    first_sample_id: Typed[int] = column(BigInteger, comment="Lowest sample id in the file, which is in their order")
    last_sample_id: Typed[int] = column(BigInteger, comment="Highest sample id in the file")
    created_at: Typed[datetime] = created(comment="When the file was stored")
    is_compared: Typed[bool] = column(
        server_default="false",
        comment="Whether all its samples have a cluster and were searched for semantic duplicates",
    )


class ClusterCentroids(Table):
    """Centroids of a scorer's embeddings, made once and frozen, so that the cluster of a sample never changes."""

    __tablename__ = "cluster_centroids"
    __table_args__ = (
        CheckConstraint("octet_length(sha256) = 32", name="sha256_bytes"),
        CheckConstraint(
            "n_clusters > 0 AND n_probes BETWEEN 1 AND n_clusters AND n_sampled >= n_clusters", name="counts"
        ),
        CheckConstraint("threshold > 0 AND threshold <= 1", name="threshold"),
    )

    rater_id: Typed[int] = column(
        ForeignKey("alchemist.raters.rater_id"), primary_key=True, comment="First output of the scorer"
    )
    uri: Typed[str] = column(comment="File of the centroids, relative to the artifacts")
    sha256: Typed[bytes] = column(comment="sha256 of the file (32 bytes)")
    n_clusters: Typed[int] = column(comment="Number of clusters")
    n_probes: Typed[int] = column(comment="Number of nearest clusters in which a sample is compared")
    n_sampled: Typed[int] = column(comment="Number of embeddings that the centroids were made from")
    seed: Typed[int] = column(BigInteger, comment="Seed of the centroids")
    threshold: Typed[float] = column(
        DOUBLE_PRECISION, comment="Lowest cosine of two embeddings whose samples are semantic duplicates"
    )
    last_block_id: Typed[int] = column(server_default="0", comment="Last block of samples that was compared")
    is_whitened: Typed[bool] = column(
        server_default="false",
        comment="Whether embeddings are whitened before they are compared; the map is in the file of the centroids",
    )
    created_at: Typed[datetime] = created(comment="When the centroids were made")


class ClusterMember(Table):
    """Cluster of each embedded sample: the one whose centroid is nearest. No foreign key to samples, for speed."""

    __tablename__ = "clusters"
    __table_args__ = (Index("ix_clusters_rater_id_cluster", "rater_id", "cluster"),)

    rater_id: Typed[int] = column(
        ForeignKey("alchemist.cluster_centroids.rater_id"), primary_key=True, comment="First output of the scorer"
    )
    sample_id: Typed[int] = column(BigInteger, primary_key=True, comment="Sample")
    cluster: Typed[int] = column(comment="Number of the cluster, from 0")
    block_id: Typed[int] = column(comment="Block in which it was compared; a snapshot counts blocks up to one")


class SemanticDuplicate(Table):
    """Samples whose embedding is near that of an earlier one, by cosine: semantic duplicates of a group's first sample."""

    __tablename__ = "semantic_duplicates"
    __table_args__ = (
        CheckConstraint("sample_id <> first_sample_id", name="other"),
        ForeignKeyConstraint(
            ["rater_id", "sample_id"], ["alchemist.clusters.rater_id", "alchemist.clusters.sample_id"]
        ),
        Index("ix_semantic_duplicates_rater_id_first_sample_id", "rater_id", "first_sample_id"),
    )

    rater_id: Typed[int] = column(primary_key=True, comment="First output of the scorer")
    sample_id: Typed[int] = column(BigInteger, primary_key=True, comment="Later sample, which is the duplicate")
    first_sample_id: Typed[int] = column(BigInteger, comment="First sample of the group that it belongs to")
    similarity: Typed[float] = column(
        REAL, comment="Cosine of the two embeddings, whitened if those of cluster_centroids are"
    )
    block_id: Typed[int] = column(comment="Block in which it was found; a snapshot counts blocks up to one")
