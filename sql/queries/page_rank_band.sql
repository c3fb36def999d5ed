-- Purpose: Return one keyset page of the samples in a band of ranks; the next page begins after its last sample.
-- Parameters: rater_id integer, rank_from and rank_to float8 (rank_from <= rank < rank_to; a band that ends at 1 holds rank 1 too),
--   after_sample_id bigint (0: the first page), n_rows integer.
-- One row is: a sample of the band with score and rank by the rater's newest scale, in the order of sample_id; none without a
--   scale.
-- Relies on: the rater's partition of pk_scores, read in its order until the page is full; no index on the score is needed.
-- Safe to re-run: yes.
WITH scale AS MATERIALIZED (
    SELECT
        rank_scale_id,
        knot_scores || '{}'::float8[] AS knot_scores,
        knot_ranks || '{}'::float8[] AS knot_ranks
    FROM alchemist.rank_scales
    WHERE rater_id = :rater_id AND score = 'rater'
    ORDER BY rank_scale_id DESC
    LIMIT 1
),

band AS MATERIALIZED (
    SELECT
        CASE WHEN :rank_to >= 1 THEN '-Infinity' ELSE alchemist.score_bound(:rank_to, rank_scale_id) END AS lowest,
        alchemist.score_bound(:rank_from, rank_scale_id) AS highest
    FROM scale
),

-- The bounds are scalars here, so that the order of the index is kept up to the LIMIT.
page AS (
    SELECT
        sample_id,
        score
    FROM alchemist.scores
    WHERE
        rater_id = :rater_id
        AND sample_id > :after_sample_id
        AND score > (SELECT band.lowest FROM band)
        AND score <= (SELECT band.highest FROM band)
    ORDER BY sample_id
    LIMIT :n_rows
)

SELECT
    page.sample_id,
    page.score,
    alchemist.rank_on_knots(page.score, scale.knot_scores, scale.knot_ranks) AS rank
FROM scale
CROSS JOIN page
ORDER BY page.sample_id
