-- Purpose: a night's scores as a user's own suite of expectations sees them. Ask with WHERE dataset = … AND crawl_date = ….
-- One row is: a row of crawled_samples whose sample the production rater has scored. None without a production rater.
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
