"""Ingest, check and score the newest crawl of each dataset, so that samples can be selected from it.

    plan_night → ingest → check_shards → check_samples → plan → score → check_scores → drift → publish → announce → summary
    ingest → find_duplicates → summary
    check_shards → check_scores
    check_samples → check_scores
    plan_night → summary
    ingest → summary
    plan → summary
    score → summary
    publish → summary

A night is one crawl date of one dataset; missed ones and those with late shards are taken too. Each is a mapped task: one that fails does
not stop the others. One that fails a check or drifts waits for `alchemist night release`. `summary` fails the run if any task failed.
Safe to re-run: yes, every task skips finished work. Without a production rater nothing is scored. Shadow raters score too.
Runbook: alchemist docs runbook#nightly_rescore (in the repository: infra/RUNBOOK.md#nightly_rescore)
"""

from airflow.sdk import CronPartitionTimetable, dag

from alchemist_dags.assets import announce_nights
from alchemist_dags.commands import alchemist
from alchemist_dags.jobs import CommandFailed, cron, device_step, form, mapped_step, step
from alchemist_dags.people import COMMON

LATE = {"trigger_rule": "all_done"}  # runs after all upstream tasks, failed or not


@dag(
    schedule=cron(
        "nightly_rescore", CronPartitionTimetable, run_offset=-1, key_format="%Y-%m-%d", run_immediately=False
    ),
    params=form("nightly_rescore"),
    doc_md=__doc__,
    max_active_runs=1,
    tags=["alchemist", "nightly"],
    **COMMON,
)
def nightly_rescore():
    def night(*words, **flags):
        return lambda run: alchemist(*words, **flags, **run.item)

    def names(run):
        return ",".join(f"{one['dataset']}:{one['crawl_date']}" for one in run.result_of("plan_night") or ())

    def each(task_id, line, rule="all_done", **options):
        return mapped_step(task_id, line, over=nights, trigger_rule=rule, **options)

    def of_form(run):
        if run.form["root"] and not run.form["dataset"]:
            raise CommandFailed("Root requires Dataset: name the dataset that these shards belong to.", 2)
        return alchemist("plan", "night", json=True, dataset=run.form["dataset"], crawl_date=run.day)

    def waiting(run):
        return alchemist("plan", "score", rater="nightly", json=True, nights=names(run), crawl_date=run.day)

    # After Clear of a failed ingest alone, the tasks after it are green, although they have not seen what it ingested.
    def outcome(run):
        return alchemist("night", "list", nights=names(run), require_scored=not run.unsuccessful() or None)

    nights = (planned := step("plan_night", of_form, returns="nights")).output
    ingest = each("ingest", lambda run: night("ingest", root=run.form["root"], undated=run.is_own_night)(run), "all_success")  # fmt: skip
    shards, samples = (each(f"check_{suite}", night("check", suite=suite)) for suite in ("shards", "samples"))
    # `plan score` without nights would plan every unscored shard, including those of nights that a check stopped.
    plan = step("plan", waiting, returns="work", when=lambda run: run.result_of("plan_night") is not None, **LATE)
    score = device_step("score", night("score", rater="nightly"), over=plan.output, priority_weight=30, **LATE)
    # A night that a check stopped is not scored, so the check of its scores is not run and does not fail too.
    scores = each("check_scores", night("check", suite="scores"), needs=("check_shards", "check_samples"))
    drift = each("drift", night("night", "check-drift"), needs=("check_scores",))
    publish = each("publish", night("night", "publish"), needs=("drift",))
    announce = announce_nights("announce", lambda _run: alchemist("night", "announce", json=True), **LATE)
    summary = step("summary", outcome, closes=True, **LATE)
    planned >> ingest >> shards >> samples >> plan >> score >> scores >> drift >> publish >> announce >> summary
    ingest >> step("find_duplicates", lambda _run: alchemist("duplicates", "find"), **LATE) >> summary
    # Clear with "only failed" leaves tasks between two failed ones green: a task waits for all whose failure makes it fail.
    [shards, samples] >> scores
    [planned, ingest, plan, score, publish] >> summary


nightly_rescore()
