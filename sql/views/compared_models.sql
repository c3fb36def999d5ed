-- Purpose: Return the models by which a subset version is compared with its controls: trained alike, and evaluated under one protocol.
-- One row is: a row of alike_models under the newest evaluation protocol of its version and metric.
-- Relies on: alike_models.
CREATE VIEW alchemist.compared_models AS
WITH ordered AS (
    SELECT *, max(protocol_id) OVER (PARTITION BY subset_id, metric) AS newest_protocol_id FROM alchemist.alike_models
)

SELECT subset_id, metric, protocol_id, arm, seed, model_id, n_samples, n_steps, value
FROM ordered
WHERE protocol_id = newest_protocol_id;

COMMENT ON VIEW alchemist.compared_models IS 'Models by which each subset version is compared with its controls: trained alike and evaluated under one protocol';
COMMENT ON COLUMN alchemist.compared_models.subset_id IS 'Key of the subset version';
COMMENT ON COLUMN alchemist.compared_models.metric IS 'Name of the metric';
COMMENT ON COLUMN alchemist.compared_models.protocol_id IS 'Key of the evaluation protocol: the newest that the version''s models were evaluated under';
COMMENT ON COLUMN alchemist.compared_models.arm IS 'What the model was trained on: subset, random, full, or another control; planted is the oracle';
COMMENT ON COLUMN alchemist.compared_models.seed IS 'Seed of the training';
COMMENT ON COLUMN alchemist.compared_models.model_id IS 'Key of the model';
COMMENT ON COLUMN alchemist.compared_models.n_samples IS 'Number of training samples';
COMMENT ON COLUMN alchemist.compared_models.n_steps IS 'Number of training steps';
COMMENT ON COLUMN alchemist.compared_models.value IS 'Value of the metric, in its own unit';
