-- Purpose: what was measured of models' images under contracts with a name, for tables of arms.
-- Parameters: model_ids bigint[].
-- One row is: one metric of one model under one contract.
-- Relies on: uq_evaluations_model_id_contract_id_metric.
-- Safe to re-run: yes.
SELECT
    evaluation_contracts.contract ->> 'name' AS contract,
    evaluations.metric,
    models.arm,
    models.seed,
    evaluations.value
FROM alchemist.evaluations
INNER JOIN alchemist.models ON evaluations.model_id = models.model_id
INNER JOIN alchemist.evaluation_contracts ON evaluations.contract_id = evaluation_contracts.contract_id
WHERE
    evaluations.model_id = any(cast(:model_ids AS bigint[]))
    AND evaluation_contracts.contract ? 'name'
ORDER BY contract ASC, evaluations.metric ASC, models.arm ASC, models.seed ASC, evaluations.model_id ASC
