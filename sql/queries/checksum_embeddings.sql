-- Purpose: Return embeddings, clusters and semantic duplicates as text without ids, runs or times: equal data gives equal text anywhere.
-- Parameters: table_name text (one of those below; the others are not read).
-- One row is: a row of that table, its keys replaced by natural ones (rater identity, shard's URI, pair hash).
-- Relies on: the primary keys; reads the whole table.
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

SELECT line
FROM lines
WHERE table_name = :table_name
ORDER BY line COLLATE "C"
