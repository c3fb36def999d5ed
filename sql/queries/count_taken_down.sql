-- Purpose: Count the members of a version whose image was taken down after the version was selected; such a version is not
--   published.
-- Parameters: subset_id integer, whose membership is in the store.
-- One row is: the count.
-- Relies on: ix_samples_image_hash, pk_subset_samples.
-- Safe to re-run: yes.
SELECT count(*) AS n_taken_down
FROM alchemist.takedowns
INNER JOIN alchemist.samples ON takedowns.image_hash = samples.image_hash
INNER JOIN alchemist.subset_samples ON samples.sample_id = subset_samples.sample_id
WHERE subset_samples.subset_id = :subset_id
