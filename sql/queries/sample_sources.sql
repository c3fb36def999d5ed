-- Purpose: which pairs come from the same source, for a cap: the host of the address at which a crawl found the picture.
-- Parameters: after_sample_id bigint, last_sample_id bigint (a range of samples).
-- One row is: a pair whose source is known, with a number that stands for the host.
-- Relies on: pk_samples.
-- Safe to re-run: yes; the numbers are labels: equal for equal hosts, and nothing else about them counts.
SELECT
    sample_id,
    hashtextextended(lower(substring(source_url FROM '^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?([^/?#:]+)')), 0) AS source
FROM alchemist.samples
WHERE
    sample_id > :after_sample_id
    AND sample_id <= :last_sample_id
    AND source_url ~ '^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?[^/?#:]+'
