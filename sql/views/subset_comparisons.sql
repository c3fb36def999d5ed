-- Purpose: what each subset version was worth beside its controls, with the interval that so few seeds give.
-- One row is: an arm of a subset version under the newest contract of a metric that its models were evaluated by: the mean over
--   seeds, and by how much it lies below random's, paired by seed. The ends are Student's at 95 % (30 degrees of freedom stand for
--   more); null with one common seed. Lower is better for a loss and for FID; for a score of which more is better, a gain is negative.
-- Relies on: ix_models_subset_id, uq_evaluations_model_id_contract_id_metric.
CREATE VIEW alchemist.subset_comparisons AS
WITH measured AS (
    SELECT
        models.subset_id, evaluations.metric, models.arm, models.seed, evaluations.value, evaluations.contract_id,
        max(evaluations.contract_id) OVER (PARTITION BY models.subset_id, evaluations.metric) AS newest_contract_id
    FROM alchemist.models
    INNER JOIN alchemist.evaluations ON models.model_id = evaluations.model_id
    WHERE models.subset_id IS NOT NULL
),

paired AS (
    SELECT mine.*, CASE WHEN mine.arm <> 'random' THEN random.value - mine.value END AS gain
    FROM measured AS mine
    LEFT JOIN measured AS random
        ON
            mine.subset_id = random.subset_id AND mine.metric = random.metric AND mine.seed = random.seed
            AND mine.contract_id = random.contract_id AND random.arm = 'random'
    WHERE mine.contract_id = mine.newest_contract_id
),

summed AS (
    SELECT
        subset_id, metric, contract_id, arm,
        count(DISTINCT seed) AS n_seeds, avg(value) AS mean, avg(gain) AS gain,
        stddev_samp(gain) / sqrt(count(gain)) * (ARRAY[
            12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448, 2.1314,
            2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423
        ])[least(count(gain) - 1, 30)] AS half_width
    FROM paired
    GROUP BY subset_id, metric, contract_id, arm
)

SELECT
    subsets.name, subsets.version, subsets.retention, subsets.state, summed.metric, summed.arm, summed.n_seeds, summed.mean, summed.gain,
    summed.gain - summed.half_width AS gain_low, summed.gain + summed.half_width AS gain_high,
    summed.contract_id, subsets.subset_id
FROM summed
INNER JOIN alchemist.subsets ON summed.subset_id = subsets.subset_id
ORDER BY subsets.name, subsets.version, summed.metric, summed.arm;
