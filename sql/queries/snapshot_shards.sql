-- Purpose: Return the shards that the samples of a snapshot were scored from, by night, for the lineage of a subset.
-- Parameters: snapshot_id integer.
-- One row is: a night of the snapshot, the number of its shards, and the first and last of their addresses.
-- Relies on: pk_rank_snapshots, pk_nights, ix_shard_scores_night_id, pk_shards; reads ledgers, never scores.
-- Safe to re-run: yes; the oldest night first.
SELECT
    datasets.name AS dataset,
    nights.crawl_date,
    count(*) AS n_shards,
    min(shards.uri) AS first_uri,
    max(shards.uri) AS last_uri
FROM alchemist.rank_snapshots
INNER JOIN alchemist.nights ON nights.night_id = ANY(rank_snapshots.night_ids)
INNER JOIN alchemist.datasets ON nights.dataset_id = datasets.dataset_id
INNER JOIN alchemist.shard_scores ON nights.night_id = shard_scores.night_id
INNER JOIN alchemist.shards ON shard_scores.shard_id = shards.shard_id
WHERE rank_snapshots.snapshot_id = :snapshot_id
GROUP BY datasets.name, nights.night_id
ORDER BY nights.crawl_date, datasets.name, nights.night_id
