"""Draw a subset version from what is scored, check it and publish it.

    preview → select → check_subset → publish
    check_subset → materialize → publish

Safe to re-run: yes, the same form gives the same members. A dry run ends after the preview; tars are written only if asked.
Runbook: infra/RUNBOOK.md#build_subset
"""

from airflow.sdk import Asset, Param, dag, task
from commands import alchemist
from forms import FORMS


def name(params):
    dataset = params["dataset"].replace(",", "-")
    return params["name"] or f"{dataset}-{params['strategy']}-r{100 * params['retention']:g}"


def spec(params):
    drawn = {field: params[field] for field in params if field not in ("materialize", "dry_run")}
    return drawn | {"name": name(params)}


@dag(
    schedule=None,
    params={field: Param(**kind) for field, kind in FORMS["build_subset"].items()},
    doc_md=__doc__,
    catchup=False,
    max_active_runs=4,
    tags=["alchemist", "subset"],
)
def build_subset():
    @task.bash(do_xcom_push=False)
    def preview(params):
        return alchemist("select", dry_run=True, **spec(params))

    @task.skip_if(lambda context: context["params"]["dry_run"], "a dry run ends after the preview")
    @task.bash(do_xcom_push=False)
    def select(params):
        return alchemist("select", **spec(params))

    @task.bash(do_xcom_push=False)
    def check_subset(params):
        return alchemist("check", suite="subset", subset=name(params))

    @task.skip_if(lambda context: not context["params"]["materialize"], "tars were not asked for")
    @task.bash(do_xcom_push=False)
    def materialize(params):
        return alchemist("materialize", subset=name(params))

    @task.bash(do_xcom_push=False, outlets=[Asset("alchemist://subsets")], trigger_rule="none_failed_min_one_success")
    def publish(params):
        return alchemist("subset", "publish", name(params))

    preview() >> select() >> (checked := check_subset()) >> (published := publish())
    checked >> materialize() >> published


build_subset()
