-- Purpose: Return embeddings, clusters and semantic duplicates as text without ids, runs or times: equal data gives equal text anywhere.
-- Parameters: none.
-- One row is: a row of a table, its keys replaced by natural ones (rater identity, shard's URI, pair hash).
-- Relies on: the primary keys; reads whole tables.
-- Safe to re-run: yes; ordered by bytes, so it does not depend on the database's collation.
WITH lines AS (
    -- Not the file: it holds the ids of the samples.
    SELECT
        'shard_embeddings' AS table_name,
        ROW(raters.identity_hash, shards.uri, kept.n_samples, kept.dim)::text AS line
    FROM alchemist.shard_embeddings AS kept
    INNER JOIN alchemist.raters ON kept.rater_id = raters.rater_id
    INNER JOIN alchemist.shards ON kept.shard_id = shards.shard_id
    UNION ALL
    SELECT 'cluster_centroids', ROW(raters.identity_hash, made.sha256, made.n_clusters, made.n_probes, made.seed, made.threshold)::text
    FROM alchemist.cluster_centroids AS made
    INNER JOIN alchemist.raters ON made.rater_id = raters.rater_id
    UNION ALL
    SELECT 'clusters', ROW(raters.identity_hash, samples.pair_hash, clusters.cluster)::text
    FROM alchemist.clusters
    INNER JOIN alchemist.raters ON clusters.rater_id = raters.rater_id
    INNER JOIN alchemist.samples ON clusters.sample_id = samples.sample_id
    UNION ALL
    SELECT 'semantic_duplicates', ROW(raters.identity_hash, samples.pair_hash, firsts.pair_hash, found.similarity)::text
    FROM alchemist.semantic_duplicates AS found
    INNER JOIN alchemist.raters ON found.rater_id = raters.rater_id
    INNER JOIN alchemist.samples ON found.sample_id = samples.sample_id
    INNER JOIN alchemist.samples AS firsts ON found.first_sample_id = firsts.sample_id
)

SELECT table_name, line
FROM lines
ORDER BY table_name COLLATE "C", line COLLATE "C"
