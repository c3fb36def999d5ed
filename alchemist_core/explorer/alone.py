"""The guard of an explorer without Airflow: one person, on this machine, who has read the address from their terminal."""

import hmac
import secrets
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from alchemist_core.explorer.people import Person

_NEVER_SEEN = (
    "The explorer does not know this browser. Open the address that `alchemist explore` printed. It can be used once: if it was used in "
    "another browser, stop the explorer (Ctrl-C) and start it again.\n"
)


class OwnMachine:
    """Admits the browser that first came with the token of the printed address, and knows it by a cookie from then on.

    The token is used up by the first visit, because an address can be read by others: in the history of the browser, or in the list of
    processes. Other sites cannot send the cookie (SameSite), and cannot reach the explorer under a name of their own (Host).
    """

    def __init__(self, port: int, name: str, *, host: str = "127.0.0.1", may_write: bool = True) -> None:
        self._hosts = {f"{one}:{port}" for one in ("127.0.0.1", "localhost", "[::1]", host)}
        # Browsers send a cookie to every port of a host.
        self._cookie = f"alchemist_explorer_{port}"
        self._session = secrets.token_urlsafe(32)
        self._token: str | None = secrets.token_urlsafe(32)
        self._person = Person(name, self._session.encode(), may_flag=may_write, may_act=may_write)

    @property
    def query(self) -> str:
        """The query of the address to print."""
        return urlencode({"token": self._token or ""})

    async def admit(self, request: Request) -> Person | Response:
        """Return the person; or a refusal; or a redirect that leaves the token out of the address."""
        if request.headers.get("host") not in self._hosts:
            return PlainTextResponse("Open the address that `alchemist explore` printed.\n", 421)
        given = request.query_params.get("token")
        if hmac.compare_digest(request.cookies.get(self._cookie, "").encode(), self._session.encode()):
            return self._person if given is None else self._redirect(request)
        if given is not None and self._token is not None and hmac.compare_digest(given.encode(), self._token.encode()):
            self._token = None
            response = self._redirect(request)
            response.set_cookie(self._cookie, self._session, httponly=True, samesite="strict", path="/")
            return response
        return PlainTextResponse(_NEVER_SEEN, 401)

    def _redirect(self, request: Request) -> RedirectResponse:
        rest = urlencode([(name, value) for name, value in request.query_params.multi_items() if name != "token"])
        # A path that begins with two slashes would be the address of another host.
        path = "/" + request.url.path.lstrip("/")
        return RedirectResponse(path + (f"?{rest}" if rest else ""), 303)
