-- Purpose: Return what each object was made from, one step per row: follow parent to child = parent of the next row.
-- One row is: an edge from an object (kind, id, name) to what it was made from; a withdrawn subset version is marked in its name.
-- Relies on: the primary keys.
CREATE VIEW alchemist.lineage AS
WITH versions AS (
    SELECT *, name || ' v' || version || CASE WHEN state = 'withdrawn' THEN ' (withdrawn)' ELSE '' END AS title FROM alchemist.subsets
)

SELECT
    'evaluation' AS kind, evaluations.evaluation_id AS id, evaluations.metric AS name,
    'model' AS parent_kind, models.model_id::bigint AS parent_id, replace(models.arm, 'planted', 'oracle') || ' seed ' || models.seed AS parent_name
FROM alchemist.evaluations
INNER JOIN alchemist.models ON evaluations.model_id = models.model_id
UNION ALL
SELECT
    'evaluation', evaluations.evaluation_id, evaluations.metric,
    'evaluation protocol', evaluation_protocols.protocol_id, evaluation_protocols.protocol_hash
FROM alchemist.evaluations
INNER JOIN alchemist.evaluation_protocols ON evaluations.protocol_id = evaluation_protocols.protocol_id
UNION ALL
SELECT
    'model', models.model_id, replace(models.arm, 'planted', 'oracle') || ' seed ' || models.seed,
    'subset', versions.subset_id, versions.title
FROM alchemist.models
INNER JOIN versions ON models.subset_id = versions.subset_id
UNION ALL
SELECT
    'subset', versions.subset_id, versions.title,
    'rank snapshot', rank_snapshots.snapshot_id, rank_snapshots.eligible_hash
FROM versions
INNER JOIN alchemist.rank_snapshots ON versions.snapshot_id = rank_snapshots.snapshot_id
UNION ALL
SELECT
    'rank snapshot', rank_snapshots.snapshot_id, rank_snapshots.eligible_hash,
    'rank scale', rank_snapshots.rank_scale_id, NULL
FROM alchemist.rank_snapshots
UNION ALL
SELECT
    'rank snapshot', rank_snapshots.snapshot_id, rank_snapshots.eligible_hash,
    'dataset', datasets.dataset_id, datasets.name
FROM alchemist.rank_snapshots
INNER JOIN alchemist.datasets ON datasets.name = ANY(rank_snapshots.dataset_names)
UNION ALL
-- Its rater, and the scorers, imported scores and other raters that it ranks by.
SELECT
    'rank scale', used.rank_scale_id, NULL,
    'rater', raters.rater_id, raters.name
FROM alchemist.raters_of_scales() AS used
INNER JOIN alchemist.raters ON used.rater_id = raters.rater_id
UNION ALL
SELECT made.kind, made.id, made.name, 'run', runs.run_id, runs.stage
FROM (
    SELECT 'rater' AS kind, rater_id AS id, name, run_id FROM alchemist.raters
    UNION ALL
    SELECT 'subset', subset_id, title, run_id FROM versions
    UNION ALL
    SELECT 'model', model_id, replace(arm, 'planted', 'oracle') || ' seed ' || seed, run_id FROM alchemist.models
    UNION ALL
    SELECT 'evaluation', evaluation_id, metric, run_id FROM alchemist.evaluations
) AS made
INNER JOIN alchemist.runs ON made.run_id = runs.run_id;

COMMENT ON VIEW alchemist.lineage IS 'What each object was made from, one step per row: follow parent_kind and parent_id to kind and id of the next row';
COMMENT ON COLUMN alchemist.lineage.kind IS 'Kind of object: evaluation, model, subset, rank snapshot, rank scale or rater';
COMMENT ON COLUMN alchemist.lineage.id IS 'Key of the object';
COMMENT ON COLUMN alchemist.lineage.name IS 'Name of the object; a withdrawn subset version is marked';
COMMENT ON COLUMN alchemist.lineage.parent_kind IS 'Kind of the object that it was made from';
COMMENT ON COLUMN alchemist.lineage.parent_id IS 'Key of that object';
COMMENT ON COLUMN alchemist.lineage.parent_name IS 'Name of that object';
