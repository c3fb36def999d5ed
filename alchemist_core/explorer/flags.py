"""Flags: what the forms of grids and of the page of a sample send. Flags are set by the same function as by `alchemist sample flag`."""

import re
from urllib.parse import urlsplit

from starlette.routing import Route

from alchemist_core.config import counted
from alchemist_core.errors import ConfigError
from alchemist_core.explorer.actions import Done, Form, action
from alchemist_core.explorer.people import Person
from alchemist_core.store.engine import open_store
from alchemist_core.store.flags import FlagCounts, as_label, set_flags

_SELECTED = re.compile(r"sample-(\d{1,18})")
_ONE = re.compile(r"(\d{1,18}):([^:]*)(:undo)?")


@action("flag")
def set_by_form(person: Person, form: Form) -> Done:
    """Flag the sample whose button was used (`one`), or the selected ones (`label`); return to the page that the form was on.

    Raises:
        ConfigError: Nothing was selected, or the label is not valid.
    """
    label, undo = form.get("label", ""), "undo" in form
    sample_ids = [int(found[1]) for name in form if (found := _SELECTED.fullmatch(name))]
    at = ""
    if "one" in form:
        found = _ONE.fullmatch(form["one"])
        if found is None:
            raise ConfigError("The button of this form is not known. Reload the page.")
        sample_ids, label, undo = [int(found[1])], found[2], found[3] is not None
        at = f"#{form.get('grid', '')}-{found[1]}" if form.get("grid", "").isalpha() else ""
    label = label or form.get("own", "")
    counts = set_flags(open_store(), sample_ids, label, actor=person.name, comment=form.get("comment"), undo=undo)
    return Done(own_path(form.get("back", "")) + at, _describe(counts, as_label(label), undo=undo))


def _describe(counts: FlagCounts, label: str, *, undo: bool) -> str:
    """Say what was done.

    >>> _describe(FlagCounts(8, 2), "wrong_caption", undo=False)
    '8 samples flagged wrong caption; 2 were already'
    >>> _describe(FlagCounts(1, 0), "bad", undo=True)
    '1 sample no longer flagged bad'
    """
    said = (
        f"{counted(counts.n_changed, 'sample')} {'no longer flagged' if undo else 'flagged'} {label.replace('_', ' ')}"
    )
    if not counts.n_same:
        return said
    return f"{said}; {counts.n_same} {'was' if counts.n_same == 1 else 'were'} {'not' if undo else 'already'}"


def own_path(given: str) -> str:
    """Return a path within the explorer as it was given; anything else becomes the first page.

    >>> own_path("/samples?rater=r1"), own_path("//evil.example"), own_path("https://evil.example/")
    ('/samples?rater=r1', '/samples', '/samples')
    """
    is_own = re.fullmatch(r"/[A-Za-z0-9][!-\[\]-~]*", given) and not urlsplit(given).netloc and "#" not in given
    return given if is_own else "/samples"


ROUTES = [Route("/flags", set_by_form, methods=["POST"])]
