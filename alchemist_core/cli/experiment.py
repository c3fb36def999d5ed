"""Experiments: compare selection strategies over seeds, and write the tables and figures of the paper for your corpus."""

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from alchemist_core.config import BARE_WORD, Command, Config, Result
from alchemist_core.errors import ConfigError
from alchemist_core.experiments import cost, dynamics, stored
from alchemist_core.experiments.datasets import DatasetsConfig
from alchemist_core.experiments.dynamics import DynamicsConfig
from alchemist_core.experiments.results import compare_cells
from alchemist_core.experiments.running import Experiment, RunConfig
from alchemist_core.experiments.trial import Cell, create_for_scenes
from alchemist_core.store import experiments as store
from alchemist_core.store.engine import open_store
from alchemist_core.telemetry import say


class RunResult(Result):
    """Result of an experiment, and its files."""

    name: str
    cost: dict[str, Any] | None
    before: dict[str, Any] | None = None
    rows: list[dict[str, Any]] = Field(default_factory=list)
    folder: str | None = None
    table: str | None = None

    def summary(self) -> str:
        """Return the table, if there is one."""
        if self.table is None:
            return "Nothing was trained (--dry-run)."
        return self.table if self.folder is None else f"{self.table}\n\nfiles: {self.folder}"


class ListConfig(Config):
    """No options."""


class ListResult(Result):
    """All experiments."""

    experiments: list[dict[str, Any]]

    def summary(self) -> str:
        """Return a line for each experiment, and beneath it what a finished one showed."""
        rows = (
            f"{row['name']:<32} {row['state']:<10} {row['question']}"
            + (f"\n{'':<43} {row['conclusion']}" if row["conclusion"] else "")
            for row in self.experiments
        )
        return "\n".join(rows) or "No experiments. See: alchemist experiment run --help"


class ShowConfig(Config):
    """Which experiment to show."""

    name: str = Field(..., description="Name of the experiment", json_schema_extra=BARE_WORD)
    against: str | None = Field(
        None,
        description="Arm of the experiment, such as loss/gsample: print the gains of the other arms over it instead of over random; "
        "default: the whole table",
    )


class DeleteConfig(Config):
    """Which experiment to delete."""

    name: str = Field(..., description="Name of an unfinished experiment", json_schema_extra=BARE_WORD)


class DeleteResult(Result):
    """The deleted experiment."""

    name: str

    def summary(self) -> str:
        """Say what was deleted, and what was kept."""
        return f"Experiment {self.name} was deleted. Its name is free; models and raters that it trained are kept."


def run(config: RunConfig) -> RunResult:
    """Run an experiment, or resume an interrupted one; finished arms are reused."""
    create_for_scenes(config)
    experiment, name = Experiment(config), config.name or config.experiment
    say(experiment.describe_plan())
    stated = experiment.state_cost()
    say(cost.describe_cost(stated))
    if config.dry_run:
        return RunResult(name=name, cost=stated, before=experiment.state_beforehand())
    engine = open_store()
    begun = store.begin_experiment(engine, name, config.identity(), config.present)
    experiment.fit_windows()
    before = store.state_beforehand(engine, name, experiment.state_beforehand())

    def found_in(cells: Sequence[Cell]) -> dict[str, Any]:
        return {
            "cells": [cell.as_json() for cell in cells],
            "rank_windows": experiment.windows(),
            "left_out": [left._asdict() for left in experiment.left_out],
        }

    cells = experiment.measure(
        lambda cells, n_total: store.store_so_far(engine, name, {**found_in(cells), "n_cells": n_total})
    )
    rows = [row.as_json() for row in compare_cells(cells)]
    return _finish(begun, {**found_in(cells), "before": before, "rows": rows}, stated)


def list_(_config: ListConfig) -> ListResult:
    """List the experiments, the newest first, with the question of each and what it showed."""
    rows = [
        {
            "name": row.name,
            "state": "finished" if row.finished_at else "unfinished",
            "question": stored.title_of(row.config),
            "conclusion": stored.conclude(row.config, row.result or {}) if row.finished_at else None,
        }
        for row in store.list_experiments(open_store())
    ]
    return ListResult(experiments=rows)


def show(config: ShowConfig) -> RunResult:
    """Show an experiment: write its table and figures again from the database, or compare its arms with one of them.

    Of one that is not finished, print the table of what is measured.
    """
    row = store.find_experiment(open_store(), config.name)
    result = {key: value for key, value in (row.result or {}).items() if key != "sheet"}
    if row.finished_at is None:
        return _show_so_far(row, result, config.against)
    if config.against is not None:
        return RunResult(name=row.name, cost=None, table=stored.compare_with(row.config, result, config.against))
    return _result(row.name, row.config, result)


def _show_so_far(row: store.ExperimentRow, result: dict[str, Any], against: str | None) -> RunResult:
    cells, command = result.get("cells"), stored.command_of(row.name, row.config)
    if not cells:
        raise ConfigError(
            f"Experiment {row.name!r} has no losses of its reported seeds yet. It may still run; if it was stopped, resume it: {command}"
        )
    table = (
        stored.sheet_of(row.config, result).as_text()
        if against is None
        else stored.compare_with(row.config, result, against)
    )
    note = f"Not finished: {len(cells)} of {result['n_cells']} losses are measured. If it was stopped, resume it: {command}"
    return RunResult(name=row.name, cost=None, before=result.get("before"), table=f"{note}\n\n{table}")


def delete(config: DeleteConfig) -> DeleteResult:
    """Delete an unfinished experiment, so that its name can be used with other options; what it trained is kept and reused."""
    store.delete_unfinished(open_store(), config.name)
    return DeleteResult(name=config.name)


def follow(config: DynamicsConfig) -> RunResult:
    """Repeat the training of a rater, and measure the losses and gradients of samples of all ranks during it (Fig. 3 of the paper)."""
    create_for_scenes(config)
    engine = open_store()
    begun = store.begin_experiment(engine, config.name, config.identity(), config.present)
    return _finish(begun, dynamics.follow(config))


def compare_datasets(config: DatasetsConfig) -> RunResult:
    """Run one experiment for each corpus and put them into one table (Table 3); finished ones are reused."""
    parts = config.parts()
    if not config.dry_run:
        for part in parts.values():
            create_for_scenes(part)
        # Before anything is trained, and not yet stored: the options of a part may be refused.
        store.require_equal_options(open_store(), config.title, config.identity(), config.present)
    results = {corpus: run(part) for corpus, part in parts.items()}
    if config.dry_run:
        seconds = sum(result.cost["seconds"] for result in results.values() if result.cost)
        return RunResult(name=config.title, cost={"seconds": seconds})
    engine = open_store()
    begun = store.begin_experiment(engine, config.title, config.identity(), config.present)
    found = {corpus: store.find_experiment(engine, str(part.name)).result or {} for corpus, part in parts.items()}
    shown = {corpus: {"cells": of["cells"], "left_out": of.get("left_out", [])} for corpus, of in found.items()}
    result = {"parts": shown}
    return _finish(begun, result)


def _finish(begun: store.ExperimentRow, result: dict[str, Any], stated: dict[str, Any] | None = None) -> RunResult:
    # The report page shows the stored sheet unchanged.
    sheet = stored.sheet_of(begun.config, result).as_json()
    store.finish_experiment(open_store(), begun.name, {**result, "sheet": sheet})
    return _result(begun.name, begun.config, result, stated)


def _result(
    name: str, config: dict[str, Any], result: dict[str, Any], stated: dict[str, Any] | None = None
) -> RunResult:
    return RunResult(
        name=name, cost=stated, before=result.get("before"), rows=result.get("rows", []),
        folder=str(stored.write_files(name, config, result)), table=stored.sheet_of(config, result).as_text(),
    )  # fmt: skip


COMMANDS = {
    "run": Command(RunConfig, run),
    "datasets": Command(DatasetsConfig, compare_datasets),
    "dynamics": Command(DynamicsConfig, follow),
    "list": Command(ListConfig, list_),
    "show": Command(ShowConfig, show),
    "delete": Command(DeleteConfig, delete),
}
