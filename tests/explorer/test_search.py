"""Search by content: the pages show what the command finds, a service embeds the texts, and clusters say what is new in kind."""

import asyncio
import html
import json
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import make_url
from starlette.testclient import TestClient

from alchemist_core.cli.search import SearchConfig, search_samples
from alchemist_core.embeddings.text_service import MAX_TEXT, embed_text
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.explorer import search
from alchemist_core.explorer.app import make_app
from alchemist_core.settings import load_settings
from alchemist_core.store import browsing
from alchemist_core.store.engine import make_engine
from tests.explorer.conftest import Admits
from tests.explorer.enriched import DIM, N_CLUSTERS, N, embeddings, enrich, serving_texts
from tests.explorer.test_samples import samples_of, title
from tests.given import insert_rows
from tests.trained_store import TrainedStore, use_store

pytestmark = pytest.mark.db


def embed(text: str) -> NDArray[np.float32]:
    """A tower that knows three words."""
    if text == "broken":
        raise DataError("This word breaks the tower.")
    if text == "a defect":
        raise RuntimeError("secret")
    return np.eye(DIM, dtype=np.float32)[["red", "green", "blue"].index(text)]


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    with serving_texts(embed) as url:
        yield url


@pytest.fixture(scope="module")
def enriched(
    filled_once: TrainedStore, make_database: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> TrainedStore:
    """A store with embeddings and clusters, which tests only read."""
    own = TrainedStore(make_database(template=make_url(filled_once.url).database), tmp_path_factory.mktemp("enriched"))
    with pytest.MonkeyPatch.context() as patch:
        use_store(patch, own)
        engine = make_engine(own.url)
        enrich(engine)
        engine.dispose()
    load_settings.cache_clear()
    return own


@pytest.fixture
def client(enriched: TrainedStore, service: str, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    monkeypatch.setenv("ALCHEMIST_SEARCH_URL", service)
    use_store(monkeypatch, enriched)
    return TestClient(make_app(Admits()))


def nearest(query: NDArray[np.float32], n: int) -> list[int]:
    similarity = embeddings().astype(np.float32) @ query
    return [one for one in (np.lexsort((np.arange(N), -similarity)) + 1).tolist() if one != 9][:n]


def test_searches_that_wait_hold_up_no_other_page(enriched: TrainedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    use_store(monkeypatch, enriched)
    go_on = threading.Event()
    monkeypatch.setattr(search, "find_nearest", lambda *_: go_on.wait(60) and None)

    async def ask() -> tuple[int, Counter[int]]:
        transport = httpx.ASGITransport(make_app(Admits()))
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as browser:
            asking = [asyncio.create_task(browser.get("/samples/search?like=1")) for _ in range(60)]
            await asyncio.sleep(0.1)
            page = await asyncio.wait_for(browser.get("/raters"), 30)
            go_on.set()
            return page.status_code, Counter([(await one).status_code for one in asking])

    page, answers = asyncio.run(ask())
    assert page == 200
    assert answers == {200: search.N_AT_ONCE + search.MOST_WAITING, 503: 60 - search.N_AT_ONCE - search.MOST_WAITING}


def test_samples_are_found_by_content_in_the_order_of_the_command(client: TestClient) -> None:
    page = html.unescape(client.get("/samples/search?like=4").text)
    assert title(page) == "Which samples are most like 4?"
    assert samples_of(page) == [one.sample_id for one in search_samples(SearchConfig(like="4", limit=48)).samples]
    assert "48 samples, the most similar first, of 81 compared." in page
    assert "similarity 1.0" in page or "similarity 0.9" in page
    assert 'href="/samples/search?like=4&n=96">Show 96' in page
    found = client.get("/samples/search?text=green&n=5").text
    assert title(found) == "Which images show “green”?"
    assert samples_of(found) == nearest(embed("green"), 5)
    assert (
        samples_of(client.get("/samples/search?text=green&n=5&where=sample_id<10").text)
        == [one for one in nearest(embed("green"), N) if one < 10][:5]
    )


def test_the_pages_lead_to_the_search(client: TestClient) -> None:
    assert 'href="/samples/search"' in client.get("/samples").text
    assert 'href="/samples/search?like=4"' in client.get("/samples/4").text
    assert 'href="/samples?cluster=0&scorer=clip"' in html.unescape(client.get("/samples/4").text)
    assert "/samples/search" not in client.get("/samples/9").text, "its image was taken down"
    assert title(client.get("/samples/search").text) == "Which images do you search for?"


def test_a_cluster_and_a_part_of_a_caption_are_conditions_of_a_grid(client: TestClient) -> None:
    assert samples_of(client.get("/samples?cluster=1").text) == [
        i for i in range(N, 0, -1) if (i - 1) % N_CLUSTERS == 1
    ]
    assert samples_of(client.get("/samples?caption=CAPTION+of+7").text) == [70, 7]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("like=9", "Sample 9 has no embedding"),
        ("like=4&text=green", "search by a text or by a sample"),
        ("like=x", "like: Input should be a valid integer"),
        ("like=4&where=nothing>1", "no column 'nothing'"),
        ("like=4&scorer=siglip", "Scorer 'siglip' has no embeddings"),
        ("text=green&scorer=siglip", "The service embeds texts by clip, not by siglip"),
        ("text=broken", "This word breaks the tower."),
        ("n=100000&like=4", "n: Input should be less than or equal to 480"),
    ],
)
def test_what_cannot_be_searched_is_explained_beside_the_form(client: TestClient, query: str, words: str) -> None:
    answer = client.get(f"/samples/search?{query}")
    assert answer.status_code == 400
    assert words in html.unescape(answer.text)
    assert 'id="text"' in answer.text


def test_without_a_service_or_without_an_answer_the_page_says_what_to_start(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url, words in (("http://127.0.0.1:1", "does not answer"), ("", "needs a service")):
        monkeypatch.setenv("ALCHEMIST_SEARCH_URL", url)
        if not url:
            monkeypatch.delenv("ALCHEMIST_SEARCH_URL")
        load_settings.cache_clear()
        page = html.unescape(client.get("/samples/search?text=green").text)
        assert words in page
        assert "alchemist scorer serve NAME" in page
        assert "127.0.0.1:1" not in page
        assert samples_of(client.get("/samples/search?like=4").text), "by a sample it needs none"


def test_what_is_new_in_kind_comes_first(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "/nights/web/2026-01-02"
    assert f'href="{path}/unusual?scorer=clip">What is new in kind</a>' in client.get(path).text
    page = html.unescape(client.get(f"{path}/unusual").text)
    assert title(page) == "What is new in kind in web, 2026-01-02?"
    assert samples_of(page)[0] == 75
    assert sorted(samples_of(page)) == list(range(71, N + 1))
    assert "Measured: 12 of the night's 12 samples." in page
    monkeypatch.setattr(browsing, "MOST_OF_SHARDS", 5)
    assert "Measured: 5 of the night's last 5 samples." in html.unescape(client.get(f"{path}/unusual").text)


def test_clusters_of_several_scorers_can_be_opened_each_by_itself(client: TestClient, enriched: TrainedStore) -> None:
    engine, others = make_engine(enriched.url), {9: "siglip", 10: "clusters_0123456789ab"}
    centroids = {"n_clusters": N_CLUSTERS, "threshold": 0.9}
    try:
        with engine.begin() as connection:
            for rater_id, name in others.items():
                scorer = {
                    "rater_id": rater_id,
                    "name": name,
                    "kind": "scorer",
                    "rule": "scorer",
                    "config": {"name": name},
                }
                own = {"rater_id": rater_id, "cluster": 2, "block_id": 1}
                insert_rows(connection, {
                    "raters": [scorer], "cluster_centroids": [{"rater_id": rater_id, **centroids}],
                    "clusters": [{**own, "sample_id": 4}, {**own, "sample_id": 5}],
                })  # fmt: skip
        page = html.unescape(client.get("/samples/4").text)
        for cluster, scorer in ((0, "clip"), (2, "siglip"), (2, "clusters_0123456789ab")):
            assert f'href="/samples?cluster={cluster}&scorer={scorer}"' in page
        found = client.get("/samples?cluster=2&scorer=siglip").text
        assert samples_of(found) == [5, 4]
        assert title(found) == "Which samples are in cluster 2 of siglip?"
        assert samples_of(client.get("/samples?cluster=1").text)[-1] == 2, "of the oldest scorer, clip"
        path = "/nights/web/2026-01-02"
        night = client.get(path).text
        assert night.count("What is new in kind, by ") == 2, "experiments cluster corpora of their own"
        assert f'href="{path}/unusual?scorer=siglip">What is new in kind, by siglip</a>' in night
        for query in ("", "?scorer=clip"):
            assert samples_of(html.unescape(client.get(f"{path}/unusual{query}").text))[0] == 75
    finally:
        with engine.begin() as connection:
            for table in ("clusters", "cluster_centroids", "raters"):
                connection.exec_driver_sql(f"DELETE FROM alchemist.{table} WHERE rater_id IN (9, 10)")
        engine.dispose()


@pytest.mark.parametrize(
    "reply", [b"[" * 100_000, b'{"scorer": "clip", "embedding": [1' + b"0" * 400 + b"]}", b"[]", b"x"]
)
def test_a_service_that_answers_something_else_does_not_answer(reply: bytes) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request).start()
        with pytest.raises(DataError, match="does not answer"):
            embed_text(f"http://127.0.0.1:{server.server_port}", "blue")


# --- The service -----------------------------------------------------------------------------------------------------------------


def test_the_service_answers_texts_and_refuses_everything_else(service: str) -> None:
    scorer, numbers = embed_text(service, "blue")
    assert (scorer, numbers.tolist()) == ("clip", [0, 0, 1, 0])
    with urllib.request.urlopen(service) as answer:
        assert json.load(answer) == {"scorer": "clip"}
    with pytest.raises(ConfigError, match="1 to 1000 characters"):
        embed_text(service, "x" * (MAX_TEXT + 1))
    with pytest.raises(DataError, match=r"The service that embeds texts failed: The scorer failed\. The log") as failed:
        embed_text(service, "a defect")
    assert "secret" not in str(failed.value)
    for path, body in (
        ("/embed", b"{}"),
        ("/embed", b"x"),
        ("/embed", b'{"text": 1}'),
        ("/embed", b"[" * 12_000),
        ("/", b'{"text": "red"}'),
        ("/embed", b""),
    ):
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(urllib.request.Request(service + path, body))
    assert embed_text(service, "red").embedding_D[0] == 1, "it goes on"
