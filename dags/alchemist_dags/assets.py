"""The assets of Alchemist. Other DAGs subscribe to them by these addresses, and crawlers update the first one.

| asset | partition | extra | updated |
| --- | --- | --- | --- |
| `alchemist://crawl/DATASET` | crawl date | | by the DAG of your crawler: starts the night |
| `alchemist://nights/DATASET` | crawl date | dataset, rater | when a night becomes selectable |
| `alchemist://raters` | | rater | when train_rater promotes a rater |
| `alchemist://subsets` | | name, version | when build_subset publishes a version |

A crawl date is YYYY-MM-DD. In an address, a `+` of a dataset's name is written `%2B`.
"""

from datetime import date
from urllib.parse import quote, unquote

from airflow.sdk import Asset, AssetAny, BaseOperator, PartitionedAssetTimetable
from airflow.sdk.exceptions import DagRunTriggerException

from alchemist_dags.jobs import LIGHT, CommandFailed, CommandTask, Run
from alchemist_dags.schedules import DATASETS

CRAWL, NIGHTS = "alchemist://crawl/", "alchemist://nights/"
RATERS, SUBSETS = Asset("alchemist://raters"), Asset("alchemist://subsets")


def of_dataset(kind, dataset):
    """Return the asset of one dataset: its crawl or its nights."""
    return Asset(f"{kind}{quote(dataset, safe='')}")


def arrival_of_a_crawl():
    """Return the timetable of a DAG that starts when the crawl of any dataset of the project file is updated; None without datasets."""
    crawls = [of_dataset(CRAWL, name) for name in DATASETS]
    return PartitionedAssetTimetable(assets=AssetAny(*crawls)) if crawls else None


class UpdatingTask(CommandTask):
    """Run a command, then update assets: `updates(run, result)` returns each with its partition (or None) and its extra.

    Airflow sends an event for each of a task's outlets. The declared ones show in its graph of assets; only those are sent that the
    command did update.
    """

    def __init__(self, *, updates, **options):
        super().__init__(**options)
        self.updates = updates

    def execute(self, context):
        """Run the command, and attach partition and extra to the events, which Airflow sends when the task has succeeded."""
        result = super().execute(context)
        updates = self.updates(Run.of(context), result)
        # Airflow reads the outlets after the task has run.
        self.outlets = list({asset.uri: asset for asset, _, _ in updates}.values())
        for asset, partition, extra in updates:
            event = context["outlet_events"][asset]
            event.extra.update(extra)
            if partition is not None:
                event.add_partitions(partition)
        return result


def updating_step(task_id, line, *, updates, **options):
    """Return a task that runs on the Airflow worker and updates assets."""
    return UpdatingTask(task_id=task_id, line=line, queue=LIGHT, updates=updates, **options)


def announce_nights(task_id, line, **options):
    """Return a task whose command prints the nights that became selectable, and that updates their assets."""
    outlets = [of_dataset(NIGHTS, name) for name in DATASETS]
    return updating_step(task_id, line, updates=_selectable, returns="nights", outlets=outlets, **options)


def _selectable(_run, nights):
    return [
        (of_dataset(NIGHTS, one["dataset"]), one["crawl_date"], {"dataset": one["dataset"], "rater": one["rater"]})
        for one in nights
    ]


class ArrivedCrawls(BaseOperator):
    """Return the night of each crawl whose update started this run."""

    template_fields = ()

    def execute(self, context):
        """Read the datasets from the updates, and the crawl date from the partition of the run."""
        day = context["dag_run"].partition_key or ""
        try:
            date.fromisoformat(day)
        except ValueError:
            reason = f"The partition of the crawl is {day!r}, which is not a date. Update its asset with a partition such as 2026-01-31."
            raise CommandFailed(reason, 2) from None
        uris = {asset.uri for asset in context["triggering_asset_events"]}
        names = sorted(unquote(uri.removeprefix(CRAWL)) for uri in uris if uri.startswith(CRAWL))
        return [{"dataset": name, "crawl_date": day} for name in names]


class StartNight(BaseOperator):
    """Start nightly_rescore for one dataset and crawl date; a retry finds the run that was started."""

    template_fields = ()

    def __init__(self, *, item=None, **options):
        super().__init__(**options)
        self.item = item

    def execute(self, context):
        """Start the run. Airflow starts it for the exception, as for its own TriggerDagRunOperator, which renders its fields."""
        one = context["ti"]
        raise DagRunTriggerException(
            trigger_dag_id="nightly_rescore", dag_run_id=f"crawl_{one.map_index}__{one.run_id}", conf=dict(self.item),
            logical_date=None, reset_dag_run=False, skip_when_already_exists=True, wait_for_completion=False,
            allowed_states=[], failed_states=[], poke_interval=60, deferrable=False,
        )  # fmt: skip


def arrived_crawls(task_id):
    """Return a task that lists the nights of the crawls that arrived."""
    return ArrivedCrawls(task_id=task_id, queue=LIGHT)


def start_nights(task_id, *, over):
    """Return a mapped task that starts the night of each item."""
    return StartNight.partial(task_id=task_id, queue=LIGHT, do_xcom_push=False).expand(item=over)
