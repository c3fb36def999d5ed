-- Purpose: Return the metrics of models' images under named evaluation protocols, for tables of arms.
-- Parameters: model_ids bigint[].
-- One row is: a metric of a model under an evaluation protocol.
-- Relies on: uq_evaluations_model_id_protocol_id_metric.
-- Safe to re-run: yes.
SELECT
    evaluation_protocols.protocol ->> 'name' AS protocol,
    evaluations.metric,
    models.arm,
    models.seed,
    evaluations.value
FROM alchemist.evaluations
INNER JOIN alchemist.models ON evaluations.model_id = models.model_id
INNER JOIN alchemist.evaluation_protocols ON evaluations.protocol_id = evaluation_protocols.protocol_id
WHERE
    evaluations.model_id = any(cast(:model_ids AS bigint[]))
    AND evaluation_protocols.protocol ? 'name'
ORDER BY protocol ASC, evaluations.metric ASC, models.arm ASC, models.seed ASC, evaluations.model_id ASC
