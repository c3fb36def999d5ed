-- Purpose: Return the readable samples of a night for your own quality checks. Filter by dataset and crawl_date.
-- One row is: a readable location of a verified shard, with its sample; heuristics are null until they are measured.
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

COMMENT ON VIEW alchemist.crawled_samples IS 'Samples of each night as quality checks see them: one row per readable location. Filter by dataset and crawl_date';
COMMENT ON COLUMN alchemist.crawled_samples.dataset IS 'Name of the dataset';
COMMENT ON COLUMN alchemist.crawled_samples.crawl_date IS 'Date of the crawl';
COMMENT ON COLUMN alchemist.crawled_samples.shard_id IS 'Key of the shard';
COMMENT ON COLUMN alchemist.crawled_samples.uri IS 'Address of the shard, relative to the root of its dataset';
COMMENT ON COLUMN alchemist.crawled_samples.ordinal IS 'Position of the record in its shard, from 0';
COMMENT ON COLUMN alchemist.crawled_samples.key IS 'Name of the record';
COMMENT ON COLUMN alchemist.crawled_samples.sample_id IS 'Key of the sample';
COMMENT ON COLUMN alchemist.crawled_samples.caption IS 'Caption';
COMMENT ON COLUMN alchemist.crawled_samples.caption_characters IS 'Length of the caption in characters';
COMMENT ON COLUMN alchemist.crawled_samples.width IS 'Width of the image in pixels';
COMMENT ON COLUMN alchemist.crawled_samples.height IS 'Height of the image in pixels';
COMMENT ON COLUMN alchemist.crawled_samples.format IS 'Format of the image file, such as JPEG';
COMMENT ON COLUMN alchemist.crawled_samples.source_url IS 'URL of the image, as the crawl gives it';
COMMENT ON COLUMN alchemist.crawled_samples.licence IS 'Licence of the image, as the crawl gives it';
COMMENT ON COLUMN alchemist.crawled_samples.metadata IS 'All other attributes that the crawl gives, as JSON';
COMMENT ON COLUMN alchemist.crawled_samples.aesthetic IS 'Aesthetic score, about 1 to 10: higher is better; null until measured';
COMMENT ON COLUMN alchemist.crawled_samples.clarity IS 'Variance of the Laplacian of the luma: higher is sharper; null until measured';
COMMENT ON COLUMN alchemist.crawled_samples.frequency IS 'Share of spectral energy at high spatial frequencies, 0 to 1; null until measured';
COMMENT ON COLUMN alchemist.crawled_samples.edge_density IS 'Share of pixels that lie on an edge, 0 to 1; null until measured';
COMMENT ON COLUMN alchemist.crawled_samples.imported IS 'Scores that the crawl gives, as JSON; null where it gives none';
