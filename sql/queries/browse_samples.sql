-- Purpose: Return those of given samples that a page of the explorer asks for; the condition and the choice of columns are added
--   around it.
-- Parameters: sample_ids bigint[]; rater_id and rank_scale_id integer or null (whose scores and ranks); all others null where they
--   ask for nothing: lowest and highest float8 (score > lowest and score <= highest), min_width integer (pixels), source text (host
--   of the URL, in small letters), caption text (that the caption contains, in any case), subset_id and outside_subset_id integer (its members, and those that are not), dataset_id integer,
--   crawl_date date.
-- One row is: such a sample with all its columns, its heuristics, its score and its rank; null without a score or a scale.
-- Relies on: pk_samples, pk_heuristic_scores, the rater's partition of pk_scores, the version's of pk_subset_samples,
--   ix_sample_locations_sample_id, pk_shards: it reads a few rows for each given sample, independent of the size of the corpus.
-- Safe to re-run: yes.
WITH scale AS MATERIALIZED (
    SELECT
        knot_scores || '{}'::float8[] AS knot_scores,
        knot_ranks || '{}'::float8[] AS knot_ranks
    FROM alchemist.rank_scales
    WHERE rank_scale_id = CAST(:rank_scale_id AS integer)
)

SELECT
    samples.*,
    heuristic_scores.aesthetic,
    heuristic_scores.clarity,
    heuristic_scores.frequency,
    heuristic_scores.edge_density,
    scores.score,
    alchemist.rank_on_knots(
        scores.score, (SELECT scale.knot_scores FROM scale), (SELECT scale.knot_ranks FROM scale)
    ) AS rank
FROM unnest(CAST(:sample_ids AS bigint[])) AS wanted (sample_id)
-- OFFSET 0: read by their keys before any condition. A condition that seems rare would otherwise be looked for in all samples first.
CROSS JOIN LATERAL (SELECT * FROM alchemist.samples AS stored WHERE stored.sample_id = wanted.sample_id OFFSET 0) AS samples
LEFT JOIN alchemist.heuristic_scores ON samples.sample_id = heuristic_scores.sample_id
LEFT JOIN alchemist.scores ON samples.sample_id = scores.sample_id AND scores.rater_id = CAST(:rater_id AS integer)
WHERE
    (CAST(:lowest AS float8) IS NULL OR (scores.score > CAST(:lowest AS float8) AND scores.score <= CAST(:highest AS float8)))
    AND (CAST(:min_width AS integer) IS NULL OR samples.width >= CAST(:min_width AS integer))
    AND (
        CAST(:source AS text) IS NULL
        -- Most addresses do not contain the name at all, which costs less to see than where a host begins and ends.
        OR position(CAST(:source AS text) IN lower(samples.source_url)) > 0
        AND lower(substring(samples.source_url FROM '^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?([^/?#:]+)')) = CAST(:source AS text)
    )
    AND (CAST(:caption AS text) IS NULL OR position(lower(CAST(:caption AS text)) IN lower(samples.caption)) > 0)
    AND (
        CAST(:subset_id AS integer) IS NULL OR EXISTS (
            SELECT 1
            FROM alchemist.subset_samples
            WHERE subset_samples.subset_id = CAST(:subset_id AS integer) AND subset_samples.sample_id = samples.sample_id
        )
    )
    AND (
        CAST(:outside_subset_id AS integer) IS NULL OR NOT EXISTS (
            SELECT 1
            FROM alchemist.subset_samples
            WHERE subset_samples.subset_id = CAST(:outside_subset_id AS integer) AND subset_samples.sample_id = samples.sample_id
        )
    )
    AND (
        CAST(:dataset_id AS integer) IS NULL OR EXISTS (
            SELECT 1
            FROM alchemist.sample_locations
            INNER JOIN alchemist.shards ON sample_locations.shard_id = shards.shard_id
            WHERE
                sample_locations.sample_id = samples.sample_id
                AND shards.dataset_id = CAST(:dataset_id AS integer)
                AND (CAST(:crawl_date AS date) IS NULL OR shards.crawl_date = CAST(:crawl_date AS date))
        )
    )
