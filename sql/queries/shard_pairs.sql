-- Purpose: what a scorer reads of one shard: each location's pair, its bytes, and whether the pair has a score already.
-- Parameters: shard_id bigint, rater_id integer.
-- One row is: a good location of the shard, in the tar's order.
-- Relies on: pk_sample_locations, pk_samples, the rater's partition of pk_scores.
-- Safe to re-run: yes.
SELECT
    sample_locations.ordinal,
    sample_locations.key,
    samples.sample_id,
    samples.caption,
    sample_locations.member_exts,
    sample_locations.member_offsets,
    sample_locations.member_sizes,
    scores.sample_id IS NOT NULL AS is_scored
FROM alchemist.sample_locations
INNER JOIN alchemist.samples ON sample_locations.sample_id = samples.sample_id
LEFT JOIN alchemist.scores
    ON samples.sample_id = scores.sample_id AND scores.rater_id = :rater_id
WHERE sample_locations.shard_id = :shard_id
ORDER BY sample_locations.ordinal
