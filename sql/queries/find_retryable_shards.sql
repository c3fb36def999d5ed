-- Purpose: Return the scored shards with locations that a rater quarantined for a reason that a retry can change.
-- Parameters: rater_id integer, dataset_ids integer[], reason text (a reason code, or transient for all that can succeed
--   at a retry).
-- One row is: a shard in the rater's ledger, leased or not, and how many of its locations would be retried.
-- Relies on: uq_quarantined_samples_shard_id_ordinal_rater_id, pk_shard_scores; reads the quarantine, which is small beside the
--   samples.
-- Safe to re-run: yes.
SELECT
    quarantined_samples.shard_id,
    count(*) AS n_locations
FROM alchemist.quarantined_samples
INNER JOIN alchemist.shards
    ON quarantined_samples.shard_id = shards.shard_id AND shards.state = 'verified' AND shards.dataset_id = ANY(:dataset_ids)
INNER JOIN alchemist.shard_scores
    ON quarantined_samples.shard_id = shard_scores.shard_id AND quarantined_samples.rater_id = shard_scores.rater_id
WHERE
    quarantined_samples.rater_id = :rater_id
    AND CASE WHEN :reason = 'transient' THEN quarantined_samples.is_transient ELSE quarantined_samples.reason = :reason END
GROUP BY quarantined_samples.shard_id
ORDER BY quarantined_samples.shard_id
