"""The explorer as a tab of Airflow: through Airflow's login, within its page, and only for those whom it lets in."""

import html
import http.client
import re
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
from sqlalchemy import Engine, text

from alchemist_core.local import stack
from alchemist_core.settings import load_settings
from alchemist_core.store.engine import open_store
from tests.given import insert_rows

from .browser import DESKTOP, PHONE, Browser, needs_chromium
from .published_client import Airflow

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]
PICTURES = Path(".alchemist/screenshots")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("tab")
    folder.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALCHEMIST_HOME", str(folder / "home"))
        patch.setenv("ALCHEMIST_AIRFLOW_USERS", "admin:admin,ann:user,watcher:viewer")
        load_settings.cache_clear()
        try:
            stack.up(folder / "home")
            yield folder / "home"
        finally:
            stack.down(folder / "home")
    load_settings.cache_clear()


def ask(
    airflow: Airflow, path: str, token: str | None, *, method: str = "GET", body: str | None = None, **headers: str
) -> tuple[int, str, str]:
    """Return the status, the page and the address of a redirect."""
    cookie = {} if token is None else {"Cookie": f"_token={token}"}
    with closing(http.client.HTTPConnection(urlsplit(airflow.url).netloc, timeout=60)) as connection:
        connection.request(method, path, body, headers={**cookie, **headers})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers.get("location", "")


def test_the_explorer_admits_whom_airflow_knows(home: Path) -> None:
    airflow = Airflow(home)
    for token in (None, "x", airflow.token[:-4]):
        status, page, address = ask(airflow, "/alchemist/samples", token)
        assert status in (303, 401, 403)
        assert "What is in the corpus?" not in page
        assert status != 303 or "/auth/" in address or "/login" in address
    status, page, _ = ask(airflow, "/alchemist/samples", airflow.token)
    assert status == 200
    assert "What is in the corpus?" in page
    assert 'href="/alchemist/nights"' in page, "links stay below Airflow's prefix"


def test_the_explorer_shows_what_each_role_may_do(home: Path) -> None:
    for name, words in (("watcher", "watcher · may look"), ("ann", "ann · Alchemist"), ("admin", "admin · Alchemist")):
        status, page, _ = ask(Airflow(home, name), "/alchemist/needs", Airflow(home, name).token)
        assert status == 200
        assert words in page


@pytest.fixture(scope="module")
def samples(home: Path) -> Engine:
    """Samples 1 and 2 in the store of this Airflow."""
    engine = open_store()
    with engine.begin() as connection:
        insert_rows(connection, {
            "datasets": [{"dataset_id": 1, "name": "web"}], "shards": [{"shard_id": 1, "dataset_id": 1, "crawl_date": "2026-01-01"}],
            "samples": [{"sample_id": 1}, {"sample_id": 2}], "raters": [{"rater_id": 1, "name": "r1"}, {"rater_id": 2, "name": "r2"}],
            "sample_locations": [{"shard_id": 1, "ordinal": 0, "sample_id": 1}, {"shard_id": 1, "ordinal": 1, "sample_id": 2}],
        })  # fmt: skip
    return engine


# What a form sends, and what the store holds if it was done.
ACTIONS = {
    "/flags": ({"one": "1:bad", "back": "/samples"}, "SELECT flagged_by FROM alchemist.sample_flags"),
    "/decide/takedown": ({"sample": "2", "reason": "asked"}, "SELECT requested_by FROM alchemist.takedowns"),
    "/decide/promote": ({"rater": "r1", "reason": "the first"}, "SELECT actor FROM alchemist.audit_events WHERE action = 'promote'"),
}  # fmt: skip


@pytest.mark.parametrize("role", ["nobody", "watcher", "ann"])
def test_the_explorer_lets_each_role_of_airflow_do_what_it_may(home: Path, samples: Engine, role: str) -> None:
    """Before the action that is allowed, each is tried by those who may not: nobody, and a viewer."""
    token = None if role == "nobody" else Airflow(home, role).token
    airflow = Airflow(home)
    _, page, _ = ask(airflow, "/alchemist/samples", token)
    found = re.search(r'name="form_token" value="([0-9a-f]{64})"', page)
    assert bool(found) is (role == "ann")
    for path, (form, query) in ACTIONS.items():
        _, decision, _ = ask(airflow, f"/alchemist{path}?{urlencode(form)}", token)
        seen = re.search(r'name="seen" value="([^"]*)"', decision)
        hidden = {"form_token": found[1] if found else "0" * 64, "seen": html.unescape(seen[1]) if seen else ""}
        fields = urlencode({**form, **hidden})
        status, _, address = ask(
            airflow, f"/alchemist{path}", token, method="POST", body=fields, Origin=airflow.url,
            **{"Content-Type": "application/x-www-form-urlencoded"},
        )  # fmt: skip
        with samples.connect() as connection:
            done_by = list(connection.execute(text(query)).scalars())
        if role == "ann":
            assert (status, address.startswith("/alchemist/")) == (303, True), path
            assert done_by == ["ann"], path
        else:
            assert status == 403 if role == "watcher" else status in (303, 401), path
            assert "/alchemist/" not in address, path
            assert done_by == [], path
    for verb in ("release", "reject", "publish", "withdraw", "takedown", "promote", "retry", "select"):
        status, _, _ = ask(airflow, f"/alchemist/decide/{verb}", token)
        assert status == {"watcher": 403, "ann": 200 if verb == "retry" else 400}.get(role, status), verb


def test_another_site_cannot_send_a_form_to_the_explorer(home: Path) -> None:
    airflow = Airflow(home)
    answer = ask(airflow, "/alchemist/samples", airflow.token, method="POST", Origin="https://evil.example")
    assert answer[0] == 403


@needs_chromium
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_explorer_is_a_tab_of_airflow(home: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    airflow = Airflow(home)
    with Browser(tmp_path / "chromium") as browser:
        browser.log_in(airflow.url, airflow.token)
        browser.resize(*size)
        browser.call("Page.navigate", url=f"{airflow.url}/plugin/alchemist")
        assert _text_in_frame(browser, until="What needs me?")
        browser.picture(PICTURES / f"explorer-tab-{size[0]}.png")
        browser.evaluate("[...document.querySelector('iframe').contentDocument.querySelectorAll('nav a')][1].click()")
        assert _text_in_frame(browser, until="What is in the corpus?")


def _text_in_frame(browser: Browser, *, until: str) -> bool:
    """Whether the frame of the tab shows a text within half a minute."""
    text = "document.querySelector('iframe')?.contentDocument?.body?.innerText ?? ''"
    ends_at = time.monotonic() + 30
    while time.monotonic() < ends_at:
        if until in str(browser.evaluate(text)):
            return True
        time.sleep(0.5)
    return False
