-- Purpose: Find images by one of their URLs or by their location in a shard.
-- Parameters: url text or null (where a crawl found the image), dataset text or null and place text or null (SHARD/KEY in it).
-- One row is: an image, by the sha256 of its bytes. Of a shard's revisions with this key only the current one counts, else the newest.
-- Relies on: uq_shards_dataset_id_uri, uq_sample_locations_shard_id_key, pk_samples; a url reads all samples and sample_urls,
--   because no index has it.
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
)

SELECT image_hash
FROM alchemist.samples
WHERE CAST(:url AS text) IS NOT NULL AND source_url = :url
UNION
SELECT samples.image_hash
FROM alchemist.sample_urls
INNER JOIN alchemist.samples ON sample_urls.sample_id = samples.sample_id
WHERE CAST(:url AS text) IS NOT NULL AND sample_urls.source_url = :url
UNION
SELECT samples.image_hash
FROM placed
INNER JOIN alchemist.samples ON placed.sample_id = samples.sample_id
ORDER BY image_hash
