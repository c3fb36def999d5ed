"""Nights: what each crawl date brought, whether it may be used, what moved its scores, and its highest and lowest samples."""

import shlex
from collections.abc import Sequence
from datetime import date
from typing import Any
from urllib.parse import quote

import numpy as np
from sqlalchemy import Engine
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from alchemist_core.explorer.markup import Tab, render
from alchemist_core.store import browsing
from alchemist_core.store.browsing import Conditions, Shown
from alchemist_core.store.checks import failed_checks
from alchemist_core.store.embeddings import compared_scorers
from alchemist_core.store.engine import open_reader
from alchemist_core.store.nights import read_revisions
from alchemist_core.store.overviews import NightOverview, failed_ingests, quarantine_of_nights, read_nights
from alchemist_core.store.raters import RaterRow, find_rater, rater_option
from alchemist_core.store.registry import find_dataset

TAB = Tab("Nights", "/nights")
N_SHOWN = 60
"""Nights in the list."""
N_SAMPLES, N_UNUSUAL = 12, 48
"""Samples at each end of a night, and least like the rest."""


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
    checks = failed_checks(engine, *named)
    top, bottom = _ends(engine, night, dataset.dataset_id, rater) if rater else ([], [])
    return render(
        request, "night.html", title=f"May {night.dataset}, {night.crawl_date} be used?", night=night, rater=rater, revisions=revisions,
        quarantine=quarantine_of_nights(engine, [named]), top=top, bottom=bottom,
        ingest_error=failed_ingests(engine, [named]).get(named), states={one.state for one in revisions},
        checks=checks, is_stopped=any(not one.is_rejected for one in checks), command=command, compared=compared_scorers(engine),
        path=path_of(night.dataset, night.crawl_date),
    )  # fmt: skip


def show_unusual(request: Request) -> Response:
    """Return the samples of a night that are least like the rest of the corpus."""
    # Imported here: it imports pyarrow, which no other page of nights needs.
    from alchemist_core.embeddings.unusual import find_unusual  # noqa: PLC0415

    engine = open_reader()
    night = _asked_night(engine, request)
    dataset = find_dataset(engine, night.dataset)
    centroids = browsing.find_clustered(engine, request.query_params.get("scorer"))
    walk = browsing.OfShards(dataset.dataset_id, night.crawl_date)
    sample_ids, is_cut = browsing.first_of(engine, walk, browsing.MOST_OF_SHARDS)
    found = find_unusual(engine, centroids, np.array(sample_ids, np.int64), limit=N_UNUSUAL)
    rater = find_rater(engine, "production")
    conditions = Conditions(rater.rater_id, browsing.newest_scale(engine, rater)) if rater else Conditions()
    return render(
        request, "unusual.html", title=f"What is new in kind in {night.dataset}, {night.crawl_date}?",
        shown=browsing.show(engine, list(found.similarity_of), conditions), similarity_of=found.similarity_of, n_measured=found.n_measured,
        n_read=len(sample_ids), is_cut=is_cut, path=path_of(night.dataset, night.crawl_date),
    )  # fmt: skip


def _asked_night(engine: Engine, request: Request) -> NightOverview:
    name, given = request.path_params["dataset"], request.path_params["crawl_date"]
    found = [night for night in read_nights(engine, name) if night.crawl_date.isoformat() == given]
    if not found:
        raise HTTPException(404, f"{name} has no night of {given}.")
    return found[0]


def _ends(engine: Engine, night: NightOverview, dataset_id: int, rater: RaterRow) -> tuple[list[Shown], list[Shown]]:
    """Return the samples with the highest and with the lowest scores; of a large night, samples of the outer 5% of ranks."""
    scale_id = browsing.newest_scale(engine, rater)
    conditions = Conditions(rater_id=rater.rater_id, rank_scale_id=scale_id)
    if night.n_scored <= browsing.MOST_OF_SHARDS:
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


def command(verb: str, night: NightOverview) -> str:
    """Return the command that decides a night: release or reject."""
    words = ["alchemist", "night", verb, "--dataset", night.dataset, "--crawl-date", str(night.crawl_date)]
    of_rater = rater_option(night.rejected_under) if night.rejected_under else ""
    return f"{shlex.join(words)}{of_rater} --reason WHY"


def path_of(dataset: str, crawl_date: date) -> str:
    """Return the path of a night's page.

    >>> path_of("web", date(2026, 1, 2))
    '/nights/web/2026-01-02'
    """
    return f"/nights/{quote(dataset, safe='')}/{crawl_date}"


ROUTES: Sequence[Any] = [
    Route("/nights", show_list),
    Route("/nights/{dataset}/{crawl_date}", show_night),
    Route("/nights/{dataset}/{crawl_date}/unusual", show_unusual),
]
