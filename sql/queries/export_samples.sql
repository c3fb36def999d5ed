-- Purpose: Return every sample for `alchemist export samples`; the condition, the order and the choice of columns are added around
--   it.
-- Parameters: none.
-- One row is: a sample with all its columns, its heuristics and its first readable location.
-- Relies on: pk_samples, pk_heuristic_scores, alchemist.first_location, uq_takedowns_image_hash.
-- Safe to re-run: yes.
SELECT
    samples.*,
    heuristic_scores.aesthetic,
    heuristic_scores.clarity,
    heuristic_scores.frequency,
    heuristic_scores.edge_density,
    place.dataset,
    place.crawl_date,
    place.shard,
    place.key,
    EXISTS(SELECT 1 FROM alchemist.takedowns WHERE takedowns.image_hash = samples.image_hash) AS is_taken_down
FROM alchemist.samples
LEFT JOIN alchemist.heuristic_scores ON samples.sample_id = heuristic_scores.sample_id
LEFT JOIN LATERAL alchemist.first_location(samples.sample_id) AS place ON TRUE
