-- Purpose: the history of one sample: every rater's word on it and the subsets that it is in.
-- Parameters: sample_id bigint.
-- One row is: the pair under one rater, as the view sample_history tells it, the newest rater first.
-- Relies on: sample_history; pk_scores, ix_sample_locations_sample_id, pk_shard_scores, pk_subset_samples.
-- Safe to re-run: yes.
SELECT
    pair_hash,
    caption,
    rater,
    rater_state,
    score,
    rank,
    scored_at,
    subsets
FROM alchemist.sample_history
WHERE sample_id = :sample_id
ORDER BY scored_at DESC NULLS LAST, rater ASC
