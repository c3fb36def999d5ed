-- By how much a value is better than a control's, in the metric's unit: positive is better, for losses and for scores.
-- The pattern matches the metrics where lower is better; statistics.py has the same one, and a test compares them.
CREATE OR REPLACE FUNCTION alchemist.gain_over(metric text, value float8, control float8) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
SELECT CASE WHEN metric ~ 'loss|^fid|^kid' THEN control - value ELSE value - control END
$$;

COMMENT ON FUNCTION alchemist.gain_over(text, float8, float8) IS 'Returns by how much a metric value is better than a control''s: positive is better for every metric';
