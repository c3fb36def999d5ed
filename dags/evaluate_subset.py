"""Train the same model on each new subset and on its control arms, and compare.

    plan → train_downstream → evaluate → report
    plan → evaluate

Starts when a subset is published. Which subsets wait is asked of the store, so two published at once need not both
be announced; when none waits, the report is still made.
Safe to re-run: yes, a trained arm and a measured value are found again.
Runbook: infra/RUNBOOK.md#evaluate_subset
"""

import json

from airflow.sdk import Asset, Param, dag, task
from commands import alchemist
from forms import FORMS


@dag(
    schedule=[Asset("alchemist://subsets")],
    params={name: Param(**field) for name, field in FORMS["evaluate_subset"].items()},
    doc_md=__doc__,
    catchup=False,
    max_active_runs=1,
    tags=["alchemist", "subset"],
)
def evaluate_subset():
    @task.bash(output_processor=lambda line: json.loads(line)["subsets"])
    def plan(params):
        return alchemist(
            "plan", "evaluate", json=True, **{name: params[name] for name in ("evaluation", "arms", "seeds")}
        )

    @task.bash(do_xcom_push=False, pool="gpu")
    def train_downstream(subset, params):
        return alchemist(
            "train-downstream", subset=subset, arms=params["arms"], seeds=params["seeds"], truth=params["truth"]
        )

    @task.bash(do_xcom_push=False, pool="gpu")
    def evaluate(subset, params):
        return alchemist("evaluate", subset=subset, evaluation=params["evaluation"])

    @task.bash(do_xcom_push=False, trigger_rule="none_failed")
    def report(params):
        return alchemist("report", dataset=params["dataset"])

    subsets = plan()
    train_downstream.expand(subset=subsets) >> evaluate.expand(subset=subsets) >> report()


evaluate_subset()
