-- Purpose: Return the locations that belong to each night, including those that a retry scored after an earlier revision was
--   decided.
-- One row is: a location of a scored shard that this rater did not quarantine, under the night through which it can be selected.
-- Relies on: ix_shard_scores_night_id, ix_retried_samples_night_id, pk_sample_locations,
--   uq_quarantined_samples_shard_id_ordinal_rater_id. The rows of a decided night never change: a retry adds rows to a later night.
CREATE VIEW alchemist.night_locations AS
SELECT
    shard_scores.rater_id,
    shard_scores.night_id,
    sample_locations.shard_id,
    sample_locations.ordinal,
    sample_locations.sample_id
FROM alchemist.shard_scores
INNER JOIN alchemist.sample_locations ON shard_scores.shard_id = sample_locations.shard_id
WHERE
    NOT EXISTS (
        SELECT 1
        FROM alchemist.quarantined_samples
        WHERE
            quarantined_samples.shard_id = sample_locations.shard_id
            AND quarantined_samples.ordinal = sample_locations.ordinal
            AND quarantined_samples.rater_id = shard_scores.rater_id
    )
    AND NOT EXISTS (
        SELECT 1
        FROM alchemist.retried_samples
        WHERE
            retried_samples.rater_id = shard_scores.rater_id
            AND retried_samples.shard_id = sample_locations.shard_id
            AND retried_samples.ordinal = sample_locations.ordinal
    )
UNION ALL
SELECT
    retried_samples.rater_id,
    retried_samples.night_id,
    sample_locations.shard_id,
    sample_locations.ordinal,
    sample_locations.sample_id
FROM alchemist.retried_samples
INNER JOIN alchemist.sample_locations
    ON retried_samples.shard_id = sample_locations.shard_id AND retried_samples.ordinal = sample_locations.ordinal;

COMMENT ON VIEW alchemist.night_locations IS 'Locations that belong to each night and rater: scored records, and records that a later retry scored';
COMMENT ON COLUMN alchemist.night_locations.rater_id IS 'Key of the rater';
COMMENT ON COLUMN alchemist.night_locations.night_id IS 'Key of the night through which the sample can be selected';
COMMENT ON COLUMN alchemist.night_locations.shard_id IS 'Key of the shard';
COMMENT ON COLUMN alchemist.night_locations.ordinal IS 'Position of the record in its shard, from 0';
COMMENT ON COLUMN alchemist.night_locations.sample_id IS 'Key of the sample';
