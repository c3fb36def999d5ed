-- Purpose: Return the rank of one sample under one rater.
-- Parameters: sample_id bigint, rater_id integer.
-- One row is: the sample, its score and its rank by the rater's newest scale (null before the first); none without a score.
-- Relies on: the rater's partition of pk_scores, pk_samples, ix_rank_scales_rater_id.
-- Safe to re-run: yes.
SELECT
    scores.sample_id,
    samples.pair_hash,
    scores.score,
    alchemist.rank_of(
        scores.score,
        (
            SELECT max(rank_scales.rank_scale_id)
            FROM alchemist.rank_scales
            WHERE rank_scales.rater_id = :rater_id AND rank_scales.score = 'rater'
        )
    ) AS rank
FROM alchemist.scores
INNER JOIN alchemist.samples ON scores.sample_id = samples.sample_id
WHERE scores.rater_id = :rater_id AND scores.sample_id = :sample_id
