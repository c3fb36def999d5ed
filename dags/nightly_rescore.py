"""Score what the last crawl brought, so that it can be drawn from.

    ingest → check_samples → plan → score → check_scores → drift → publish
    ingest → find_duplicates

Safe to re-run: yes, every task finds what is done already. Without a production rater it ingests and checks, scores nothing and
succeeds. Scores that drifted too far hold their night until `alchemist release`. The night is the run's partition key,
else the form's crawl date, else the day of the run.
Runbook: infra/RUNBOOK.md#nightly_rescore
"""

import json

from airflow.sdk import CronPartitionTimetable, Param, dag, task
from commands import alchemist
from forms import FORMS


def night(params, dag_run):
    crawl_date = dag_run.partition_key or params["crawl_date"] or dag_run.run_after.date().isoformat()
    return {"dataset": params["dataset"], "crawl_date": crawl_date}


@dag(
    # At 02:00, for the day that has just ended.
    schedule=CronPartitionTimetable("0 2 * * *", timezone="UTC", run_offset=-1, key_format="%Y-%m-%d"),
    params={name: Param(**field) for name, field in FORMS["nightly_rescore"].items()},
    doc_md=__doc__,
    catchup=False,
    max_active_runs=1,
    tags=["alchemist", "nightly"],
)
def nightly_rescore():
    def step(task_id, *words, is_dated=True, **flags):
        @task.bash(task_id=task_id, do_xcom_push=False)
        def run(params, dag_run):
            return alchemist(*words, **flags, **(night(params, dag_run) if is_dated else {}))

        return run()

    @task.bash(do_xcom_push=False)
    def ingest(params, dag_run):
        return alchemist("ingest", root=params["root"], role="train", **night(params, dag_run))

    @task.bash(output_processor=lambda line: json.loads(line)["slots"])
    def plan(params, dag_run):
        return alchemist("plan", "score", rater="nightly", json=True, **night(params, dag_run))

    @task.bash(do_xcom_push=False, pool="gpu")
    def score(slot, params, dag_run):
        return alchemist("score", rater="nightly", slot=slot, **night(params, dag_run))

    (came := ingest()) >> step("find_duplicates", "duplicates", "find", is_dated=False)
    came >> step("check_samples", "check", suite="samples") >> (slots := plan())
    checked = score.expand(slot=slots) >> step("check_scores", "check", suite="scores")
    checked >> step("drift", "drift") >> step("publish", "publish", "night")


nightly_rescore()
