-- Purpose: Return samples whose rank differs between two rater versions, a keyset page over the samples that both have scored.
-- Parameters: from_rater_id and to_rater_id integer, from_scale_id and to_scale_id integer (the rank scales of their scores), min_move
--   float8 (0 to 1), after_sample_id bigint (0: the first page), n_scanned integer (samples to look at).
-- One row is: a sample whose rank moved by at least min_move, up (towards 0) or down; last_sample_id is where the next page
--   begins, null if there is none. If none has moved, one row without a sample.
-- Relies on: both raters' partitions of pk_scores, merged in their order; pk_rank_scales.
-- Safe to re-run: yes.
WITH from_scale AS MATERIALIZED (
    SELECT
        knot_scores || '{}'::float8[] AS knot_scores,
        knot_ranks || '{}'::float8[] AS knot_ranks
    FROM alchemist.rank_scales
    WHERE rank_scale_id = :from_scale_id
),

to_scale AS MATERIALIZED (
    SELECT
        knot_scores || '{}'::float8[] AS knot_scores,
        knot_ranks || '{}'::float8[] AS knot_ranks
    FROM alchemist.rank_scales
    WHERE rank_scale_id = :to_scale_id
),

page AS MATERIALIZED (
    SELECT
        sample_id,
        before.score AS from_score,
        after.score AS to_score
    FROM alchemist.scores AS before
    INNER JOIN alchemist.scores AS after USING (sample_id)
    WHERE before.rater_id = :from_rater_id AND after.rater_id = :to_rater_id AND sample_id > :after_sample_id
    ORDER BY sample_id
    LIMIT :n_scanned
),

ranked AS (
    SELECT
        page.*,
        alchemist.rank_on_knots(page.from_score, from_scale.knot_scores, from_scale.knot_ranks) AS from_rank,
        alchemist.rank_on_knots(page.to_score, to_scale.knot_scores, to_scale.knot_ranks) AS to_rank
    FROM from_scale
    CROSS JOIN to_scale
    CROSS JOIN page
),

scanned AS (
    SELECT CASE WHEN count(*) = :n_scanned THEN max(sample_id) END AS last_sample_id FROM page
)

SELECT
    ranked.*,
    scanned.last_sample_id
FROM scanned
LEFT JOIN ranked ON abs(ranked.to_rank - ranked.from_rank) >= :min_move
ORDER BY abs(ranked.to_rank - ranked.from_rank) DESC, ranked.sample_id ASC
