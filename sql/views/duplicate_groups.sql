-- Purpose: which pictures are the same or look alike, and which pair of each group is kept.
-- One row is: a group of two pairs or more: its first-seen pair, how many look like it, how many of them have its bytes, and the members.
-- Relies on: ix_duplicate_samples_first_sample_id; filled by `alchemist duplicates find`.
CREATE VIEW alchemist.duplicate_groups AS
SELECT
    first_sample_id,
    1 + count(*) AS n_samples,
    1 + count(*) FILTER (WHERE is_same_image) AS n_same_image,
    max(distance) AS max_distance,
    array_agg(sample_id ORDER BY sample_id) AS later_sample_ids
FROM alchemist.duplicate_samples
GROUP BY first_sample_id;
