-- What each score contributes to a fused one (select --rank-by A+B): the rank of a sample is that of the mean of these ranks.
--   SELECT * FROM alchemist.signal_ranks(snapshot => 3, sample => 17)
--
-- One row is: a score that the snapshot fuses, with the sample's score and its rank on the scale that the fusion uses. No row for a
-- snapshot that fuses none, or for a sample that is not in its nights. The body reads a view that is made after the functions.
SET LOCAL check_function_bodies = off;

CREATE OR REPLACE FUNCTION alchemist.signal_ranks(snapshot integer, sample bigint)
RETURNS TABLE (signal text, score float8, rank float8)
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = alchemist, pg_temp AS $$
SELECT
    signals.signal,
    found.score,
    alchemist.rank_of(found.score, signals.rank_scale_id)
FROM alchemist.rank_snapshots AS taken
INNER JOIN alchemist.rank_scales AS fused ON taken.rank_scale_id = fused.rank_scale_id
CROSS JOIN LATERAL ROWS FROM (
    unnest(string_to_array(fused.score, '+')),
    unnest(ARRAY(SELECT scale_id::integer FROM jsonb_array_elements_text(taken.options -> 'signal_scale_ids') AS scale_id))
) WITH ORDINALITY AS signals (signal, rank_scale_id, place)
CROSS JOIN LATERAL alchemist.candidate_samples(
    fused.rater_id, taken.night_ids, taken.last_takedown_id, 0, 'exact', signals.signal, $2 - 1, $2,
    coalesce((taken.options ->> 'last_retirement_id')::integer, 0),
    -- As a subquery, so that candidate_samples is not inlined but planned for the one sample.
    (SELECT alchemist.score_rater_id(signals.signal))
) AS found
WHERE taken.snapshot_id = $1 AND taken.options ? 'signal_scale_ids'
ORDER BY signals.place
$$;

SET LOCAL check_function_bodies = on;

COMMENT ON FUNCTION alchemist.signal_ranks(integer, bigint) IS 'Returns a sample''s score and rank by each score that a snapshot fuses; no rows if it ranks by a single score';
