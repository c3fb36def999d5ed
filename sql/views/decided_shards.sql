-- Purpose: Return the shards of nights that a person rejected or released: no night is run again for a rejected one alone.
-- One row is: a shard and the newest decision about a night that contains it, under any rater.
-- Relies on: ix_shard_scores_night_id; reads the ledger of these nights, never scores.
CREATE VIEW alchemist.decided_shards AS
SELECT DISTINCT ON (shard_scores.shard_id)
    shard_scores.shard_id,
    nights.state,
    nights.reason,
    raters.name AS rater
FROM alchemist.nights
INNER JOIN alchemist.shard_scores ON nights.night_id = shard_scores.night_id
INNER JOIN alchemist.raters ON nights.rater_id = raters.rater_id
WHERE nights.state IN ('rejected', 'released')
ORDER BY shard_scores.shard_id ASC, nights.decided_at DESC;

COMMENT ON VIEW alchemist.decided_shards IS 'Shards of nights that a person rejected or released, with the newest decision under any rater';
COMMENT ON COLUMN alchemist.decided_shards.shard_id IS 'Key of the shard';
COMMENT ON COLUMN alchemist.decided_shards.state IS 'rejected or released';
COMMENT ON COLUMN alchemist.decided_shards.reason IS 'Why, as the person gave it';
COMMENT ON COLUMN alchemist.decided_shards.rater IS 'Name of the rater of the night that was decided';
