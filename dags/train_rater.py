"""Train a rater for a validation dataset, score the pool with it, and make it the production rater.

    train_rater → certify → plan → score → promote → check_scores → publish

Safe to re-run: yes, the same form finds the same rater, and a killed training goes on from its last checkpoint.
To train weekly, give the DAG a schedule and its form the defaults.
Runbook: infra/RUNBOOK.md#train_rater
"""

import json

from airflow.sdk import Param, dag, task
from commands import alchemist
from forms import FORMS

NEWEST = "newest"  # the rater that this run has trained


@dag(
    schedule=None,
    params={name: Param(**field) for name, field in FORMS["train_rater"].items()},
    doc_md=__doc__,
    catchup=False,
    max_active_runs=1,
    tags=["alchemist", "rater"],
)
def train_rater():
    @task.bash(task_id="train_rater", do_xcom_push=False, pool="gpu")
    def train(params):
        return alchemist("train-rater", **params)

    @task.bash(do_xcom_push=False)
    def certify():
        return alchemist("certify", rater=NEWEST)

    @task.bash(output_processor=lambda line: json.loads(line)["slots"])
    def plan(params):
        return alchemist("plan", "score", dataset=params["dataset"], rater=NEWEST, json=True)

    @task.bash(do_xcom_push=False, pool="gpu")
    def score(slot, params):
        return alchemist("score", dataset=params["dataset"], rater=NEWEST, slot=slot)

    @task.bash(do_xcom_push=False)
    def promote():
        return alchemist("promote", rater=NEWEST)

    @task.bash(do_xcom_push=False)
    def check_scores(params):
        return alchemist("check", suite="scores", dataset=params["dataset"])

    @task.bash(do_xcom_push=False)
    def publish(params):
        return alchemist("publish", "night", dataset=params["dataset"])

    train() >> certify() >> (slots := plan())
    score.expand(slot=slots) >> promote() >> check_scores() >> publish()


train_rater()
