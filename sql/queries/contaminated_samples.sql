-- Purpose: which pairs an evaluation must not meet in training: those with its pictures, or with pictures that look like one of them.
-- Parameters: dataset_names text[] (evaluation datasets), last_shard_id bigint (later shards of theirs do not count).
-- One row is: a pair, once; the evaluation's own are among them.
-- Relies on: alchemist.contaminated_samples; ix_samples_image_hash; reads all samples once for each of three bands of the hash.
-- Safe to re-run: yes.
SELECT found.sample_id
FROM alchemist.contaminated_samples(CAST(:dataset_names AS text[]), CAST(:last_shard_id AS bigint)) AS found (sample_id)
