-- Purpose: Return every metric value of a subset version, for the suite `evaluation`.
-- Parameters: subset_id integer.
-- One row is: a value; is_pinned is true where the random arm has a value of the same seed under the same evaluation protocol, so
--   that both are comparable.
-- Relies on: ix_models_subset_id, uq_evaluations_model_id_protocol_id_metric.
-- Safe to re-run: yes.
WITH measured AS (
    SELECT evaluations.metric, evaluations.value, evaluations.n, evaluations.protocol_id, models.arm, models.seed
    FROM alchemist.models
    INNER JOIN alchemist.evaluations ON models.model_id = evaluations.model_id
    WHERE models.subset_id = :subset_id
),

newest AS (
    SELECT metric, max(protocol_id) AS protocol_id FROM measured GROUP BY metric
)

SELECT
    measured.metric,
    measured.arm,
    measured.seed,
    measured.value,
    measured.n AS n_measured,
    (measured.value BETWEEN -1.7e308 AND 1.7e308) AS is_finite,
    EXISTS(
        SELECT 1
        FROM measured AS control
        WHERE
            control.arm = 'random'
            AND control.metric = measured.metric
            AND control.seed = measured.seed
            AND control.protocol_id = measured.protocol_id
    ) AS is_pinned
FROM measured
INNER JOIN newest ON measured.metric = newest.metric AND measured.protocol_id = newest.protocol_id
ORDER BY measured.metric, measured.arm, measured.seed
