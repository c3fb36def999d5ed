-- Purpose: Return the subset versions with their held-out losses.
-- One row is: a subset version; the losses are means over the seeds of `compared_models`, for models trained on it and on a random
--   subset of the same size; null before they are evaluated. FLUX-mini has a held-out loss of its own: it counts for a version
--   without a model of STAR that was evaluated.
-- Relies on: uq_subsets_name_version, compared_models; reads all audit events.
CREATE VIEW alchemist.subset_overview AS
WITH valued AS (
    SELECT
        subset_id,
        avg(value) FILTER (WHERE arm = 'subset') AS subset_heldout_loss,
        avg(value) FILTER (WHERE arm = 'random') AS random_heldout_loss,
        count(DISTINCT seed) FILTER (WHERE arm = 'subset') AS n_seeds,
        row_number() OVER (PARTITION BY subset_id ORDER BY bool_or(arm = 'subset') DESC, metric = 'heldout_loss' DESC) AS place
    FROM alchemist.compared_models
    WHERE metric IN ('heldout_loss', 'heldout_flow_loss') AND arm <> 'full'
    GROUP BY subset_id, metric
),

-- `publish`, `reinstate` and `rollback` store the version that became the published one.
published AS (
    SELECT DISTINCT ON (subject, after ->> 'version') subject, after ->> 'version' AS version, actor, after ->> 'approved_by' AS approved_by
    FROM alchemist.audit_events
    WHERE action IN ('publish', 'reinstate', 'rollback') AND starts_with(subject, 'subset ')
    ORDER BY subject ASC, after ->> 'version' ASC, audit_event_id DESC
)

SELECT
    subsets.name,
    subsets.version,
    rank_snapshots.dataset_names,
    raters.name AS rater,
    rank_scales.score AS rank_by,
    subsets.strategy,
    subsets.retention,
    subsets.seed,
    subsets.n_samples,
    coalesce(subsets.epoch_size, subsets.n_samples) AS epoch_size,
    subsets.state,
    valued.subset_heldout_loss,
    valued.random_heldout_loss,
    coalesce(valued.n_seeds, 0) AS n_seeds,
    subsets.created_by,
    subsets.created_at,
    subsets.published_at,
    published.actor AS published_by,
    published.approved_by,
    subsets.materialized_at,
    subsets.withdrawn_at,
    subsets.withdrawn_by,
    subsets.withdrawn_reason,
    subsets.subset_id
FROM alchemist.subsets
INNER JOIN alchemist.rank_snapshots ON subsets.snapshot_id = rank_snapshots.snapshot_id
INNER JOIN alchemist.rank_scales ON rank_snapshots.rank_scale_id = rank_scales.rank_scale_id
INNER JOIN alchemist.raters ON rank_scales.rater_id = raters.rater_id
LEFT JOIN valued ON subsets.subset_id = valued.subset_id AND valued.place = 1
LEFT JOIN published ON 'subset ' || subsets.name = published.subject AND subsets.version::text = published.version
ORDER BY subsets.name, subsets.version;

COMMENT ON VIEW alchemist.subset_overview IS 'Subset versions with their state and held-out losses';
COMMENT ON COLUMN alchemist.subset_overview.name IS 'Name of the subset';
COMMENT ON COLUMN alchemist.subset_overview.version IS 'Number of the version, from 1';
COMMENT ON COLUMN alchemist.subset_overview.dataset_names IS 'Datasets that samples were selected from';
COMMENT ON COLUMN alchemist.subset_overview.rater IS 'Name of the rater or scorer whose nights samples were selected from';
COMMENT ON COLUMN alchemist.subset_overview.rank_by IS 'Score that ranks the samples: rater for that of the rater itself, else the name of another one';
COMMENT ON COLUMN alchemist.subset_overview.strategy IS 'Selection strategy';
COMMENT ON COLUMN alchemist.subset_overview.retention IS 'Share of the eligible samples that was selected, above 0 to 1';
COMMENT ON COLUMN alchemist.subset_overview.seed IS 'Seed of the selection';
COMMENT ON COLUMN alchemist.subset_overview.n_samples IS 'Number of members';
COMMENT ON COLUMN alchemist.subset_overview.epoch_size IS 'Number of samples that an epoch reads: the members, or more if they are repeated';
COMMENT ON COLUMN alchemist.subset_overview.state IS 'selected, published, superseded or withdrawn';
COMMENT ON COLUMN alchemist.subset_overview.subset_heldout_loss IS
'Mean held-out loss over seeds of models trained on the subset, of FLUX-mini the held-out flow loss; lower is better';
COMMENT ON COLUMN alchemist.subset_overview.random_heldout_loss IS
'Mean of the same loss over seeds of models trained on a random subset of the same size';
COMMENT ON COLUMN alchemist.subset_overview.n_seeds IS 'Number of seeds of the models trained on the subset';
COMMENT ON COLUMN alchemist.subset_overview.created_by IS 'Person or service account that selected';
COMMENT ON COLUMN alchemist.subset_overview.created_at IS 'When it was selected';
COMMENT ON COLUMN alchemist.subset_overview.published_at IS 'When it was published last';
COMMENT ON COLUMN alchemist.subset_overview.published_by IS
'Person or service account that published it last, also by a rollback; null if it never was';
COMMENT ON COLUMN alchemist.subset_overview.approved_by IS
'Person who approved that publication, in Airflow or the explorer; null if nobody was asked';
COMMENT ON COLUMN alchemist.subset_overview.materialized_at IS 'When a materialized dataset of it was last complete';
COMMENT ON COLUMN alchemist.subset_overview.withdrawn_at IS 'When it was withdrawn; null in every other state';
COMMENT ON COLUMN alchemist.subset_overview.withdrawn_by IS 'Person who withdrew it';
COMMENT ON COLUMN alchemist.subset_overview.withdrawn_reason IS 'Why it was withdrawn';
COMMENT ON COLUMN alchemist.subset_overview.subset_id IS 'Key of the version';
