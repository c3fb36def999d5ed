"""Draw a subset version from what is scored, check it and publish it.

    preview → select → check_subset → materialize → approve → publish
    check_subset → approve
    check_subset → publish

Safe to re-run: yes, the same form gives the same members. A dry run ends after the preview; tars and a question only if asked for.
Runbook: infra/RUNBOOK.md#build_subset
"""

from airflow.sdk import Asset, dag, task
from commands import alchemist
from jobs import form, step
from people import COMMON, approve

ONLY_WHAT_RAN = "none_failed_min_one_success"
QUESTION = "{{ params.strategy }}, {{ params.retention }} of {{ params.dataset }}, seed {{ params.seed }}. Members: the log of `select`."


def name(params):
    of = f"{params['dataset'].replace(' ', '').replace(',', '+')}-{params['strategy']}"
    return params["name"] or f"{of}-r{100 * params['retention']:g}"


def spec(params):
    drawn = {field: params[field] for field in params if field not in ("materialize", "dry_run", "approve")}
    return drawn | {"name": name(params)}


@dag(
    schedule=None,
    params=form("build_subset"),
    doc_md=__doc__,
    max_active_runs=4,
    tags=["alchemist", "subset"],
    **COMMON,
)
def build_subset():
    @task.skip_if(lambda context: context["params"]["dry_run"], "a dry run ends after the preview")
    @task.bash(do_xcom_push=False)
    def select(params):
        return alchemist("select", **spec(params))

    @task.skip_if(lambda context: not context["params"]["materialize"], "tars were not asked for")
    @task.bash(do_xcom_push=False)
    def materialize(params):
        return alchemist("materialize", subset=name(params), newest=True)

    preview = step("preview", lambda params: alchemist("select", dry_run=True, **spec(params)))
    checked = step("check_subset", lambda params: alchemist("check", suite="subset", subset=name(params)))
    when = {"is_needed": lambda context: context["params"]["approve"], "trigger_rule": ONLY_WHAT_RAN}
    asked = approve("approve", subject="Publish subset {{ params.name or params.dataset }}?", body=QUESTION, **when)
    options = {"outlets": [Asset("alchemist://subsets")], "trigger_rule": ONLY_WHAT_RAN}
    publish = step("publish", lambda params: alchemist("subset", "publish", name(params)), **options)
    preview >> select() >> checked >> materialize() >> asked >> publish
    checked >> [asked, publish]


build_subset()
