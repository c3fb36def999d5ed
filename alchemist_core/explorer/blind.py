"""Blind comparison: two grids of samples without names, of which a person says which one they would rather train on.

Which grid is which follows from the secret of the person's session, so neither the page nor its address tells.
"""

import hmac
import re
import secrets
from typing import Any, NamedTuple

from sqlalchemy import Engine
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from alchemist_core.errors import ConfigError
from alchemist_core.explorer.actions import Form, action
from alchemist_core.explorer.markup import render
from alchemist_core.explorer.people import Person
from alchemist_core.explorer.subsets import asked_version, path_of
from alchemist_core.store import browsing
from alchemist_core.store.blind import Pair, Preferred, count_own, draw_pair, measure_overlap, store_judgement
from alchemist_core.store.browsing import Conditions
from alchemist_core.store.engine import open_reader, open_store
from alchemist_core.store.subsets import SubsetRow, find_subset, has_stored_members

RANDOM = "random"
MOST_OVERLAP = 0.9
"""Versions that share more of their members than this are hardly told apart by their pictures."""
_IDS = r"\d{1,18}(?:-\d{1,18})*"
_SHOWN = re.compile(rf"(\d{{1,12}})\.({_IDS})\.({_IDS})\.([0-9a-f]{{64}})")


class Sides(NamedTuple):
    """The samples of both grids as a form carries them: signed, so that an answer counts for what was shown."""

    seed: int
    left: list[int]
    right: list[int]

    def sign(self, person: Person, about: str) -> str:
        """Return them as text with a signature."""
        text = f"{self.seed}.{'-'.join(map(str, self.left))}.{'-'.join(map(str, self.right))}"
        return f"{text}.{_keyed(person, f'shown {about} {text}')}"

    @classmethod
    def read(cls, person: Person, about: str, given: str) -> "Sides":
        """Return what `sign` wrote for the same person about the same versions.

        Raises:
            ConfigError: It is something else.
        """
        if (found := _SHOWN.fullmatch(given)) is not None:
            sides = cls(
                int(found[1]), [int(one) for one in found[2].split("-")], [int(one) for one in found[3].split("-")]
            )
            if hmac.compare_digest(sides.sign(person, about), given):
                return sides
        raise ConfigError("The page was too old, so the answer was not stored. Open the comparison again.")


def _keyed(person: Person, text: str) -> str:
    return hmac.digest(person.secret, f"blind {text}".encode(), "sha256").hex()


def is_left(person: Person, about: str, seed: int) -> bool:
    """Whether the version is the left one of a pair: a coin that only the person's session can toss."""
    return int(_keyed(person, f"side {about} {seed}"), 16) % 2 == 0


def show_pair(request: Request) -> Response:
    """Return two grids without names."""
    engine, person = open_reader(), request.state.person
    subset, other = _versions(engine, request.path_params, request.query_params.get("against", RANDOM))
    seed, about = secrets.randbelow(1 << 31), _about(subset, other)
    pair = draw_pair(engine, subset, other, seed)
    sides = (pair.sample_ids, pair.other_sample_ids)
    left, right = sides if is_left(person, about, seed) else reversed(sides)
    shown = [browsing.show(engine, ids, Conditions()) for ids in (left, right)]
    return render(
        request, "blind.html", title="Which of the two would you rather train on?", subset=subset, other=other, left=shown[0],
        right=shown[1], shown=Sides(seed, left, right).sign(person, about), path=path_of(subset.name, subset.version),
        overlap=measure_overlap(engine, subset, other) if other else None, most_overlap=MOST_OVERLAP,
        against=str(other.version) if other else RANDOM, n_judged=count_own(engine, subset.subset_id, person.name),
    )  # fmt: skip


@action("flag")
def judge(person: Person, form: Form) -> str:
    """Store which side a person prefers; return the page of the next pair.

    Raises:
        ConfigError: The pair was not shown to this person, or the answer is none.
    """
    engine, preferred = open_store(), form.get("preferred", "")
    version = form.get("version", "")
    if preferred not in ("left", "right", "neither") or not version.isdecimal() or len(version) > 9:
        raise ConfigError("The buttons of this form are not known. Reload the page.")
    against = form.get("against", RANDOM)
    subset, other = _versions(engine, {"name": form.get("subset", ""), "version": int(version)}, against)
    about = _about(subset, other)
    sides = Sides.read(person, about, form.get("shown", ""))
    has_left = is_left(person, about, sides.seed)
    pair = Pair(sides.left, sides.right) if has_left else Pair(sides.right, sides.left)
    chosen: Preferred = (
        "neither" if preferred == "neither" else "subset" if (preferred == "left") == has_left else "other"
    )
    store_judgement(engine, subset, other, pair, seed=sides.seed, preferred=chosen, judged_by=person.name)
    return f"{path_of(subset.name, subset.version)}/blind?against={against}"


def _versions(engine: Engine, named: Any, against: str) -> tuple[SubsetRow, SubsetRow | None]:
    subset = asked_version(engine, named)
    if against == RANDOM:
        other = None
    elif against.isdecimal() and len(against) < 10 and int(against) != subset.version:
        other = find_subset(engine, subset.name, version=int(against))
    else:
        raise ConfigError(f"{against!r} is not another version. Give its number, or {RANDOM}.")
    for one in (subset, other):
        if one is not None and not has_stored_members(engine, one.subset_id):
            raise ConfigError(f"The members of {one.title} are not in the store, so they cannot be shown.")
    return subset, other


def _about(subset: SubsetRow, other: SubsetRow | None) -> str:
    return f"{subset.subset_id} {other.subset_id if other else RANDOM}"


ROUTES: list[Any] = [
    Route("/subsets/{name}/{version:number}/blind", show_pair),
    Route("/judgements", judge, methods=["POST"]),
]
