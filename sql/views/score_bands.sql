-- Purpose: Return how the samples of each dataset are distributed over the ranking.
-- One row is: a dataset and a band of 5% of rank under the production rater, band_from 0 = highest scores; empty bands are absent.
-- Relies on: current_scores, ix_sample_locations_sample_id, pk_shards.
CREATE VIEW alchemist.score_bands AS
WITH located AS (
    SELECT DISTINCT
        shards.dataset_id,
        sample_locations.sample_id
    FROM alchemist.shards
    INNER JOIN alchemist.sample_locations ON shards.shard_id = sample_locations.shard_id
    WHERE shards.state = 'verified'
),

banded AS (
    SELECT
        located.dataset_id,
        current_scores.score,
        -- Rank 1 belongs to the last band.
        least(floor(current_scores.rank * 20)::integer, 19) AS band
    FROM located
    INNER JOIN alchemist.current_scores ON located.sample_id = current_scores.sample_id
    WHERE current_scores.rank IS NOT NULL
)

SELECT
    datasets.name AS dataset,
    round(banded.band * 0.05, 2) AS band_from,
    round(banded.band * 0.05 + 0.05, 2) AS band_to,
    count(*) AS n_samples,
    min(banded.score) AS min_score,
    max(banded.score) AS max_score
FROM banded
INNER JOIN alchemist.datasets ON banded.dataset_id = datasets.dataset_id
GROUP BY datasets.name, banded.band
ORDER BY datasets.name, banded.band;

COMMENT ON VIEW alchemist.score_bands IS 'Distribution of each dataset''s samples over the ranking of the production rater, in bands of 5% of rank';
COMMENT ON COLUMN alchemist.score_bands.dataset IS 'Name of the dataset';
COMMENT ON COLUMN alchemist.score_bands.band_from IS 'Lower end of the band in rank, 0 = highest scores';
COMMENT ON COLUMN alchemist.score_bands.band_to IS 'Upper end of the band in rank';
COMMENT ON COLUMN alchemist.score_bands.n_samples IS 'Number of samples in the band';
COMMENT ON COLUMN alchemist.score_bands.min_score IS 'Lowest score in the band';
COMMENT ON COLUMN alchemist.score_bands.max_score IS 'Highest score in the band';
