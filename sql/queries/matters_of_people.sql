-- Purpose: Return what waits for a person beside nights: questions that were not answered after they were asked, tasks of Airflow that
--   failed and have not succeeded since, certified raters that are not in production, published subsets with fewer than two seeds evaluated.
-- Parameters: n_each integer (rows of each kind), since timestamptz (questions and failed tasks from then on).
-- One row is: a matter of one kind: its subject (a task, a rater or a subset), the crawl date or the version it is about, the deciding facts in words,
--   and a page of Airflow.
-- Relies on: uq_raters_one_production, uq_subsets_one_published, ix_models_subset_id; notifications have a few rows a day.
-- Safe to re-run: yes; the newest of each kind first.
WITH asked AS (
    SELECT
        'question' AS kind, split_part(asking.key, ':', 2) AS subject, NULL::date AS crawl_date, NULL::integer AS version,
        asking.event ->> 'what_happened' AS detail, asking.event ->> 'where_to_look' AS page, asking.created_at AS since
    FROM alchemist.notifications AS asking
    WHERE
        asking.kind = 'question'
        AND asking.created_at >= :since
        AND NOT EXISTS (
            SELECT FROM alchemist.notifications AS answered
            WHERE
                answered.kind = 'answered'
                AND answered.notification_id > asking.notification_id
                AND split_part(answered.key, ':', 2) = split_part(asking.key, ':', 2)
                AND answered.event #>> '{facts,run}' = asking.event #>> '{facts,run}'
        )
    ORDER BY asking.notification_id DESC
    LIMIT :n_each
),

broken AS (
    SELECT
        'failed task' AS kind, split_part(key, ':', 2) AS subject, NULL::date AS crawl_date, NULL::integer AS version,
        event ->> 'what_happened' AS detail, event ->> 'where_to_look' AS page, created_at AS since
    FROM alchemist.notifications
    WHERE kind = 'failed_task' AND created_at >= :since AND event #> '{facts,recovered_at}' IS NULL
    ORDER BY notification_id DESC
    LIMIT :n_each
),

certified AS (
    SELECT
        'certified rater' AS kind, name AS subject, NULL::date AS crawl_date, NULL::integer AS version, 'rule ' || rule AS detail,
        NULL::text AS page, created_at AS since
    FROM alchemist.raters
    WHERE
        state = 'candidate'
        AND acceptance_report ->> 'is_certified' = 'true'
        AND rater_id > coalesce((SELECT production.rater_id FROM alchemist.raters AS production WHERE production.state = 'production'), 0)
    ORDER BY rater_id DESC
    LIMIT :n_each
),

unproven AS (
    SELECT
        'subset without proof' AS kind, subsets.name AS subject, NULL::date AS crawl_date, subsets.version,
        to_char(subsets.n_samples, 'FM999,999,999,999') || CASE subsets.n_samples WHEN 1 THEN ' sample' ELSE ' samples' END
        || ', retention ' || trim_scale(round(CAST(100 * subsets.retention AS numeric), 2)) || '%' AS detail,
        NULL::text AS page, subsets.published_at AS since
    FROM alchemist.subsets
    INNER JOIN alchemist.rank_snapshots ON subsets.snapshot_id = rank_snapshots.snapshot_id
    INNER JOIN alchemist.rank_scales ON rank_snapshots.rank_scale_id = rank_scales.rank_scale_id
    INNER JOIN alchemist.raters ON rank_scales.rater_id = raters.rater_id AND raters.kind = 'trained'  -- scorers have no tokenizer for models
    WHERE
        subsets.state = 'published'
        AND (
            SELECT count(DISTINCT models.seed)
            FROM alchemist.models
            INNER JOIN alchemist.evaluations
                ON models.model_id = evaluations.model_id AND evaluations.metric IN ('heldout_loss', 'heldout_flow_loss')
            WHERE models.subset_id = subsets.subset_id AND models.arm = 'subset'
        ) < 2
    ORDER BY subsets.published_at DESC
    LIMIT :n_each
)

SELECT * FROM asked
UNION ALL
SELECT * FROM broken
UNION ALL
SELECT * FROM certified
UNION ALL
SELECT * FROM unproven
