"""Nobody gets in without the address, no other site gets through, and no page lets a browser run or load anything foreign."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from starlette.requests import Request
from starlette.routing import Route
from starlette.testclient import TestClient

from alchemist_core.explorer import app as application
from alchemist_core.explorer.actions import MOST_BYTES, TOKEN_FIELD, action
from alchemist_core.explorer.alone import OwnMachine
from alchemist_core.explorer.app import HEADERS, make_app
from alchemist_core.explorer.markup import CSP
from alchemist_core.explorer.people import Person
from alchemist_core.explorer.serving import ExploreConfig
from alchemist_core.settings import load_settings
from tests.explorer.conftest import ANN, Admits
from tests.trained_store import TrainedStore

pytestmark = pytest.mark.db
OWN = "http://127.0.0.1:9480"


@pytest.mark.parametrize(
    "path", ["/", "/samples", "/samples?where=(", "/samples/3", "/pictures/3/thumbnail", "/pictures/9", "/nothing"]
)
def test_every_answer_has_the_headers_of_safety(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert answer.headers["cache-control"].startswith("private, no-")


LONG = "5" * 5_000


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/samples/{LONG}", 404), (f"/samples/{10**18 - 1}", 404), (f"/pictures/{LONG}", 404), (f"/pictures/{LONG}/thumbnail", 404),
        (f"/subsets/best/{LONG}", 404), (f"/subsets/best/{LONG}/blind", 404), (f"/subsets/best/{10**18 - 1}", 404),
        (f"/experiments/x/figures/{LONG}", 404),
        (f"/samples?where=sample_id={LONG}", 200), (f"/samples?where=sample_id+in+(1,{LONG})", 200),
    ],
)  # fmt: skip
def test_a_number_that_is_too_long_is_not_a_defect(client: TestClient, path: str, status: int) -> None:
    assert client.get(path).status_code == status


def test_the_policy_of_pages_allows_only_what_this_server_sends() -> None:
    assert "unsafe" not in CSP
    assert "data:" not in CSP
    assert "default-src 'none'" in CSP
    assert "frame-ancestors 'self'" in CSP


def test_static_files_are_kept_for_ever_under_the_hash_of_their_content(client: TestClient) -> None:
    addresses = re.findall(r'href="(/static/[^"]+)"', client.get("/samples").text)
    assert len(addresses) == 2
    for address in addresses:
        answer = client.get(address)
        assert answer.headers["content-type"].startswith("text/css")
        assert "immutable" in answer.headers["cache-control"]
        assert "url(" not in answer.text
    for name in ("0/page.css", "0/..%2fapp.py", addresses[0].split("/")[2] + "/app.py"):
        assert client.get(f"/static/{name}").status_code == 404


def test_a_page_is_small(client: TestClient) -> None:
    page = client.get("/samples").text
    sizes = [len(client.get(address).content) for address in re.findall(r'href="(/static/[^"]+)"', page)]
    assert len(page.encode()) + sum(sizes) < 150_000


def test_nothing_is_changed_by_looking() -> None:
    """Every route is for reading, or only for forms."""
    methods = [route.methods for module in application.PAGES for route in module.ROUTES if isinstance(route, Route)]
    assert methods
    assert all(found in ({"GET", "HEAD"}, {"POST"}) for found in methods)


# --- The printed address ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def guard() -> OwnMachine:
    return OwnMachine(9480, "ann")


@pytest.fixture
def stranger(store: TrainedStore, guard: OwnMachine) -> TestClient:
    return TestClient(make_app(guard), base_url=OWN, follow_redirects=False)


def test_the_printed_address_lets_one_browser_in(stranger: TestClient, guard: OwnMachine) -> None:
    assert stranger.get("/samples").status_code == 401
    address = f"/samples?{guard.query}&rater=r1"
    entered = stranger.get(address)
    assert (entered.status_code, entered.headers["location"]) == (303, "/samples?rater=r1")
    cookie = entered.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert stranger.get("/samples").status_code == 200
    # The address is used up, and is no secret any more.
    other = TestClient(make_app(guard), base_url=OWN, follow_redirects=False)
    assert other.get(address).status_code == 401
    assert stranger.get(address).headers["location"] == "/samples?rater=r1"


def test_a_path_of_two_slashes_leads_to_no_other_host(stranger: TestClient, guard: OwnMachine) -> None:
    for query in (guard.query, "token=x"):
        answer = stranger.get(f"{OWN}//evil.example/?{query}")
        assert (answer.status_code, answer.headers["location"]) == (303, "/evil.example/")


@pytest.mark.parametrize("token", ["", "x", "%00", "é"])
def test_another_token_lets_nobody_in(stranger: TestClient, token: str) -> None:
    assert stranger.get(f"/samples?token={token}").status_code == 401
    assert stranger.get("/static/0/page.css").status_code == 401


@pytest.mark.parametrize("host", ["evil.example", "evil.example:9480", "127.0.0.1:9481", "127.0.0.1", ""])
def test_a_foreign_name_of_this_machine_is_refused(stranger: TestClient, guard: OwnMachine, host: str) -> None:
    stranger.get(f"/?{guard.query}")
    assert stranger.get("/samples", headers={"host": host}).status_code == 421
    assert stranger.get("/samples", headers={"host": "localhost:9480"}).status_code != 421


@pytest.mark.parametrize("host", ["127.0.0.2", "[::ffff:7f00:1]"])
def test_the_printed_address_of_another_loopback_address_lets_one_browser_in(store: TrainedStore, host: str) -> None:
    guard = OwnMachine(9480, "ann", host=host)
    browser = TestClient(make_app(guard), base_url=f"http://{host}:9480", follow_redirects=False)
    assert browser.get(f"/samples?{guard.query}").status_code == 303
    assert browser.get("/samples").status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.1", "::", "localhost.example", "10.0.0.1"])
def test_only_this_machine_can_be_served(host: str) -> None:
    with pytest.raises(ValueError, match="must be a loopback address"):
        ExploreConfig(host=host)


# --- The seam of actions ---------------------------------------------------------------------------------------------------------

DONE: list[tuple[str, dict[str, str]]] = []


@action("act")
def act(person: Person, form: dict[str, str]) -> str:
    DONE.append((person.name, form))
    return "/samples"


@action("flag")
def flag(person: Person, form: dict[str, str]) -> str:
    DONE.append((person.name, form))
    return "/samples/3"


@pytest.fixture
def acting(store: TrainedStore, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    page = SimpleNamespace(ROUTES=[Route("/act", act, methods=["POST"]), Route("/flag", flag, methods=["POST"])])
    monkeypatch.setattr(application, "PAGES", [*application.PAGES, page])
    DONE.clear()
    return TestClient(make_app(Admits()), base_url=OWN, follow_redirects=False, headers={"origin": OWN})


def test_a_form_of_the_explorer_acts_in_the_name_of_the_person(acting: TestClient) -> None:
    answer = acting.post("/act", data={TOKEN_FIELD: ANN.form_token, "reason": "déjà vu"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/samples")
    assert DONE == [("ann", {"reason": "déjà vu"})]


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({"origin": "https://evil.example"}, None),
        ({"origin": "null"}, None),
        ({"sec-fetch-site": "cross-site"}, None),
        ({"sec-fetch-site": "same-site"}, None),
        ({"sec-fetch-site": "none"}, None),
        ({}, ""),
        ({}, "0" * 64),
        ({}, Person("bob", b"of bob's session").form_token),
    ],
)
def test_a_form_of_anybody_else_does_nothing(acting: TestClient, headers: dict[str, str], token: str | None) -> None:
    given = ANN.form_token if token is None else token
    assert acting.post("/act", data={TOKEN_FIELD: given}, headers=headers).status_code == 403
    assert DONE == []


def test_without_an_origin_nothing_is_done(acting: TestClient) -> None:
    del acting.headers["origin"]
    assert acting.post("/act", data={TOKEN_FIELD: ANN.form_token}).status_code == 403
    assert acting.get("/act").status_code == 405
    assert DONE == []


@pytest.mark.parametrize(
    ("person", "allowed"),
    [
        (Person("viewer", b"s"), {"/act": False, "/flag": False}),
        (Person("editor", b"s", may_flag=True), {"/act": False, "/flag": True}),
        (Person("user", b"s", may_flag=True, may_act=True), {"/act": True, "/flag": True}),
    ],
)
def test_a_person_does_only_what_they_may(acting: TestClient, person: Person, allowed: dict[str, bool]) -> None:
    client = TestClient(make_app(Admits(person)), base_url=OWN, follow_redirects=False, headers={"origin": OWN})
    for path, may in allowed.items():
        answer = client.post(path, data={TOKEN_FIELD: person.form_token})
        assert answer.status_code == (303 if may else 403)
    assert len(DONE) == sum(allowed.values())


def test_a_form_is_bounded_and_nothing_but_a_form(acting: TestClient) -> None:
    big = {TOKEN_FIELD: ANN.form_token, "reason": "x" * MOST_BYTES}
    assert acting.post("/act", data=big).status_code == 413
    assert acting.post("/act", json={TOKEN_FIELD: ANN.form_token}).status_code == 415
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert acting.post("/act", content="é".encode(), headers=form).status_code == 400
    assert acting.post("/act", data={TOKEN_FIELD: ANN.form_token, "reason": "a\0b"}).status_code == 400
    assert DONE == []


@pytest.mark.parametrize("path", ["/samples?caption=a%00b", "/subsets/a%00b/1", f"/samples?subset=best:{'1' * 5_000}"])
def test_an_address_that_no_page_writes_is_refused_and_no_defect(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 400


def test_a_defect_shows_no_detail(acting: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_request: Request) -> None:
        raise RuntimeError("the secret detail")

    monkeypatch.setattr(application, "PAGES", [*application.PAGES, SimpleNamespace(ROUTES=[Route("/fail", fail)])])
    client = TestClient(make_app(Admits()), raise_server_exceptions=False)
    answer = client.get("/fail")
    assert answer.status_code == 500
    assert "secret detail" not in answer.text
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS


def test_a_store_that_does_not_answer_shows_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALCHEMIST_DATABASE_URL", "postgresql://someone:secret@127.0.0.1:1/nowhere")
    monkeypatch.setenv("ALCHEMIST_HOME", str(tmp_path))
    load_settings.cache_clear()
    client = TestClient(make_app(Admits()))
    answer = client.get("/samples")
    assert answer.status_code == 503
    assert not any(word in answer.text for word in ("someone", "secret", "nowhere", "127.0.0.1"))
    picture = client.get("/pictures/3/thumbnail")
    assert picture.status_code == 503
