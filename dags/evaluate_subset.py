"""Train the same model on each new subset and on its control arms, and compare.

    plan → train_downstream → evaluate → check_evaluation → report
    plan → evaluate
    plan → check_evaluation

Starts when a subset is published. Which subsets wait is asked of the store, so two published at once need not both
be announced; when none waits, the report is still made.
ALCHEMIST_EVALUATE='{"seeds": "0,1,2,3,4"}' gives the form's defaults, which is all that a published subset can be asked.
Safe to re-run: yes, a trained arm and a measured value are found again.
Runbook: infra/RUNBOOK.md#evaluate_subset
"""

import json
import os

from airflow.sdk import Asset, dag, task
from commands import alchemist
from jobs import form, job, listing, step
from people import COMMON

DEFAULTS = json.loads(os.environ.get("ALCHEMIST_EVALUATE", "{}"))


@dag(
    schedule=[Asset("alchemist://subsets")],
    params=form("evaluate_subset", **DEFAULTS),
    doc_md=__doc__,
    max_active_runs=1,
    tags=["alchemist", "subset"],
    **COMMON,
)
def evaluate_subset():
    def wanted(params):
        return {name: params[name] for name in ("evaluation", "arms", "seeds")}

    @job()
    def train_downstream(subset, params):
        arms = {name: params[name] for name in ("arms", "seeds", "truth")}
        return alchemist("train-downstream", subset=subset, **arms)

    @job()
    def evaluate(subset, params):
        return alchemist("evaluate", subset=subset, evaluation=params["evaluation"])

    @task.bash(do_xcom_push=False)
    def check_evaluation(subset):
        return alchemist("check", suite="evaluation", subset=subset)

    subsets = listing("plan", lambda params: alchemist("plan", "evaluate", json=True, **wanted(params)), "subsets")
    report = step("report", lambda params: alchemist("report", dataset=params["dataset"]), trigger_rule="none_failed")
    measured = train_downstream.expand(subset=subsets) >> evaluate.expand(subset=subsets)
    measured >> check_evaluation.expand(subset=subsets) >> report


evaluate_subset()
