-- Purpose: Return groups of equal or near-duplicate images, and the sample of each group that is kept.
-- One row is: a group of at least two samples: its first-seen sample, the number of samples, how many have the same bytes, and the
--   others.
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

COMMENT ON VIEW alchemist.duplicate_groups IS 'Groups of samples with the same or near-duplicate images; the first-seen sample of a group is kept';
COMMENT ON COLUMN alchemist.duplicate_groups.first_sample_id IS 'First-seen sample of the group';
COMMENT ON COLUMN alchemist.duplicate_groups.n_samples IS 'Number of samples in the group';
COMMENT ON COLUMN alchemist.duplicate_groups.n_same_image IS 'Number of samples with the same image bytes as the first, which counts too';
COMMENT ON COLUMN alchemist.duplicate_groups.max_distance IS 'Largest number of differing bits of perceptual hashes; null where the group has only equal images';
COMMENT ON COLUMN alchemist.duplicate_groups.later_sample_ids IS 'All samples of the group but the first';
