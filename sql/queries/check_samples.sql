-- Purpose: Count caption and image faults of a night, over readable and quarantined locations, for the suite `samples`.
-- Parameters: dataset text or null (every training dataset), crawl_date date or null (any date), min_caption_characters,
--   max_caption_characters, min_repeated_characters, min_image_side integer, max_aspect_ratio float8: limits of the dataset.
-- One row is: the night; quarantined_ratio is a share of all locations, the other ratios of the readable ones. No row for an empty
--   night. Garbage captions, in any language: no letter, a control character, invalid UTF-8, or one character
--   min_repeated_characters times in a row.
-- Relies on: ix_shards_dataset_id_crawl_date, pk_sample_locations, uq_quarantined_samples_shard_id_ordinal_rater_id, pk_samples.
-- Safe to re-run: yes.
WITH night AS (
    SELECT shards.shard_id
    FROM alchemist.shards
    INNER JOIN alchemist.datasets ON shards.dataset_id = datasets.dataset_id
    WHERE
        shards.state = 'verified'
        AND coalesce(datasets.name = CAST(:dataset AS text), datasets.role = 'train')
        AND (CAST(:crawl_date AS date) IS NULL OR shards.crawl_date = :crawl_date)
),

kept AS (
    SELECT
        count(*) AS n,
        count(DISTINCT samples.sample_id) AS n_distinct,
        count(*) FILTER (WHERE btrim(samples.caption) = '') AS n_empty,
        count(*) FILTER (
            WHERE char_length(btrim(samples.caption)) NOT BETWEEN :min_caption_characters AND :max_caption_characters
        ) AS n_odd_length,
        count(*) FILTER (
            WHERE samples.caption ~ (
                '^[\x01-\x40\x5b-\x60\x7b-\x7f]*$|[\x01-\x08\x0e-\x1f\ufffd]|(.)\1{' || (:min_repeated_characters - 1) || '}'
            )
        ) AS n_garbage,
        count(*) FILTER (WHERE least(samples.width, samples.height) < :min_image_side) AS n_small,
        count(*) FILTER (
            WHERE greatest(samples.width, samples.height)::float8 / least(samples.width, samples.height) > :max_aspect_ratio
        ) AS n_odd_shape
    FROM night
    INNER JOIN alchemist.sample_locations ON night.shard_id = sample_locations.shard_id
    INNER JOIN alchemist.samples ON sample_locations.sample_id = samples.sample_id
),

quarantined AS (
    SELECT count(*) AS n
    FROM night INNER JOIN alchemist.quarantined_samples ON night.shard_id = quarantined_samples.shard_id
    WHERE quarantined_samples.rater_id IS NULL
)

SELECT
    kept.n + quarantined.n AS n_locations,
    quarantined.n::float8 / (kept.n + quarantined.n) AS quarantined_ratio,
    coalesce(kept.n_empty::float8 / nullif(kept.n, 0), 0) AS empty_ratio,
    coalesce(kept.n_odd_length::float8 / nullif(kept.n, 0), 0) AS odd_length_ratio,
    coalesce(kept.n_garbage::float8 / nullif(kept.n, 0), 0) AS garbage_ratio,
    coalesce(kept.n_small::float8 / nullif(kept.n, 0), 0) AS small_ratio,
    coalesce(kept.n_odd_shape::float8 / nullif(kept.n, 0), 0) AS odd_shape_ratio,
    coalesce(1 - kept.n_distinct::float8 / nullif(kept.n, 0), 0) AS duplicate_ratio
FROM kept CROSS JOIN quarantined
WHERE kept.n + quarantined.n > 0
