-- Purpose: Return the samples that must not be trained on for a clean evaluation: their image is in an evaluation dataset or a
--   near-duplicate of one.
-- Parameters: dataset_names text[] (evaluation datasets), last_shard_id bigint (later shards of theirs do not count).
-- One row is: a sample, once; the samples of the evaluation datasets are among them.
-- Relies on: alchemist.contaminated_samples; ix_samples_image_hash; reads all samples once for each of three bands of the hash.
-- Safe to re-run: yes.
SELECT found.sample_id
FROM alchemist.contaminated_samples(CAST(:dataset_names AS text[]), CAST(:last_shard_id AS bigint)) AS found (sample_id)
