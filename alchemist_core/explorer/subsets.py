"""Subsets: the versions, what one of them is worth and was made from, and what entered and left between two, in pictures."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from sqlalchemy import Engine
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from alchemist_core.config import current_names
from alchemist_core.errors import ConfigError
from alchemist_core.explorer.actions import Done, Form, action
from alchemist_core.explorer.flags import own_path
from alchemist_core.explorer.markup import Tab, render
from alchemist_core.explorer.people import Person
from alchemist_core.rating.config import RATER_SCORE
from alchemist_core.report import gathering
from alchemist_core.report.comparison import compare_arms, compare_metrics, judge_worth, only_losses
from alchemist_core.report.content import SubsetContent
from alchemist_core.report.versions import GAINS_NOTE, read_version_comparison
from alchemist_core.selection.config import SelectionPolicy
from alchemist_core.selection.curves import read_curve
from alchemist_core.selection.strategies import STRATEGIES
from alchemist_core.statistics import sequential_sign_test
from alchemist_core.store import browsing
from alchemist_core.store.blind import Judged, count_judgements
from alchemist_core.store.browsing import Conditions, Page, read_place, write_place
from alchemist_core.store.engine import open_reader, open_store
from alchemist_core.store.overviews import read_comparisons, read_costs, read_versions
from alchemist_core.store.strata import measure_strata
from alchemist_core.store.subsets import (
    SubsetRow,
    choose_version,
    find_by_id,
    find_subset,
    find_version_before,
    has_stored_members,
    rater_of_subset,
    store_members,
)

TAB = Tab("Subsets", "/subsets")
N_SHOWN = 200
"""Versions in the list."""
MOST_MEMBERS = 1_000_000
"""Members that are copied into the store within a request: some seconds."""
LEVEL = 0.05
"""Below this p-value of the test, people's preference counts as shown."""
N_STRATA = 12
"""Datasets, months and sources of a version that are shown, each."""
PARAMETERS = {
    "drop_top_ratio": "The drop top ratio is the share of the highest ranks that is never selected.",
    "mean_rank": "The mean rank is where the density is highest.",
    "std_rank": "The std rank is the standard deviation of the density, in ranks: the smaller it is, the narrower the selection.",
    "start_rank": "The start rank is the first rank that is kept.",
}
"""What the parameters of strategies are, in words."""
Verdict = Literal["better", "worse", "not shown"]


def show_list(request: Request) -> Response:
    """Return the versions of all subsets: the published ones first, then the newest."""
    versions = read_versions(open_reader())
    return render(
        request, "subsets.html", title="Which subsets are there?", versions=versions[:N_SHOWN], n_more=max(0, len(versions) - N_SHOWN),
        path_of=path_of,
    )  # fmt: skip


def go_to_version(request: Request) -> Response:
    """Redirect from a name to its version in use: the published one, else the newest."""
    found = choose_version(open_reader(), request.path_params["name"], version=None, may_be_withdrawn=True)
    return RedirectResponse(request.scope.get("root_path", "") + path_of(found.name, found.version), 303)


def show_version(request: Request) -> Response:
    """Return the page of one version."""
    engine = open_reader()
    row = asked_version(engine, request.path_params)
    worth = judge_worth(only_losses(read_comparisons(engine, row.subset_id)), row.name, row.version)
    strategy, warning = gathering.describe_strategy(engine, row)
    before = _version_before(engine, row, None)
    against = request.query_params.get("against")
    return render(
        request, "subset.html", title=f"Is {row.title} better than random?", subset=row, worth=worth, path=path_of(row.name, row.version),
        strategy=strategy, warning=warning, rater=rater_of_subset(engine, row), lineage=gathering.read_lineage(engine, row),
        content=_content(row, strategy), comparisons=compare_arms(gathering.read_arms(engine, row)),
        metrics=compare_metrics(gathering.read_metrics(engine, row)), costs=read_costs(engine, [row.title]),
        before=before, versions=[one for one in read_versions(engine, row.name) if one.version != row.version],
        strategy_text=_explain_strategy(row.strategy),
        versus=read_version_comparison(engine, row, None if against is None else _as_version(against)), gains_note=GAINS_NOTE,
        has_members=has_stored_members(engine, row.subset_id), preferences=read_preferences(engine, row), pairs_needed=pairs_needed(),
        most_members=MOST_MEMBERS, condition=current_names(SelectionPolicy, row.spec).get("where"),
    )  # fmt: skip


def show_strata(request: Request) -> Response:
    """Return the datasets, months and sources of a version's members, beside those that it was selected from."""
    engine = open_reader()
    row = asked_version(engine, request.path_params)
    if not has_stored_members(engine, row.subset_id):
        raise ConfigError(
            f"The members of {row.title} are not in the store, so they cannot be counted here. The page of the version can copy them."
        )
    return render(
        request, "strata.html", title=f"Where does {row.title} come from?", subset=row, path=path_of(row.name, row.version),
        strata=measure_strata(engine, row, n_each=N_STRATA),
    )  # fmt: skip


def show_difference(request: Request) -> Response:
    """Return what entered and left a version since another one, in pictures side by side."""
    engine = open_reader()
    row = asked_version(engine, request.path_params)
    given = request.query_params
    if unknown := sorted(given.keys() - {"since", "joined", "left"}):
        raise ConfigError(f"A difference has no field {', '.join(unknown)}. Its fields are since, joined and left.")
    before = _version_before(engine, row, given.get("since"))
    if before is None:
        raise ConfigError(f"{row.title} has no earlier version to compare with. Name one: since=VERSION.")
    missing = [one for one in (before, row) if not has_stored_members(engine, one.subset_id)]
    sides = {} if missing else {
        "joined": _side(engine, row, before, given.get("joined")), "left": _side(engine, before, row, given.get("left"))
    }  # fmt: skip
    return render(
        request, "difference.html", title=f"What entered {row.title}, and what left, since v{before.version}?", subset=row, before=before,
        sides=sides, missing=missing, base={"since": before.version, **{side: given[side] for side in ("joined", "left") if side in given}},
        path=path_of(row.name, row.version), most_members=MOST_MEMBERS,
    )  # fmt: skip


@action("act")
def copy_members(_person: Person, form: Form) -> Done:
    """Copy the members of a version from its manifest into the store, as a training or a publication does.

    Raises:
        ConfigError: There is no such version, or it has too many members for a request.
        DataError: The manifest cannot be read, or a member is not in the store.
    """
    from alchemist_core.subsets.selected import load_manifest  # noqa: PLC0415  slow to import, and only needed now

    engine = open_store()
    row = find_subset(engine, form.get("subset", ""), version=_as_version(form.get("version", "")))
    if row.n_samples > MOST_MEMBERS:
        raise ConfigError(f"{row.title} has more than {MOST_MEMBERS:,} members, too many to copy them here.")
    store_members(engine, row.subset_id, load_manifest(engine, row))
    return Done(own_path(form.get("back", "")), f"The members of {row.title} are in the store.")


class Side(NamedTuple):
    """Members of one version that the other has not, and where the next of them begin."""

    page: Page
    older: str | None


def _side(engine: Engine, version: SubsetRow, other: SubsetRow, start: str | None) -> Side:
    # Beside the rank by another score, such as --rank-by clip, the rater's own score would mislead.
    is_ranked_by_rater = browsing.score_of_snapshot(engine, version.snapshot_id) == RATER_SCORE
    conditions = Conditions(
        rater_id=rater_of_subset(engine, version).rater_id if is_ranked_by_rater else None,
        ranked_subset_id=version.subset_id,
        outside_subset_id=other.subset_id,
    )
    walk = browsing.members_of(version.subset_id)
    page = browsing.browse(engine, walk, conditions, start=read_place(start) if start else None)
    return Side(page, write_place(page.older) if page.older else None)


def asked_version(engine: Engine, named: Mapping[str, Any]) -> SubsetRow:
    """Return the version of a name and a number, as a path has them.

    Raises:
        HTTPException: There is none.
    """
    try:
        return find_subset(engine, named["name"], version=min(named["version"], (1 << 31) - 1))
    except ConfigError as error:
        raise HTTPException(404, str(error)) from None


def _version_before(engine: Engine, row: SubsetRow, since: str | None) -> SubsetRow | None:
    """Return the version to compare with: the given one, else the one published before, else the one selected before."""
    if since is not None:
        return find_subset(engine, row.name, version=_as_version(since))
    if row.predecessor_id is not None:
        return find_by_id(engine, row.predecessor_id)
    return find_version_before(engine, row)


def _as_version(given: str) -> int:
    if not given.isdecimal() or len(given) > 9:
        raise ConfigError(f"{given!r} is not a version. Give its number, such as 1.")
    return int(given)


def _content(row: SubsetRow, strategy: str) -> SubsetContent | None:
    """Return what the chart shows; None for versions of 0.1, whose curve would have to be selected again."""
    if not row.curves:
        return None
    return SubsetContent(
        name=row.name, version=row.version, state=row.state, retention=row.retention, strategy=strategy, seed=row.seed,
        n_samples=row.n_samples, curve=read_curve(row.curves), lineage=(),
    )  # fmt: skip


def _explain_strategy(name: str) -> str:
    """Return what a strategy does: the first paragraph of its documentation, without its source, and what its parameters are.

    >>> _explain_strategy("random")
    'Weight every rank equally: the control.'
    """
    kind = STRATEGIES[name]
    text = " ".join((kind.__doc__ or "").split("\n\n")[0].split()).partition(" Source:")[0]
    return " ".join([text, *(PARAMETERS[one] for one in kind.__dataclass_fields__ if one in PARAMETERS)])


class Preference(NamedTuple):
    """What people preferred, in a sentence."""

    verdict: Verdict
    against: str
    text: str


def read_preferences(engine: Engine, subset: SubsetRow) -> list[Preference]:
    """Return what people preferred of a version against random samples and against other versions."""
    return [_preference(engine, one) for one in count_judgements(engine, subset.subset_id)]


def _preference(engine: Engine, judged: Judged) -> Preference:
    against = "random samples" if judged.other_subset_id is None else find_by_id(engine, judged.other_subset_id).title
    n, p = judged.n_subset + judged.n_other, sequential_sign_test(judged.n_subset, judged.n_other)
    verdict: Verdict = "not shown" if p >= LEVEL else "better" if judged.n_subset > judged.n_other else "worse"
    people = "1 person" if judged.n_people == 1 else f"{judged.n_people:,} people"
    text = f"{people} preferred it in {judged.n_subset:,} of {n:,} pairs, and had no preference in {judged.n_neither:,}; p = "
    return Preference(verdict, against, text + (f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"))


def pairs_needed() -> int:
    """Return how many pairs in a row must be preferred, at least, before a preference can be shown.

    >>> pairs_needed()
    8
    """
    return next(n for n in itertools.count(1) if sequential_sign_test(n, 0) < LEVEL)


def path_of(name: str, version: int) -> str:
    """Return the path of a version's page.

    >>> path_of("cats 20%", 3)
    '/subsets/cats%2020%25/3'
    """
    return f"/subsets/{quote(name, safe='')}/{version}"


ROUTES: Sequence[Any] = [
    Route("/subsets", show_list),
    Route("/subsets/{name}", go_to_version),
    Route("/subsets/{name}/{version:number}", show_version),
    Route("/subsets/{name}/{version:number}/difference", show_difference),
    Route("/subsets/{name}/{version:number}/strata", show_strata),
    Route("/members", copy_members, methods=["POST"]),
]
