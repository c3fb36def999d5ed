"""Score what the last crawl brought, so that it can be drawn from.

    ingest → check_shards → check_samples → plan → score → check_scores → drift → publish
    ingest → find_duplicates

Safe to re-run: yes, every task finds what is done already. Without a production rater it ingests and checks, scores nothing and
succeeds. What fails a check or drifts stays closed until `alchemist release night`; earlier nights stay selectable. Shadows are scored too.
Runbook: infra/RUNBOOK.md#nightly_rescore
"""

import json

from airflow.sdk import CronPartitionTimetable, dag, task
from commands import alchemist
from jobs import form, job, step
from people import COMMON


def night(params, run):
    day = run.partition_key or params["crawl_date"] or run.run_after.date().isoformat()
    return {"dataset": params["dataset"], "crawl_date": day}


@dag(
    schedule=CronPartitionTimetable(
        "0 2 * * *", timezone="UTC", run_offset=-1, key_format="%Y-%m-%d", run_immediately=False
    ),
    params=form("nightly_rescore"),
    doc_md=__doc__,
    max_active_runs=1,
    tags=["alchemist", "nightly"],
    **COMMON,
)
def nightly_rescore():
    def dated(task_id, *words, **flags):
        @task.bash(task_id=task_id, do_xcom_push=False)
        def run(params, dag_run):
            return alchemist(*words, **flags, **night(params, dag_run))

        return run()

    @task.bash(do_xcom_push=False)
    def ingest(params, dag_run):
        return alchemist("ingest", root=params["root"], role="train", **night(params, dag_run))

    @task.bash(output_processor=lambda line: json.loads(line)["slots"])
    def plan(params, dag_run):
        return alchemist("plan", "score", rater="nightly", json=True, **night(params, dag_run))

    @job()
    def score(slot, params, dag_run):
        return alchemist("score", rater="nightly", slot=slot, **night(params, dag_run))

    shards, samples, scores = (dated(f"check_{s}", "check", suite=s) for s in ("shards", "samples", "scores"))
    (came := ingest()) >> step("find_duplicates", lambda _: alchemist("duplicates", "find"))
    came >> shards >> samples >> (slots := plan())
    score.expand(slot=slots) >> scores >> dated("drift", "drift") >> dated("publish", "publish", "night")


nightly_rescore()
