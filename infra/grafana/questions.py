"""The five dashboards by the question that each answers: what is asked of Prometheus and of the store, in which unit, and why.

A panel asks either Prometheus (`promql`) or the store (`sql`, as alchemist_reader). Knows nothing of Grafana's JSON.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `unit` is Grafana's name of a unit; `legend` a template of labels; `kind` how it is drawn."""

    title: str
    unit: str
    text: str
    promql: str = ""
    sql: str = ""
    legend: str = ""
    kind: str = "timeseries"
    is_wide: bool = False


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One question."""

    uid: str
    question: str
    panels: tuple[Panel, ...]


OF_DATASET = '{dataset=~"$dataset"}'
OF_BOTH = '{dataset=~"$dataset", rater=~"$rater"}'

HEALTHY = Dashboard("alchemist-health", "Is the pipeline healthy?", (
    Panel("Last nights", "none", "Done: found = scored + quarantined, and selectable. A held night waits for `alchemist night release`.",
          sql="SELECT dataset, crawl_date, n_shards, n_locations, n_scored, n_quarantined, status FROM alchemist.nightly_overview "
              "WHERE dataset ~ '^(${dataset:regex})$' ORDER BY crawl_date DESC, dataset LIMIT 14", kind="table", is_wide=True),
    Panel("Time since a stage last succeeded", "s",
          "An empty night is a success too: whether data comes, the newest selectable night shows.",
          "stage:alchemist_success_age_seconds:max", legend="{{stage}}"),
    Panel("Exporter and store", "bool_on_off", "Whether the exporter could read the store; every other panel hangs on it.",
          "alchemist_store_up", kind="stat"),
    Panel("Share of the newest night quarantined", "percentunit",
          "Above max_quarantined_ratio ([checks] of alchemist.toml) a check stops the night.",
          "dataset:alchemist_night_quarantine:ratio" + OF_DATASET, legend="{{dataset}}"),
    Panel("Why it was quarantined", "short", "Locations of the newest crawl date by reason code; `quarantined_samples` names each.",
          'sum by (dataset, reason) (alchemist_night_samples{dataset=~"$dataset", outcome="quarantined"})',
          legend="{{dataset}} {{reason}}"),
    Panel("Failed data checks of the last day", "short", "A failed `fail` has stopped its pipeline; a failed `warn` is only counted.",
          "alchemist_check_failures", legend="{{reason}} ({{outcome}})"),
    Panel("Score drift", "none",
          "PSI against the accepted nights: [drift] of alchemist.toml says when a night is held.",
          "alchemist_score_psi" + OF_BOTH, legend="{{dataset}} {{rater}}"),
    Panel("Shards that do not add up", "short", "Recounted every night from scores and quarantine rows. Anything but 0 is a page.",
          "alchemist_ledger_mismatched_shards", legend="{{dataset}}"),
    Panel("Leases", "short", "Live: work in progress. Expired ones that stay for a day were left by a process that died.",
          "alchemist_leases", legend="{{outcome}}"),
    Panel("Pending takedowns", "short", "Images that something published or materialized still holds; overdue after 72 hours.",
          'alchemist_takedowns{outcome="pending"}', kind="stat"),
    Panel("Airflow's scheduler", "ops", "Heartbeats a second. Zero: no DAG will start.", "rate(alchemist_airflow_heartbeats_total[5m])"),
    Panel("DAG files that cannot be imported", "short", "Airflow's page shows the error under Import Errors.",
          "alchemist_airflow_import_errors", kind="stat"),
    Panel("DAG runs that ended", "short", "Runs of the last day by outcome.",
          "sum by (dag, outcome) (increase(alchemist_airflow_runs_total[1d]))", legend="{{dag}} {{outcome}}"),
    Panel("Slots of the pool gpu", "short", "Queued tasks beside open slots mean that a scheduler does not schedule.",
          "alchemist_airflow_pool_slots", legend="{{outcome}}"),
    Panel("Failed tasks, and why", "none", "What the failure callback wrote after a task's last try, newest first.",
          sql="SELECT happened_at, subject AS task, after ->> 'reason' AS reason, after ->> 'run' AS run FROM alchemist.audit_events "
              "WHERE action = 'task failed' ORDER BY audit_event_id DESC LIMIT 20", kind="table", is_wide=True),
    Panel("Failed runs, and why", "none", "The error that ended each execution of a stage; the same command goes on with what is left.",
          sql="SELECT started_at, stage, state, left(error, 200) AS error, host FROM alchemist.runs "
              "WHERE state IN ('failed', 'lost') ORDER BY run_id DESC LIMIT 20", kind="table", is_wide=True),
    Panel("What waits for a person", "none", "Held nights with their reason, and promotions that wait for approval in Airflow.",
          sql="SELECT 'held night' AS what, datasets.name || ' ' || nights.crawl_date AS subject, nights.reason, "
              "nights.decided_at AS since FROM alchemist.nights INNER JOIN alchemist.datasets USING (dataset_id) "
              "WHERE nights.state = 'held' UNION ALL "
              "SELECT action, subject, after ->> 'reason', happened_at FROM alchemist.audit_events "
              "WHERE action = 'approval asked' AND happened_at > now() - make_interval(days => 7) ORDER BY since DESC LIMIT 20",
          kind="table", is_wide=True),
))  # fmt: skip

SCORING = Dashboard("alchemist-scoring", "How far is scoring?", (
    Panel("Shards without scores", "short", "Verified shards that the production rater has not scored.",
          "alchemist_shards_unscored" + OF_DATASET, legend="{{dataset}}"),
    Panel("Newest night scored", "percentunit", "Scored over found locations of the newest crawl date; the rest is quarantined or waits.",
          "dataset:alchemist_night_scored:ratio" + OF_DATASET, legend="{{dataset}}"),
    Panel("Progress of what runs", "percentunit", "Share of the work that running executions of a stage have done.",
          "alchemist_stage_progress_ratio", legend="{{stage}}"),
    Panel("Executions at work", "short", "Executions with a heartbeat in the last five minutes, one a worker slot.",
          "alchemist_stage_runs_running", legend="{{stage}}"),
    Panel("Pairs in the ledger", "short", "Locations that the production rater has accounted for.",
          "alchemist_samples" + OF_DATASET, legend="{{dataset}} {{outcome}}"),
    Panel("Shards by state", "short",
          "growing: an upload under way. missing, changed, rejected: not readable. retired, superseded: given up.",
          "alchemist_shards" + OF_DATASET,
          legend="{{dataset}} {{outcome}}"),
    Panel("Nights by state", "short", "Only selectable and released nights can be drawn from.", "alchemist_nights" + OF_DATASET,
          legend="{{dataset}} {{outcome}}"),
    Panel("Age of the newest selectable night", "s",
          "Age of the newest crawl date that can be selected; NightlyStale fires when two that were due are missing.",
          "time() - alchemist_newest_night_timestamp_seconds" + OF_DATASET, legend="{{dataset}}"),
    Panel("Last scoring runs", "none", "Each run's pairs, seconds and speed, as its report says.",
          sql="SELECT started_at, state, (result ->> 'n_scored')::bigint AS n_scored, "
              "(result ->> 'n_quarantined')::bigint AS n_quarantined, work_seconds, "
              "round(((result ->> 'n_scored')::numeric / nullif((result ->> 'seconds')::numeric, 0)), 1) AS pairs_per_s "
              "FROM alchemist.runs WHERE stage = 'score' ORDER BY run_id DESC LIMIT 20", kind="table", is_wide=True),
))  # fmt: skip

RATER = Dashboard("alchemist-rater", "Is the rater learning?", (
    Panel("Training under way", "percentunit", "How far the running training is; its last checkpoint survives a kill.",
          'alchemist_stage_progress_ratio{stage="train_rater"}', legend="{{stage}}"),
    Panel("Seconds of the last training", "s", "Work of the newest successful training.",
          'alchemist_stage_last_work_seconds{stage="train_rater"}', legend="{{stage}}"),
    Panel("Acceptance reports", "none", "Checks of the production rater and the newest ones; `raters.acceptance_report` has the bounds.",
          'alchemist_rater_check_value{rater=~"$rater"}', legend="{{rater}} {{metric}}"),
    Panel("Distance of scores from the accepted nights", "none", "Kolmogorov-Smirnov, 0 to 1, of production and the newest shadow.",
          "alchemist_score_ks_distance" + OF_BOTH, legend="{{dataset}} {{rater}}"),
    Panel("Raters", "none", "Every version, newest first: only a certified one is promoted without a reason.",
          sql="SELECT name, rule, state, is_shadow, acceptance_report -> 'is_certified' AS is_certified, "
              "created_at, promoted_at, retired_at FROM alchemist.raters ORDER BY rater_id DESC LIMIT 20", kind="table", is_wide=True),
    Panel("Promotions", "none", "Who put which rater into production, and which one it replaced.",
          sql="SELECT happened_at, actor, subject, before ->> 'production' AS was, after ->> 'without_certificate' AS reason "
              "FROM alchemist.audit_events WHERE action = 'promote' ORDER BY audit_event_id DESC LIMIT 20", kind="table", is_wide=True),
))  # fmt: skip

SUBSET = Dashboard("alchemist-subset", "Was the subset worth it?", (
    Panel("Value of subset and control", "none", "Mean over seeds under the newest contract; held-out loss, FID and KID are better lower.",
          "alchemist_evaluation_value", legend="{{subset}} {{metric}} {{outcome}}"),
    Panel("Subset against random", "none", "Ratio of the subset's value to that of a random subset of the same size.",
          'alchemist_evaluation_value{outcome="subset"} / on (subset, metric) group_left () alchemist_evaluation_value{outcome="random"}',
          legend="{{subset}} {{metric}}"),
    Panel("Members", "short", "Pairs of each published subset; it stays as it is until a version is published.",
          "alchemist_subset_samples", legend="{{subset}}"),
    Panel("Retention", "percentunit", "Share of the eligible pairs that was asked for.",
          "alchemist_subset_retention_ratio", legend="{{subset}}"),
    Panel("Subset versions", "none", "What each version was made by and what it was worth.",
          sql="SELECT name, version, state, strategy, retention, n_samples, rater, subset_heldout_loss, random_heldout_loss, n_seeds, "
              "published_at FROM alchemist.subset_overview ORDER BY subset_id DESC LIMIT 30", kind="table", is_wide=True),
    Panel("Evaluations", "none", "Each value with its model and contract: only values of one contract may be compared.",
          sql="SELECT evaluations.created_at, models.arm, models.seed, evaluations.metric, evaluations.value, evaluations.n, "
              "evaluation_protocols.protocol_hash FROM alchemist.evaluations INNER JOIN alchemist.models USING (model_id) "
              "INNER JOIN alchemist.evaluation_protocols USING (protocol_id) ORDER BY evaluations.evaluation_id DESC LIMIT 30",
          kind="table", is_wide=True),
))  # fmt: skip

COST = Dashboard("alchemist-cost", "What does it cost?", (
    Panel("Cost of the last day by stage", "none", "Work × ALCHEMIST_PRICE_PER_GPU_HOUR or …_PER_CORE_HOUR; without prices there is none.",
          "stage:alchemist_cost:increase1d", legend="{{stage}}"),
    Panel("Budget of a day", "none", "ALCHEMIST_BUDGET_PER_DAY; above it the alert CostOverBudget fires.",
          "alchemist_budget_per_day", kind="stat"),
    Panel("Cost so far by stage", "none", "Everything that the run ledger knows, failed runs included.", "alchemist_stage_cost_total",
          legend="{{stage}}"),
    Panel("Work of the last day", "s", "Seconds of ended runs by stage; without prices the only measure of cost.",
          "sum by (stage) (increase(alchemist_stage_work_seconds_total[1d]))", legend="{{stage}}"),
    Panel("Size of the store", "bytes", "The database on disk.", "alchemist_store_size_bytes"),
    Panel("Device seconds of a day", "none", "Work by day, stage and device: multiply by your price.",
          sql="SELECT started_at::date AS day, stage, device, count(*) AS n_runs, round(sum(work_seconds)::numeric, 1) AS device_seconds "
              "FROM alchemist.runs WHERE work_seconds IS NOT NULL GROUP BY started_at::date, stage, device "
              "ORDER BY day DESC, stage LIMIT 60",
          kind="table", is_wide=True),
    Panel("Cost of a night and of a subset version", "none",
          "Own work, and the crawls, rater and scores a version was drawn from, which others share; empty: some of it had no price.",
          sql="SELECT kind, name, round(sum(seconds)::numeric, 1) AS seconds, "
              "round((CASE WHEN bool_and(cost IS NOT NULL OR is_shared) "
              "THEN sum(cost) FILTER (WHERE NOT is_shared) END)::numeric, 4) AS own, "
              "round((CASE WHEN bool_and(cost IS NOT NULL OR NOT is_shared) "
              "THEN sum(cost) FILTER (WHERE is_shared) END)::numeric, 4) AS shared, "
              "round((CASE WHEN bool_and(cost IS NOT NULL) THEN sum(cost) END)::numeric, 4) AS cost "
              "FROM alchemist.costs WHERE kind IN ('night', 'subset') GROUP BY kind, name ORDER BY kind, name DESC LIMIT 60",
          kind="table", is_wide=True),
    Panel("The same by stage, and of a point of a metric", "none", "Where the money of a row above went: stage by stage, device by device.",
          sql="SELECT kind, name, stage, is_shared, device, round(seconds::numeric, 1) AS seconds, round(cost::numeric, 4) AS cost "
              "FROM alchemist.costs ORDER BY kind, name DESC, is_shared, stage, device LIMIT 200", kind="table", is_wide=True),
))  # fmt: skip

DASHBOARDS = (HEALTHY, SCORING, RATER, SUBSET, COST)
