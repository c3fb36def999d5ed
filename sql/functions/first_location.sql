-- The first readable location of a sample, for people; no row where it has none. Postgres inlines it into the calling query.
-- Relies on: ix_sample_locations_sample_id, pk_shards, pk_datasets.
CREATE OR REPLACE FUNCTION alchemist.first_location(of_sample_id bigint)
RETURNS TABLE (dataset text, crawl_date date, shard text, key text)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT datasets.name, shards.crawl_date, shards.uri, sample_locations.key
    FROM alchemist.sample_locations
    INNER JOIN alchemist.shards ON sample_locations.shard_id = shards.shard_id AND shards.state = 'verified'
    INNER JOIN alchemist.datasets ON shards.dataset_id = datasets.dataset_id AND datasets.removed_at IS NULL
    WHERE sample_locations.sample_id = of_sample_id
    ORDER BY sample_locations.shard_id, sample_locations.ordinal
    LIMIT 1
$$;

COMMENT ON FUNCTION alchemist.first_location(bigint) IS 'Returns the first readable location of a sample: dataset, crawl date, shard and key; no row where it has none';
