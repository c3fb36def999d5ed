-- Purpose: Return the models of a subset version and its controls that were trained alike, for each protocol they were evaluated under.
-- One row is: a model of an arm of a subset version and its value of a metric under an evaluation protocol. One training counts for a
--   protocol: the one by which the version and its random samples have the most common seeds, the newest of equals.
--   Models are trained alike if all options but the seed are equal, or all but the length and the number of steps is equal; of weights
--   the content counts, not the place. The full corpus is an arm of every version of its rater that was selected from as many samples:
--   those of another corpus, or of another time, are other samples. Of several models of one arm and seed the newest counts.
-- Relies on: ix_models_subset_id, uq_evaluations_model_id_protocol_id_metric.
CREATE VIEW alchemist.alike_models AS
WITH trained AS (
    SELECT
        model_id, subset_id, arm, seed, n_samples, n_steps, config ->> 'rater' AS rater, config -> 'model' ->> 'max_train_steps' AS max_steps,
        alchemist.training_recipe(config) - 'max_train_steps' AS recipe
    FROM alchemist.models
),

own AS (
    SELECT trained.*, evaluations.metric, evaluations.value, evaluations.protocol_id
    FROM trained
    INNER JOIN alchemist.evaluations ON trained.model_id = evaluations.model_id
    WHERE trained.subset_id IS NOT NULL
),

counted AS (
    SELECT
        mine.subset_id, mine.metric, mine.protocol_id, mine.recipe, mine.max_steps, count(DISTINCT random.seed) AS n_common,
        coalesce(max(mine.n_steps) FILTER (WHERE mine.arm = 'subset'), max(mine.n_steps)) AS n_steps,
        count(*) FILTER (WHERE mine.arm = 'subset') > 0 AS has_subset, max(mine.model_id) AS newest_id
    FROM own AS mine
    LEFT JOIN own AS random
        ON
            mine.arm = 'subset' AND random.arm = 'random' AND mine.subset_id = random.subset_id AND mine.metric = random.metric
            AND mine.protocol_id = random.protocol_id AND mine.seed = random.seed
            AND mine.recipe = random.recipe AND mine.max_steps IS NOT DISTINCT FROM random.max_steps
    GROUP BY mine.subset_id, mine.metric, mine.protocol_id, mine.recipe, mine.max_steps
),

trainings AS (
    SELECT DISTINCT ON (subset_id, metric, protocol_id) *
    FROM counted
    ORDER BY subset_id ASC, metric ASC, protocol_id ASC, n_common DESC, has_subset DESC, newest_id DESC
),

-- Joined before the trainings: the planner takes equal recipes for rare, and would join all trainings with all models of the full corpus.
whole AS MATERIALIZED (
    SELECT subsets.subset_id AS of_subset_id, trained.*
    FROM alchemist.subsets
    INNER JOIN alchemist.rank_snapshots ON subsets.snapshot_id = rank_snapshots.snapshot_id
    INNER JOIN alchemist.rank_scales ON rank_snapshots.rank_scale_id = rank_scales.rank_scale_id
    INNER JOIN alchemist.raters ON rank_scales.rater_id = raters.rater_id
    INNER JOIN trained
        ON trained.arm = 'full' AND raters.name = trained.rater AND rank_snapshots.n_eligible = trained.n_samples
),

alike AS (
    SELECT own.subset_id, own.metric, own.protocol_id, own.arm, own.seed, own.model_id, own.n_samples, own.n_steps, own.value
    FROM own
    INNER JOIN trainings
        ON
            own.subset_id = trainings.subset_id AND own.metric = trainings.metric AND own.protocol_id = trainings.protocol_id
            AND own.recipe = trainings.recipe
            AND (own.max_steps IS NOT DISTINCT FROM trainings.max_steps OR own.n_steps = trainings.n_steps)
    UNION ALL
    SELECT
        trainings.subset_id, trainings.metric, trainings.protocol_id, whole.arm, whole.seed, whole.model_id, whole.n_samples, whole.n_steps,
        evaluations.value
    FROM trainings
    INNER JOIN whole
        ON
            trainings.subset_id = whole.of_subset_id AND trainings.recipe = whole.recipe
            AND (trainings.max_steps IS NOT DISTINCT FROM whole.max_steps OR trainings.n_steps = whole.n_steps)
    INNER JOIN alchemist.evaluations
        ON
            whole.model_id = evaluations.model_id AND trainings.metric = evaluations.metric
            AND trainings.protocol_id = evaluations.protocol_id
)

SELECT DISTINCT ON (subset_id, metric, protocol_id, arm, seed)
    subset_id, metric, protocol_id, arm, seed, model_id, n_samples, n_steps, value
FROM alike
ORDER BY subset_id ASC, metric ASC, protocol_id ASC, arm ASC, seed ASC, model_id DESC;

COMMENT ON VIEW alchemist.alike_models IS 'Models of each subset version and its controls that were trained alike, for each protocol they were evaluated under';
COMMENT ON COLUMN alchemist.alike_models.subset_id IS 'Key of the subset version';
COMMENT ON COLUMN alchemist.alike_models.metric IS 'Name of the metric';
COMMENT ON COLUMN alchemist.alike_models.protocol_id IS 'Key of the evaluation protocol';
COMMENT ON COLUMN alchemist.alike_models.arm IS 'What the model was trained on: subset, random, full, or another control; planted is the oracle';
COMMENT ON COLUMN alchemist.alike_models.seed IS 'Seed of the training';
COMMENT ON COLUMN alchemist.alike_models.model_id IS 'Key of the model';
COMMENT ON COLUMN alchemist.alike_models.n_samples IS 'Number of training samples';
COMMENT ON COLUMN alchemist.alike_models.n_steps IS 'Number of training steps';
COMMENT ON COLUMN alchemist.alike_models.value IS 'Value of the metric, in its own unit';
