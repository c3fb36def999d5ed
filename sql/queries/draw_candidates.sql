-- Purpose: Return those of given samples that were in a snapshot of eligible samples, as far as a few rows of each sample tell, and
--   can be shown.
-- Parameters: sample_ids bigint[] (drawn at random), snapshot_id integer.
-- One row is: a scored sample of the snapshot's nights, with an image that can be read now, in any dataset. first_sample_id is the first
--   sample of its group of duplicates, if the snapshot removes duplicates and has that sample too; else null. The condition of the
--   snapshot and other scores that it ranks by are left to the caller; contaminated samples and semantic duplicates are rows too.
-- Relies on: pk_rank_snapshots, the rater's partition of pk_scores, pk_duplicate_samples, ix_sample_locations_sample_id: a few rows for
--   each given sample, independent of the size of the corpus. LIMIT 1: looked up by key, not joined as a whole.
-- Safe to re-run: yes.
WITH taken AS MATERIALIZED (
    SELECT
        rank_scales.rater_id,
        rank_snapshots.night_ids,
        coalesce((rank_snapshots.options ->> 'last_retirement_id')::integer, 0) AS last_retirement_id,
        coalesce((rank_snapshots.options ->> 'last_compared_id')::bigint, 0) AS last_compared_id,
        coalesce(rank_snapshots.options ->> 'duplicates', 'exact') AS duplicates
    FROM alchemist.rank_snapshots
    INNER JOIN alchemist.rank_scales ON rank_snapshots.rank_scale_id = rank_scales.rank_scale_id
    WHERE rank_snapshots.snapshot_id = :snapshot_id
),

wanted AS MATERIALIZED (
    SELECT
        given.sample_id,
        -- As in the query duplicate_firsts.
        CASE
            WHEN taken.duplicates = 'near' OR duplicate_samples.is_same_image THEN duplicate_samples.first_sample_id
            ELSE (
                SELECT nullif(min(same.sample_id), given.sample_id)
                FROM alchemist.samples
                INNER JOIN alchemist.samples AS same ON samples.image_hash = same.image_hash
                WHERE samples.sample_id = duplicate_samples.sample_id
            )
        END AS first_sample_id
    FROM taken
    CROSS JOIN unnest(CAST(:sample_ids AS bigint[])) AS given (sample_id)
    LEFT JOIN alchemist.duplicate_samples
        ON given.sample_id = duplicate_samples.sample_id AND duplicate_samples.sample_id <= taken.last_compared_id
),

present AS MATERIALIZED (
    SELECT either.sample_id
    FROM (
        SELECT wanted.sample_id FROM wanted
        UNION
        SELECT wanted.first_sample_id FROM wanted
    ) AS either
    CROSS JOIN taken
    INNER JOIN LATERAL (
        SELECT 1
        FROM alchemist.night_locations
        INNER JOIN alchemist.shards ON night_locations.shard_id = shards.shard_id
        WHERE
            night_locations.sample_id = either.sample_id
            AND night_locations.rater_id = taken.rater_id
            AND night_locations.night_id = ANY(taken.night_ids)
            AND coalesce(shards.retirement_id > taken.last_retirement_id, TRUE)
        LIMIT 1
    ) AS place ON TRUE
    INNER JOIN alchemist.scores ON taken.rater_id = scores.rater_id AND either.sample_id = scores.sample_id
)

SELECT
    wanted.sample_id,
    firsts.sample_id AS first_sample_id
FROM wanted
INNER JOIN present ON wanted.sample_id = present.sample_id
INNER JOIN LATERAL (
    SELECT 1 FROM alchemist.live_locations WHERE live_locations.sample_id = wanted.sample_id LIMIT 1
) AS readable ON TRUE
LEFT JOIN present AS firsts ON wanted.first_sample_id = firsts.sample_id
ORDER BY wanted.sample_id
