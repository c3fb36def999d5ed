"""Train the same model on each new subset and on its control arms, and compare them.

    plan → train_downstream → evaluate → check_evaluation → report
    plan → evaluate
    plan → check_evaluation

Starts when build_subset publishes a version. `plan` queries the store for all subsets without an evaluation, so one run can evaluate
several. If there are none, the run only writes the report. An empty field of the form means what the project file says: it declares the
model that is trained and the protocols under which it is measured.
Safe to re-run: yes, trained models and stored values are reused.
Runbook: alchemist docs runbook#evaluate_subset (in the repository: infra/RUNBOOK.md#evaluate_subset)
"""

from airflow.sdk import dag

from alchemist_dags.assets import SUBSETS
from alchemist_dags.commands import alchemist
from alchemist_dags.jobs import device_step, form, mapped_step, step
from alchemist_dags.people import COMMON
from alchemist_dags.schedules import EVALUATE_PUBLISHED

COMPARED = ("arms", "seeds")
MODEL = (
    "preset",
    "text_encoder",
    "method",
    "base_model",
    "flux_components",
    "num_train_epochs",
    "max_train_steps",
    "truth",
)
MEASURED = ("evaluation", "protocol")


def chosen(run, *names):
    return {name: run.form[name] for name in names}


@dag(
    schedule=[SUBSETS] if EVALUATE_PUBLISHED else None,
    params=form("evaluate_subset"),
    doc_md=__doc__,
    max_active_runs=1,
    tags=["alchemist", "subset"],
    **COMMON,
)
def evaluate_subset():
    def waiting(run):
        return alchemist("plan", "evaluate", json=True, **chosen(run, *MEASURED, *COMPARED))

    def of_version(run, word, **flags):
        return alchemist(word, operand=run.item["subset"], version=run.item["version"], **flags)

    def train(run):
        return of_version(run, "train-downstream", **chosen(run, *MODEL, *COMPARED))

    def measure(run):
        return of_version(run, "evaluate", **chosen(run, *MEASURED))

    def check(run):
        return alchemist("check", suite="evaluation", **run.item)

    # Name and version: another version may be published while the models of this one are trained.
    subsets = step("plan", waiting, returns="versions").output
    late = {"trigger_rule": "all_done"}  # a subset that fails does not stop the others; the run ends as failed
    train_downstream = device_step("train_downstream", train, over=subsets, is_training=True)
    evaluate = device_step("evaluate", measure, over=subsets, needs=("train_downstream",), **late)
    checked = mapped_step("check_evaluation", check, over=subsets, needs=("evaluate",), **late)
    report = step("report", lambda run: alchemist("report", **chosen(run, "dataset")), closes=True, **late)
    train_downstream >> evaluate >> checked >> report


evaluate_subset()
