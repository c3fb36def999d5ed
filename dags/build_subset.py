"""Draw a subset version from what is scored, check it and publish it.

    preview → select → check_subset → materialize → approve → publish
    check_subset → approve
    check_subset → publish

Safe to re-run: yes, the same form gives the same members. A dry run ends after the preview; tars and a question only if asked for.
Runbook: infra/RUNBOOK.md#build_subset
"""

from airflow.sdk import Asset, dag
from commands import alchemist
from jobs import form, step
from people import COMMON, approve

ONLY_WHAT_RAN = "none_failed_min_one_success"


def name(run):
    of = f"{run.form['dataset'].replace(' ', '').replace(',', '+')}-{run.form['strategy']}"
    return run.form["name"] or f"{of}-r{100 * run.form['retention']:g}"


def spec(run):
    drawn = {field: value for field, value in run.form.items() if field not in ("materialize", "dry_run", "approve")}
    return drawn | {"name": name(run)}


def question(run):
    text = "{strategy}, {retention} of {dataset}, seed {seed}. Members: the log of `select`."
    return f"Publish subset {name(run)}?", text.format(**run.form)


@dag(
    schedule=None,
    params=form("build_subset"),
    doc_md=__doc__,
    max_active_runs=4,
    tags=["alchemist", "subset"],
    **COMMON,
)
def build_subset():
    preview = step("preview", lambda run: alchemist("select", dry_run=True, **spec(run)))
    select = step("select", lambda run: alchemist("select", **spec(run)), when=lambda run: not run.form["dry_run"])
    checked = step("check_subset", lambda run: alchemist("check", suite="subset", subset=name(run), newest=True))
    materialize = step(
        "materialize",
        lambda run: alchemist("materialize", subset=name(run), newest=True),
        when=lambda run: run.form["materialize"],
    )
    asked = approve("approve", ask=question, when=lambda run: run.form["approve"], trigger_rule=ONLY_WHAT_RAN)
    options = {"outlets": [Asset("alchemist://subsets")], "trigger_rule": ONLY_WHAT_RAN}
    publish = step("publish", lambda run: alchemist("subset", "publish", operand=name(run)), **options)
    preview >> select >> checked >> materialize >> asked >> publish
    checked >> [asked, publish]


build_subset()
