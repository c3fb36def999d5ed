-- Purpose: Return subsets, models and evaluations as text without ids, runs or times: equal data gives equal text in any database.
-- Parameters: table_name text (one of those below; the others are not read).
-- One row is: a row of that table, its keys replaced by natural ones (subset name and version, model identity, protocol hash).
-- Relies on: the primary keys; reads the whole table.
-- Safe to re-run: yes; ordered by bytes, so it does not depend on the database's collation.
WITH titled AS (
    SELECT
        subsets.*,
        ROW(subsets.name, subsets.version)::text AS subset,
        predecessors.version AS predecessor_version
    FROM alchemist.subsets
    LEFT JOIN alchemist.subsets AS predecessors ON subsets.predecessor_id = predecessors.subset_id
),

lines AS (
    -- Not created_by: it names an Airflow run.
    SELECT
        'subsets' AS table_name, ROW(
            titled.subset, rank_snapshots.dataset_names, rank_snapshots.eligible_hash, titled.strategy, titled.retention, titled.seed,
            titled.spec, titled.spec_hash, titled.n_samples, titled.manifest_sha256, titled.manifest_uri, titled.state,
            titled.materialized_uri, titled.all_materialized_uris, titled.predecessor_version, titled.withdrawn_reason
        )::text || coalesce(' epoch size ' || titled.epoch_size, '') AS line
    FROM titled
    INNER JOIN alchemist.rank_snapshots ON titled.snapshot_id = rank_snapshots.snapshot_id
    UNION ALL
    SELECT 'subset_samples', ROW(titled.subset, samples.pair_hash, subset_samples.rank)::text || coalesce(' weight ' || subset_samples.weight, '')
    FROM alchemist.subset_samples
    INNER JOIN titled ON subset_samples.subset_id = titled.subset_id
    INNER JOIN alchemist.samples ON subset_samples.sample_id = samples.sample_id
    UNION ALL
    SELECT
        'models', ROW(
            models.identity_hash, models.arm, titled.subset, models.retention, models.seed, models.config, models.n_samples,
            models.n_steps, models.members_sha256, models.checkpoint_uri, models.checkpoint_sha256
        )::text
    FROM alchemist.models
    LEFT JOIN titled ON models.subset_id = titled.subset_id
    UNION ALL
    SELECT 'evaluation_contracts', ROW(protocol_hash, protocol)::text
    FROM alchemist.evaluation_protocols
    UNION ALL
    SELECT
        'evaluations', ROW(
            models.identity_hash, evaluation_protocols.protocol_hash, evaluations.metric, evaluations.value, evaluations.n
        )::text
    FROM alchemist.evaluations
    INNER JOIN alchemist.models ON evaluations.model_id = models.model_id
    INNER JOIN alchemist.evaluation_protocols ON evaluations.protocol_id = evaluation_protocols.protocol_id
    UNION ALL
    SELECT
        'blind_judgements', ROW(
            titled.subset, beside.subset, judged.seed, judged.preferred, judged.judged_by,
            (
                SELECT array_agg(samples.pair_hash ORDER BY shown.place)
                FROM unnest(judged.sample_ids || judged.other_sample_ids) WITH ORDINALITY AS shown (sample_id, place)
                INNER JOIN alchemist.samples ON shown.sample_id = samples.sample_id
            )
        )::text
    FROM alchemist.blind_judgements AS judged
    INNER JOIN titled ON judged.subset_id = titled.subset_id
    LEFT JOIN titled AS beside ON judged.other_subset_id = beside.subset_id
    UNION ALL
    SELECT 'experiments', ROW(name, config, result)::text
    FROM alchemist.experiments
)

SELECT line
FROM lines
WHERE table_name = :table_name
ORDER BY line COLLATE "C"
