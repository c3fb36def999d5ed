-- Purpose: what may be drawn: the scored pairs of decided nights, taken-down images left out.
-- Parameters: night_ids integer[], rater_id integer, last_takedown_id integer.
-- One row is: a pair with its score under the rater, widened exactly, so that its rank is the same bits here and in SQL.
-- Relies on: night_locations, the rater's partition of pk_scores, pk_samples, uq_takedowns_image_hash.
-- Safe to re-run: yes; ordered by pair_hash, so that the same eligible set hashes the same on every machine.
SELECT
    samples.pair_hash,
    samples.pair_hash64,
    scores.score::float8 AS score
FROM (
    SELECT DISTINCT sample_id
    FROM alchemist.night_locations
    WHERE rater_id = :rater_id AND night_id = ANY(:night_ids)
) AS located
INNER JOIN alchemist.samples ON located.sample_id = samples.sample_id
INNER JOIN alchemist.scores ON samples.sample_id = scores.sample_id AND scores.rater_id = :rater_id
WHERE
    NOT EXISTS (
        SELECT 1 FROM alchemist.takedowns
        WHERE takedowns.image_hash = samples.image_hash AND takedowns.takedown_id <= :last_takedown_id
    )
ORDER BY samples.pair_hash
