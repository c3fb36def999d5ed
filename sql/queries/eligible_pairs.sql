-- Purpose: what may be drawn: the scored pairs of decided nights, taken-down images left out.
-- Parameters: night_ids integer[], rater_id integer, last_takedown_id integer.
-- One row is: a pair with its score under the rater.
-- Relies on: ix_shard_scores_night_id, pk_sample_locations, the rater's partition of pk_scores, uq_takedowns_image_hash.
-- Safe to re-run: yes; ordered by pair_hash, so that the same eligible set hashes the same on every machine.
SELECT
    samples.pair_hash,
    samples.pair_hash64,
    scores.score
FROM (
    SELECT DISTINCT sample_locations.sample_id
    FROM alchemist.shard_scores
    INNER JOIN alchemist.sample_locations ON shard_scores.shard_id = sample_locations.shard_id
    WHERE shard_scores.rater_id = :rater_id AND shard_scores.night_id = ANY(:night_ids)
) AS located
INNER JOIN alchemist.samples ON located.sample_id = samples.sample_id
INNER JOIN alchemist.scores ON samples.sample_id = scores.sample_id AND scores.rater_id = :rater_id
WHERE
    NOT EXISTS (
        SELECT 1 FROM alchemist.takedowns
        WHERE takedowns.image_hash = samples.image_hash AND takedowns.takedown_id <= :last_takedown_id
    )
ORDER BY samples.pair_hash
