-- Purpose: Return the scores of one or several nights, each sample once, to measure drift.
-- Parameters: rater_id integer, night_ids integer[].
-- One row is: a distinct sample of the nights, with its first shard, the length of its caption and its score.
-- Relies on: night_locations, the rater's partition of pk_scores, pk_samples.
-- Safe to re-run: yes; ordered by sample_id.
SELECT DISTINCT ON (scores.sample_id)
    night_locations.shard_id,
    char_length(samples.caption) AS caption_length,
    scores.score::float8 AS score
FROM alchemist.night_locations
INNER JOIN alchemist.scores ON night_locations.sample_id = scores.sample_id AND scores.rater_id = :rater_id
INNER JOIN alchemist.samples ON scores.sample_id = samples.sample_id
WHERE night_locations.rater_id = :rater_id AND night_locations.night_id = ANY(:night_ids)
ORDER BY scores.sample_id, night_locations.shard_id
