-- A store with more of everything than a label may show; N_SHARDS is filled in by test_exporter.py.
DO $$
DECLARE bond record;
BEGIN
    -- Rows point at what is not there: only what the exporter reads is filled.
    FOR bond IN SELECT conrelid::regclass AS place, conname FROM pg_constraint
        WHERE contype = 'f' AND connamespace = 'alchemist'::regnamespace AND conparentid = 0
    LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', bond.place, bond.conname);
    END LOOP;
END $$;
INSERT INTO alchemist.datasets (name, root_uri, role) SELECT 'web ' || i, '/data', 'train' FROM generate_series(1, 30) AS i;
INSERT INTO alchemist.raters (name, rule, config, identity_hash, checkpoint_uri, checkpoint_sha256, state, is_shadow, acceptance_report)
SELECT 'r' || i, 'loss', '{}', i, 'r', sha256('r'), CASE WHEN i = 1 THEN 'production' ELSE 'candidate' END, i > 1,
    jsonb_build_object('checks', (SELECT jsonb_agg(jsonb_build_object('name', 'check ' || c, 'value', c)) FROM generate_series(1, 9) AS c))
FROM generate_series(1, 50) AS i;
INSERT INTO alchemist.shards (dataset_id, uri, sha256, size_bytes, n_samples, crawl_date, state)
SELECT 1 + i % 30, i || '.tar', sha256('s'), 1, 10000, DATE '2020-01-01' + i / 1000, 'verified' FROM generate_series(1, N_SHARDS) AS i;
INSERT INTO alchemist.nights (dataset_id, crawl_date, rater_id, revision, state, decided_at)
SELECT d, DATE '2020-01-01' + i, 1, 1, 'selectable', now() FROM generate_series(1, 30) AS d, generate_series(0, 1000) AS i;
-- Without a partition, no plan names the table of scores.
SELECT alchemist.add_partition('scores', rater_id) FROM alchemist.raters WHERE state = 'production';
INSERT INTO alchemist.shard_scores (
    rater_id, shard_id, night_id, n_samples, n_scored, n_reused, n_quarantined, code_version, device, dtype, run_id
) SELECT 1, shard_id, night_id, 10000, 9900, 0, 100, '1', 'cpu', 'float32', 1
FROM alchemist.shards INNER JOIN alchemist.nights USING (dataset_id, crawl_date) WHERE shard_id % 1000 > 0;
INSERT INTO alchemist.score_distributions (night_id, n, quantiles, histogram, psi, ks_distance)
SELECT night_id, 900, '{}', '{}', 0.01, 0.01 FROM alchemist.nights WHERE night_id % 7 = 0;
INSERT INTO alchemist.quarantined_samples (shard_id, ordinal, key, reason, detail, stage)
SELECT N_SHARDS - i % 2000, i, i, 'reason ' || i % 40, '', 'ingest' FROM generate_series(1, 50000) AS i;
INSERT INTO alchemist.runs (stage, config, config_hash, state, code_version, host, pid, finished_at, work_seconds)
SELECT (ARRAY['ingest', 'train_rater', 'score', 'select', 'materialize', 'train_downstream', 'evaluate', 'report'])[1 + i % 8],
    '{}', 'c', (ARRAY['succeeded', 'failed', 'lost'])[1 + i % 3], '1', 'here', 1, now(), 1 FROM generate_series(1, 20000) AS i;
INSERT INTO alchemist.runs (stage, config, config_hash, code_version, host, pid, progress, started_at)
SELECT DISTINCT
    stage, '{}'::jsonb, 'd', '1', 'here', 1, '{"done": 1, "total": 2}'::jsonb, clock_timestamp() - make_interval(secs => 10)
FROM alchemist.runs;
INSERT INTO alchemist.check_results (suite, expectation, severity, is_success, observed, dataset_name)
SELECT 'scores', 'expectation ' || i % 60, 'warn', FALSE, '{}', 'web 1' FROM generate_series(1, 50000) AS i;
INSERT INTO alchemist.check_results (suite, expectation, severity, is_success, observed, dataset_name)
SELECT 'scores', 'locations_are_scored_or_quarantined', 'fail', FALSE, '{"unexpected_count": 1}', name FROM alchemist.datasets;
INSERT INTO alchemist.check_results (suite, expectation, severity, is_success, observed, dataset_name, crawl_date)
SELECT 'samples', 'most_locations_are_usable', 'fail', FALSE, '{}', name, DATE '2020-01-02' FROM alchemist.datasets;
INSERT INTO alchemist.notifications (key, kind, event, state)
SELECT 'failed_task:dag.task ' || i || ':r:-1:1', 'failed_task', '{"facts": {}}', 'delivered' FROM generate_series(1, 60) AS i;
INSERT INTO alchemist.subsets (
    name, version, snapshot_id, strategy, retention, seed, spec, spec_hash, n_samples, manifest_sha256, manifest_uri, state, created_by,
    published_at
) SELECT 'subset ' || i, 1, 1, 'top_k', .2, 0, '{}', 's', 9, 'm', 'm', 'published', 'ann', now() FROM generate_series(1, 1000) AS i;
INSERT INTO alchemist.models (
    identity_hash, arm, subset_id, retention, seed, config, n_samples, n_steps, members_sha256, checkpoint_uri, checkpoint_sha256
) SELECT subset_id || arm, arm, subset_id, .2, 0, '{}', 9, 9, 'm', 'm', sha256('m')
FROM alchemist.subsets, unnest(ARRAY['subset', 'random', 'planted', 'full']) AS arm;
INSERT INTO alchemist.evaluations (model_id, protocol_id, metric, value, n)
SELECT model_id, 1, 'metric ' || i, 1, 9 FROM alchemist.models, generate_series(1, 8) AS i;
INSERT INTO alchemist.takedowns (image_hash, reason, requested_by)
SELECT sha256(CAST(CAST(i AS text) AS bytea)), 'r', 'a' FROM generate_series(1, 500) AS i;
INSERT INTO alchemist.leases (resource, fencing_token, run_id, expires_at) SELECT i, i, 1, now() FROM generate_series(1, 500) AS i;
