"""Who asks for a page, what they may do, and the guard that admits them. Knows neither Airflow nor the store."""

import hmac
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

READING = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who is logged in."""

    name: str
    """As the audit log stores it."""
    secret: bytes
    """Of their session; no other person and no other site knows it."""
    may_flag: bool = False
    may_act: bool = False

    @property
    def form_token(self) -> str:
        """The token that their forms contain, so that no other site can send one in their name."""
        return hmac.digest(self.secret, b"alchemist form", "sha256").hex()

    def sign(self, text: str) -> str:
        """Return the signature of a text that their browser keeps and sends back."""
        return hmac.digest(self.secret, f"alchemist said {text}".encode(), "sha256").hex()

    def has_sent(self, token: str) -> bool:
        """Whether a token is that of their forms."""
        return hmac.compare_digest(self.form_token.encode(), token.encode())


class Guard(Protocol):
    """Decides who may see the explorer."""

    async def admit(self, request: Request) -> Person | Response:
        """Return who asks; or the response that they get instead, such as a refusal."""
        ...


def is_from_own_page(request: Request) -> bool:
    """Whether a page of this server sent the request, by what the browser says of its origin; a request that does not say is refused."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc == request.headers.get("host")
