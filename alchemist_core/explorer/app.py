"""The application: every page, behind a guard, with the headers that make a browser refuse what a page does not need.

It is a Starlette application without a start-up of its own, so that it can be mounted into Airflow's server. It opens the store at the
first request.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from inspect import iscoroutinefunction
from types import ModuleType
from typing import cast
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from alchemist_core.cli.failures import explain, report_defect
from alchemist_core.errors import AlchemistError, ConfigError, StoreError
from alchemist_core.explorer import (
    blind,
    decisions,
    experiments,
    flags,
    needs,
    nights,
    pictures,
    raters,
    samples,
    search,
    subsets,
)
from alchemist_core.explorer.markup import CSP, Tab, render, send_static
from alchemist_core.explorer.people import READING, Guard, is_from_own_page
from alchemist_core.explorer.pictures import Pictures
from alchemist_core.explorer.turns import Turns
from alchemist_core.store.engine import DatabaseError

PAGES: Sequence[ModuleType] = (
    needs,
    samples,
    search,
    subsets,
    blind,
    nights,
    raters,
    experiments,
    pictures,
    flags,
    decisions,
)
"""Modules with pages, in the order of the navigation: each has ROUTES, and a TAB unless no page of it is in the navigation."""
HEADERS = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
N_AT_ONCE, MOST_WAITING = 8, 64
"""Pages that run at a time, fewer than the reader has connections (15), and pages that may wait for their turn."""
# Pages show what is in the store now; a browser may keep nothing of them on its disk.
_NO_STORE = "private, no-store"

log = logging.getLogger(__name__)


def make_app(guard: Guard, *, dags: str | None = None) -> Starlette:
    """Return the explorer as an ASGI application.

    Args:
        guard: Decides who may see it.
        dags: Where Airflow shows a DAG, before its name; None: there is no Airflow.
    """
    tabs = [module.TAB for module in PAGES if hasattr(module, "TAB")]
    turns = Turns(N_AT_ONCE, MOST_WAITING, "Too many pages are waiting. Reload the page in a few seconds.")
    routes = [Route("/", _go_to(tabs[0])), Route("/static/{version}/{name}", send_static)]
    for module in PAGES:
        routes += [_take_turns(route, turns) for route in module.ROUTES]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(SafeHeaders), Middleware(Admission, guard=guard)],
        exception_handlers={
            HTTPException: _show_refusal,
            **dict.fromkeys((AlchemistError, DatabaseError, Exception), _show_error),
        },
    )
    app.state.tabs, app.state.pictures, app.state.dags = tabs, Pictures(), dags
    app.state.searches = search.make_turns()
    return app


def _take_turns(route: Route, turns: Turns) -> Route:
    """Return the route; a page that is no coroutine runs when it is its turn."""
    if iscoroutinefunction(route.endpoint):
        return route
    return Route(route.path, turns.take(route.endpoint), methods=sorted(route.methods or ()))


class SafeHeaders:
    """Adds the headers of safety to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", _NO_STORE)
            await send(message)

        await self.app(scope, receive, send_with_headers)


class Admission:
    """Admits whom the guard admits; refuses what another site sent."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self.app, self.guard = app, guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with the person, or respond with a refusal."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        admitted = await self.guard.admit(request)
        if isinstance(admitted, Response):
            await admitted(scope, receive, send)
            return
        if request.method not in READING and not is_from_own_page(request):
            refusal = PlainTextResponse("This was not sent by a page of the explorer, so nothing was done.", 403)
            await refusal(scope, receive, send)
            return
        # Text with this character is no text for the database, and no page writes one.
        if "\0" in unquote(f"{request.url.path} {request.url.query}"):
            await PlainTextResponse("The address has a character with the number 0.", 400)(scope, receive, send)
            return
        request.state.person = admitted
        await self.app(scope, receive, send)


def _go_to(tab: Tab) -> Callable[[Request], RedirectResponse]:
    def redirect(request: Request) -> RedirectResponse:
        return RedirectResponse(request.scope.get("root_path", "") + tab.path, 303)

    return redirect


# A coroutine, because Starlette would run a function in the threads that pages leave to Airflow.
async def _show_refusal(request: Request, error: Exception) -> Response:
    refused = cast("HTTPException", error)
    return _error_page(request, refused.status_code, refused.detail, refused.headers)


def _show_error(request: Request, error: Exception) -> Response:
    known = explain(error)
    if known is None:
        text = report_defect(error, ["explore", request.url.path])
        log.error("%s", text)
        return _error_page(request, 500, "This is a defect of the explorer. It was written to the log of errors.")
    if isinstance(known, StoreError):
        # The message of a driver can contain the address of the database.
        log.error("%s", known)
        return _error_page(request, 503, "The store does not answer as expected. The log of this server says why.")
    return _error_page(request, 400 if isinstance(known, ConfigError) else 500, str(known))


def _error_page(request: Request, status: int, text: str, headers: Mapping[str, str] | None = None) -> HTMLResponse:
    titles = {400: "What was asked for?", 403: "May you do that?", 404: "Where is it?", 405: "How was it asked for?"}
    page = render(request, "error.html", title=titles.get(status, "What went wrong?"), status=status, text=text)
    # Starlette sends the page of a defect from outside of `SafeHeaders`.
    page.headers.update({**HEADERS, "cache-control": _NO_STORE, **(headers or {})})
    return page
