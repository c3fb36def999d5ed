"""The five dashboards, each named by the question that it answers, with their queries, units and descriptions.

A panel queries either Prometheus (`promql`) or the store (`sql`, as alchemist_reader). build.py writes Grafana's JSON.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `unit` is Grafana's name of a unit, `legend` a template of labels, `kind` Grafana's panel type."""

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
    """One dashboard, which answers one question."""

    uid: str
    question: str
    panels: tuple[Panel, ...]


OF_DATASET = '{dataset=~"$dataset"}'
OF_BOTH = '{dataset=~"$dataset", rater=~"$rater"}'

HEALTHY = Dashboard("alchemist-health", "Is the pipeline healthy?", (
    Panel("Last nights", "none", "A night is complete when found = scored + quarantined. A held night needs `alchemist night release`.",
          sql="SELECT dataset, crawl_date, n_shards, n_locations, n_scored, n_quarantined, status FROM alchemist.nightly_overview "
              "WHERE dataset ~ '^(${dataset:regex})$' ORDER BY crawl_date DESC, dataset LIMIT 14", kind="table", is_wide=True),
    Panel("Time since a stage last succeeded", "s",
          'Runs without new data succeed too; the panel "Age of the newest selectable night" shows whether data arrives.',
          "stage:alchemist_success_age_seconds:max", legend="{{stage}}"),
    Panel("Exporter and store", "bool_on_off", "On if the exporter could read the store; the other Prometheus panels need it.",
          "alchemist_store_up", kind="stat"),
    Panel("Quarantined share of the newest night", "percentunit",
          "A check stops the night above max_quarantined_ratio ([checks] in alchemist.toml).",
          "dataset:alchemist_night_quarantine:ratio" + OF_DATASET, legend="{{dataset}}"),
    Panel("Quarantine reasons", "short",
          "Quarantined locations of the newest crawl date by reason code; table `quarantined_samples` lists them.",
          'sum by (dataset, reason) (alchemist_night_samples{dataset=~"$dataset", outcome="quarantined"})',
          legend="{{dataset}} {{reason}}"),
    Panel("Failed data checks", "short",
          "`fail` stops a night until it is repaired, released or rejected, or a subset (last day); `warn` is only counted (last day).",
          "alchemist_check_failures", legend="{{reason}} ({{outcome}})"),
    Panel("Score drift", "none",
          "PSI (population stability index) against the accepted nights (the first night of a rater: its rank scale or acceptance report); "
          "[drift] in alchemist.toml sets when a night is held.",
          "alchemist_score_psi" + OF_BOTH, legend="{{dataset}} {{rater}}"),
    Panel("Shards with a ledger mismatch", "short",
          "Shards whose scores and quarantine rows, counted nightly, differ from their locations. Alerts when above 0.",
          "alchemist_ledger_mismatched_shards", legend="{{dataset}}"),
    Panel("Leases", "short", "Live: work in progress. Expired for a day: a process died and the DAG maintenance did not run.",
          "alchemist_leases", legend="{{outcome}}"),
    Panel("Pending takedowns", "short",
          "Images taken down that a published subset or a materialized dataset still holds; overdue after 72 hours.",
          'alchemist_takedowns{outcome="pending"}', kind="stat"),
    Panel("Airflow's scheduler", "ops", "Heartbeats per second. At 0 no DAG run starts.", "rate(alchemist_airflow_heartbeats_total[5m])"),
    Panel("DAG files that cannot be imported", "short", "Airflow's home page shows the errors under Import Errors.",
          "alchemist_airflow_import_errors", kind="stat"),
    Panel("Finished DAG runs", "short", "DAG runs that ended in the last day, by outcome.",
          "sum by (dag, outcome) (increase(alchemist_airflow_runs_total[1d]))", legend="{{dag}} {{outcome}}"),
    Panel("Slots of Airflow's pool gpu", "short", "If tasks stay queued while slots are open, the scheduler does not work. "
          "Deferred: a pod works.",
          "alchemist_airflow_pool_slots", legend="{{outcome}}"),
    Panel("Failed tasks", "none", "Tasks that failed after their last retry, with the reason, newest first.",
          sql="SELECT happened_at, subject AS task, after ->> 'reason' AS reason, after ->> 'run' AS run FROM alchemist.audit_events "
              "WHERE action = 'task failed' ORDER BY audit_event_id DESC LIMIT 20", kind="table", is_wide=True),
    Panel("Failed runs", "none", "Stage runs that failed, with the error. Run the same command again: it continues from what was stored.",
          sql="SELECT started_at, stage, state, left(error, 200) AS error, host FROM alchemist.runs "
              "WHERE state IN ('failed', 'lost') ORDER BY run_id DESC LIMIT 20", kind="table", is_wide=True),
    Panel("Decisions that are pending", "none",
          "Held nights of the production rater with their reason, and approvals of the last 7 days without an answer.",
          sql="SELECT 'held night' AS what, datasets.name || ' ' || nights.crawl_date AS subject, nights.reason, "
              "nights.decided_at AS since FROM alchemist.nights INNER JOIN alchemist.datasets USING (dataset_id) "
              "INNER JOIN alchemist.raters USING (rater_id) "
              "WHERE nights.state = 'held' AND raters.state = 'production' AND datasets.removed_at IS NULL UNION ALL "
              "SELECT action, subject, after ->> 'reason', happened_at FROM alchemist.audit_events AS asked "
              "WHERE action = 'approval asked' AND happened_at > now() - make_interval(days => 7) AND NOT EXISTS ("
              "SELECT FROM alchemist.audit_events AS answered WHERE answered.action = 'approval answered' "
              "AND answered.subject = asked.subject AND answered.after ->> 'run' = asked.after ->> 'run' "
              "AND answered.audit_event_id > asked.audit_event_id) ORDER BY since DESC LIMIT 20",
          kind="table", is_wide=True),
))  # fmt: skip

SCORING = Dashboard("alchemist-scoring", "How far is scoring?", (
    Panel("Shards without scores", "short",
          "Verified shards that the production rater has not scored, without nights that a check stopped or a person rejected.",
          "alchemist_shards_unscored" + OF_DATASET, legend="{{dataset}}"),
    Panel("Newest night scored", "percentunit",
          "Scored locations over all locations of the newest crawl date; the others are quarantined or not scored yet.",
          "dataset:alchemist_night_scored:ratio" + OF_DATASET, legend="{{dataset}}"),
    Panel("Progress of running stages", "percentunit",
          "Share of the work that is done, per running stage; it falls when a run begins another pass or model.",
          "alchemist_stage_progress_ratio", legend="{{stage}}"),
    Panel("Running stages", "short", "Runs with a heartbeat in the last five minutes, one per worker slot.",
          "alchemist_stage_runs_running", legend="{{stage}}"),
    Panel("Images per second", "none",
          "All running score runs together; of each, the mean since it began. An image counts once for each rater or scorer.",
          "alchemist_score_images_per_second"),
    Panel("Locations in the ledger", "short", "Locations that the production rater has scored or quarantined.",
          "alchemist_samples" + OF_DATASET, legend="{{dataset}} {{outcome}}"),
    Panel("Shards by state", "short",
          "growing: an unfinished upload. missing, changed, rejected: cannot be read. retired, superseded: no longer used.",
          "alchemist_shards" + OF_DATASET,
          legend="{{dataset}} {{outcome}}"),
    Panel("Nights by state", "short", "Samples are selected only from selectable and released nights.", "alchemist_nights" + OF_DATASET,
          legend="{{dataset}} {{outcome}}"),
    Panel("Age of the newest selectable night", "s",
          "Age of the newest selectable crawl date, or the time without one, less the time from 02:00 UTC to the start of nightly_rescore; "
          "NightlyStale fires when two nights that were due are missing.",
          "time() - alchemist_newest_night_timestamp_seconds" + OF_DATASET, legend="{{dataset}}"),
    Panel("Last scoring runs", "none",
          "Samples (once for each rater or scorer), seconds and samples per second of each run, from its result.",
          sql="SELECT started_at, state, (result ->> 'n_scored')::bigint AS n_scored, "
              "(result ->> 'n_quarantined')::bigint AS n_quarantined, work_seconds, "
              "round(((result ->> 'n_scored')::numeric / nullif((result ->> 'seconds')::numeric, 0)), 1) AS samples_per_s "
              "FROM alchemist.runs WHERE stage = 'score' ORDER BY run_id DESC LIMIT 20", kind="table", is_wide=True),
))  # fmt: skip

RATER = Dashboard("alchemist-rater", "Is the rater learning?", (
    Panel("Training progress", "percentunit",
          "Share of the running training that is done; after a kill it resumes from its last checkpoint.",
          'alchemist_stage_progress_ratio{stage="train_rater"}', legend="{{stage}}"),
    Panel("Duration of the last training", "s", "Seconds of work of the newest successful training.",
          'alchemist_stage_last_work_seconds{stage="train_rater"}', legend="{{stage}}"),
    Panel("Acceptance reports", "none",
          "Acceptance checks of the production rater and the newest raters; `raters.acceptance_report` has the bounds.",
          'alchemist_rater_check_value{rater=~"$rater"}', legend="{{rater}} {{metric}}"),
    Panel("Distance of scores from the accepted nights", "none",
          "Kolmogorov-Smirnov distance, 0 to 1, of the production rater and the newest shadow rater. "
          "The first night of a rater is compared with its rank scale or acceptance report.",
          "alchemist_score_ks_distance" + OF_BOTH, legend="{{dataset}} {{rater}}"),
    Panel("Raters", "none", "All raters, newest first. Promoting a rater that has not passed its acceptance checks requires a reason.",
          sql="SELECT name, rule, state, is_shadow, acceptance_report -> 'is_certified' AS is_certified, "
              "created_at, promoted_at, retired_at FROM alchemist.raters ORDER BY rater_id DESC LIMIT 20", kind="table", is_wide=True),
    Panel("Promotions", "none", "Who promoted which rater, and which rater it replaced.",
          sql="SELECT happened_at, actor, subject, before ->> 'production' AS was, coalesce(after ->> 'without_acceptance', "
              "after ->> 'without_certificate') AS reason "
              "FROM alchemist.audit_events WHERE action = 'promote' ORDER BY audit_event_id DESC LIMIT 20", kind="table", is_wide=True),
))  # fmt: skip

SUBSET = Dashboard("alchemist-subset", "Was the subset worth it?", (
    Panel("Metrics of subset and controls", "none",
          "Mean over the seeds that subset and random have in common, under the newest evaluation protocol. "
          "Lower is better for held-out loss, FID and KID.",
          "alchemist_evaluation_value", legend="{{subset}} {{metric}} {{outcome}}"),
    Panel("Subset against random", "none", "Metric of the subset divided by that of a random subset of the same size.",
          'alchemist_evaluation_value{outcome="subset"} / on (subset, metric) group_left () alchemist_evaluation_value{outcome="random"}',
          legend="{{subset}} {{metric}}"),
    Panel("Members", "short", "Number of members of each published subset; it changes only when a version is published.",
          "alchemist_subset_samples", legend="{{subset}}"),
    Panel("Retention", "percentunit", "Share of the eligible samples that was selected.",
          "alchemist_subset_retention_ratio", legend="{{subset}}"),
    Panel("Subset versions", "none", "Each version with its strategy, rater and held-out losses.",
          sql="SELECT name, version, state, strategy, retention, n_samples, rater, subset_heldout_loss, random_heldout_loss, n_seeds, "
              "published_at FROM alchemist.subset_overview ORDER BY subset_id DESC LIMIT 30", kind="table", is_wide=True),
    Panel("Evaluations", "none",
          "Each value with its model and evaluation protocol; n is that of the whole set. Compare only values of one protocol.",
          sql="SELECT evaluations.created_at, models.arm, models.seed, evaluations.metric, evaluations.value, evaluations.n, "
              "evaluation_protocols.protocol_hash FROM alchemist.evaluations INNER JOIN alchemist.models USING (model_id) "
              "INNER JOIN alchemist.evaluation_protocols USING (protocol_id) ORDER BY evaluations.evaluation_id DESC LIMIT 30",
          kind="table", is_wide=True),
))  # fmt: skip

# Both tables limit each kind by itself, so that nights do not crowd out subset versions.
COST = Dashboard("alchemist-cost", "What does it cost?", (
    Panel("Cost of the last day by stage", "none", "Time × ALCHEMIST_PRICE_PER_GPU_HOUR or …_PER_CORE_HOUR; empty without prices.",
          "stage:alchemist_cost:increase1d", legend="{{stage}}"),
    Panel("Daily budget", "none", "ALCHEMIST_BUDGET_PER_DAY; above it the alert CostOverBudget fires.",
          "alchemist_budget_per_day", kind="stat"),
    Panel("Cost so far by stage", "none", "All ended runs at the prices of their day, failed and killed ones included.",
          "alchemist_stage_cost_total", legend="{{stage}}"),
    Panel("Work of the last day", "s", "Seconds of finished runs by stage; without prices this is the only measure of cost.",
          "sum by (stage) (increase(alchemist_stage_work_seconds_total[1d]))", legend="{{stage}}"),
    Panel("Use of the GPUs", "percentunit", "Share of time in which each GPU of the exporter's machine worked; empty without a driver.",
          "alchemist_device_utilization_ratio", legend="{{device}}"),
    Panel("Memory of the GPUs in use", "percentunit", "Share of the memory of each GPU of the exporter's machine.",
          "alchemist_device_memory_used_bytes / alchemist_device_memory_total_bytes", legend="{{device}}"),
    Panel("Size of the store", "bytes", "Size of the database on disk.", "alchemist_store_size_bytes"),
    Panel("Device seconds per day", "none", "Seconds of work by day, stage and device; multiply by your price.",
          sql="SELECT (started_at AT TIME ZONE 'UTC')::date AS day, stage, device, count(*) AS n_runs, "
              "round(sum(work_seconds)::numeric, 1) AS device_seconds "
              "FROM alchemist.runs WHERE work_seconds IS NOT NULL GROUP BY day, stage, device "
              "ORDER BY day DESC, stage LIMIT 60",
          kind="table", is_wide=True),
    Panel("Cost of nights and subset versions", "none",
          "own: work for this item alone. shared: crawls, rater and scores that other items use too. Empty if a part has no price.",
          sql="SELECT kind, name, seconds, own, shared, cost FROM ("
              "SELECT kind, costs.name, round(sum(seconds)::numeric, 1) AS seconds, "
              "round((CASE WHEN bool_and(cost IS NOT NULL OR is_shared) "
              "THEN sum(cost) FILTER (WHERE NOT is_shared) END)::numeric, 4) AS own, "
              "round((CASE WHEN bool_and(cost IS NOT NULL OR NOT is_shared) "
              "THEN sum(cost) FILTER (WHERE is_shared) END)::numeric, 4) AS shared, "
              "round((CASE WHEN bool_and(cost IS NOT NULL) THEN sum(cost) END)::numeric, 4) AS cost, "
              "row_number() OVER (PARTITION BY kind ORDER BY subset_id DESC NULLS LAST, costs.name DESC) AS place "
              "FROM alchemist.costs LEFT JOIN alchemist.subsets ON costs.name = subsets.name || ' v' || subsets.version "
              "WHERE kind IN ('night', 'subset') GROUP BY kind, costs.name, subset_id"
              ") AS listed WHERE place <= 30 ORDER BY kind, place",
          kind="table", is_wide=True),
    Panel("Cost by stage and device", "none", "The rows above split by stage and device, and the cost of each evaluated value.",
          sql="SELECT kind, name, stage, is_shared, device, round(seconds::numeric, 1) AS seconds, round(cost::numeric, 4) AS cost "
              "FROM (SELECT costs.*, dense_rank() OVER (PARTITION BY kind ORDER BY subset_id DESC NULLS LAST, costs.name DESC) AS place "
              "FROM alchemist.costs LEFT JOIN alchemist.subsets ON costs.name = subsets.name || ' v' || subsets.version) AS listed "
              "WHERE place <= 30 ORDER BY kind, place, is_shared, stage, device", kind="table", is_wide=True),
))  # fmt: skip

DASHBOARDS = (HEALTHY, SCORING, RATER, SUBSET, COST)
