-- Purpose: Return the exporter's metrics of the corpus: shards by state, backlog, samples by outcome.
-- Parameters: none.
-- One row is: a series with its label values and its value now.
-- Relies on: one pass over shards and one over the ledger, no join of the two (a million rows each);
--   ix_shards_dataset_id_crawl_date, pk_shard_scores where a scored shard is not verified any more, or its night is stopped;
--   decided_shards. Never reads scores.
-- Safe to re-run: yes.
WITH production AS (SELECT rater_id FROM alchemist.raters WHERE state = 'production'),

counted AS (
    SELECT dataset_id, state, count(*) AS n_shards FROM alchemist.shards GROUP BY dataset_id, state
),

-- A ledger row has the key of its night, and a night that of its dataset.
scored_nights AS (
    SELECT night_id, count(*) AS n_shards, sum(n_scored) AS n_scored, sum(n_quarantined) AS n_quarantined
    FROM alchemist.shard_scores
    WHERE rater_id = (SELECT production.rater_id FROM production)
    GROUP BY night_id
),

ledger AS (
    SELECT
        nights.dataset_id, sum(scored_nights.n_shards) AS n_shards, sum(scored_nights.n_scored) AS n_scored,
        sum(scored_nights.n_quarantined) AS n_quarantined
    FROM scored_nights INNER JOIN alchemist.nights ON scored_nights.night_id = nights.night_id
    GROUP BY nights.dataset_id
),

gone AS (
    SELECT shards.dataset_id, count(*) AS n_shards
    FROM alchemist.shards
    INNER JOIN alchemist.shard_scores
        ON shards.shard_id = shard_scores.shard_id AND shard_scores.rater_id = (SELECT production.rater_id FROM production)
    WHERE shards.state <> 'verified'
    GROUP BY shards.dataset_id
),

-- No night is run again for shards that a check before scoring stopped, or that a person rejected, also under another rater.
stopped AS (
    SELECT shards.shard_id
    FROM alchemist.failed_checks INNER JOIN alchemist.datasets ON failed_checks.dataset_name = datasets.name
    INNER JOIN alchemist.shards ON datasets.dataset_id = shards.dataset_id AND failed_checks.crawl_date = shards.crawl_date
    WHERE failed_checks.suite <> 'scores' OR failed_checks.observed -> 'rejected_by' IS NOT NULL
    UNION
    SELECT decided_shards.shard_id FROM alchemist.decided_shards WHERE decided_shards.state = 'rejected'
),

left_out AS (
    SELECT shards.dataset_id, count(*) AS n_shards
    FROM stopped
    INNER JOIN alchemist.shards ON stopped.shard_id = shards.shard_id
    LEFT JOIN alchemist.shard_scores
        ON shards.shard_id = shard_scores.shard_id AND shard_scores.rater_id = (SELECT production.rater_id FROM production)
    WHERE shards.state = 'verified' AND shard_scores.shard_id IS NULL
    GROUP BY shards.dataset_id
)

SELECT 'alchemist_shards' AS metric, ARRAY[named.label, counted.state] AS labels, sum(counted.n_shards)::double precision AS value
FROM counted INNER JOIN alchemist.labelled_datasets AS named ON counted.dataset_id = named.dataset_id
GROUP BY named.label, counted.state
UNION ALL
SELECT
    'alchemist_shards_unscored',
    ARRAY[named.label],
    sum(counted.n_shards - coalesce(ledger.n_shards, 0) + coalesce(gone.n_shards, 0) - coalesce(left_out.n_shards, 0))::double precision
FROM counted
INNER JOIN alchemist.labelled_datasets AS named ON counted.dataset_id = named.dataset_id
CROSS JOIN production
LEFT JOIN ledger ON counted.dataset_id = ledger.dataset_id
LEFT JOIN gone ON counted.dataset_id = gone.dataset_id
LEFT JOIN left_out ON counted.dataset_id = left_out.dataset_id
WHERE counted.state = 'verified'
GROUP BY named.label
UNION ALL
SELECT 'alchemist_samples', ARRAY[named.label, outcomes.outcome], sum(outcomes.n_samples)::double precision
FROM ledger
INNER JOIN alchemist.labelled_datasets AS named ON ledger.dataset_id = named.dataset_id
CROSS JOIN LATERAL (VALUES ('scored', ledger.n_scored), ('quarantined', ledger.n_quarantined)) AS outcomes (outcome, n_samples)
GROUP BY named.label, outcomes.outcome
