-- Purpose: Return the source of each sample, for a cap by source: the host of its URL.
-- Parameters: after_sample_id bigint, last_sample_id bigint (a range of samples).
-- One row is: a sample with a known source, and a number that stands for the host.
-- Relies on: pk_samples.
-- Safe to re-run: yes; the numbers are labels, equal for equal hosts, without any other meaning.
SELECT
    sample_id,
    hashtextextended(lower(substring(source_url FROM '^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?([^/?#:]+)')), 0) AS source
FROM alchemist.samples
WHERE
    sample_id > :after_sample_id
    AND sample_id <= :last_sample_id
    AND source_url ~ '^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?[^/?#:]+'
