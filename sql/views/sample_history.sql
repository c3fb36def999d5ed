-- Purpose: Return the scores of a sample by every rater, and the subsets that contain it. Filter by sample_id or pair_hash.
-- One row is: a sample under one rater; rank by that rater's newest scale, scored_at from its first ledger row, subsets as 'name
--   vN'.
-- Relies on: pk_scores, ix_sample_locations_sample_id, pk_shard_scores, pk_subset_samples (one lookup per partition).
CREATE VIEW alchemist.sample_history AS
SELECT
    samples.sample_id,
    samples.pair_hash,
    samples.caption,
    raters.name AS rater,
    raters.state AS rater_state,
    scores.score,
    alchemist.rank_of(scores.score, newest.rank_scale_id) AS rank,
    ledger.scored_at,
    coalesce(membership.subsets, '{}') AS subsets
FROM alchemist.samples
INNER JOIN alchemist.scores ON samples.sample_id = scores.sample_id
INNER JOIN alchemist.raters ON scores.rater_id = raters.rater_id
LEFT JOIN LATERAL (
    SELECT max(rank_scales.rank_scale_id) AS rank_scale_id
    FROM alchemist.rank_scales
    WHERE rank_scales.rater_id = raters.rater_id AND rank_scales.score = 'rater'
) AS newest ON TRUE
LEFT JOIN LATERAL (
    SELECT min(shard_scores.scored_at) AS scored_at
    FROM alchemist.sample_locations
    INNER JOIN alchemist.shard_scores ON sample_locations.shard_id = shard_scores.shard_id
    WHERE sample_locations.sample_id = samples.sample_id AND shard_scores.rater_id = raters.rater_id
) AS ledger ON TRUE
LEFT JOIN LATERAL (
    SELECT array_agg(subsets.name || ' v' || subsets.version ORDER BY subsets.name, subsets.version) AS subsets
    FROM alchemist.subsets
    INNER JOIN alchemist.subset_samples ON subsets.subset_id = subset_samples.subset_id
    WHERE subset_samples.sample_id = samples.sample_id
) AS membership ON TRUE;

COMMENT ON VIEW alchemist.sample_history IS 'Score of each sample by each rater, and the stored subset versions that contain it. Filter by sample_id or pair_hash';
COMMENT ON COLUMN alchemist.sample_history.sample_id IS 'Key of the sample';
COMMENT ON COLUMN alchemist.sample_history.pair_hash IS 'sha256 over image hash and caption hash (32 bytes): the identity of the sample';
COMMENT ON COLUMN alchemist.sample_history.caption IS 'Caption';
COMMENT ON COLUMN alchemist.sample_history.rater IS 'Name of the rater';
COMMENT ON COLUMN alchemist.sample_history.rater_state IS 'candidate, production or retired';
COMMENT ON COLUMN alchemist.sample_history.score IS 'Score by the rater: higher is better';
COMMENT ON COLUMN alchemist.sample_history.rank IS 'Rank on the rater''s newest rank scale, 0 (highest score) to 1 (lowest)';
COMMENT ON COLUMN alchemist.sample_history.scored_at IS 'When a shard with the sample was first scored by the rater';
COMMENT ON COLUMN alchemist.sample_history.subsets IS 'Subset versions with stored members that contain the sample, as name vN: those that were published, trained on, materialized, or copied in the explorer';
