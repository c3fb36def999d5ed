"""Clusters of embeddings, by centroids that are made once, and semantic duplicates within them."""

from alembic import op

revision = "0045"
down_revision = "0044"


def upgrade() -> None:
    op.execute("""
    ALTER TABLE alchemist.shard_embeddings ADD COLUMN is_compared boolean NOT NULL DEFAULT false;
    CREATE SEQUENCE alchemist.semantic_block_ids;
    CREATE TABLE alchemist.cluster_centroids (
        rater_id integer CONSTRAINT pk_cluster_centroids PRIMARY KEY,
        uri varchar NOT NULL,
        sha256 bytea NOT NULL CONSTRAINT ck_cluster_centroids_sha256_bytes CHECK (octet_length(sha256) = 32),
        n_clusters integer NOT NULL,
        n_probes integer NOT NULL,
        n_sampled integer NOT NULL,
        seed bigint NOT NULL,
        threshold double precision NOT NULL CONSTRAINT ck_cluster_centroids_threshold CHECK (threshold > 0 AND threshold <= 1),
        last_block_id integer NOT NULL DEFAULT 0,
        created_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT ck_cluster_centroids_counts
            CHECK (n_clusters > 0 AND n_probes BETWEEN 1 AND n_clusters AND n_sampled >= n_clusters),
        CONSTRAINT fk_cluster_centroids_rater_id FOREIGN KEY (rater_id) REFERENCES alchemist.raters (rater_id)
    );
    CREATE TABLE alchemist.clusters (
        rater_id integer NOT NULL,
        sample_id bigint NOT NULL,
        cluster integer NOT NULL,
        block_id integer NOT NULL,
        CONSTRAINT pk_clusters PRIMARY KEY (rater_id, sample_id),
        CONSTRAINT fk_clusters_rater_id FOREIGN KEY (rater_id) REFERENCES alchemist.cluster_centroids (rater_id)
    ) WITH (autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
    CREATE INDEX ix_clusters_rater_id_cluster ON alchemist.clusters (rater_id, cluster);
    CREATE TABLE alchemist.semantic_duplicates (
        rater_id integer NOT NULL,
        sample_id bigint NOT NULL,
        first_sample_id bigint NOT NULL,
        similarity real NOT NULL,
        block_id integer NOT NULL,
        CONSTRAINT pk_semantic_duplicates PRIMARY KEY (rater_id, sample_id),
        CONSTRAINT ck_semantic_duplicates_other CHECK (sample_id <> first_sample_id),
        CONSTRAINT fk_semantic_duplicates_rater_id_sample_id FOREIGN KEY (rater_id, sample_id)
            REFERENCES alchemist.clusters (rater_id, sample_id)
    );
    CREATE INDEX ix_semantic_duplicates_rater_id_first_sample_id ON alchemist.semantic_duplicates (rater_id, first_sample_id);
    """)


def downgrade() -> None:
    op.execute("""
    DROP TABLE alchemist.semantic_duplicates;
    DROP TABLE alchemist.clusters;
    DROP TABLE alchemist.cluster_centroids;
    DROP SEQUENCE alchemist.semantic_block_ids;
    ALTER TABLE alchemist.shard_embeddings DROP COLUMN is_compared;
    """)
