-- Purpose: Return the scored samples of a night for your own quality checks. Filter by dataset and crawl_date.
-- One row is: a row of crawled_samples with a score by the production rater. No rows without a production rater.
-- Relies on: crawled_samples, uq_raters_one_production, pk_scores (one partition is read).
CREATE VIEW alchemist.scored_samples AS
SELECT
    crawled_samples.dataset,
    crawled_samples.crawl_date,
    crawled_samples.shard_id,
    crawled_samples.uri,
    crawled_samples.ordinal,
    crawled_samples.key,
    crawled_samples.sample_id,
    scores.score,
    crawled_samples.caption,
    crawled_samples.caption_characters,
    crawled_samples.width,
    crawled_samples.height,
    crawled_samples.format,
    crawled_samples.metadata
FROM alchemist.crawled_samples
INNER JOIN alchemist.scores ON crawled_samples.sample_id = scores.sample_id
WHERE scores.rater_id = (SELECT raters.rater_id FROM alchemist.raters WHERE raters.state = 'production');

COMMENT ON VIEW alchemist.scored_samples IS 'Rows of crawled_samples with a score by the production rater. Filter by dataset and crawl_date';
COMMENT ON COLUMN alchemist.scored_samples.dataset IS 'Name of the dataset';
COMMENT ON COLUMN alchemist.scored_samples.crawl_date IS 'Date of the crawl';
COMMENT ON COLUMN alchemist.scored_samples.shard_id IS 'Key of the shard';
COMMENT ON COLUMN alchemist.scored_samples.uri IS 'Address of the shard, relative to the root of its dataset';
COMMENT ON COLUMN alchemist.scored_samples.ordinal IS 'Position of the record in its shard, from 0';
COMMENT ON COLUMN alchemist.scored_samples.key IS 'Name of the record';
COMMENT ON COLUMN alchemist.scored_samples.sample_id IS 'Key of the sample';
COMMENT ON COLUMN alchemist.scored_samples.score IS 'Score by the production rater: higher is better';
COMMENT ON COLUMN alchemist.scored_samples.caption IS 'Caption';
COMMENT ON COLUMN alchemist.scored_samples.caption_characters IS 'Length of the caption in characters';
COMMENT ON COLUMN alchemist.scored_samples.width IS 'Width of the image in pixels';
COMMENT ON COLUMN alchemist.scored_samples.height IS 'Height of the image in pixels';
COMMENT ON COLUMN alchemist.scored_samples.format IS 'Format of the image file, such as JPEG';
COMMENT ON COLUMN alchemist.scored_samples.metadata IS 'All other attributes that the crawl gives, as JSON';
