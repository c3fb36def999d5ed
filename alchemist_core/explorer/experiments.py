"""Experiments: which there are, what one of them showed, and its tables and figures."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from alchemist_core.errors import ConfigError
from alchemist_core.explorer.markup import Tab, render
from alchemist_core.report.content import ExperimentContent
from alchemist_core.report.gathering import read_sheet
from alchemist_core.store.engine import open_reader
from alchemist_core.store.experiments import ExperimentRow, find_experiment, list_experiments

TAB = Tab("Experiments", "/experiments")


def show_list(request: Request) -> Response:
    """Return the experiments, the newest first, each with its question and, once it is finished, what it showed."""
    # Imported here: it imports the stages, which only these pages need.
    from alchemist_core.experiments.stored import conclude, title_of  # noqa: PLC0415

    experiments = [
        (row, title_of(row.config), conclude(row.config, row.result or {}) if row.finished_at else None)
        for row in list_experiments(open_reader())
    ]
    return render(request, "experiments.html", title="Which experiments were made?", experiments=experiments)


def show_experiment(request: Request) -> Response:
    """Return what one experiment showed, its tables and its figures; of one that is not finished, its question and how to go on."""
    # As above.
    from alchemist_core.experiments.stored import command_of, conclude, title_of  # noqa: PLC0415

    row = _find(open_reader(), request.path_params["name"])
    content = read_sheet(row)
    if row.finished_at is None or content is None:
        state = "is not finished" if row.finished_at is None else "is finished, but its tables were not stored"
        return render(
            request, "one_experiment.html", title=f"{row.name} {state}", experiment=None, question=title_of(row.config),
            command=None if row.finished_at else command_of(row.name, row.config), name=row.name,
        )  # fmt: skip
    title = f"{row.name}: {conclude(row.config, row.result or {})}"
    return render(request, "one_experiment.html", title=title, experiment=content)


def send_figure(request: Request) -> Response:
    """Serve a figure of an experiment: an SVG file that this platform drew, in a policy of its own, because its style is inside."""
    figures = _content(open_reader(), request.path_params["name"]).figures
    number: int = request.path_params["number"]
    if number >= len(figures):
        raise HTTPException(404, "There is no such figure.")
    policy = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
    return Response(figures[number][1], headers={"content-security-policy": policy}, media_type="image/svg+xml")


def _content(engine: Engine, name: str) -> ExperimentContent:
    content = read_sheet(_find(engine, name))
    if content is None:
        raise HTTPException(404, f"Experiment {name} has no result yet.")
    return content


def _find(engine: Engine, name: str) -> ExperimentRow:
    try:
        return find_experiment(engine, name)
    except ConfigError as error:
        raise HTTPException(404, str(error)) from None


ROUTES: Sequence[Any] = [
    Route("/experiments", show_list),
    Route("/experiments/{name}", show_experiment),
    Route("/experiments/{name}/figures/{number:number}", send_figure),
]
