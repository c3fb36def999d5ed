-- Purpose: Store the numbers that a crawl gives under the wanted names; values that are stored already stay.
-- Parameters: names text[]; reads the session's temporary table incoming (pair_hash, ordinal, metadata).
-- One row is: a sample with a new value; its sample_id.
-- Relies on: uq_samples_pair_hash, pk_heuristic_scores.
-- Safe to re-run: yes, a second run stores nothing.
WITH numbers AS (
    SELECT DISTINCT ON (incoming.pair_hash)
        incoming.pair_hash,
        said.imported
    FROM incoming
    INNER JOIN LATERAL (
        SELECT jsonb_object_agg(field.key, field.value) AS imported
        FROM jsonb_each(incoming.metadata) AS field
        WHERE field.key = ANY(CAST(:names AS text[])) AND jsonb_typeof(field.value) = 'number'
    ) AS said ON TRUE
    WHERE incoming.metadata ?| CAST(:names AS text[]) AND said.imported IS NOT NULL
    ORDER BY incoming.pair_hash, incoming.ordinal
)

INSERT INTO alchemist.heuristic_scores (sample_id, imported)
SELECT
    samples.sample_id,
    numbers.imported
FROM numbers
INNER JOIN alchemist.samples ON numbers.pair_hash = samples.pair_hash
ORDER BY samples.sample_id
ON CONFLICT (sample_id) DO UPDATE
    SET imported = excluded.imported || heuristic_scores.imported
    WHERE heuristic_scores.imported <> excluded.imported || heuristic_scores.imported
RETURNING sample_id
