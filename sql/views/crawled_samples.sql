-- Purpose: a night's samples as a user's own suite of expectations sees them. Ask with WHERE dataset = … AND crawl_date = ….
-- One row is: a location of a verified shard that ingest kept, with its sample; heuristics are null until they are measured.
-- Relies on: uq_datasets_name, ix_shards_dataset_id_crawl_date, pk_sample_locations, pk_samples, pk_heuristic_scores.
CREATE VIEW alchemist.crawled_samples AS
SELECT
    datasets.name AS dataset,
    shards.crawl_date,
    shards.shard_id,
    shards.uri,
    sample_locations.ordinal,
    sample_locations.key,
    samples.sample_id,
    samples.caption,
    char_length(samples.caption) AS caption_characters,
    samples.width,
    samples.height,
    samples.format,
    samples.source_url,
    samples.licence,
    samples.metadata,
    heuristic_scores.aesthetic,
    heuristic_scores.clarity,
    heuristic_scores.frequency,
    heuristic_scores.edge_density,
    heuristic_scores.imported
FROM alchemist.datasets
INNER JOIN alchemist.shards ON datasets.dataset_id = shards.dataset_id
INNER JOIN alchemist.sample_locations ON shards.shard_id = sample_locations.shard_id
INNER JOIN alchemist.samples ON sample_locations.sample_id = samples.sample_id
LEFT JOIN alchemist.heuristic_scores ON samples.sample_id = heuristic_scores.sample_id
WHERE shards.state = 'verified';
