-- The rank of a score on a scale of knots, 0 = highest: the same four float64 operations as selection/ranks.py, in the same
-- order. Exact at a knot, interpolated between knots, 1 below the first knot and 0 above the last.

-- Postgres inlines it into the calling query, so the arrays are never copied; width_bucket is a binary search: knot_scores[i] <= score < knot_scores[i + 1].
CREATE OR REPLACE FUNCTION alchemist.rank_on_knots(score float8, knot_scores float8[], knot_ranks float8[]) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
SELECT CASE
    WHEN score < knot_scores[1] THEN 1.0::float8
    WHEN score > knot_scores[cardinality(knot_scores)] THEN 0.0::float8
    WHEN score = knot_scores[cardinality(knot_scores)] THEN knot_ranks[cardinality(knot_scores)]
    ELSE
        knot_ranks[width_bucket(score, knot_scores)]
        + (knot_ranks[width_bucket(score, knot_scores) + 1] - knot_ranks[width_bucket(score, knot_scores)])
        * (
            (score - knot_scores[width_bucket(score, knot_scores)])
            / (knot_scores[width_bucket(score, knot_scores) + 1] - knot_scores[width_bucket(score, knot_scores)])
        )
END
$$;

CREATE OR REPLACE FUNCTION alchemist.rank_of(score float8, rank_scale_id integer) RETURNS float8
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = alchemist, pg_temp AS $$
SELECT alchemist.rank_on_knots($1, knot_scores, knot_ranks) FROM alchemist.rank_scales WHERE rank_scales.rank_scale_id = $2
$$;

-- The inverse: the score that bounds a rank, so that rank < r means score > bound. +Infinity where no score has rank < r, -Infinity where
-- all have. It is a binary search of its own, because ranks descend and width_bucket needs ascending values.
CREATE OR REPLACE FUNCTION alchemist.score_bound(rank float8, rank_scale_id integer) RETURNS float8
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = alchemist, pg_temp AS $$
DECLARE
    scores float8[];
    ranks float8[];
    low integer := 1;
    high integer;
    middle integer;
BEGIN
    SELECT knot_scores, knot_ranks INTO scores, ranks FROM alchemist.rank_scales WHERE rank_scales.rank_scale_id = $2;
    high := cardinality(ranks);
    IF rank > 1 THEN
        RETURN '-Infinity';
    ELSIF rank <= 0 THEN
        RETURN 'Infinity';
    ELSIF rank > ranks[1] THEN
        -- All scores from the first knot on: slightly below it, because the bound itself is excluded. Scores are float4, so their steps are wider.
        RETURN scores[1] - abs(scores[1]) * 1e-12 - 1e-300;
    ELSIF rank <= ranks[high] THEN
        RETURN scores[high];
    END IF;
    -- ranks[low] >= rank > ranks[high]
    WHILE high - low > 1 LOOP
        middle := (low + high) / 2;
        IF ranks[middle] >= rank THEN low := middle; ELSE high := middle; END IF;
    END LOOP;
    RETURN scores[low] + (scores[high] - scores[low]) * ((rank - ranks[low]) / (ranks[high] - ranks[low]));
END $$;

COMMENT ON FUNCTION alchemist.rank_on_knots(float8, float8[], float8[]) IS 'Returns the rank of a score on a scale of knots, 0 (highest score) to 1 (lowest)';
COMMENT ON FUNCTION alchemist.rank_of(float8, integer) IS 'Returns the rank of a score on a stored rank scale, 0 (highest score) to 1 (lowest)';
COMMENT ON FUNCTION alchemist.score_bound(float8, integer) IS 'Returns the score that bounds a rank on a stored rank scale: a rank is below the given one exactly if its score is above the bound';
