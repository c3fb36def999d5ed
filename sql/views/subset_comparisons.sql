-- Purpose: Return the metrics of each subset version and of its controls, with confidence intervals over seeds.
-- One row is: an arm of a subset version under the newest evaluation protocol of a metric: the mean over seeds, and its gains over
--   random and over the full corpus, paired by seed. A positive gain is better for every metric. Intervals are Student's t at 95%
--   (30 degrees of freedom stand for more); null with one common seed. The full corpus is an arm of every version of its rater. Of
--   several models of one arm and seed the newest counts.
-- Relies on: ix_models_subset_id, uq_evaluations_model_id_protocol_id_metric.
CREATE VIEW alchemist.subset_comparisons AS
WITH own AS (
    SELECT
        models.subset_id, models.model_id, evaluations.metric, models.arm, models.seed, evaluations.value, evaluations.protocol_id,
        max(evaluations.protocol_id) OVER (PARTITION BY models.subset_id, evaluations.metric) AS newest_protocol_id
    FROM alchemist.models
    INNER JOIN alchemist.evaluations ON models.model_id = evaluations.model_id
    WHERE models.subset_id IS NOT NULL
),

measured AS (
    SELECT subset_id, model_id, metric, protocol_id, arm, seed, value FROM own WHERE protocol_id = newest_protocol_id
    UNION ALL
    SELECT compared.subset_id, models.model_id, compared.metric, compared.protocol_id, models.arm, models.seed, evaluations.value
    FROM (SELECT DISTINCT subset_id, metric, newest_protocol_id AS protocol_id FROM own) AS compared
    INNER JOIN alchemist.subsets ON compared.subset_id = subsets.subset_id
    INNER JOIN alchemist.rank_snapshots ON subsets.snapshot_id = rank_snapshots.snapshot_id
    INNER JOIN alchemist.rank_scales ON rank_snapshots.rank_scale_id = rank_scales.rank_scale_id
    INNER JOIN alchemist.raters ON rank_scales.rater_id = raters.rater_id
    INNER JOIN alchemist.models ON models.arm = 'full' AND models.config ->> 'rater' = raters.name
    INNER JOIN alchemist.evaluations
        ON
            models.model_id = evaluations.model_id AND compared.metric = evaluations.metric
            AND compared.protocol_id = evaluations.protocol_id
),

newest AS (
    SELECT DISTINCT ON (subset_id, metric, arm, seed) *
    FROM measured
    ORDER BY subset_id ASC, metric ASC, arm ASC, seed ASC, model_id DESC
),

paired AS (
    SELECT
        mine.*,
        CASE WHEN mine.arm <> 'random' THEN alchemist.gain_over(mine.metric, mine.value, random.value) END AS gain,
        CASE WHEN mine.arm <> 'full' THEN alchemist.gain_over(mine.metric, mine.value, whole.value) END AS gain_over_full
    FROM newest AS mine
    LEFT JOIN newest AS random
        ON mine.subset_id = random.subset_id AND mine.metric = random.metric AND mine.seed = random.seed AND random.arm = 'random'
    LEFT JOIN newest AS whole
        ON mine.subset_id = whole.subset_id AND mine.metric = whole.metric AND mine.seed = whole.seed AND whole.arm = 'full'
),

summed AS (
    SELECT
        subset_id, metric, protocol_id, arm, count(*) AS n_seeds, avg(value) AS mean, avg(gain) AS gain, avg(gain_over_full) AS gain_over_full,
        stddev_samp(gain) / sqrt(count(gain)) * alchemist.student_quantile(count(gain) - 1) AS half_width,
        stddev_samp(gain_over_full) / sqrt(count(gain_over_full)) * alchemist.student_quantile(count(gain_over_full) - 1) AS full_half_width
    FROM paired
    GROUP BY subset_id, metric, protocol_id, arm
)

SELECT
    subsets.name, subsets.version, subsets.retention, subsets.state, summed.metric,
    replace(summed.arm, 'planted', 'oracle') AS arm, summed.n_seeds, summed.mean,
    summed.gain, summed.gain - summed.half_width AS gain_low, summed.gain + summed.half_width AS gain_high,
    summed.gain_over_full, summed.gain_over_full - summed.full_half_width AS gain_over_full_low,
    summed.gain_over_full + summed.full_half_width AS gain_over_full_high,
    summed.protocol_id, subsets.subset_id
FROM summed
INNER JOIN alchemist.subsets ON summed.subset_id = subsets.subset_id
ORDER BY subsets.name, subsets.version, summed.metric, arm;

COMMENT ON VIEW alchemist.subset_comparisons IS 'Metrics of models trained on each subset version and on its controls, with gains over random and over the full corpus, paired by seed';
COMMENT ON COLUMN alchemist.subset_comparisons.name IS 'Name of the subset';
COMMENT ON COLUMN alchemist.subset_comparisons.version IS 'Number of the version';
COMMENT ON COLUMN alchemist.subset_comparisons.retention IS 'Share of the eligible samples that was selected, above 0 to 1';
COMMENT ON COLUMN alchemist.subset_comparisons.state IS 'selected, published, superseded or withdrawn';
COMMENT ON COLUMN alchemist.subset_comparisons.metric IS 'Name of the metric';
COMMENT ON COLUMN alchemist.subset_comparisons.arm IS 'What the models were trained on: subset, random, full, or another control';
COMMENT ON COLUMN alchemist.subset_comparisons.n_seeds IS 'Number of seeds';
COMMENT ON COLUMN alchemist.subset_comparisons.mean IS 'Mean of the metric over seeds, in its own unit';
COMMENT ON COLUMN alchemist.subset_comparisons.gain IS 'Mean gain over random at equal seeds; positive is better for every metric';
COMMENT ON COLUMN alchemist.subset_comparisons.gain_low IS 'Lower end of the 95% confidence interval of gain (Student''s t); null with fewer than two common seeds';
COMMENT ON COLUMN alchemist.subset_comparisons.gain_high IS 'Upper end of the 95% confidence interval of gain';
COMMENT ON COLUMN alchemist.subset_comparisons.gain_over_full IS 'Mean gain over training on the full corpus at equal seeds; positive is better';
COMMENT ON COLUMN alchemist.subset_comparisons.gain_over_full_low IS 'Lower end of the 95% confidence interval of gain_over_full';
COMMENT ON COLUMN alchemist.subset_comparisons.gain_over_full_high IS 'Upper end of the 95% confidence interval of gain_over_full';
COMMENT ON COLUMN alchemist.subset_comparisons.protocol_id IS 'Key of the evaluation protocol: the newest that the version''s models were evaluated under';
COMMENT ON COLUMN alchemist.subset_comparisons.subset_id IS 'Key of the subset version';
