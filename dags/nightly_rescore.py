"""Score what the last crawl brought, so that it can be drawn from.

    ingest → check_shards → check_samples → plan → score → check_scores → drift → publish
    ingest → find_duplicates

Safe to re-run: yes, every task finds what is done already. Without a production rater it ingests and checks, scores nothing and
succeeds. What fails a check or drifts stays closed until `alchemist release night`; earlier nights stay selectable. Shadows are scored too.
Runbook: infra/RUNBOOK.md#nightly_rescore
"""

from airflow.sdk import CronPartitionTimetable, dag
from commands import alchemist
from jobs import device_step, form, step
from people import COMMON


def night(*words, **flags):
    return lambda run: alchemist(*words, **flags, dataset=run.form["dataset"], crawl_date=run.day)


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
    def score(run):
        return night("score", rater="nightly", slot=run.item)(run)

    ingest = step("ingest", lambda run: night("ingest", root=run.form["root"], role="train")(run))
    shards, samples, scores = (step(f"check_{s}", night("check", suite=s)) for s in ("shards", "samples", "scores"))
    plan = step("plan", night("plan", "score", rater="nightly", json=True), returns="slots")
    ingest >> step("find_duplicates", lambda _run: alchemist("duplicates", "find"))
    ingest >> shards >> samples >> plan >> (scored := device_step("score", score, over=plan.output))
    scored >> scores >> step("drift", night("drift")) >> step("publish", night("publish", "night"))


nightly_rescore()
