-- The scored samples of decided nights, and what decides whether each is eligible: for the stage select
-- (queries/candidate_samples.sql) and for shift_gsample.
--
-- Postgres inlines them (LANGUAGE sql, STABLE, no SET), so the planner sees the range of sample_id. Their bodies are not checked here,
-- because the views that they read are made after the functions.
SET LOCAL check_function_bodies = off;

-- One row is: a scored sample of the nights, whether or not it is eligible. first_sample_id is the first sample of its duplicate group,
-- 0 where it is that sample or in no group. Left out are samples that are only in shards retired up to last_retirement_id. Groups of
-- samples above last_compared_id do not count, so that a snapshot always gives the same set. A group is the samples of one image
-- (duplicates = 'exact'), or of its near-duplicates too ('near'). With a score_rater_id the score is that rater's (a scorer's, or an
-- imported one), whatever its name; only the partitions of the two raters are read.
CREATE OR REPLACE FUNCTION alchemist.candidate_samples(
    rater_id integer, night_ids integer[], last_takedown_id integer, last_compared_id bigint, duplicates text, score_name text,
    after_sample_id bigint, last_sample_id bigint, last_retirement_id integer, score_rater_id integer
) RETURNS TABLE (
    sample_id bigint, pair_hash bytea, score float8, night_id integer, first_sample_id bigint, is_taken_down boolean
) LANGUAGE sql STABLE PARALLEL SAFE AS $$
SELECT
    samples.sample_id,
    samples.pair_hash,
    -- Widened exactly, so that a rank is the same bits here and in Python.
    CASE WHEN $10 IS NOT NULL THEN named.score::float8 ELSE CASE $6
        WHEN 'rater' THEN scores.score::float8
        WHEN 'aesthetic' THEN heuristic_scores.aesthetic::float8
        WHEN 'clarity' THEN heuristic_scores.clarity::float8
        WHEN 'frequency' THEN heuristic_scores.frequency::float8
        WHEN 'edge_density' THEN heuristic_scores.edge_density::float8
        -- A number that does not fit into float8 counts as no score.
        ELSE (
            SELECT CASE WHEN said.n = 0 OR abs(said.n) BETWEEN 1e-300 AND 1e300 THEN said.n::float8 END
            FROM (SELECT (heuristic_scores.imported ->> substr($6, char_length('imported.') + 1))::numeric AS n) AS said
        )
    END END,
    located.night_id,
    CASE
        WHEN duplicate_samples.sample_id IS NULL THEN 0
        WHEN $5 = 'near' OR duplicate_samples.is_same_image THEN duplicate_samples.first_sample_id
        -- Near-duplicates of one image can have the same bytes among themselves.
        ELSE coalesce(nullif(
            (SELECT min(same.sample_id) FROM alchemist.samples AS same WHERE same.image_hash = samples.image_hash), samples.sample_id
        ), 0)
    END,
    takedowns.takedown_id IS NOT NULL
FROM (
    -- A sample in several nights counts for the first one.
    SELECT night_locations.sample_id, min(night_locations.night_id) AS night_id
    FROM alchemist.night_locations
    WHERE
        night_locations.rater_id = $1
        AND night_locations.night_id = ANY($2)
        AND night_locations.sample_id > $7
        AND night_locations.sample_id <= $8
        AND night_locations.shard_id NOT IN (SELECT shards.shard_id FROM alchemist.shards WHERE shards.retirement_id <= $9)
    GROUP BY night_locations.sample_id
) AS located
-- Each join names the range again, because the planner concludes nothing from a range of the other side, and would read whole tables.
INNER JOIN alchemist.samples ON located.sample_id = samples.sample_id AND samples.sample_id > $7 AND samples.sample_id <= $8
INNER JOIN alchemist.scores
    ON scores.rater_id = $1 AND located.sample_id = scores.sample_id AND scores.sample_id > $7 AND scores.sample_id <= $8
LEFT JOIN alchemist.scores AS named
    ON named.rater_id = $10 AND located.sample_id = named.sample_id AND named.sample_id > $7 AND named.sample_id <= $8
LEFT JOIN alchemist.heuristic_scores
    ON
        $6 <> 'rater' AND $10 IS NULL
        AND located.sample_id = heuristic_scores.sample_id AND heuristic_scores.sample_id > $7 AND heuristic_scores.sample_id <= $8
LEFT JOIN alchemist.duplicate_samples
    ON
        located.sample_id = duplicate_samples.sample_id
        AND duplicate_samples.sample_id > $7 AND duplicate_samples.sample_id <= least($4, $8)
LEFT JOIN alchemist.takedowns ON samples.image_hash = takedowns.image_hash AND takedowns.takedown_id <= $3
$$;

-- One row is: a sample whose image is in one of the datasets (in shards up to last_shard_id) or a near-duplicate of one of theirs. Two
-- hashes that differ in at most 2 of 64 bits are equal in at least one of 3 bands of 22, 21 and 21 bits.
CREATE OR REPLACE FUNCTION alchemist.contaminated_samples(dataset_names text[], last_shard_id bigint)
RETURNS SETOF bigint LANGUAGE sql STABLE PARALLEL SAFE AS $$
WITH evaluated AS MATERIALIZED (
    SELECT DISTINCT samples.image_hash, samples.perceptual_hash
    FROM alchemist.datasets
    INNER JOIN alchemist.shards ON datasets.dataset_id = shards.dataset_id
    INNER JOIN alchemist.sample_locations ON shards.shard_id = sample_locations.shard_id
    INNER JOIN alchemist.samples ON sample_locations.sample_id = samples.sample_id
    WHERE datasets.name = ANY($1) AND shards.shard_id <= $2
),

looks AS MATERIALIZED (
    SELECT DISTINCT perceptual_hash FROM evaluated WHERE perceptual_hash IS NOT NULL
)

SELECT samples.sample_id
FROM evaluated
INNER JOIN alchemist.samples ON evaluated.image_hash = samples.image_hash
UNION
SELECT samples.sample_id
FROM looks
INNER JOIN alchemist.samples ON (looks.perceptual_hash >> 42) & 4194303 = (samples.perceptual_hash >> 42) & 4194303
WHERE alchemist.hamming_distance(looks.perceptual_hash, samples.perceptual_hash) <= 2
UNION
SELECT samples.sample_id
FROM looks
INNER JOIN alchemist.samples ON (looks.perceptual_hash >> 21) & 2097151 = (samples.perceptual_hash >> 21) & 2097151
WHERE alchemist.hamming_distance(looks.perceptual_hash, samples.perceptual_hash) <= 2
UNION
SELECT samples.sample_id
FROM looks
INNER JOIN alchemist.samples ON looks.perceptual_hash & 2097151 = samples.perceptual_hash & 2097151
WHERE alchemist.hamming_distance(looks.perceptual_hash, samples.perceptual_hash) <= 2
$$;

SET LOCAL check_function_bodies = on;

COMMENT ON FUNCTION alchemist.candidate_samples(integer, integer[], integer, bigint, text, text, bigint, bigint, integer, integer) IS 'Returns the scored samples of decided nights from which a selection excludes what is not eligible; ids above after_sample_id up to last_sample_id. For stages: duplicates is exact or near, and first_sample_id 0 for the first sample of its group and for one without duplicates';
COMMENT ON FUNCTION alchemist.contaminated_samples(text[], bigint) IS 'Returns the samples whose image is in one of the named datasets, or a near-duplicate of one of theirs';
