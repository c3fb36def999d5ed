"""Train a rater for a validation dataset, score the corpus with it, and make it the production rater.

    train_rater → find_rater → certify → plan → score → plan_promote → approve → promote → check_scores → publish → announce

An empty field of the form means what the project file says; `[schedule] train` starts runs with the values of the file.
Safe to re-run: yes, a killed training resumes from its last checkpoint. The first rater of a store needs no approval.
Runbook: alchemist docs runbook#train_rater (in the repository: infra/RUNBOOK.md#train_rater)
"""

from airflow.sdk import dag

from alchemist_dags.assets import RATERS, announce_nights, updating_step
from alchemist_dags.commands import alchemist
from alchemist_dags.jobs import as_flags, cron, device_step, form, step
from alchemist_dags.people import COMMON, approve


def question(run):
    plan = run.result_of("plan_promote")
    return plan["rater"], f"Promote rater {plan['rater']}?", plan["question"]


@dag(
    schedule=cron("train_rater"),
    params=form("train_rater"),
    doc_md=__doc__,
    max_active_runs=1,
    tags=["alchemist", "rater"],
    **COMMON,
)
def train_rater():
    def found(run):
        return as_flags(run.result_of("find_rater"), "rater", "dataset")

    def of_rater(*words, **flags):
        return lambda run: alchemist(*words, operand=found(run)["rater"], **flags)

    def of_dataset(*words, **flags):
        return lambda run: alchemist(*words, dataset=found(run)["dataset"], **flags)

    def trained(run):
        return alchemist("train-rater", **run.form)

    train = device_step("train_rater", trained, priority_weight=20, is_training=True)
    # In an Airflow run that trained a rater, `newest` is that rater, even if another one was trained meanwhile. Its dataset may be
    # that of the project file.
    newest = alchemist("plan", "promote", operand="newest", json=True)
    find = step("find_rater", lambda _run: newest, returns=("rater", "dataset"))
    certify = device_step("certify", of_rater("rater", "certify"), priority_weight=20)
    plan = step("plan", lambda run: alchemist("plan", "score", json=True, **found(run)), returns="slots")
    scored = {"over": plan.output, "priority_weight": 20}
    score = device_step("score", lambda run: alchemist("score", slot=run.item, **found(run)), **scored)
    plan_promote = step("plan_promote", of_rater("plan", "promote", json=True), returns="")
    approval = approve(
        "approve",
        ask=question,
        when=lambda run: run.result_of("plan_promote")["is_approval_needed"],
    )
    updates = {"outlets": [RATERS], "updates": lambda run, _: [(RATERS, None, {"rater": found(run)["rater"]})]}
    # The command reads the answer from the store and decides if it needs one: a user may mark a task as successful, or edit results.
    promote = of_rater("rater", "promote", approval="train_rater.approve")
    promoted = updating_step("promote", promote, trigger_rule="none_failed", **updates)
    checked = step("check_scores", of_dataset("check", suite="scores"))
    train >> find >> certify >> plan >> score >> plan_promote >> approval >> promoted >> checked
    announce = announce_nights("announce", lambda _run: alchemist("night", "announce", json=True), closes=True)
    checked >> step("publish", of_dataset("night", "publish")) >> announce


train_rater()
