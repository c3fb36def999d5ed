-- Purpose: Compare scores that are being imported with those stored under their name.
-- Parameters: rater_id integer (null: the name is new); reads the session's temporary table matched (sample_id, score).
-- One row is: the numbers of samples without a stored score, with the same one, and with another one.
-- Relies on: the rater's partition of pk_scores.
-- Safe to re-run: yes.
SELECT
    count(*) FILTER (WHERE stored.score IS NULL) AS n_new,
    count(*) FILTER (WHERE matched.score = stored.score) AS n_same,
    count(*) FILTER (WHERE matched.score <> stored.score) AS n_other
FROM matched
LEFT JOIN alchemist.scores AS stored
    ON stored.rater_id = CAST(:rater_id AS integer) AND matched.sample_id = stored.sample_id
