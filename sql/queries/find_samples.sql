-- Purpose: Find the sample that a user names: by its location, by the first digits of its hash, or by its id.
-- Parameters: dataset text or null and place text or null (SHARD/KEY in it); low bytea or null and high bytea or null (the first
--   and the last hash with these digits); sample_id bigint or null.
-- One row is: a sample, at most two: two mean that the digits are ambiguous. Of a shard's revisions with this key only the current one
--   counts, else the newest.
-- Relies on: uq_shards_dataset_id_uri, uq_sample_locations_shard_id_key, uq_samples_pair_hash, pk_samples.
-- Safe to re-run: yes.
WITH placed AS (
    SELECT DISTINCT ON (shards.uri) sample_locations.sample_id
    FROM alchemist.datasets
    INNER JOIN alchemist.shards ON datasets.dataset_id = shards.dataset_id
    INNER JOIN alchemist.sample_locations ON shards.shard_id = sample_locations.shard_id
    WHERE
        datasets.name = CAST(:dataset AS text)
        AND starts_with(CAST(:place AS text), shards.uri || '/')
        AND sample_locations.key = substr(CAST(:place AS text), char_length(shards.uri) + 2)
    ORDER BY shards.uri ASC, shards.state = 'superseded' ASC, shards.shard_id DESC
),

meant AS (
    SELECT CAST(:sample_id AS bigint) AS sample_id
    UNION
    SELECT sample_id
    FROM alchemist.samples
    WHERE pair_hash BETWEEN CAST(:low AS bytea) AND CAST(:high AS bytea)
    UNION
    SELECT sample_id
    FROM placed
)

SELECT
    samples.sample_id,
    samples.pair_hash,
    samples.caption
FROM meant
INNER JOIN alchemist.samples ON meant.sample_id = samples.sample_id
ORDER BY samples.pair_hash
LIMIT 2
