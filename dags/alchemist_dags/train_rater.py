"""Train a rater for a validation dataset, score the corpus with it, and make it the production rater.

    train_rater → certify → plan → score → plan_promote → approve → promote → check_scores → publish → announce

An empty field of the form means what the project file says; `[schedule] train` starts runs with the values of the file.
Safe to re-run: yes, a killed training resumes from its last checkpoint. The first rater of a store needs no approval.
Runbook: infra/RUNBOOK.md#train_rater
"""

from airflow.sdk import dag

from alchemist_dags.assets import RATERS, announce_nights, updating_step
from alchemist_dags.commands import alchemist
from alchemist_dags.jobs import cron, device_step, form, step
from alchemist_dags.people import COMMON, answered, approve

NEWEST = "newest"  # the rater that this run trained; plan_promote stores its name, because approval may take a week


@dag(
    schedule=cron("train_rater"),
    params=form("train_rater"),
    doc_md=__doc__,
    max_active_runs=1,
    tags=["alchemist", "rater"],
    **COMMON,
)
def train_rater():
    def of_dataset(*words, **flags):
        return lambda run: alchemist(*words, dataset=run.result_of("certify"), **flags)

    def rater_of(run):
        return {"rater": run.result_of("plan_promote")["rater"]}

    def promote(run):
        return alchemist("rater", "promote", operand=rater_of(run)["rater"], **answered(run.result_of("approve")))

    def trained(run):
        return alchemist("train-rater", **run.form)

    train = device_step("train_rater", trained, priority_weight=20, is_training=True)
    # Returns the dataset, which the form may have left to the project file.
    certified = alchemist("rater", "certify", operand=NEWEST, json=True)
    certify = step("certify", lambda _run: certified, returns="dataset")
    plan = step("plan", of_dataset("plan", "score", rater=NEWEST, json=True), returns="slots")
    score = device_step(
        "score", lambda run: of_dataset("score", rater=NEWEST, slot=run.item)(run), over=plan.output, priority_weight=20
    )
    plan_promote = step(
        "plan_promote", lambda _run: alchemist("plan", "promote", operand=NEWEST, json=True), returns=""
    )
    approval = approve(
        "approve",
        ask=lambda run: ("Promote the new rater?", run.result_of("plan_promote")["question"]),
        when=lambda run: run.result_of("plan_promote")["is_approval_needed"],
    )
    updates = {"outlets": [RATERS], "updates": lambda run, _: [(RATERS, None, rater_of(run))]}
    promoted = updating_step("promote", promote, trigger_rule="none_failed", **updates)
    checked = step("check_scores", of_dataset("check", suite="scores"))
    train >> certify >> plan >> score >> plan_promote >> approval >> promoted >> checked
    announce = announce_nights("announce", lambda _run: alchemist("night", "announce", json=True))
    checked >> step("publish", of_dataset("night", "publish")) >> announce


train_rater()
