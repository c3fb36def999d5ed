-- Purpose: Return score and rank of every sample under the production rater.
-- One row is: a sample that the production rater has scored; rank 0 = highest score, null before the rater's first rank scale.
-- Relies on: uq_raters_one_production, pk_scores (one partition is read), pk_samples (only where pair_hash is asked for).
--
-- A rank scale has two arrays of up to half a megabyte, so how often they are copied decides between 0.2 s and minutes for 100,000 samples:
--   || '{}'           unpacks them once; a bare column would be unpacked again for every score;
--   MATERIALIZED      computes that row once, as the outer side of the join (the inner side would be copied for every score);
--   security_barrier  computes the rank inside the view, so that the joins of a query on it do not carry the arrays. Conditions on
--                     sample_id and score still reach the index: their operators are leakproof.
CREATE VIEW alchemist.current_scores WITH (security_barrier) AS
WITH production AS MATERIALIZED (
    SELECT
        raters.rater_id,
        newest.knot_scores || '{}'::float8[] AS knot_scores,
        newest.knot_ranks || '{}'::float8[] AS knot_ranks
    FROM alchemist.raters
    LEFT JOIN LATERAL (
        SELECT knot_scores, knot_ranks
        FROM alchemist.rank_scales
        WHERE rank_scales.rater_id = raters.rater_id AND rank_scales.score = 'rater'
        ORDER BY rank_scale_id DESC
        LIMIT 1
    ) AS newest ON TRUE
    WHERE raters.state = 'production'
)

SELECT
    scores.sample_id,
    (SELECT samples.pair_hash FROM alchemist.samples WHERE samples.sample_id = scores.sample_id) AS pair_hash,
    scores.score,
    alchemist.rank_on_knots(scores.score, production.knot_scores, production.knot_ranks) AS rank,
    scores.rater_id
FROM production
CROSS JOIN alchemist.scores
-- A scalar subquery, so that the other raters' partitions are pruned before anything is read.
WHERE scores.rater_id = (SELECT raters.rater_id FROM alchemist.raters WHERE raters.state = 'production');

COMMENT ON VIEW alchemist.current_scores IS 'Score and rank of every sample under the production rater';
COMMENT ON COLUMN alchemist.current_scores.sample_id IS 'Key of the sample';
COMMENT ON COLUMN alchemist.current_scores.pair_hash IS 'sha256 over image hash and caption hash (32 bytes): the identity of the sample';
COMMENT ON COLUMN alchemist.current_scores.score IS 'Score by the production rater: higher is better';
COMMENT ON COLUMN alchemist.current_scores.rank IS 'Rank on the newest rank scale, 0 (highest score) to 1 (lowest); null before the first scale';
COMMENT ON COLUMN alchemist.current_scores.rater_id IS 'Key of the production rater';
