"""Experiments: which there are, and the tables and figures of one."""

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
from alchemist_core.store.experiments import find_experiment, list_experiments

TAB = Tab("Experiments", "/experiments")


def show_list(request: Request) -> Response:
    """Return the experiments, the newest first."""
    return render(
        request, "experiments.html", title="Which experiments were made?", experiments=list_experiments(open_reader())
    )


def show_experiment(request: Request) -> Response:
    """Return the tables and figures of one experiment."""
    content = _content(open_reader(), request.path_params["name"])
    return render(request, "one_experiment.html", title="What did it show?", experiment=content)


def send_figure(request: Request) -> Response:
    """Serve a figure of an experiment: an SVG file that this platform drew, in a policy of its own, because its style is inside."""
    figures = _content(open_reader(), request.path_params["name"]).figures
    number: int = request.path_params["number"]
    if number >= len(figures):
        raise HTTPException(404, "There is no such figure.")
    policy = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
    return Response(figures[number][1], headers={"content-security-policy": policy}, media_type="image/svg+xml")


def _content(engine: Engine, name: str) -> ExperimentContent:
    try:
        content = read_sheet(find_experiment(engine, name))
    except ConfigError as error:
        raise HTTPException(404, str(error)) from None
    if content is None:
        raise HTTPException(404, f"Experiment {name} has no result yet.")
    return content


ROUTES: Sequence[Any] = [
    Route("/experiments", show_list),
    Route("/experiments/{name}", show_experiment),
    Route("/experiments/{name}/figures/{number:int}", send_figure),
]
