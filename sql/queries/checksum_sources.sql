-- Purpose: Return datasets, shards and samples as text without ids, runs, times or storage locations: equal data gives equal text
--   in any database.
-- Parameters: table_name text (one of those below; the others are not read).
-- One row is: a row of that table, its keys replaced by natural ones (dataset name, address below its root, pair hash).
-- Relies on: the primary keys; reads the whole table.
-- Safe to re-run: yes; ordered by bytes, so it does not depend on the database's collation.
WITH located AS (
    SELECT shards.*, ROW(datasets.name, shards.uri, shards.sha256)::text AS shard
    FROM alchemist.shards
    INNER JOIN alchemist.datasets ON shards.dataset_id = datasets.dataset_id
),

lines AS (
    -- Not root_uri: where the bytes lie differs between two homes with the same data.
    SELECT 'datasets' AS table_name, ROW(name, role)::text AS line
    FROM alchemist.datasets
    UNION ALL
    SELECT 'shards', ROW(shard, size_bytes, n_samples, crawl_date, state, rejected_reason)::text
    FROM located
    UNION ALL
    SELECT
        'samples', ROW(
            pair_hash, image_hash, caption_hash, caption, width, height, format, perceptual_hash, source_url, licence, metadata
        )::text
    FROM alchemist.samples
    UNION ALL
    SELECT 'sample_urls', ROW(samples.pair_hash, urls.source_url)::text
    FROM alchemist.sample_urls AS urls
    INNER JOIN alchemist.samples ON urls.sample_id = samples.sample_id
    UNION ALL
    SELECT
        'sample_locations', ROW(
            located.shard, here.ordinal, samples.pair_hash, here.key, here.file_exts, here.file_offsets, here.file_sizes,
            here.content_hash
        )::text
    FROM alchemist.sample_locations AS here
    INNER JOIN located ON here.shard_id = located.shard_id
    INNER JOIN alchemist.samples ON here.sample_id = samples.sample_id
    UNION ALL
    SELECT
        'quarantined_samples', ROW(
            located.shard, bad.ordinal, bad.key, bad.reason, bad.detail, bad.stage, bad.is_transient, raters.identity_hash
        )::text
    FROM alchemist.quarantined_samples AS bad
    INNER JOIN located ON bad.shard_id = located.shard_id
    LEFT JOIN alchemist.raters ON bad.rater_id = raters.rater_id
    UNION ALL
    SELECT
        'heuristic_scores', ROW(samples.pair_hash, plain.aesthetic, plain.clarity, plain.frequency, plain.edge_density, plain.imported)::text
    FROM alchemist.heuristic_scores AS plain
    INNER JOIN alchemist.samples ON plain.sample_id = samples.sample_id
    UNION ALL
    -- Which of two samples came first is data, because selection keeps that one.
    SELECT 'distinct_images', ROW(samples.pair_hash, kept.perceptual_hash)::text
    FROM alchemist.distinct_images AS kept
    INNER JOIN alchemist.samples USING (sample_id)
    UNION ALL
    SELECT 'duplicate_samples', ROW(samples.pair_hash, firsts.pair_hash, later.distance, later.is_same_image)::text
    FROM alchemist.duplicate_samples AS later
    INNER JOIN alchemist.samples ON later.sample_id = samples.sample_id
    INNER JOIN alchemist.samples AS firsts ON later.first_sample_id = firsts.sample_id
    UNION ALL
    SELECT 'takedowns', ROW(image_hash, reason, requested_by)::text
    FROM alchemist.takedowns
    UNION ALL
    -- The order of the flags of one sample and label, because the newest one decides; not their ids.
    SELECT
        'sample_flags', ROW(
            samples.pair_hash, flags.label,
            row_number() OVER (PARTITION BY flags.sample_id, flags.label ORDER BY flags.flag_id),
            flags.is_set, flags.comment, flags.flagged_by
        )::text
    FROM alchemist.sample_flags AS flags
    INNER JOIN alchemist.samples ON flags.sample_id = samples.sample_id
)

SELECT line
FROM lines
WHERE table_name = :table_name
ORDER BY line COLLATE "C"
