"""Delete data that is no longer needed, and recount the ledger.

    collect_subsets → complete_takedowns → remove_orphans
    remove_leases
    announce_nights
    forget_old_checks → refresh_statistics
    recount_ledger
    clean_airflow
    remove_logs

Safe to re-run: yes. Published versions, those that a rollback returns to, those that a model was trained on, and live leases stay.
A takedown is complete when no published version and no materialized tar holds the image.
Runbook: alchemist docs runbook#maintenance (in the repository: infra/RUNBOOK.md#maintenance)
"""

from airflow.sdk import dag

from alchemist_dags.assets import announce_nights
from alchemist_dags.commands import alchemist
from alchemist_dags.jobs import cron, step
from alchemist_dags.people import COMMON


@dag(
    schedule=cron("maintenance"),
    doc_md=__doc__,
    max_active_runs=1,
    tags=["alchemist", "maintenance"],
    **COMMON,
)
def maintenance():
    def run(task_id, *words, **flags):
        return step(task_id, lambda _run: alchemist(*words, **flags))

    (
        run("collect_subsets", "subset", "gc", no_dry_run=True)
        >> run("complete_takedowns", "maintain", "takedowns")
        >> run("remove_orphans", "maintain", "embeddings")
    )
    # Nights that a person released since the last night.
    announce_nights("announce_nights", lambda _run: alchemist("night", "announce", json=True))
    run("remove_leases", "maintain", "leases")
    run("forget_old_checks", "maintain", "retention") >> run("refresh_statistics", "maintain", "statistics")
    run("recount_ledger", "check", suite="scores")
    run("clean_airflow", "maintain", "airflow")
    run("remove_logs", "maintain", "logs")


maintenance()
