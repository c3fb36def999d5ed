-- Purpose: Store the heuristics of samples that have none; a row with the crawl's own scores is completed.
-- Parameters: none; reads the session's temporary table measured (sample_id, clarity, frequency, edge_density).
-- One row is: a sample that had no heuristics; its sample_id.
-- Relies on: pk_heuristic_scores.
-- Safe to re-run: yes, the first value stays; it depends on the image alone.
INSERT INTO alchemist.heuristic_scores (sample_id, clarity, frequency, edge_density)
SELECT
    measured.sample_id,
    measured.clarity,
    measured.frequency,
    measured.edge_density
FROM measured
ORDER BY measured.sample_id
ON CONFLICT (sample_id) DO UPDATE
    SET clarity = excluded.clarity, frequency = excluded.frequency, edge_density = excluded.edge_density
    WHERE heuristic_scores.clarity IS NULL
RETURNING sample_id
