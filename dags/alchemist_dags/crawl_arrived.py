"""Start the night of a crawl as soon as its crawler reports it.

    arrived → start_nights

Starts when a DAG of your crawler updates the asset `alchemist://crawl/DATASET` with the crawl date as its partition, for each training
dataset of the project file. Runs of nightly_rescore wait for each other, and the nightly schedule skips what is done.
Safe to re-run: yes, a night that is done is skipped.
Runbook: alchemist docs runbook#crawl_arrived (in the repository: infra/RUNBOOK.md#crawl_arrived)
"""

from airflow.sdk import dag

from alchemist_dags.assets import arrival_of_a_crawl, arrived_crawls, start_nights
from alchemist_dags.people import COMMON


@dag(
    schedule=arrival_of_a_crawl(),
    doc_md=__doc__,
    max_active_runs=4,
    tags=["alchemist", "nightly"],
    **COMMON,
)
def crawl_arrived():
    arrived = arrived_crawls("arrived")
    arrived >> start_nights("start_nights", over=arrived.output)


crawl_arrived()
