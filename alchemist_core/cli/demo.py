"""The demo: run the whole platform on this machine with a synthetic corpus, and compare subset, random and full training."""

import os
import shlex
from pathlib import Path

from pydantic import Field

from alchemist_core.cli.dags import install_for_stack
from alchemist_core.cli.effective import read_effective
from alchemist_core.config import Command, Config
from alchemist_core.errors import ConfigError
from alchemist_core.files import artifact_path
from alchemist_core.local.demo import DATASET, Arm, Demo, comparison_table
from alchemist_core.local.scenes import ScenesConfig
from alchemist_core.local.stack import describe_other_project
from alchemist_core.project import load_project
from alchemist_core.settings import PROJECT_FILE, load_settings
from alchemist_core.stages.ingest import IngestConfig
from alchemist_core.stages.ingest import run as ingest
from alchemist_core.store.engine import open_store
from alchemist_core.store.models import read_compared_models
from alchemist_core.store.snapshots import read_dataset_names
from alchemist_core.store.subsets import list_subsets
from alchemist_core.telemetry import say

QUERIES = (
    "select * from alchemist.nightly_overview",
    "select name, version, n_samples, subset_heldout_loss, random_heldout_loss from alchemist.subset_overview",
    "select * from alchemist.sample_history where sample_id = (select sample_id from alchemist.subset_samples limit 1)",
)


class DemoConfig(Config):
    """Size of the demo."""

    seeds: str = Field(
        "0", pattern=r"^[0-9]+(,[0-9]+)*$", description="Seeds of the compared models, separated by commas"
    )
    scenes: ScenesConfig = Field(default_factory=ScenesConfig, description="The synthetic corpus")


def run(config: DemoConfig) -> None:
    """Run the platform through Airflow and print the comparison.

    Raises:
        ConfigError: The home is used with other data.
    """
    demo = Demo(load_settings().home.resolve(), config.scenes, seeds=config.seeds)
    _use_project(demo.write_project(), demo.home)
    status = demo.prepare(_register, install_for_stack)
    demo.drive()
    arms = read_arms({int(seed) for seed in config.seeds.split(",")})
    path = demo.write(arms)
    say("\n" + comparison_table(arms))
    _say_paths(demo.home, path)
    say("\nThree queries to try:")
    for query in QUERIES:
        say(f"  alchemist db psql -c '{query}'")
    say(
        f"\n{status.describe()}\n\nThe stack is still running. To stop it: alchemist stack down\n"
        f"To run further commands with the demo's project file: export ALCHEMIST_PROJECT={shlex.quote(str(demo.home / PROJECT_FILE))}"
    )


def refuse_other_subsets() -> None:
    """Refuse a store in which a subset of another dataset is published: the demo would train and compare it too.

    Raises:
        ConfigError: There is such a subset.
    """
    engine = open_store()
    for subset in list_subsets(engine, state="published"):
        if others := set(read_dataset_names(engine, subset.snapshot_id)) - {DATASET}:
            raise ConfigError(
                f"{subset.title} of dataset {', '.join(sorted(others))} is published in this store, and the demo would train and compare "
                "it too. Run the demo in another home: set ALCHEMIST_HOME to a new folder."
            )


def read_arms(seeds: set[int]) -> list[Arm]:
    """Return the measured arms of every published subset, each with the model of the full corpus."""
    engine, arms = open_store(), []
    for subset in list_subsets(engine, state="published"):
        arms += [
            Arm(model.arm, subset.retention, model.seed, model.n_samples, model.n_steps, model.value)
            for model in read_compared_models(engine, subset.subset_id)
            if model.seed in seeds and model.metric == "heldout_loss"
        ]
    return arms


def _register(name: str) -> None:
    """Ingest a dataset as the project file declares it, if the store is the demo's.

    Raises:
        ConfigError: A subset of another dataset is published in the store.
    """
    refuse_other_subsets()
    config = read_effective(IngestConfig, {"verb_name": "ingest", "dataset": name}).config
    assert isinstance(config, IngestConfig), "a config is of its command's model"
    ingest(config)


def _use_project(path: Path, home: Path) -> None:
    """Let this process and what it starts use the demo's project file.

    Raises:
        ConfigError: A stack runs in this home with another project file.
    """
    os.environ["ALCHEMIST_PROJECT"] = str(path)
    load_settings.cache_clear()
    load_project.cache_clear()
    if other := describe_other_project(home):
        raise ConfigError(other)


def _say_paths(home: Path, demo_json: Path) -> None:
    say("\nFiles:")
    for title, path in (
        ("project file", home / PROJECT_FILE),
        ("corpus", home / "corpora" / DATASET),
        ("materialized datasets", artifact_path("materialized")),
        ("figures", demo_json),
        ("report", artifact_path(f"reports/{DATASET}.html")),
    ):
        say(f"  {title}: {path}")


COMMANDS = {"": Command(DemoConfig, run)}
