-- Purpose: what the production rater says of every pair, now.
-- One row is: a pair that the production rater has scored; rank 0 = highest score, null before the rater's first rank scale.
-- Relies on: uq_raters_one_production, pk_scores (one partition is read), pk_samples.
CREATE VIEW alchemist.current_scores AS
WITH scale AS MATERIALIZED (
    -- Appending nothing unpacks the arrays here, once; a bare column would be unpacked again for every score.
    SELECT
        knot_scores || '{}'::float8[] AS knot_scores,
        knot_ranks || '{}'::float8[] AS knot_ranks
    FROM alchemist.rank_scales
    WHERE rater_id = (SELECT raters.rater_id FROM alchemist.raters WHERE raters.state = 'production')
    ORDER BY rank_scale_id DESC
    LIMIT 1
)

SELECT
    scores.sample_id,
    samples.pair_hash,
    scores.score,
    alchemist.rank_on_knots(scores.score, scale.knot_scores, scale.knot_ranks) AS rank,
    scores.rater_id
FROM alchemist.scores
INNER JOIN alchemist.samples ON scores.sample_id = samples.sample_id
LEFT JOIN scale ON TRUE
-- A scalar subquery, so that the other raters' partitions are pruned before anything is read.
WHERE scores.rater_id = (SELECT raters.rater_id FROM alchemist.raters WHERE raters.state = 'production');
