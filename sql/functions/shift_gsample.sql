-- The members that `alchemist select --strategy shift_gsample` selects from a stored snapshot:
--   SELECT * FROM alchemist.shift_gsample(snapshot => 3, retention => 0.2, drop_top_ratio => 0.25, mean_rank => 0.625, std_rank => 0.125, seed => 7)
--
-- Ranks, random numbers and every operation before the two logarithms have the same bits as in Python (float8, the same order). ln() of
-- the C library and numpy's log can differ in the last bit. So keys are not compared between the two, and members can differ only if two
-- keys at the threshold are that close: about once in 10⁸ selections from 30 million samples. round() rounds half to even, as in Python.
-- Equal keys are ordered by pair hash.
--
-- Snapshots with a condition (--where) are refused, because only Python can parse it; and those without semantic duplicates.

CREATE OR REPLACE FUNCTION alchemist.shift_gsample(
    snapshot integer, retention float8, drop_top_ratio float8 DEFAULT 0.25, mean_rank float8 DEFAULT 0.625,
    std_rank float8 DEFAULT 0.125, seed bigint DEFAULT 0
) RETURNS TABLE (sample_id bigint, pair_hash bytea, rank float8, score float8)
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SET search_path = alchemist, pg_temp AS $$
#variable_conflict use_column
DECLARE
    taken alchemist.rank_snapshots;
    scale alchemist.rank_scales;
    named_rater_id integer;
    n_eligible bigint;
    n_found bigint;
    k bigint;
    state bigint := alchemist.noise_state(1, shift_gsample.seed);
BEGIN
    SELECT * INTO taken FROM alchemist.rank_snapshots WHERE snapshot_id = shift_gsample.snapshot;
    IF NOT found THEN
        RAISE EXCEPTION 'There is no snapshot %. Run alchemist select once; the table rank_snapshots lists the snapshots.', snapshot;
    ELSIF taken.options ? 'where' THEN
        RAISE EXCEPTION 'Snapshot % has the condition %, which only alchemist select can evaluate.', snapshot, taken.options ->> 'where';
    ELSIF taken.options ?| ARRAY['semantic_threshold', 'keeps_best'] THEN
        RAISE EXCEPTION 'Snapshot % excludes duplicates in a way that only alchemist select knows (--dedup semantic, --dedup-keep).', snapshot;
    ELSIF taken.options ? 'signal_scale_ids' THEN
        RAISE EXCEPTION 'Snapshot % fuses several scores (--rank-by), which only alchemist select can do. See alchemist.signal_ranks.', snapshot;
    -- This also refuses nulls (LIMIT NULL would return every sample) and NaN, which is above every number here.
    ELSIF (
        retention > 0 AND retention <= 1 AND drop_top_ratio >= 0 AND drop_top_ratio < 1 AND mean_rank BETWEEN 0 AND 1
        AND std_rank BETWEEN 0.001 AND 10 AND seed >= 0 AND seed < 9007199254740992
    ) IS NOT TRUE THEN
        RAISE EXCEPTION 'Retention % must be above 0 and at most 1, drop_top_ratio % from 0 to below 1, mean_rank % from 0 to 1, '
            'std_rank % from 0.001 to 10, seed % from 0 to below 2^53', retention, drop_top_ratio, mean_rank, std_rank, seed;
    END IF;
    SELECT * INTO scale FROM alchemist.rank_scales WHERE rank_scales.rank_scale_id = taken.rank_scale_id;
    named_rater_id := alchemist.score_rater_id(scale.score);
    n_eligible := taken.n_eligible;
    k := round(retention * n_eligible);
    RETURN QUERY
    WITH contaminated AS MATERIALIZED (
        SELECT found.sample_id
        FROM alchemist.contaminated_samples(
            ARRAY(SELECT jsonb_array_elements_text(taken.options -> 'decontaminate')),
            coalesce((taken.options ->> 'last_evaluation_shard_id')::bigint, 0)
        ) AS found (sample_id)
        WHERE taken.options ? 'decontaminate'
    ),

    present_samples AS MATERIALIZED (
        SELECT found.*
        FROM alchemist.candidate_samples(
            scale.rater_id, taken.night_ids, taken.last_takedown_id, coalesce((taken.options ->> 'last_compared_id')::bigint, 0),
            coalesce(taken.options ->> 'duplicates', 'exact'), scale.score, -1, 9223372036854775807,
            coalesce((taken.options ->> 'last_retirement_id')::integer, 0), named_rater_id
        ) AS found
        WHERE NOT found.is_taken_down AND found.score IS NOT NULL AND found.score <> 'NaN'
            AND NOT EXISTS (SELECT FROM contaminated WHERE contaminated.sample_id = found.sample_id)
    ),

    -- Of each duplicate group the first-seen sample that is present stays.
    placed AS (
        SELECT
            found.*,
            row_number() OVER (PARTITION BY coalesce(nullif(found.first_sample_id, 0), found.sample_id) ORDER BY found.sample_id) AS place
        FROM present_samples AS found
    ),

    eligible AS MATERIALIZED (
        SELECT placed.sample_id, placed.pair_hash, placed.score, samples.pair_hash64
        FROM placed
        INNER JOIN alchemist.samples ON placed.sample_id = samples.sample_id
        WHERE placed.place = 1
    ),

    -- Once here, not as a column of each row, where it would be unpacked for every sample.
    knots AS MATERIALIZED (
        SELECT scale.knot_scores || '{}'::float8[] AS scores, scale.knot_ranks || '{}'::float8[] AS ranks
    ),

    -- Materialized on both sides: knots are 1 MiB, and a sort or a hash would copy them into every row.
    ranked AS MATERIALIZED (
        SELECT
            eligible.sample_id,
            eligible.pair_hash,
            eligible.score,
            eligible.pair_hash64,
            alchemist.rank_on_knots(eligible.score, knots.scores, knots.ranks) AS rank
        FROM knots
        CROSS JOIN eligible
    ),

    keyed AS (
        SELECT
            ranked.*,
            -0.5 * (((ranked.rank - mean_rank) / std_rank) * ((ranked.rank - mean_rank) / std_rank))
            + (-ln(-ln(alchemist.uniform_of(state, ranked.pair_hash64)))) AS key
        FROM ranked
        WHERE ranked.rank >= drop_top_ratio
    )

    SELECT keyed.sample_id, keyed.pair_hash, keyed.rank, keyed.score
    FROM keyed
    ORDER BY keyed.key DESC, keyed.pair_hash64, keyed.pair_hash
    LIMIT k;
    GET DIAGNOSTICS n_found = ROW_COUNT;
    IF n_found < k OR k < 1 THEN
        RAISE EXCEPTION '% of % eligible samples are requested, % can be selected. The largest possible retention is %.',
            k, n_eligible, n_found, floor(n_found * 10000.0 / greatest(n_eligible, 1)) / 10000;
    END IF;
END $$;

COMMENT ON FUNCTION alchemist.shift_gsample(integer, float8, float8, float8, float8, bigint) IS 'Returns the members that alchemist select --strategy shift_gsample selects from a stored snapshot';
