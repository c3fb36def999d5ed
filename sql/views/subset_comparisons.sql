-- Purpose: Return the metrics of each subset version and of its controls, with confidence intervals over seeds.
-- One row is: an arm of a subset version under the newest evaluation protocol of a metric: the mean over seeds, and its gains over
--   random and over the full corpus, paired by seed. A positive gain is better for every metric. Intervals are Student's t at 95%
--   (30 degrees of freedom stand for more); null with one common seed. `compared_models` has the models.
-- Relies on: compared_models.
CREATE VIEW alchemist.subset_comparisons AS
WITH compared AS (SELECT * FROM alchemist.compared_models),

paired AS (
    SELECT
        mine.*,
        CASE WHEN mine.arm <> 'random' THEN alchemist.gain_over(mine.metric, mine.value, random.value) END AS gain,
        CASE WHEN mine.arm <> 'full' THEN alchemist.gain_over(mine.metric, mine.value, whole.value) END AS gain_over_full
    FROM compared AS mine
    LEFT JOIN compared AS random
        ON mine.subset_id = random.subset_id AND mine.metric = random.metric AND mine.seed = random.seed AND random.arm = 'random'
    LEFT JOIN compared AS whole
        ON mine.subset_id = whole.subset_id AND mine.metric = whole.metric AND mine.seed = whole.seed AND whole.arm = 'full'
),

summed AS (
    SELECT
        subset_id, metric, protocol_id, arm, count(*) AS n_seeds, count(gain) AS n_common_seeds, avg(value) AS mean, avg(gain) AS gain,
        avg(gain_over_full) AS gain_over_full,
        stddev_samp(gain) / sqrt(count(gain)) * alchemist.student_quantile(count(gain) - 1) AS half_width,
        stddev_samp(gain_over_full) / sqrt(count(gain_over_full)) * alchemist.student_quantile(count(gain_over_full) - 1) AS full_half_width
    FROM paired
    GROUP BY subset_id, metric, protocol_id, arm
)

SELECT
    subsets.name, subsets.version, subsets.retention, subsets.state, summed.metric,
    replace(summed.arm, 'planted', 'oracle') AS arm, summed.n_seeds, summed.mean,
    summed.gain, summed.gain - summed.half_width AS gain_low, summed.gain + summed.half_width AS gain_high,
    summed.n_common_seeds, summed.gain_over_full, summed.gain_over_full - summed.full_half_width AS gain_over_full_low,
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
COMMENT ON COLUMN alchemist.subset_comparisons.n_common_seeds IS 'Number of seeds that random has too, over which gain is the mean';
COMMENT ON COLUMN alchemist.subset_comparisons.gain_over_full IS 'Mean gain over training on the full corpus at equal seeds; positive is better';
COMMENT ON COLUMN alchemist.subset_comparisons.gain_over_full_low IS 'Lower end of the 95% confidence interval of gain_over_full';
COMMENT ON COLUMN alchemist.subset_comparisons.gain_over_full_high IS 'Upper end of the 95% confidence interval of gain_over_full';
COMMENT ON COLUMN alchemist.subset_comparisons.protocol_id IS 'Key of the evaluation protocol: the newest that the version''s models were evaluated under';
COMMENT ON COLUMN alchemist.subset_comparisons.subset_id IS 'Key of the subset version';
