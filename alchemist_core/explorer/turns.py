"""Turns: pages run in few threads of their own, and are refused when too many wait for one.

Airflow's server runs its own endpoints in the threads that pages would otherwise take, and a page may wait long for the store.
"""

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

import anyio
import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

T = TypeVar("T")
RETRY_AFTER_S = 5


class Turns:
    """Runs functions in threads, a few at a time.

    Args:
        n_at_once: How many run at a time.
        most_waiting: How many more may wait for their turn.
        refusal: What a request is told that would be one more.
    """

    def __init__(self, n_at_once: int, most_waiting: int, refusal: str) -> None:
        self._n_at_once, self._most_asked, self._refusal = n_at_once, n_at_once + most_waiting, refusal
        self._limiter: anyio.CapacityLimiter | None = None
        self._n_asked = 0

    async def run(self, function: Callable[..., T], *given: object) -> T:
        """Return what the function returns, when it is its turn.

        Raises:
            HTTPException: Too many wait already (503).
        """
        if self._limiter is None:
            # Made at the first request, because a limiter belongs to the loop that serves.
            self._limiter = anyio.CapacityLimiter(self._n_at_once)
        if self._n_asked >= self._most_asked:
            raise HTTPException(503, self._refusal, {"retry-after": str(RETRY_AFTER_S)})
        self._n_asked += 1
        try:
            return await anyio.to_thread.run_sync(function, *given, limiter=self._limiter)
        finally:
            self._n_asked -= 1

    def take(self, page: Callable[[Request], Response]) -> Callable[[Request], object]:
        """Return an endpoint that runs a page when it is its turn."""

        @wraps(page)
        async def endpoint(request: Request) -> Response:
            return await self.run(page, request)

        return endpoint
