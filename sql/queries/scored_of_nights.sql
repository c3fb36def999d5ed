-- Purpose: Return the scored samples of decided nights in a range of samples, for the files that `store.night_files` keeps.
-- Parameters: rater_id integer, night_ids integer[], after_sample_id bigint and last_sample_id bigint (a range of samples),
--   last_retirement_id integer (shards retired up to it do not count).
-- One row is: a sample and one of the nights; a sample in several nights has several rows.
-- Relies on: alchemist.night_locations; ix_sample_locations_sample_id or ix_shard_scores_night_id, one partition of pk_scores, pk_samples.
-- Safe to re-run: yes; no column is null or of variable length, so that arrays are read from its binary COPY.
SELECT
    located.sample_id,
    samples.pair_hash,
    scores.score,
    located.night_id
FROM (
    SELECT DISTINCT
        night_locations.night_id,
        night_locations.sample_id
    FROM alchemist.night_locations
    WHERE
        night_locations.rater_id = CAST(:rater_id AS integer)
        AND night_locations.night_id = ANY(CAST(:night_ids AS integer[]))
        AND night_locations.sample_id > CAST(:after_sample_id AS bigint)
        AND night_locations.sample_id <= CAST(:last_sample_id AS bigint)
        AND night_locations.shard_id NOT IN (
            SELECT shards.shard_id FROM alchemist.shards WHERE shards.retirement_id <= CAST(:last_retirement_id AS integer)
        )
) AS located
INNER JOIN alchemist.samples ON located.sample_id = samples.sample_id
INNER JOIN alchemist.scores ON located.sample_id = scores.sample_id AND scores.rater_id = CAST(:rater_id AS integer)
-- Postgres concludes nothing from a range of the other side of a join: without these ranges it reads whole tables for each.
WHERE
    samples.sample_id > CAST(:after_sample_id AS bigint)
    AND samples.sample_id <= CAST(:last_sample_id AS bigint)
    AND scores.sample_id > CAST(:after_sample_id AS bigint)
    AND scores.sample_id <= CAST(:last_sample_id AS bigint)
