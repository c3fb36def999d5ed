"""Renders pages: the templates of the explorer over the parts, the style sheet and the charts of the report.

Autoescape is on, and only templates make markup. Pages have no inline script and no inline style, so that the browser can refuse both.
"""

import hashlib
import hmac
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlencode

from jinja2 import Environment
from starlette.convertors import IntegerConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from alchemist_core.code_version import code_version
from alchemist_core.config import counted
from alchemist_core.explorer.people import Person
from alchemist_core.report.page import make_environment
from alchemist_core.store.flags import LABELS

CSP = "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; form-action 'self'; frame-ancestors 'self'; base-uri 'none'"
"""Content of the header Content-Security-Policy. Airflow shows pages in a frame of its own origin."""
_STATIC = {
    "page.css": ("alchemist_core.report", "templates/page.css", "text/css"),
    "explorer.css": ("alchemist_core.explorer", "static/explorer.css", "text/css"),
    "flags.js": ("alchemist_core.explorer", "static/flags.js", "text/javascript"),
}


class _Number(IntegerConvertor):
    """Admits the numbers that the store has. Python refuses to read one of more than 4,300 digits, which would be an error of the page."""

    regex = "[0-9]{1,18}"


register_url_convertor("number", _Number())


class Tab(NamedTuple):
    """An entry of the navigation: its text and its path."""

    text: str
    path: str


def render(request: Request, template: str, *, title: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Return a page.

    Args:
        request: What was asked for.
        template: Name of the template, which extends `layout.html`.
        title: The question that the page answers.
        status: HTTP status.
        **values: What the template shows.
    """
    # Nobody, if the guard itself has failed.
    person: Person = getattr(request.state, "person", Person("", b""))
    root = request.scope.get("root_path", "")

    def link(path: str, given: Mapping[str, object] | None = None, **more: object) -> str:
        """Return an address of the explorer; values that are None are left out."""
        query = {name: value for name, value in {**(given or {}), **more}.items() if value is not None}
        return f"{root}{path}{'?' if query else ''}{urlencode(query)}"

    context = {
        "title": title, "person": person, "tabs": request.app.state.tabs, "here": request.url.path.removeprefix(root), "link": link,
        "address": request.url.path.removeprefix(root) + (f"?{request.url.query}" if request.url.query else ""), "labels": LABELS,
        "static": lambda name: f"{root}/static/{static_file(name).version}/{name}", "code_version": code_version(),
    }  # fmt: skip
    context["said"] = said = _read_said(request, person)
    response = HTMLResponse(_environment().get_template(template).render(context | values), status)
    if said:
        response.delete_cookie(_SAID, path=root or "/")
    return response


_SAID = "alchemist_said"
_SAID_SECONDS = 60


def keep_said(request: Request, response: Response, said: str) -> None:
    """Let the browser keep what a form did until the next page shows it; signed, because other servers of this host can set cookies."""
    person: Person = request.state.person
    response.set_cookie(
        _SAID, f"{person.sign(said)}.{quote(said, safe='')}", max_age=_SAID_SECONDS, httponly=True, samesite="strict",
        path=request.scope.get("root_path", "") or "/",
    )  # fmt: skip


def _read_said(request: Request, person: Person) -> str:
    signature, _, quoted = request.cookies.get(_SAID, "").partition(".")
    said = unquote(quoted)
    return said if hmac.compare_digest(signature.encode(), person.sign(said).encode()) else ""


def render_placeholder(text: str, *, status: int) -> Response:
    """Return a drawing with a text, in place of a picture that cannot be shown."""
    drawing = _environment().get_template("placeholder.svg").render(text=text)
    return Response(drawing, status, {"cache-control": "private, no-store"}, "image/svg+xml")


class StaticFile(NamedTuple):
    """A file that never changes under its version."""

    content: bytes
    media_type: str
    version: str


@cache
def static_file(name: str) -> StaticFile:
    """Return a static file by name.

    Raises:
        KeyError: There is none of this name.
    """
    package, path, media_type = _STATIC[name]
    content = files(package).joinpath(path).read_bytes()
    return StaticFile(content, media_type, hashlib.sha256(content).hexdigest()[:12])


def send_static(request: Request) -> Response:
    """Serve a static file: its address contains its hash, so browsers keep it for ever."""
    name, version = request.path_params["name"], request.path_params["version"]
    if name not in _STATIC or static_file(name).version != version:
        raise HTTPException(404, "There is no such file. Reload the page.")
    found = static_file(name)
    headers = {"cache-control": "private, max-age=31536000, immutable", "etag": f'"{version}"'}
    return Response(found.content, headers=headers, media_type=found.media_type)


@cache
def _environment() -> Environment:
    environment = make_environment("alchemist_core.explorer", "alchemist_core.report")
    environment.filters |= {"counted": counted, "hex": bytes.hex}
    return environment
