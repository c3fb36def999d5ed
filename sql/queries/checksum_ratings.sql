-- Purpose: Return raters, scores, nights and ranks as text without ids, runs or times: equal data gives equal text in any database.
-- Parameters: table_name text (one of those below; the others are not read).
-- One row is: a row of that table, its keys replaced by natural ones (rater identity, night's date and revision, pair hash).
-- Relies on: the primary keys; reads the whole table.
-- Safe to re-run: yes; ordered by bytes, so it does not depend on the database's collation.
WITH dated AS (
    SELECT nights.*, ROW(datasets.name, nights.crawl_date, raters.identity_hash, nights.revision)::text AS night
    FROM alchemist.nights
    INNER JOIN alchemist.datasets ON nights.dataset_id = datasets.dataset_id
    INNER JOIN alchemist.raters ON nights.rater_id = raters.rater_id
),

scaled AS (
    SELECT
        rank_scales.rank_scale_id,
        ROW(
            raters.identity_hash,
            rank_scales.score,
            rank_scales.n_reference,
            sha256(array_send(rank_scales.knot_scores)),
            sha256(array_send(rank_scales.knot_ranks))
        )::text AS scale
    FROM alchemist.rank_scales
    INNER JOIN alchemist.raters ON rank_scales.rater_id = raters.rater_id
),

lines AS (
    SELECT
        'raters' AS table_name,
        ROW(name, rule, config, identity_hash, checkpoint_uri, checkpoint_sha256, acceptance_report, state, is_shadow)::text AS line
    FROM alchemist.raters
    UNION ALL
    -- Not decided_by: it names an Airflow run.
    SELECT 'nights', ROW(night, state, reason)::text
    FROM dated
    UNION ALL
    -- Not n_reused: which of two shards with the same sample computed its score depends on which one was scored first.
    SELECT
        'shard_scores', ROW(
            dated.night, shards.uri, done.n_samples, done.n_scored, done.n_quarantined, done.code_version, done.device, done.dtype
        )::text
    FROM alchemist.shard_scores AS done
    INNER JOIN dated ON done.night_id = dated.night_id
    INNER JOIN alchemist.shards ON done.shard_id = shards.shard_id
    UNION ALL
    SELECT 'retried_samples', ROW(dated.night, shards.uri, again.ordinal)::text
    FROM alchemist.retried_samples AS again
    INNER JOIN dated USING (night_id)
    INNER JOIN alchemist.shards USING (shard_id)
    UNION ALL
    SELECT 'scores', ROW(raters.identity_hash, samples.pair_hash, scores.score)::text
    FROM alchemist.scores
    INNER JOIN alchemist.raters ON scores.rater_id = raters.rater_id
    INNER JOIN alchemist.samples ON scores.sample_id = samples.sample_id
    UNION ALL
    SELECT 'score_distributions', ROW(dated.night, to_jsonb(shape) - 'night_id' - 'created_at')::text
    FROM alchemist.score_distributions AS shape
    INNER JOIN dated ON shape.night_id = dated.night_id
    UNION ALL
    SELECT 'rank_scales', scale
    FROM scaled
    UNION ALL
    -- The hash of the eligible set represents the nights and takedowns that it depends on.
    SELECT 'rank_snapshots', ROW(scaled.scale, taken.dataset_names, taken.n_eligible, taken.eligible_hash)::text
    FROM alchemist.rank_snapshots AS taken
    INNER JOIN scaled ON taken.rank_scale_id = scaled.rank_scale_id
    UNION ALL
    SELECT
        'region_probes', ROW(
            raters.identity_hash, probes.drop_top_ratio, probes.mean_rank, probes.std_rank, probes.gain, probes.gain_low,
            probes.gain_high, probes.measurements
        )::text
    FROM alchemist.rank_windows AS probes
    INNER JOIN alchemist.raters ON probes.rater_id = raters.rater_id
)

SELECT line
FROM lines
WHERE table_name = :table_name
ORDER BY line COLLATE "C"
