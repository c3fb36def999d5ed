"""Who may do what: every page and every action, asked by each role, is allowed or refused as SECURITY.md says."""

import html
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from starlette.routing import Route
from starlette.testclient import TestClient

from alchemist_core.explorer import app as application
from alchemist_core.explorer.actions import TOKEN_FIELD
from alchemist_core.explorer.alone import OwnMachine
from alchemist_core.explorer.app import make_app
from alchemist_core.explorer.people import Person
from tests.explorer.conftest import Admits, run, serving
from tests.explorer.enriched import write_manifest_of_first
from tests.explorer.test_serving import get
from tests.trained_store import TrainedStore

pytestmark = pytest.mark.db
OWN = "http://127.0.0.1:9480"
ROLES = {
    "viewer": Person("viewer", b"of the viewer"),
    "editor": Person("editor", b"of the editor", may_flag=True),
    "user": Person("user", b"of the user", may_flag=True, may_act=True),
}
LOOK = {
    "/needs", "/samples", "/samples/search", "/samples/{sample_id:number}", "/subsets", "/subsets/{name}",
    "/subsets/{name}/{version:number}",
    "/subsets/{name}/{version:number}/difference", "/subsets/{name}/{version:number}/blind",
    "/subsets/{name}/{version:number}/strata", "/nights",
    "/nights/{dataset}/{crawl_date}", "/nights/{dataset}/{crawl_date}/unusual", "/raters", "/raters/{name}", "/experiments",
    "/experiments/{name}", "/experiments/{name}/figures/{number:number}", "/pictures/{sample_id:number}",
    "/pictures/{sample_id:number}/thumbnail",
}  # fmt: skip
FLAG = {"/flags", "/judgements"}
ACT = {f"/decide/{verb}" for verb in ("release", "reject", "publish", "withdraw", "takedown", "promote")}
COPY = {"/members"}
REFUSED = {"/decide/release", "/decide/reject", "/decide/promote", "/judgements"}
"""What the facts refuse here, not the role: the night is not held, the rater is not a trained one, the judgement names no pictures."""
SHOWN = ACT | {"/decide/retry", "/decide/select"}
"""Pages of decisions; those of long work show a command and have no form."""
FIELDS = {
    "dataset": "web", "night": "2026-01-02", "subset": "best", "version": "1", "sample": "6", "rater": "sharp", "reason": "not for me",
    "one": "6:bad", "preferred": "left",
}  # fmt: skip


@pytest.fixture
def clients(own_store: Engine) -> Iterator[dict[str, TestClient]]:
    write_manifest_of_first(own_store)
    run(own_store, "UPDATE alchemist.subsets SET state = 'selected', published_at = NULL")
    apps = {role: make_app(Admits(person)) for role, person in ROLES.items()} | {
        "nobody": make_app(OwnMachine(9480, "ann"))
    }
    yield {
        role: TestClient(app, base_url=OWN, headers={"origin": OWN}, follow_redirects=False)
        for role, app in apps.items()
    }
    for app in apps.values():
        app.state.pictures.close()


def routes(method: str) -> set[str]:
    """The paths that can be asked by a method."""
    found = [route for module in application.PAGES for route in module.ROUTES if isinstance(route, Route)]
    return {route.path for route in found if method in (route.methods or ())}


def test_this_test_knows_every_page_and_every_action() -> None:
    assert routes("GET") == LOOK | SHOWN
    assert routes("POST") == FLAG | ACT | COPY


def address(path: str) -> str:
    values = {
        "sample_id:number": "3",
        "version:number": "1",
        "number:number": "0",
        "dataset": "web",
        "crawl_date": "2026-01-02",
    }
    for name, value in values.items():
        path = path.replace(f"{{{name}}}", value)
    return re.sub(r"\{name\}", "r1" if path.startswith("/raters") else "best", path)


def test_who_may_look_sees_every_page_and_who_may_not_sees_none(clients: dict[str, TestClient]) -> None:
    for path in sorted(LOOK):
        # Of pictures, which start a process, only the refusal; others test who sees them.
        for role, client in clients.items() if "pictures" not in path else [("nobody", clients["nobody"])]:
            status = client.get(address(path)).status_code
            assert (status == 401) is (role == "nobody"), (role, path, status)
            assert status != 403, (role, path)
    for path in sorted(SHOWN):
        for role, client in clients.items():
            status = client.get(path, params=FIELDS).status_code
            expected = {"nobody": {401}, "viewer": {403}, "editor": {403}}.get(role, {200, 400})
            assert status in expected, (role, path, status)


@pytest.mark.parametrize("role", ["nobody", "viewer", "editor", "user"])
def test_every_action_is_allowed_or_refused_by_role(
    clients: dict[str, TestClient], own_store: Engine, role: str
) -> None:
    """Each is sent with the person's own valid token, so that their role alone decides; a refusal leaves the store as it was."""
    before = state(own_store)
    for path in sorted(FLAG | ACT | COPY):
        token = ROLES[role].form_token if role in ROLES else ""
        page = clients[role].get(path, params=FIELDS).text if path in ACT else ""
        seen = {"seen": html.unescape(found[1])} if (found := re.search(r'name="seen" value="([^"]*)"', page)) else {}
        answer = clients[role].post(path, data={TOKEN_FIELD: token, **FIELDS, **seen})
        status = answer.status_code
        may = {"nobody": set(), "viewer": set(), "editor": FLAG}.get(role, FLAG | ACT | COPY)
        if path in may:
            assert status == (400 if path in REFUSED else 303), (role, path, status, answer.text)
            assert "defect" not in answer.text, path
        else:
            assert status == (401 if role == "nobody" else 403), (role, path, status)
            assert state(own_store) == before or role == "editor", (role, path)
    events = [actor for actor, _ in state(own_store)[1]]
    assert set(events) == ({role} if role in ("editor", "user") else set())
    actions = [action for _, action in state(own_store)[1]]
    expected = {"editor": ["flag"], "user": ["publish", "takedown", "withdraw", "flag"]}
    assert actions == expected.get(role, [])


def test_a_user_of_the_database_who_may_only_read_is_offered_no_action(
    read_once: str, log_in_at: Callable[[str, str], str], tmp_path: Path, port: int
) -> None:
    reader = TrainedStore(log_in_at(read_once, "alchemist_reader"), tmp_path / "home")
    with serving(reader, port) as entry:
        cookie = get(port, entry)[1]["set-cookie"].partition(";")[0]
        for path in ("/samples/3", "/subsets/best/1", "/raters/r1"):
            status, _, page = get(port, path, Cookie=cookie)
            assert status == 200, path
            assert b"/decide/" not in page, path
            assert b'name="form_token"' not in page, path
            assert b"may look" in page, path
        status, _, page = get(port, "/decide/withdraw?subset=best&version=1", Cookie=cookie)
        assert status == 403
        assert b"may look, but not do this" in page


def state(engine: Engine) -> tuple[int, list[tuple[str, str]]]:
    with engine.connect() as connection:
        n_flags = connection.execute(text("SELECT count(*) FROM alchemist.sample_flags")).scalar_one()
        events = connection.execute(text("SELECT actor, action FROM alchemist.audit_events ORDER BY audit_event_id"))
        return n_flags, [(row.actor, row.action) for row in events]
