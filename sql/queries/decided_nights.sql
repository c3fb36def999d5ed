-- Purpose: Return the nights from which samples are eligible now, or the given nights of a snapshot.
-- Parameters: rater_id integer, dataset_names text[], night_ids integer[] or null (null: the decided nights of these training
--   datasets).
-- One row is: a night; bytes_per_pair is the mean size of a record in its tars, null where the revision has no shard of its own (a
--   retry).
-- Relies on: uq_nights_dataset_id_crawl_date_rater_id_revision, ix_shard_scores_night_id, pk_shards; reads ledgers, never scores.
-- Safe to re-run: yes; in the order of night_id.
SELECT
    nights.night_id,
    datasets.name AS dataset,
    nights.crawl_date,
    nights.created_at,
    sum(shards.size_bytes)::float8 / nullif(sum(shards.n_samples), 0) AS bytes_per_pair
FROM alchemist.nights
INNER JOIN alchemist.datasets ON nights.dataset_id = datasets.dataset_id
LEFT JOIN alchemist.shard_scores ON nights.night_id = shard_scores.night_id
LEFT JOIN alchemist.shards ON shard_scores.shard_id = shards.shard_id
WHERE
    nights.rater_id = :rater_id
    AND CASE
        WHEN CAST(:night_ids AS integer[]) IS NOT NULL THEN nights.night_id = ANY(CAST(:night_ids AS integer[]))
        ELSE
            nights.state IN ('selectable', 'released')
            AND datasets.name = ANY(CAST(:dataset_names AS text[]))
            AND datasets.role = 'train'
    END
GROUP BY nights.night_id, datasets.name
ORDER BY nights.night_id
