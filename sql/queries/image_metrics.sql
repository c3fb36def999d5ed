-- Purpose: Return the metrics of images of the models by which a version is compared, for tables of arms.
-- Parameters: subset_id integer.
-- One row is: a metric under a named evaluation protocol, the newest or an earlier one, of a model that is compared by this metric.
-- Relies on: view compared_models, uq_evaluations_model_id_protocol_id_metric.
-- Safe to re-run: yes.
SELECT
    evaluation_protocols.protocol ->> 'name' AS protocol,
    evaluations.metric,
    compared_models.arm,
    compared_models.seed,
    evaluations.value
FROM alchemist.compared_models
INNER JOIN alchemist.evaluations ON compared_models.model_id = evaluations.model_id AND compared_models.metric = evaluations.metric
INNER JOIN alchemist.evaluation_protocols ON evaluations.protocol_id = evaluation_protocols.protocol_id
WHERE compared_models.subset_id = :subset_id AND evaluation_protocols.protocol ? 'name'
ORDER BY protocol ASC, evaluations.metric ASC, compared_models.arm ASC, compared_models.seed ASC, evaluations.protocol_id ASC
