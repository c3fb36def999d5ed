"""What needs me: everything that waits for a person, with the facts that decide and what to do."""

import shlex
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from alchemist_core.explorer import nights, subsets
from alchemist_core.explorer.markup import Tab, render
from alchemist_core.project import of_version, train_downstream_command
from alchemist_core.store.engine import open_reader
from alchemist_core.store.matters import N_EACH, ORDER, Matter, read_matters

TAB = Tab("What needs me?", "/needs")


class Step(NamedTuple):
    """What a person can do about a matter: a page that decides it."""

    text: str
    path: str


def _no_steps(_matter: Matter) -> Sequence[Step]:
    return ()


class Kind(NamedTuple):
    """How matters of one kind are shown: their heading, the page about one, the command that decides it, and pages that do."""

    heading: str
    path: Callable[[Matter], str | None]
    command: Callable[[Matter], str | None]
    steps: Callable[[Matter], Sequence[Step]] = _no_steps


def _night(matter: Matter) -> str | None:
    return nights.path_of(matter.subject, matter.crawl_date) if matter.crawl_date else None


def _release(matter: Matter) -> str:
    words = ["alchemist", "night", "release", "--dataset", matter.subject, "--crawl-date", str(matter.crawl_date)]
    return f"{shlex.join(words)} --reason WHY"


def _night_steps(*verbs: str) -> Callable[[Matter], Sequence[Step]]:
    def steps(matter: Matter) -> Sequence[Step]:
        which = urlencode({"dataset": matter.subject, "night": str(matter.crawl_date)})
        return [Step(verb.capitalize(), f"/decide/{verb}?{which}") for verb in verbs]

    return steps


def _nowhere(_matter: Matter) -> None:
    return None


def _check(matter: Matter) -> str:
    return f"alchemist night list --dataset {shlex.quote(matter.subject)}"


def _measure(matter: Matter) -> str:
    train, which = train_downstream_command(matter.subject, matter.version), of_version(matter.subject, matter.version)
    return f"{train} --arms subset,random --seeds 0,1,2 && alchemist evaluate {which}"


KINDS = {
    "question": Kind("Questions of Airflow that nobody has answered", _nowhere, _nowhere),
    "held night": Kind("Nights that are held, because their scores have moved", _night, _release, _night_steps("release", "reject")),
    "failed check": Kind("Nights that a failed check stopped", _night, _check, _night_steps("release", "reject")),
    "failed task": Kind("Tasks of Airflow that failed", _nowhere, _nowhere),
    "certified rater": Kind(
        "Raters that passed their acceptance checks and are not in production",
        lambda matter: f"/raters/{quote(matter.subject, safe='')}",
        lambda matter: f"alchemist rater promote {shlex.quote(matter.subject)}",
        lambda matter: [Step("Promote", f"/decide/promote?{urlencode({'rater': matter.subject})}")],
    ),
    "subset without proof": Kind(
        "Published subsets not yet shown to be better or worse than random samples",
        lambda matter: subsets.path_of(matter.subject, matter.version or 1),
        _measure,
    ),
    "drift": Kind("Nights whose scores have moved, within the limits", _night, _nowhere),
}  # fmt: skip


def show_needs(request: Request) -> Response:
    """Return what waits for a person, the most urgent kind first."""
    matters = read_matters(open_reader())
    groups = [(KINDS[kind], [one for one in matters if one.kind == kind]) for kind in ORDER]
    return render(
        request, "needs.html", title="What needs me?", groups=[group for group in groups if group[1]], most=N_EACH
    )


ROUTES: Sequence[Any] = [Route("/needs", show_needs)]
