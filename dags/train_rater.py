"""Train a rater for a validation dataset, score the pool with it, and make it the production rater.

    train_rater → certify → plan → score → plan_promote → approve → promote → check_scores → publish

Safe to re-run: yes, a killed training goes on from its last checkpoint. The first rater of a store needs no approval.
Weekly: ALCHEMIST_TRAIN_WEEKLY='{"dataset": "web", "validation": "goal"}' gives the form's defaults.
Runbook: infra/RUNBOOK.md#train_rater
"""

import json
import os

from airflow.sdk import dag, task
from commands import alchemist
from jobs import form, job, listing, step
from people import COMMON, approve

NEWEST = "newest"  # the rater that this run has trained; a week later, when a person has agreed, it may be another's
WEEKLY = json.loads(os.environ.get("ALCHEMIST_TRAIN_WEEKLY", "{}"))


def needs_approval(context):
    return context["ti"].xcom_pull(task_ids="plan_promote")["is_approval_needed"]


@dag(
    schedule="0 8 * * SUN" if WEEKLY else None,
    params=form("train_rater", **WEEKLY),
    doc_md=__doc__,
    max_active_runs=1,
    tags=["alchemist", "rater"],
    **COMMON,
)
def train_rater():
    @job(task_id="train_rater")
    def train(params):
        return alchemist("train-rater", **params)

    @job()
    def score(slot, params):
        return alchemist("score", dataset=params["dataset"], rater=NEWEST, slot=slot)

    @task.bash(do_xcom_push=False, trigger_rule="none_failed")
    def promote(ti):
        return alchemist("promote", rater=ti.xcom_pull(task_ids="plan_promote")["rater"])

    def of_dataset(*words, **flags):
        return lambda params: alchemist(*words, dataset=params["dataset"], **flags)

    slots = listing("plan", of_dataset("plan", "score", rater=NEWEST, json=True), "slots")
    plan_promote = listing("plan_promote", lambda _: alchemist("plan", "promote", rater=NEWEST, json=True))
    question = "{{ ti.xcom_pull(task_ids='plan_promote')['question'] }}"
    approval = approve("approve", subject="Promote the new rater?", body=question, is_needed=needs_approval)
    checked = step("check_scores", of_dataset("check", suite="scores"))
    train() >> step("certify", lambda _: alchemist("certify", rater=NEWEST)) >> slots
    score.expand(slot=slots) >> plan_promote >> approval >> promote() >> checked
    checked >> step("publish", of_dataset("publish", "night"))


train_rater()
