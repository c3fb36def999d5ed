"""Select a subset version from the scored samples, check it and publish it.

    preview → select → check_subset → materialize → plan_publish → approve → publish
    check_subset → plan_publish
    check_subset → publish

Starts by hand only: a published subset does not follow new nights by itself.
An empty field of the form means what the project file says. A dry run ends after the preview. The form can skip materialize and approve.
Safe to re-run: yes, the same form gives the same members.
Runbook: alchemist docs runbook#build_subset (in the repository: infra/RUNBOOK.md#build_subset)
"""

from airflow.sdk import dag

from alchemist_dags.assets import SUBSETS, updating_step
from alchemist_dags.commands import alchemist
from alchemist_dags.jobs import form, step
from alchemist_dags.people import COMMON, approve

ONLY_WHAT_RAN = "none_failed_min_one_success"
SWITCHES = ("materialize", "dry_run", "approve")


def spec(run):
    return {field: value for field, value in run.form.items() if field not in SWITCHES}


def selected(run):
    """Return name and version, as `select` chose or found them."""
    return run.result_of("select")


def published(run, _result):
    """Return the update of the asset: which version was published."""
    return [(SUBSETS, None, selected(run))]


def question(run):
    plan = run.result_of("plan_publish")
    # As the command that publishes names it.
    version = f"{plan['subset']} v{plan['version']}"
    return version, f"Publish subset {version}?", plan["question"]


@dag(
    schedule=None,
    params=form("build_subset"),
    doc_md=__doc__,
    max_active_runs=4,
    tags=["alchemist", "subset"],
    **COMMON,
)
def build_subset():
    def of_selected(*words, **flags):
        return lambda run: alchemist(*words, operand=selected(run)["name"], version=selected(run)["version"], **flags)

    def publish_what_was_asked(run):
        # The command reads the answer from the store: a user may mark a task as successful, or edit its result.
        question = "build_subset.approve" if run.form["approve"] else None
        return of_selected("subset", "publish", approval=question)(run)

    def check(run):
        return alchemist("check", suite="subset", subset=selected(run)["name"], version=selected(run)["version"])

    preview = step("preview", lambda run: alchemist("select", dry_run=True, **spec(run)))
    wanted = {"when": lambda run: not run.form["dry_run"], "returns": ("name", "version")}
    select = step("select", lambda run: alchemist("select", json=True, **spec(run)), **wanted)
    checked = step("check_subset", check)
    copy = {"when": lambda run: run.form["materialize"]}
    materialize = step("materialize", of_selected("materialize"), **copy)
    asks = {"when": lambda run: run.form["approve"], "trigger_rule": ONLY_WHAT_RAN, "returns": ""}
    plan_publish = step("plan_publish", of_selected("plan", "publish", json=True), **asks)
    then = {"outlets": [SUBSETS], "updates": published, "trigger_rule": ONLY_WHAT_RAN}
    publish = updating_step("publish", publish_what_was_asked, **then)
    preview >> select >> checked >> materialize >> plan_publish >> approve("approve", ask=question) >> publish
    checked >> [plan_publish, publish]


build_subset()
