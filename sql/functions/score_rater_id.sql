-- The rater whose scores a name means in select --rank-by and in rank_scales.score: a scorer or imported scores of that name, else the
-- first trained rater whose name becomes it when each character but letters, digits and underscores is replaced by an underscore. The
-- same rule as scores_by_name in store/export.py. Null for a score that is in a column, such as rater, and for an unknown name.
CREATE OR REPLACE FUNCTION alchemist.score_rater_id(score_name text) RETURNS integer
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = alchemist, pg_temp AS $$
SELECT raters.rater_id
FROM alchemist.raters
WHERE
    $1 NOT IN ('rater', 'aesthetic', 'clarity', 'frequency', 'edge_density')
    AND $1 = CASE raters.kind
        WHEN 'trained' THEN regexp_replace(regexp_replace(lower(raters.name), '[^a-z0-9_]', '_', 'g'), '^(?![a-z])', 'rater_')
        ELSE raters.name
    END
ORDER BY raters.kind = 'trained', raters.rater_id
LIMIT 1
$$;

-- One row is: a rank scale with a rater that it ranks by: its own, or one whose scores it names.
CREATE OR REPLACE FUNCTION alchemist.raters_of_scales() RETURNS TABLE (rank_scale_id integer, rater_id integer)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
SELECT rank_scales.rank_scale_id, rank_scales.rater_id
FROM alchemist.rank_scales
UNION
SELECT rank_scales.rank_scale_id, alchemist.score_rater_id(signals.score)
FROM alchemist.rank_scales
CROSS JOIN LATERAL unnest(string_to_array(rank_scales.score, '+')) AS signals (score)
$$;

COMMENT ON FUNCTION alchemist.score_rater_id(text) IS 'Returns the scorer, imported scores or trained rater that a name in rank_scales.score means; null for a score that is in a column, such as rater';
COMMENT ON FUNCTION alchemist.raters_of_scales() IS 'Returns each rank scale with the raters that it ranks by: its own, and those whose scores it names';
