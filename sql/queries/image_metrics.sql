-- Purpose: Return the metrics of images of the models by which a version is compared, for tables of arms.
-- Parameters: subset_id integer.
-- One row is: a metric under a named evaluation protocol, the newest or an earlier one, of a model that is compared under this protocol.
-- Relies on: view alike_models.
-- Safe to re-run: yes.
SELECT
    evaluation_protocols.protocol ->> 'name' AS protocol,
    alike_models.metric,
    alike_models.arm,
    alike_models.seed,
    alike_models.value
FROM alchemist.alike_models
INNER JOIN alchemist.evaluation_protocols ON alike_models.protocol_id = evaluation_protocols.protocol_id
WHERE alike_models.subset_id = :subset_id AND evaluation_protocols.protocol ? 'name'
ORDER BY protocol ASC, alike_models.metric ASC, alike_models.arm ASC, alike_models.seed ASC, alike_models.protocol_id ASC
