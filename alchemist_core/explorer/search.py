"""Search: the samples whose images show what a text says, or that are most like a sample.

Texts are embedded by a service (`alchemist scorer serve`), because Airflow's server has no torch. The comparison with the embeddings of
images runs here, in two threads at most.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from pydantic import Field, ValidationError, model_validator
from sqlalchemy import Engine
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from alchemist_core.config import Config
from alchemist_core.embeddings.reading import Embeddings, find_embedding_scorer
from alchemist_core.embeddings.search import search
from alchemist_core.embeddings.text_service import MAX_TEXT, EmbeddedText, embed_text
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.explorer.faults import describe_faults
from alchemist_core.explorer.markup import render
from alchemist_core.explorer.turns import Turns
from alchemist_core.settings import load_settings
from alchemist_core.store import browsing
from alchemist_core.store.browsing import Conditions, Shown
from alchemist_core.store.embeddings import embedding_scorers
from alchemist_core.store.engine import open_reader
from alchemist_core.store.raters import find_rater

PATH = "/samples/search"
STEP, MOST = 48, 480
N_AT_ONCE, MOST_WAITING = 2, 16


class AskedSearch(Config):
    """What to search for: the fields of the address."""

    text: str | None = Field(None, max_length=MAX_TEXT, description="What the images show, in words")
    like: int | None = Field(None, ge=1, lt=1 << 63, description="Sample whose image they are like")
    where: str | None = Field(None, description="Condition as in --where")
    scorer: str | None = Field(None, description="Scorer whose embeddings are compared")
    n: int = Field(STEP, ge=1, le=MOST, description="Samples to show")

    @model_validator(mode="after")
    def _require_one(self) -> Self:
        if self.text is not None and self.like is not None:
            raise ValueError("search by a text or by a sample, not by both")
        return self


class Result(NamedTuple):
    """The nearest samples, each with its similarity, and how many were compared."""

    samples: list[Shown]
    similarity_of: dict[int, float]
    n_compared: int


def find_nearest(engine: Engine, asked: AskedSearch) -> Result | None:
    """Return the samples nearest to what was asked for; None if nothing was.

    Raises:
        ConfigError: The condition is not valid, no scorer has embeddings, or there is no service that embeds texts.
        DataError: The service does not answer, or the sample has no embedding.
    """
    if asked.text is None and asked.like is None:
        return None
    embedded = _embed(asked.text, asked.scorer) if asked.text is not None else None
    _, rater_id = find_embedding_scorer(engine, embedded.scorer if embedded else asked.scorer)
    embeddings = Embeddings(engine, rater_id)
    query_D = embedded.embedding_D if embedded else embeddings.read_one(asked.like or 0, str(asked.like))
    if query_D.shape != (embeddings.dim,):
        raise DataError(
            f"The text has {len(query_D)} numbers, and the images have {embeddings.dim}. They cannot be compared."
        )
    found = search(engine, embeddings, query_D, limit=asked.n, where=asked.where)
    similarity_of = dict(zip(found.sample_id_L.tolist(), found.similarity_L.tolist(), strict=True))
    return Result(_samples(engine, list(similarity_of)), similarity_of, found.n_compared)


def _embed(text: str, scorer: str | None) -> EmbeddedText:
    url = load_settings().search_url
    if url is None:
        raise ConfigError(
            "Search by a text needs a service that embeds it. Start it (alchemist scorer serve NAME), and set ALCHEMIST_SEARCH_URL for "
            "the explorer to the address that it prints."
        )
    embedded = embed_text(url, text)
    if scorer not in (None, embedded.scorer):
        raise ConfigError(f"The service embeds texts by {embedded.scorer}, not by {scorer}.")
    return embedded


def _samples(engine: Engine, sample_ids: list[int]) -> list[Shown]:
    rater = find_rater(engine, "production")
    scale_id = browsing.newest_scale(engine, rater) if rater else None
    return browsing.show(engine, sample_ids, Conditions(rater.rater_id if rater else None, scale_id))


async def show_search(request: Request) -> Response:
    """Return the samples that were searched for, when it is their turn: those that wait hold no thread that other pages need."""
    turns: Turns = request.app.state.searches
    return await turns.run(_show, request)


def make_turns() -> Turns:
    """Return the turns of the searches of one application."""
    return Turns(N_AT_ONCE, MOST_WAITING, "Other searches are running. Reload the page.")


def _show(request: Request) -> Response:
    engine = open_reader()
    given = {name: value.strip() for name, value in request.query_params.items() if value.strip()}
    try:
        asked = AskedSearch.model_validate(given)
        found = find_nearest(engine, asked)
    except (ValidationError, ConfigError, DataError) as error:
        return _page(request, engine, given, error=describe_faults(error))
    return _page(request, engine, given, asked=asked, found=found)


def _page(
    request: Request, engine: Engine, given: Mapping[str, str], *, asked: AskedSearch | None = None, found: Result | None = None,
    error: str | None = None,
) -> Response:  # fmt: skip
    has_more = asked is not None and found is not None and len(found.samples) == asked.n < MOST
    return render(
        request, "search.html", title=_title(asked), status=400 if error else 200, given=given, found=found, error=error,
        scorers=list(embedding_scorers(engine)), path=PATH, more=min(asked.n + STEP, MOST) if asked and has_more else None,
        base={name: value for name, value in given.items() if name != "n"}, has_service=load_settings().search_url is not None,
    )  # fmt: skip


def _title(asked: AskedSearch | None) -> str:
    if asked is not None and asked.like is not None:
        return f"Which samples are most like {asked.like}?"
    if asked is not None and asked.text is not None:
        return f"Which images show “{asked.text}”?"
    return "Which images do you search for?"


ROUTES: list[Any] = [Route(PATH, show_search)]
