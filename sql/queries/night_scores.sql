-- Purpose: the scores that drift measures: those of one or several nights, each pair once.
-- Parameters: rater_id integer, night_ids integer[].
-- One row is: a distinct pair of the nights' ledger rows, with its first shard, its caption's length and its score.
-- Relies on: ix_shard_scores_night_id, pk_sample_locations, the rater's partition of pk_scores, pk_samples.
-- Safe to re-run: yes; ordered by sample_id.
SELECT DISTINCT ON (scores.sample_id)
    shard_scores.shard_id,
    char_length(samples.caption) AS caption_length,
    scores.score
FROM alchemist.shard_scores
INNER JOIN alchemist.sample_locations ON shard_scores.shard_id = sample_locations.shard_id
INNER JOIN alchemist.scores ON sample_locations.sample_id = scores.sample_id AND scores.rater_id = :rater_id
INNER JOIN alchemist.samples ON scores.sample_id = samples.sample_id
WHERE
    shard_scores.rater_id = :rater_id
    AND shard_scores.night_id = ANY(:night_ids)
    AND NOT EXISTS (
        SELECT 1
        FROM alchemist.quarantined_samples
        WHERE
            quarantined_samples.shard_id = sample_locations.shard_id
            AND quarantined_samples.ordinal = sample_locations.ordinal
            AND quarantined_samples.rater_id = :rater_id
    )
ORDER BY scores.sample_id, shard_scores.shard_id
