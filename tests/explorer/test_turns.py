"""Pages run in few threads of their own: those that wait for the store hold up nothing else of the server, and too many are refused."""

import asyncio
from collections import Counter

import anyio.to_thread
import httpx
import pytest
from sqlalchemy import Engine, text

from alchemist_core.explorer import app as explorer
from alchemist_core.explorer.app import make_app
from alchemist_core.explorer.turns import RETRY_AFTER_S
from tests.explorer.conftest import Admits

pytestmark = pytest.mark.db

N_FITTING = explorer.N_AT_ONCE + explorer.MOST_WAITING
N_ASKED = N_FITTING + 20


def test_pages_that_wait_for_the_store_take_no_thread_of_airflow_and_have_a_bound(own_store: Engine) -> None:
    async def ask() -> tuple[int, list[httpx.Response]]:
        app = make_app(Admits())
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver", timeout=60) as browser:
            with own_store.begin() as connection:
                connection.execute(text("LOCK TABLE alchemist.raters IN ACCESS EXCLUSIVE MODE"))
                asking = [asyncio.create_task(browser.get("/raters")) for _ in range(N_ASKED)]
                await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
                # What Airflow's own endpoints run in.
                n_taken = anyio.to_thread.current_default_thread_limiter().borrowed_tokens
                # Neither a style sheet nor a redirect waits.
                assert (await browser.get("/")).status_code == 303
            answers = [await one for one in asking]
        app.state.pictures.close()
        return n_taken, answers

    n_taken, answers = asyncio.run(ask())
    assert n_taken == 0
    assert Counter(one.status_code for one in answers) == {200: N_FITTING, 503: N_ASKED - N_FITTING}
    assert {one.headers.get("retry-after") for one in answers if one.status_code == 503} == {str(RETRY_AFTER_S)}
    assert "Too many pages are waiting" in answers[-1].text
