"""Subsets: the versions, what one of them is worth and was made from, and what entered and left between two, in pictures."""

from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from sqlalchemy import Engine
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from alchemist_core.errors import ConfigError
from alchemist_core.explorer.markup import Tab, render
from alchemist_core.report import gathering
from alchemist_core.report.comparison import compare_arms, compare_metrics, judge_worth
from alchemist_core.report.content import SubsetContent
from alchemist_core.selection.curves import read_curve
from alchemist_core.store import browsing
from alchemist_core.store.browsing import Conditions, Page, read_place, write_place
from alchemist_core.store.engine import open_reader
from alchemist_core.store.overviews import read_comparisons, read_costs, read_versions
from alchemist_core.store.subsets import (
    SubsetRow,
    choose_version,
    find_by_id,
    find_subset,
    has_stored_members,
    rater_of_subset,
)

TAB = Tab("Subsets", "/subsets")


def show_list(request: Request) -> Response:
    """Return the versions of all subsets, the newest first."""
    return render(
        request,
        "subsets.html",
        title="Which subsets are there?",
        versions=read_versions(open_reader()),
        path_of=path_of,
    )


def go_to_version(request: Request) -> Response:
    """Redirect from a name to its version in use: the published one, else the newest."""
    found = choose_version(open_reader(), request.path_params["name"], version=None, may_be_withdrawn=True)
    return RedirectResponse(request.scope.get("root_path", "") + path_of(found.name, found.version), 303)


def show_version(request: Request) -> Response:
    """Return the page of one version."""
    engine = open_reader()
    row = _asked_version(engine, request)
    worth = judge_worth(
        [one for one in read_comparisons(engine, row.subset_id) if one.metric == "heldout_loss"], row.name
    )
    strategy, warning = gathering.describe_strategy(engine, row)
    before = _version_before(engine, row, None)
    return render(
        request, "subset.html", title=f"Is {row.title} better than random?", subset=row, worth=worth, path=path_of(row.name, row.version),
        strategy=strategy, warning=warning, rater=rater_of_subset(engine, row), lineage=gathering.read_lineage(engine, row),
        content=_content(row, strategy), comparisons=compare_arms(gathering.read_arms(engine, row)),
        metrics=compare_metrics(gathering.read_metrics(engine, row)), costs=read_costs(engine, [row.title]),
        before=before, versions=[one for one in read_versions(engine, row.name) if one.version != row.version],
        has_members=has_stored_members(engine, row.subset_id),
    )  # fmt: skip


def show_difference(request: Request) -> Response:
    """Return what entered and left a version since another one, in pictures side by side."""
    engine = open_reader()
    row = _asked_version(engine, request)
    given = request.query_params
    if unknown := sorted(given.keys() - {"since", "joined", "left"}):
        raise ConfigError(f"A difference has no field {', '.join(unknown)}. Its fields are since, joined and left.")
    before = _version_before(engine, row, given.get("since"))
    if before is None:
        raise ConfigError(f"{row.title} has no earlier version to compare with. Name one: since=VERSION.")
    missing = [one.title for one in (before, row) if not has_stored_members(engine, one.subset_id)]
    sides = {} if missing else {
        "joined": _side(engine, row, before, given.get("joined")), "left": _side(engine, before, row, given.get("left"))
    }  # fmt: skip
    return render(
        request, "difference.html", title=f"What entered {row.title}, and what left, since v{before.version}?", subset=row, before=before,
        sides=sides, missing=missing, base={"since": before.version, **{side: given[side] for side in ("joined", "left") if side in given}},
        path=path_of(row.name, row.version),
    )  # fmt: skip


class Side(NamedTuple):
    """Members of one version that the other has not, and where the next of them begin."""

    page: Page
    older: str | None


def _side(engine: Engine, version: SubsetRow, other: SubsetRow, start: str | None) -> Side:
    rater = rater_of_subset(engine, version)
    scale_id = browsing.scale_of_snapshot(engine, version.snapshot_id)
    conditions = Conditions(rater_id=rater.rater_id, rank_scale_id=scale_id, outside_subset_id=other.subset_id)
    walk = browsing.members_of(version.subset_id)
    page = browsing.browse(engine, walk, conditions, start=read_place(start) if start else None)
    return Side(page, write_place(page.older) if page.older else None)


def _asked_version(engine: Engine, request: Request) -> SubsetRow:
    try:
        return find_subset(
            engine, request.path_params["name"], version=min(request.path_params["version"], (1 << 31) - 1)
        )
    except ConfigError as error:
        raise HTTPException(404, str(error)) from None


def _version_before(engine: Engine, row: SubsetRow, since: str | None) -> SubsetRow | None:
    """Return the version to compare with: the given one, else the one published before, else the one selected before."""
    if since is not None:
        if not since.isdecimal() or len(since) > 9:
            raise ConfigError(f"{since!r} is not a version. Give its number: since=1.")
        return find_subset(engine, row.name, version=int(since))
    if row.predecessor_id is not None:
        return find_by_id(engine, row.predecessor_id)
    earlier = [one.version for one in read_versions(engine, row.name) if one.version < row.version]
    return find_subset(engine, row.name, version=max(earlier)) if earlier else None


def _content(row: SubsetRow, strategy: str) -> SubsetContent | None:
    """Return what the chart shows; None for versions of 0.1, whose curve would have to be selected again."""
    if not row.curves:
        return None
    return SubsetContent(
        name=row.name, version=row.version, state=row.state, retention=row.retention, strategy=strategy, seed=row.seed,
        n_samples=row.n_samples, curve=read_curve(row.curves), lineage=(),
    )  # fmt: skip


def path_of(name: str, version: int) -> str:
    """Return the path of a version's page.

    >>> path_of("cats 20%", 3)
    '/subsets/cats%2020%25/3'
    """
    return f"/subsets/{quote(name, safe='')}/{version}"


ROUTES: Sequence[Any] = [
    Route("/subsets", show_list),
    Route("/subsets/{name}", go_to_version),
    Route("/subsets/{name}/{version:int}", show_version),
    Route("/subsets/{name}/{version:int}/difference", show_difference),
]
