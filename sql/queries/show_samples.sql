-- Purpose: Return what a page of the explorer shows of given samples.
-- Parameters: sample_ids bigint[], rater_id and rank_scale_id integer or null (whose scores and ranks), ranked_subset_id integer or
--   null (a version: the ranks that its members were selected by, instead of those on the scale).
-- One row is: a sample with its score and rank (null without one), the dataset and crawl date of its first readable location (null
--   where there is none), why its image was taken down (null: it was not), and the first sample of its group of near-duplicates
--   (null: it is no duplicate), and the labels of its flags, in alphabetical order.
-- Relies on: pk_samples, the rater's partition of pk_scores, the version's of pk_subset_samples, alchemist.first_location,
--   uq_takedowns_image_hash, pk_duplicate_samples, ix_sample_flags_sample_id.
-- Safe to re-run: yes.
WITH scale AS MATERIALIZED (
    SELECT
        knot_scores || '{}'::float8[] AS knot_scores,
        knot_ranks || '{}'::float8[] AS knot_ranks
    FROM alchemist.rank_scales
    WHERE rank_scale_id = CAST(:rank_scale_id AS integer)
)

SELECT
    samples.sample_id,
    samples.caption,
    samples.width,
    samples.height,
    scores.score,
    coalesce(
        subset_samples.rank,
        alchemist.rank_on_knots(scores.score, (SELECT scale.knot_scores FROM scale), (SELECT scale.knot_ranks FROM scale))
    ) AS rank,
    place.dataset,
    place.crawl_date,
    takedowns.reason AS takedown_reason,
    duplicate_samples.first_sample_id,
    coalesce(
        (
            SELECT array_agg(current_flags.label ORDER BY current_flags.label)
            FROM alchemist.current_flags
            WHERE current_flags.sample_id = samples.sample_id
        ), '{}'
    ) AS flags
FROM unnest(CAST(:sample_ids AS bigint[])) AS wanted (sample_id)
INNER JOIN alchemist.samples ON wanted.sample_id = samples.sample_id
LEFT JOIN alchemist.scores ON samples.sample_id = scores.sample_id AND scores.rater_id = CAST(:rater_id AS integer)
LEFT JOIN alchemist.subset_samples
    ON samples.sample_id = subset_samples.sample_id AND subset_samples.subset_id = CAST(:ranked_subset_id AS integer)
LEFT JOIN LATERAL alchemist.first_location(samples.sample_id) AS place ON TRUE
LEFT JOIN alchemist.takedowns ON samples.image_hash = takedowns.image_hash
LEFT JOIN alchemist.duplicate_samples ON samples.sample_id = duplicate_samples.sample_id
ORDER BY samples.sample_id
