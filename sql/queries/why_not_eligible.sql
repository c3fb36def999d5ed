-- Purpose: Return why samples are not in an eligible set: the first reason that applies, and its detail.
-- Parameters: rater_id integer, dataset_names text[], night_ids integer[], last_takedown_id integer, last_retirement_id integer (shards
--   retired up to it do not count), score text (all of a rank snapshot); reads the temporary table wanted (pair_hash bytea).
-- One row is: a wanted sample that the store has. "new pair": its night was decided after the snapshot was taken. "held out": it is
--   only in validation or evaluation datasets; `places` then names them with their roles. "no score": the snapshot ranks by another score
--   than the rater's, which the sample lacked.
-- Relies on: uq_samples_pair_hash, uq_takedowns_image_hash, pk_scores, ix_sample_locations_sample_id, pk_shard_scores,
--   uq_quarantined_samples_shard_id_ordinal_rater_id.
-- Safe to re-run: yes.
SELECT
    wanted.pair_hash,
    samples.sample_id,
    CASE
        WHEN takedowns.takedown_id <= :last_takedown_id THEN 'taken down'
        WHEN NOT sources.is_training THEN 'held out'
        WHEN NOT coalesce(sources.is_drawn_from, FALSE) THEN 'other dataset'
        WHEN NOT sources.is_in_use THEN 'retired'
        WHEN seen.night_ids && CAST(:night_ids AS integer[]) THEN CASE CAST(:score AS text) WHEN 'rater' THEN 'eligible' ELSE 'no score' END
        WHEN 'held' = ANY(seen.states) THEN 'held'
        WHEN 'rejected' = ANY(seen.states) THEN 'rejected'
        WHEN 'scored' = ANY(seen.states) THEN 'night not decided'
        WHEN seen.states IS NOT NULL THEN 'new pair'
        WHEN quarantined.reason IS NOT NULL THEN 'quarantined'
        ELSE 'not scored'
    END AS reason,
    CASE
        WHEN takedowns.takedown_id <= :last_takedown_id THEN takedowns.reason
        WHEN NOT sources.is_in_use THEN sources.retired_for
        WHEN CAST(:score AS text) <> 'rater' AND seen.night_ids && CAST(:night_ids AS integer[]) THEN CAST(:score AS text)
        ELSE coalesce(seen.held_for, quarantined.reason)
    END AS detail,
    CASE WHEN NOT sources.is_training THEN sources.roles ELSE coalesce(seen.named, sources.named, '{}') END AS places
FROM wanted
INNER JOIN alchemist.samples ON wanted.pair_hash = samples.pair_hash
LEFT JOIN alchemist.takedowns ON samples.image_hash = takedowns.image_hash
LEFT JOIN LATERAL (
    SELECT
        bool_or(datasets.role = 'train' AND datasets.name = ANY(CAST(:dataset_names AS text[]))) AS is_drawn_from,
        bool_or(datasets.role = 'train') AS is_training,
        bool_or(
            datasets.role = 'train' AND datasets.name = ANY(CAST(:dataset_names AS text[]))
            AND coalesce(shards.retirement_id > :last_retirement_id, TRUE)
        ) AS is_in_use,
        max(shards.state_reason) FILTER (WHERE datasets.name = ANY(CAST(:dataset_names AS text[]))) AS retired_for,
        array_agg(DISTINCT datasets.name) AS named,
        array_agg(DISTINCT datasets.name || ' (' || datasets.role || ')') AS roles
    FROM alchemist.sample_locations
    INNER JOIN alchemist.shards ON sample_locations.shard_id = shards.shard_id
    INNER JOIN alchemist.datasets ON shards.dataset_id = datasets.dataset_id
    WHERE sample_locations.sample_id = samples.sample_id
) AS sources ON TRUE
LEFT JOIN LATERAL (
    SELECT
        array_agg(nights.night_id) AS night_ids,
        array_agg(nights.state) AS states,
        max(nights.reason) FILTER (WHERE nights.state IN ('held', 'rejected')) AS held_for,
        array_agg(DISTINCT datasets.name || ' ' || nights.crawl_date || ' r' || nights.revision) AS named
    FROM alchemist.night_locations
    INNER JOIN alchemist.nights ON night_locations.night_id = nights.night_id
    INNER JOIN alchemist.datasets ON nights.dataset_id = datasets.dataset_id  -- noqa: ST09
    INNER JOIN alchemist.shards ON night_locations.shard_id = shards.shard_id
    WHERE
        night_locations.rater_id = :rater_id
        AND night_locations.sample_id = samples.sample_id
        AND datasets.name = ANY(CAST(:dataset_names AS text[]))
        AND coalesce(shards.retirement_id > :last_retirement_id, TRUE)
) AS seen ON TRUE
LEFT JOIN LATERAL (
    SELECT min(quarantined_samples.reason) AS reason
    FROM alchemist.sample_locations
    INNER JOIN alchemist.quarantined_samples
        ON
            sample_locations.shard_id = quarantined_samples.shard_id
            AND sample_locations.ordinal = quarantined_samples.ordinal
            AND quarantined_samples.rater_id = :rater_id
    WHERE sample_locations.sample_id = samples.sample_id
) AS quarantined ON TRUE
