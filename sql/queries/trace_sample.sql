-- Purpose: Return the scores of one sample by every rater, and the subsets that contain it.
-- Parameters: sample_id bigint.
-- One row is: the sample under one rater, from the view sample_history; the newest rater first.
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
