-- Purpose: Return the size of the image of each member of a subset; those that were taken down too.
-- Parameters: none; reads the temporary table wanted (number integer, pair_hash bytea).
-- One row is: a wanted sample's number, and width and height in pixels.
-- Relies on: uq_samples_pair_hash.
-- Safe to re-run: yes; ordered by number.
SELECT
    wanted.number,
    samples.width,
    samples.height
FROM wanted
INNER JOIN alchemist.samples ON wanted.pair_hash = samples.pair_hash
ORDER BY wanted.number
