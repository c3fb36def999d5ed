"""Select a subset version from the scored samples, check it and publish it.

    preview → select → check_subset → materialize → plan_publish → approve → publish
    check_subset → plan_publish
    check_subset → publish

Safe to re-run: yes, the same form gives the same members. A dry run ends after the preview. The form can skip materialize and approve.
Runbook: infra/RUNBOOK.md#build_subset
"""

from airflow.sdk import Asset, dag

from alchemist_dags.commands import alchemist
from alchemist_dags.jobs import form, step
from alchemist_dags.people import COMMON, answered, approve

ONLY_WHAT_RAN = "none_failed_min_one_success"


def name(run):
    of = f"{run.form['dataset'].replace(' ', '').replace(',', '+')}-{run.form['strategy']}"
    return run.form["name"] or f"{of}-r{100 * run.form['retention']:g}"


def spec(run):
    drawn = {field: value for field, value in run.form.items() if field not in ("materialize", "dry_run", "approve")}
    return drawn | {"name": name(run)}


def question(run):
    return f"Publish subset {name(run)}?", run.result_of("plan_publish")["question"]


@dag(
    schedule=None,
    params=form("build_subset"),
    doc_md=__doc__,
    max_active_runs=4,
    tags=["alchemist", "subset"],
    **COMMON,
)
def build_subset():
    def selected(run):
        return {"version": run.result_of("select")}

    def publish_what_was_asked(run):
        return alchemist("subset", "publish", operand=name(run), **selected(run), **answered(run.result_of("approve")))

    preview = step("preview", lambda run: alchemist("select", dry_run=True, **spec(run)))
    wanted = {"when": lambda run: not run.form["dry_run"], "returns": "version"}
    select = step("select", lambda run: alchemist("select", json=True, **spec(run)), **wanted)
    checked = step("check_subset", lambda run: alchemist("check", suite="subset", subset=name(run), **selected(run)))
    copy = {"when": lambda run: run.form["materialize"]}
    materialize = step("materialize", lambda run: alchemist("materialize", operand=name(run), **selected(run)), **copy)
    asks = {"when": lambda run: run.form["approve"], "trigger_rule": ONLY_WHAT_RAN, "returns": ""}
    plan_publish = step(
        "plan_publish", lambda run: alchemist("plan", "publish", operand=name(run), json=True, **selected(run)), **asks
    )
    then = {"outlets": [Asset("alchemist://subsets")], "trigger_rule": ONLY_WHAT_RAN}
    publish = step("publish", publish_what_was_asked, **then)
    preview >> select >> checked >> materialize >> plan_publish >> approve("approve", ask=question) >> publish
    checked >> [plan_publish, publish]


build_subset()
