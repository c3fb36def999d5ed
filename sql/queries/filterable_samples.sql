-- Purpose: Return samples with the columns that the condition of a selection may name; the condition is added around it.
-- Parameters: after_sample_id bigint, last_sample_id bigint (a range of samples).
-- One row is: a sample with all its columns and its heuristics.
-- Relies on: pk_samples, pk_heuristic_scores.
-- Safe to re-run: yes.
SELECT
    samples.*,
    heuristic_scores.aesthetic,
    heuristic_scores.clarity,
    heuristic_scores.frequency,
    heuristic_scores.edge_density
FROM alchemist.samples
LEFT JOIN alchemist.heuristic_scores
    ON
        samples.sample_id = heuristic_scores.sample_id
        AND heuristic_scores.sample_id > :after_sample_id AND heuristic_scores.sample_id <= :last_sample_id
WHERE samples.sample_id > :after_sample_id AND samples.sample_id <= :last_sample_id
