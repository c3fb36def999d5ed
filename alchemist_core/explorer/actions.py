"""The seam of every change: what a form may do is what a command does, with the permissions and the name of the person who sends it.

A page that changes something is a route with the method POST whose function is decorated with `action`. It calls the same function as
the command line, and stores the person as the actor.
"""

from collections.abc import Callable
from functools import wraps
from typing import Literal, NamedTuple
from urllib.parse import parse_qsl

import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from alchemist_core.explorer.markup import keep_said
from alchemist_core.explorer.people import Person
from alchemist_core.store.engine import was_migrated

Form = dict[str, str]


class Done(NamedTuple):
    """The path of the page that shows the outcome of a form, and the outcome in a sentence, which that page shows once."""

    path: str
    said: str


Change = Callable[[Person, Form], str | Done]
"""Does something for a person; returns the path of the page that shows the outcome, or also a sentence."""
MOST_BYTES = 64 << 10
TOKEN_FIELD = "form_token"  # noqa: S105  the name of a field


def action(needs: Literal["flag", "act"]) -> Callable[[Change], Callable[[Request], object]]:
    """Make a function the endpoint of a form: it runs only for a person who may, from a form of this explorer.

    Args:
        needs: What the person must be allowed to do: set flags, or act as the command line does.
    """

    def decorate(change: Change) -> Callable[[Request], object]:
        @wraps(change)
        async def endpoint(request: Request) -> Response:
            person: Person = request.state.person
            form = await read_form(request)
            if not person.has_sent(form.pop(TOKEN_FIELD, "")):
                raise HTTPException(
                    403, "The page was too old, so nothing was done. Go back, reload it, and try again."
                )
            if not (person.may_flag if needs == "flag" else person.may_act):
                raise HTTPException(403, f"{person.name} may look, but not do this. Ask for a role that may.")
            outcome = await anyio.to_thread.run_sync(_change_unless_migrated, change, person, form)
            done = Done(outcome, "") if isinstance(outcome, str) else outcome
            # The browser asks for the outcome with GET, so that a reload does not send the form again.
            response = RedirectResponse(request.scope.get("root_path", "") + done.path, 303)
            if done.said:
                keep_said(request, response, done.said)
            return response

        return endpoint

    return decorate


def _change_unless_migrated(change: Change, person: Person, form: Form) -> str | Done:
    if was_migrated():
        raise HTTPException(
            503,
            "The store was migrated since this server was started, so nothing was done. The operator of the server has to restart it: "
            "`alchemist explore`, or Airflow's API server.",
        )
    return change(person, form)


async def read_form(request: Request) -> Form:
    """Return the fields of a form of bounded size; of several values of one field, the last.

    Raises:
        HTTPException: It is too large, or not a form.
    """
    if request.headers.get("content-type", "").partition(";")[0] != "application/x-www-form-urlencoded":
        raise HTTPException(415, "Only forms are accepted.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise HTTPException(413, f"The form has more than {MOST_BYTES} bytes.")
    try:
        form = dict(parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=2_000, errors="strict"))
    except ValueError:
        raise HTTPException(400, "The form cannot be read.") from None
    if any("\0" in name + value for name, value in form.items()):
        raise HTTPException(400, "The form has a character with the number 0.")
    return form
