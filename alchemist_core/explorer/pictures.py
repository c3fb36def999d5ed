"""Pictures of samples: read by byte range, verified, encoded again by isolated processes, and kept in a bounded cache.

A picture that cannot be shown is a drawing that says why. Whether an image was taken down is asked of the store at every request.
"""

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from alchemist_core.cores import n_own_cores
from alchemist_core.errors import DataError
from alchemist_core.explorer.markup import render_placeholder
from alchemist_core.shards.images import BadImageError
from alchemist_core.shards.pictures import SIDES, PictureCache, PictureTask, PictureWorkers, own_cache
from alchemist_core.shards.storage import join_uri
from alchemist_core.store.browsing import PictureSource, find_picture, find_takedown
from alchemist_core.store.engine import open_reader
from alchemist_core.telemetry import on_one_line
from alchemist_core.training.sample_reading import image_member

LIMIT_S = 2.0
"""Processor time for one picture, in seconds: somebody waits for it. Scoring gives an image more."""
MOST_WORKERS = 4
MOST_WAITING = 1_000
MOST_REFUSED = 10_000


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture and the name of its content; without a picture, why there is none and the HTTP status that says so."""

    etag: str
    jpeg: bytes | None = None
    text: str = ""
    status: int = 200


class Pictures:
    """Makes the pictures of one server: a few at a time, so that other pages do not wait for them."""

    def __init__(self, cache: PictureCache | None = None) -> None:
        self._cache = cache
        self._workers = PictureWorkers(min(n_own_cores(), MOST_WORKERS))
        self._refused: OrderedDict[bytes, str] = OrderedDict()
        self._limiter: anyio.CapacityLimiter | None = None
        self._n_waiting = 0

    @property
    def cache(self) -> PictureCache:
        """The cache in the home's artifacts."""
        if self._cache is None:
            self._cache = own_cache()
        return self._cache

    def close(self) -> None:
        """End the worker processes. They also end with this process."""
        self._workers.close()

    async def find(self, sample_id: int, kind: str, known: str) -> Picture:
        """Return the picture of a sample, when it is its turn.

        Args:
            sample_id: The sample.
            kind: A key of `SIDES`.
            known: Names of the content that the browser has (the header If-None-Match).
        """
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(self._workers.n_workers)
        if self._n_waiting >= MOST_WAITING:
            return Picture("", text="Too many pictures are waiting. Reload the page.", status=503)
        self._n_waiting += 1
        try:
            make = partial(self._make, sample_id, SIDES[kind], known)
            return await anyio.to_thread.run_sync(make, limiter=self._limiter)
        finally:
            self._n_waiting -= 1

    def _make(self, sample_id: int, side: int, known: str) -> Picture:
        engine = open_reader()
        source = find_picture(engine, sample_id)
        if source is None:
            found = find_takedown(engine, sample_id)
            if found is None:
                return Picture("", text="No readable location", status=404)
            self.cache.forget([found.image_hash])
            return Picture("", text=f"Taken down: {found.reason}", status=410)
        etag = f'"{source.image_hash.hex()}-{side}"'
        if etag in known:
            return Picture(etag, status=304)
        if (kept := self.cache.find(source.image_hash, side)) is not None:
            return Picture(etag, kept)
        if (refusal := self._refused.get(source.image_hash)) is not None:
            return Picture("", text=refusal, status=422)
        return self._encode(source, side, etag)

    def _encode(self, source: PictureSource, side: int, etag: str) -> Picture:
        try:
            task = PictureTask(
                join_uri(source.root_uri, source.uri), image_member(source), source.image_hash, side, LIMIT_S
            )
            picture = self._workers.encode(task)
        except BadImageError as error:
            # It would fail again, after up to some seconds.
            self._refused[source.image_hash] = str(error)
            while len(self._refused) > MOST_REFUSED:
                self._refused.popitem(last=False)
            return Picture("", text=str(error), status=422)
        except DataError as error:
            return Picture("", text=str(error), status=502)
        self.cache.add(source.image_hash, side, picture)
        return Picture(etag, picture)


async def _send(request: Request, kind: str) -> Response:
    sample_id: int = request.path_params["sample_id"]
    pictures: Pictures = request.app.state.pictures
    known = request.headers.get("if-none-match", "")
    found = await pictures.find(sample_id, kind, known)
    # The browser asks every time, because the image may have been taken down.
    headers = {"cache-control": "private, no-cache", "etag": found.etag}
    if found.status == 304:
        return Response(status_code=304, headers=headers)
    if found.jpeg is None:
        return render_placeholder(on_one_line(found.text), status=found.status)
    return Response(found.jpeg, headers=headers, media_type="image/jpeg")


async def send_thumbnail(request: Request) -> Response:
    """Serve the small picture of a sample."""
    return await _send(request, "thumbnail")


async def send_picture(request: Request) -> Response:
    """Serve the picture of a sample, up to 1600 pixels wide or high."""
    return await _send(request, "full")


ROUTES: list[Any] = [
    Route("/pictures/{sample_id:number}", send_picture),
    Route("/pictures/{sample_id:number}/thumbnail", send_thumbnail),
]
