"""The demo: run the whole platform on this machine with a synthetic corpus, and compare subset, random and full training."""

from pathlib import Path

from pydantic import Field

from alchemist_core.config import Command, Config
from alchemist_core.files import artifact_path
from alchemist_core.local.demo import DATASET, Arm, Demo, comparison_table
from alchemist_core.local.scenes import ScenesConfig
from alchemist_core.settings import load_settings
from alchemist_core.stages.ingest import IngestConfig
from alchemist_core.stages.ingest import run as ingest
from alchemist_core.store.engine import open_store
from alchemist_core.store.models import models_to_compare, newest_protocol, read_evaluations
from alchemist_core.store.subsets import list_subsets, rater_of_subset
from alchemist_core.telemetry import say

QUERIES = (
    "select * from alchemist.nightly_overview",
    "select name, version, n_samples, subset_heldout_loss, random_heldout_loss from alchemist.subset_overview",
    "select * from alchemist.sample_history where sample_id = 1",
)


class DemoConfig(Config):
    """Size of the demo."""

    seeds: str = Field(
        "0", pattern=r"^[0-9]+(,[0-9]+)*$", description="Seeds of the compared models, separated by commas"
    )
    scenes: ScenesConfig = Field(default_factory=ScenesConfig, description="The synthetic corpus")


def run(config: DemoConfig) -> None:
    """Run the platform through Airflow and print the comparison."""
    demo = Demo(load_settings().home.resolve(), config.scenes, seeds=config.seeds)
    status = demo.prepare(_register)
    demo.drive()
    arms = read_arms({int(seed) for seed in config.seeds.split(",")})
    path = demo.write(arms)
    say("\n" + comparison_table(arms))
    _say_paths(demo.home, path)
    say("\nThree queries to try:")
    for query in QUERIES:
        say(f"  alchemist db psql -c '{query}'")
    say(f"\n{status.describe()}\n\nThe stack is still running. To stop it: alchemist stack down")


def read_arms(seeds: set[int]) -> list[Arm]:
    """Return the measured arms of every published subset, each with the model of the full corpus."""
    engine, arms = open_store(), []
    for subset in list_subsets(engine, state="published"):
        trained = [
            model.model_id
            for model in models_to_compare(engine, subset.subset_id, rater_of_subset(engine, subset).name)
        ]
        protocol_id = newest_protocol(engine, trained, metric="heldout_loss")
        rows = read_evaluations(engine, trained, protocol_id) if protocol_id else ()
        arms += [
            Arm(row.arm, subset.retention, row.seed, row.n_samples, row.n_steps, row.value)
            for row in rows
            if row.seed in seeds
        ]
    return arms


def _register(name: str, root: Path, role: str) -> None:
    ingest(IngestConfig.model_validate({"dataset": name, "root": str(root.resolve()), "role": role}))


def _say_paths(home: Path, demo_json: Path) -> None:
    say("\nFiles:")
    for title, path in (
        ("corpus", home / "corpora" / DATASET),
        ("materialized datasets", artifact_path("materialized")),
        ("figures", demo_json),
        ("report", artifact_path(f"reports/{DATASET}.html")),
    ):
        say(f"  {title}: {path}")


COMMANDS = {"": Command(DemoConfig, run)}
