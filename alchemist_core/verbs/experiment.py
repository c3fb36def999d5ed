"""Compare ways to choose training pairs over seeds, and write the paper's tables and figures for the corpus at hand."""

from typing import Any

from pydantic import Field

from alchemist_core.command import Command
from alchemist_core.config import BARE_WORD, Config, Report
from alchemist_core.errors import ConfigError
from alchemist_core.experiments import cost, datasets, dynamics, dynamics_page, page
from alchemist_core.experiments.datasets import DatasetsConfig
from alchemist_core.experiments.dynamics import DynamicsConfig
from alchemist_core.experiments.questions import QUESTIONS
from alchemist_core.experiments.results import compare_cells
from alchemist_core.experiments.running import Experiment, RunConfig
from alchemist_core.store import experiments as store
from alchemist_core.store.engine import open_store
from alchemist_core.telemetry import say


class RunReport(Report):
    """What was found, and where its files are."""

    name: str
    cost: dict[str, Any] | None
    before: dict[str, Any] | None = None
    rows: list[dict[str, Any]] = Field(default_factory=list)
    folder: str | None = None
    table: str | None = None

    def summary(self) -> str:
        """Return the table; without one, the cost."""
        return f"{self.table}\n\nfiles: {self.folder}" if self.table else "nothing was trained (--dry-run)"


class ListConfig(Config):
    """Nothing to choose."""


class ListReport(Report):
    """Every experiment."""

    experiments: list[dict[str, Any]]

    def summary(self) -> str:
        """Return one line an experiment."""
        rows = (f"{row['name']:<32} {row['state']:<9} {row['question']}" for row in self.experiments)
        return "\n".join(rows) or "no experiment yet: alchemist experiment run --help"


class ShowConfig(Config):
    """Which experiment."""

    name: str = Field(..., description="Name of the experiment", json_schema_extra=BARE_WORD)


def run(config: RunConfig) -> RunReport:
    """Run an experiment, or go on with a killed one; finished arms are found again."""
    experiment, name = Experiment(config), config.name or config.experiment
    stated = experiment.state_cost()
    say(cost.describe_cost(stated))
    if config.dry_run:
        return RunReport(name=name, cost=stated, before=experiment.state_beforehand())
    engine = open_store()
    begun = store.begin_experiment(engine, name, config.identity())
    experiment.fit_regions()
    before = store.state_beforehand(engine, name, experiment.state_beforehand())
    cells = experiment.measure()
    result = {
        "before": before,
        "cells": [cell.as_json() for cell in cells],
        "rows": [row.as_json() for row in compare_cells(cells)],
        "regions": experiment.regions(),
    }
    sheet = page.make_sheet(QUESTIONS[begun.config["experiment"]], result)
    # The report page shows the sheet as it is.
    store.finish_experiment(engine, name, {**result, "sheet": sheet.as_json()})
    return _report(name, sheet, result, stated)


def list_(_config: ListConfig) -> ListReport:
    """List the experiments, the newest first."""
    rows = [
        {
            "name": row.name,
            "state": "finished" if row.finished_at else "unfinished",
            "question": _title(row.config["experiment"]),
        }
        for row in store.list_experiments(open_store())
    ]
    return ListReport(experiments=rows)


def show(config: ShowConfig) -> RunReport:
    """Write the table and the figures of a finished experiment again, from what the store holds."""
    row = store.find_experiment(open_store(), config.name)
    if row.result is None or row.finished_at is None:
        raise ConfigError(f"Experiment {row.name!r} is not finished: alchemist experiment run goes on with it.")
    result = {key: value for key, value in row.result.items() if key != "sheet"}
    if "courses" in result:
        return _report_texts(row.name, dynamics_page.make_dynamics_sheet(result), result)
    if "parts" in result:
        return _report_texts(row.name, datasets.make_datasets_sheet(_in_order(row.config, result)), result)
    return _report(row.name, page.make_sheet(QUESTIONS[row.config["experiment"]], result), result, None)


def follow(config: DynamicsConfig) -> RunReport:
    """Take the training of a rater again and follow pairs of every rank through it (Fig. 3); what was measured is found again."""
    engine = open_store()
    store.begin_experiment(engine, config.name, config.identity())
    result = dynamics.follow(config)
    sheet = dynamics_page.make_dynamics_sheet(result)
    store.finish_experiment(engine, config.name, {**result, "sheet": sheet.as_json()})
    return _report_texts(config.name, sheet, result)


def compare_datasets(config: DatasetsConfig) -> RunReport:
    """Run one experiment a corpus and lay them out together (Table 3); what exists is found again."""
    parts = config.parts()
    reports = {corpus: run(part) for corpus, part in parts.items()}
    if config.dry_run:
        seconds = sum(report.cost["seconds"] for report in reports.values() if report.cost)
        return RunReport(name=config.title, cost={"seconds": seconds})
    engine = open_store()
    begun = store.begin_experiment(engine, config.title, config.identity())
    found = {corpus: store.find_experiment(engine, str(part.name)).result or {} for corpus, part in parts.items()}
    result = {"parts": {corpus: {"cells": of["cells"]} for corpus, of in found.items()}}
    sheet = datasets.make_datasets_sheet(_in_order(begun.config, result))
    store.finish_experiment(engine, config.title, {**result, "sheet": sheet.as_json()})
    return _report_texts(config.title, sheet, result)


def _in_order(config: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """Return the parts in the order in which they were asked for: the store keeps none."""
    return {corpus: result["parts"][corpus] for corpus in config["corpora"]}


def _report_texts(name: str, sheet: page.AnySheet, result: dict[str, Any]) -> RunReport:
    folder = page.write_sheet(name, sheet, result, {})
    return RunReport(name=name, cost=None, folder=str(folder), table=page.say_sheet(sheet))


def _title(experiment: str) -> str:
    return dynamics.TITLE if experiment == dynamics.NAME else QUESTIONS[experiment].title


def _report(name: str, sheet: page.Sheet, result: dict[str, Any], stated: dict[str, Any] | None) -> RunReport:
    folder = page.write_files(name, sheet, result)
    return RunReport(
        name=name, cost=stated, before=result["before"], rows=result["rows"], folder=str(folder),
        table=page.say_sheet(sheet),
    )  # fmt: skip


COMMANDS = {
    "run": Command(RunConfig, run),
    "datasets": Command(DatasetsConfig, compare_datasets),
    "dynamics": Command(DynamicsConfig, follow),
    "list": Command(ListConfig, list_),
    "show": Command(ShowConfig, show),
}
