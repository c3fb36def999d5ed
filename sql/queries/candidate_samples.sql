-- Purpose: Return the scored samples of decided nights, with what decides whether each is eligible.
-- Parameters: rater_id integer, night_ids integer[], last_takedown_id integer, last_compared_id bigint (0: duplicates are kept),
--   duplicates text (exact or near), score text (rater, or a heuristic), after_sample_id bigint and last_sample_id bigint (a range
--   of samples), last_retirement_id integer (shards retired up to it do not count), score_rater_id integer (the scorer, or the
--   imported scores, whose score it is; null: it is the one that `score` names).
-- One row is: a sample with its score (NaN where it has none), its first night and the first sample of its duplicate group (0: none
--   before it).
-- Relies on: alchemist.candidate_samples; ix_sample_locations_sample_id, one or two partitions of pk_scores, pk_samples,
--   pk_duplicate_samples.
-- Safe to re-run: yes; no column is null or of variable length, so that arrays are read from its binary COPY.
SELECT
    sample_id,
    pair_hash,
    coalesce(score, 'NaN') AS score,
    night_id,
    first_sample_id,
    is_taken_down
FROM alchemist.candidate_samples(
    CAST(:rater_id AS integer), CAST(:night_ids AS integer[]), CAST(:last_takedown_id AS integer), CAST(:last_compared_id AS bigint),
    CAST(:duplicates AS text), CAST(:score AS text), CAST(:after_sample_id AS bigint), CAST(:last_sample_id AS bigint),
    CAST(:last_retirement_id AS integer), CAST(:score_rater_id AS integer)
)
