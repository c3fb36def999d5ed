"""Nights: what each crawl date brought, whether it may be used, what moved its scores, and its highest and lowest samples."""

from collections.abc import Sequence
from datetime import date
from typing import Any
from urllib.parse import quote

from sqlalchemy import Engine
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from alchemist_core.explorer.markup import Tab, render
from alchemist_core.store import browsing
from alchemist_core.store.browsing import Conditions, Shown
from alchemist_core.store.checks import failed_checks
from alchemist_core.store.engine import open_reader
from alchemist_core.store.nights import NightRevision, NightRow, read_revisions, release_command
from alchemist_core.store.overviews import NightOverview, failed_ingests, quarantine_of_nights, read_nights
from alchemist_core.store.raters import RaterRow, find_rater
from alchemist_core.store.registry import find_dataset

TAB = Tab("Nights", "/nights")
N_SHOWN = 60
"""Nights in the list."""
N_SAMPLES = 12
"""Samples at each end of a night."""
MOST_SORTED = 50_000
"""Samples of a night whose exact ends are found; of a larger one, samples in the highest and the lowest 5% of ranks are shown."""


def show_list(request: Request) -> Response:
    """Return the newest nights of every training dataset."""
    nights = sorted(read_nights(open_reader(), None), key=lambda night: (night.crawl_date, night.dataset), reverse=True)
    return render(
        request, "nights.html", title="Which nights may be used?", nights=nights[:N_SHOWN], n_more=max(0, len(nights) - N_SHOWN),
        path_of=path_of,
    )  # fmt: skip


def show_night(request: Request) -> Response:
    """Return the page of one night."""
    engine = open_reader()
    night = _asked_night(engine, request)
    rater = find_rater(engine, "production")
    dataset = find_dataset(engine, night.dataset)
    revisions = read_revisions(engine, dataset.dataset_id, night.crawl_date, rater.rater_id) if rater else []
    named = (night.dataset, night.crawl_date)
    top, bottom = _ends(engine, night, dataset.dataset_id, rater) if rater else ([], [])
    return render(
        request, "night.html", title=f"May {night.dataset}, {night.crawl_date} be used?", night=night, rater=rater, revisions=revisions,
        quarantine=quarantine_of_nights(engine, [named]), top=top, bottom=bottom,
        ingest_error=failed_ingests(engine, [named]).get(named), release=_release(night, revisions, dataset.dataset_id),
        checks=failed_checks(engine, *named),
    )  # fmt: skip


def _asked_night(engine: Engine, request: Request) -> NightOverview:
    name, given = request.path_params["dataset"], request.path_params["crawl_date"]
    found = [night for night in read_nights(engine, name) if night.crawl_date.isoformat() == given]
    if not found:
        raise HTTPException(404, f"{name} has no night of {given}.")
    return found[0]


def _ends(engine: Engine, night: NightOverview, dataset_id: int, rater: RaterRow) -> tuple[list[Shown], list[Shown]]:
    """Return the samples with the highest and with the lowest scores."""
    scale_id = browsing.newest_scale(engine, rater)
    conditions = Conditions(rater_id=rater.rater_id, rank_scale_id=scale_id)
    if night.n_scored <= MOST_SORTED:
        extremes = browsing.read_extremes(engine, dataset_id, night.crawl_date, rater.rater_id, n=N_SAMPLES)
        shown = browsing.show(engine, [*extremes.top, *extremes.bottom], conditions)
        return shown[: len(extremes.top)], shown[len(extremes.top) :]
    if scale_id is None:
        return [], []
    bands = (browsing.band_of_ranks(engine, scale_id, *ends) for ends in ((0.0, 0.05), (0.95, 1.0)))
    walk = browsing.OfShards(dataset_id, night.crawl_date)
    found = [
        browsing.browse(engine, walk, Conditions(rater.rater_id, scale_id, band)).samples[:N_SAMPLES] for band in bands
    ]
    return found[0], found[1]


def _release(night: NightOverview, revisions: Sequence[NightRevision], dataset_id: int) -> str | None:
    held = next((one for one in revisions if one.state == "held"), None)
    if held is None:
        return None
    return release_command(
        NightRow(held.night_id, dataset_id, night.dataset, night.crawl_date, held.revision, held.reason)
    )


def path_of(dataset: str, crawl_date: date) -> str:
    """Return the path of a night's page.

    >>> path_of("web", date(2026, 1, 2))
    '/nights/web/2026-01-02'
    """
    return f"/nights/{quote(dataset, safe='')}/{crawl_date}"


ROUTES: Sequence[Any] = [Route("/nights", show_list), Route("/nights/{dataset}/{crawl_date}", show_night)]
