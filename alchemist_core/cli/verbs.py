"""The commands of `alchemist`: each verb with its module and its line of help, so that help imports none of the modules."""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from alchemist_core.config import Command


class Verb(NamedTuple):
    """A module with a table `COMMANDS`, and the line that `alchemist --help` prints."""

    module: str
    help: str
    modules: Mapping[str, str] = {}
    """The module of each command of a group, where a task of a night should not load what only other commands of the group need."""


STAGES = {
    "ingest": Verb("stages.ingest", "Register the shards of a dataset and their samples; quarantine damaged records."),
    "train-rater": Verb(
        "stages.train_rater",
        "Train a rater: it learns which samples of a dataset help a model on a validation dataset.",
    ),
    "score": Verb("stages.score", "Score every sample that the rater has not scored yet."),
    "select": Verb("stages.select", "Select a subset by rank and store it as a new version."),
    "materialize": Verb("stages.materialize", "Write a subset version as tar shards, with a manifest and checksums."),
    "train-downstream": Verb(
        "stages.train_downstream",
        "Train the same model on a subset and, for comparison, on a random subset (--arms: also on all data).",
    ),
    "evaluate": Verb(
        "stages.evaluate", "Measure the trained models of a subset under fixed conditions (an evaluation protocol)."
    ),
    "report": Verb("stages.report", "Write the HTML report of a dataset: drift, subsets, comparisons and costs."),
}
GROUPS = {
    "stages, in the order of the pipeline": STAGES,
    "decide and publish": {
        "rater": Verb("cli.rater", "List raters, run their acceptance checks, and promote one to production."),
        "scorer": Verb("cli.scorer", "Register scorers (CLIP-Score, your own class, …), train a critic, list, test, serve, retire them."),
        "check": Verb("cli.check", "Run data checks on nights or on a subset; a night or subset that fails a check is not published."),
        "night": Verb(
            "cli.night", "List nights, check their drift, publish them, and release or reject held and stopped nights.",
            {
                "list": "cli.night", "check-drift": "cli.drift", "publish": "stages.publishing", "release": "cli.held_nights",
                "reject": "cli.held_nights", "announce": "cli.night",
            },
        ),
        "subset": Verb("cli.subset", "List, show, compare, publish, roll back, withdraw and garbage-collect subset versions."),
        "sample": Verb("cli.sample", "Explain why a sample was selected, flag samples, take an image down, retry quarantined samples."),
        "shard": Verb("cli.shard", "List and show shards, retire them, and register the new bytes of a changed one."),
        "duplicates": Verb("cli.duplicates", "Find near-duplicate images, and semantic duplicates by embedding; list the largest groups."),
        "search": Verb("cli.search", "Search for samples by a text, or by their likeness to a sample."),
        "explore": Verb("explorer.serving", "Look at samples, their pictures, scores and history in a browser."),
        "recaption": Verb("cli.recaption", "Write new captions by a vision-language model, as new samples beside the present ones."),
        "score-aesthetics": Verb("cli.score_aesthetics", "Score the images of a dataset with CLIP and an aesthetic head."),
    },
    "plan, export and compare": {
        "plan": Verb(
            "cli.plan", "Show what a command would do, how long it would take and what it would cost.",
            {
                "train-rater": "cli.estimates", "train-downstream": "cli.estimates", "night": "cli.plan", "score": "cli.plan",
                "promote": "cli.approvals", "publish": "cli.approvals", "evaluate": "cli.approvals",
            },
        ),
        "presets": Verb("cli.presets", "List the presets of the training stages: hardware, networks, memory, time, and what each needs."),
        "export": Verb(
            "cli.export", "Export scores, samples, subset members, their locations, or embeddings: Parquet, most also CSV or JSON lines.",
        ),
        "import": Verb("cli.imports", "Import scores that were computed elsewhere, from Parquet, CSV or JSON lines."),
        "experiment": Verb("cli.experiment", "Compare selection strategies over several seeds, and write tables and figures."),
        "tune-selection": Verb(
            "cli.tune_selection", "Find the ranks that `select --strategy auto` uses (the rank window), or search for the best recipe.",
        ),
        "geneval": Verb("cli.geneval", "GenEval benchmark: generate images for its prompts, and judge them by its rules."),
        "image-text-head": Verb("cli.image_text_head", "Train the network of protocol image_text_offline, comparing images and captions."),
    },
    "run the installation": {
        "init": Verb("cli.init", "Write a project file: looks at the machine and the data, asks, proposes, and prints the next commands."),
        "config": Verb("cli.config", "Show the effective options of each stage and where they come from; check the project file."),
        "settings": Verb("cli.settings", "List the environment variables with their values and meanings; secrets are hidden."),
        "weights": Verb("cli.weights", "List the networks with published weights that a run needs, and check their files."),
        "dataset": Verb("cli.dataset", "List, show, rename and remove datasets, and set the default evaluation dataset."),
        "corpus": Verb("cli.corpus", "Make a synthetic corpus, or import pictures or a published dataset into tar shards."),
        "db": Verb("cli.db", "Start, migrate, query, back up and restore the database."),
        "stack": Verb("cli.stack", "Start and stop the local stack (Postgres, Airflow, metrics), and show its state and logs."),
        "docs": Verb("cli.docs", "Open the documentation that this installation contains, with its search."),
        "doctor": Verb("cli.doctor", "Check what this installation needs, and name what is missing with the remedy."),
        "dags": Verb("cli.dags", "List the DAGs, or install them into the DAG folder of another Airflow."),
        "serve-metrics": Verb("cli.exporter", "Serve Prometheus metrics, read from the database at every scrape."),
        "maintain": Verb("cli.maintain", "Remove expired leases and old history, complete takedowns, refresh statistics, rotate logs."),
        "note": Verb("cli.note", "Record a failed task, a question or its answer, and notify people; called by Airflow."),
        "demo": Verb("cli.demo", "Run the whole platform on this machine with a synthetic corpus."),
    },
}  # fmt: skip
VERBS = {name: verb for group in GROUPS.values() for name, verb in group.items()}

RENAMED = {
    "publish": "night publish",
    "release": "night release",
    "drift": "night check-drift",
    "certify": "rater certify",
    "promote": "rater promote",
    "takedown": "sample takedown",
    "explain": "sample explain",
    "retry-quarantine": "sample retry-quarantine",
    "compare": "subset compare",
    "aesthetic": "score-aesthetics",
    "region-probe": "tune-selection",
    "metrics": "serve-metrics",
    "up": "stack up",
    "down": "stack down",
    "status": "stack status",
    "logs": "stack logs",
    "airflow": "stack airflow",
}
"""Commands of version 0.1, which are refused with their new name."""

REMOVED = {"corpus emoji": "Ingest images of your own, or run: alchemist corpus scenes."}
"""Commands of version 0.1 that were removed, and what to do instead."""

LAUNCHED = ("train-rater", "train-downstream")
"""The stages that compute in several processes."""

PASS_THROUGH = (("db", "psql"), ("stack", "airflow"), ("config", "show"))
"""Commands that pass their arguments on unchanged, to another program or to the parser of a stage."""


def load_commands(verb: str, name: str = "") -> "dict[str, Command]":
    """Import the modules of a verb and return its commands: one under "", or one for each sub-verb.

    Args:
        verb: The verb.
        name: A sub-verb. If the verb has it, only its module is imported, and commands of other modules are left out.
    """
    module, _, modules = VERBS[verb]
    if name in modules or not modules:
        return _commands_in(modules.get(name, module))
    return {key: _commands_in(other)[key] for key, other in modules.items()}


def _commands_in(module: str) -> "dict[str, Command]":
    commands: dict[str, Command] = importlib.import_module(f"alchemist_core.{module}").COMMANDS
    return commands
