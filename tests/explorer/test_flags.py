"""Flags by the forms of the explorer: of one sample, of many, undone, by those who may, and back on the page they came from."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from alchemist_core.explorer.actions import TOKEN_FIELD
from alchemist_core.explorer.app import make_app
from alchemist_core.explorer.flags import own_path
from alchemist_core.explorer.people import Person
from alchemist_core.settings import load_settings
from alchemist_core.store import engine as store_engine
from alchemist_core.store.flags import read_flags_of, read_history, set_flags
from tests.explorer.conftest import ANN, Admits
from tests.explorer.test_samples import Elements, samples_of

pytestmark = pytest.mark.db
OWN = "http://127.0.0.1:9480"
VIEWER = Person("vic", b"of vic's session")


@pytest.fixture
def browser(own_store: Engine) -> Iterator[TestClient]:
    app = make_app(Admits())
    yield TestClient(app, base_url=OWN, headers={"origin": OWN}, follow_redirects=False)
    app.state.pictures.close()


def post(browser: TestClient, **form: str) -> str:
    answer = browser.post("/flags", data={TOKEN_FIELD: ANN.form_token, **form})
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


def labels_of(engine: Engine, sample_id: int) -> list[str]:
    return [flag.label for flag in read_flags_of(engine, [sample_id]).get(sample_id, [])]


def test_the_buttons_of_a_tile_flag_and_undo(browser: TestClient, own_store: Engine) -> None:
    page = browser.get("/samples?dataset=web").text
    fields = {a["name"]: a["value"] for tag, a in Elements(page).found if tag == "input" and a.get("type") == "hidden"}
    assert fields == {TOKEN_FIELD: ANN.form_token, "back": "/samples?dataset=web", "grid": "s"}
    assert 'value="82:wrong_caption" aria-pressed="false"' in page
    back = fields["back"] or ""
    assert post(browser, one="82:wrong_caption", back=back, grid="s") == "/samples?dataset=web#s-82"
    assert 'value="82:wrong_caption:undo" aria-pressed="true"' in browser.get(back).text
    assert labels_of(own_store, 82) == ["wrong_caption"]
    filters = re.findall(r'<option value="(wrong_caption)">([^<]+)</option>', browser.get(back).text)
    assert filters == [("wrong_caption", "wrong caption")], "as the button says it"
    post(browser, one="82:wrong_caption:undo", back=back)
    assert labels_of(own_store, 82) == []
    assert [(row.is_set, row.flagged_by) for row in read_history(own_store, 82)] == [(False, "ann"), (True, "ann")]


def test_many_are_flagged_at_once_with_a_label_of_ones_own(browser: TestClient, own_store: Engine) -> None:
    many = {"sample-80": "on", "sample-81": "on"}
    assert post(browser, **many, label="", own="Too dark", comment="at night", back="/samples") == "/samples"
    assert samples_of(browser.get("/samples?flagged=too_dark").text) == [81, 80]
    assert samples_of(browser.get("/samples?where=flagged_too_dark+and+sample_id>80").text) == [81]
    page = browser.get("/samples/81").text
    assert "too dark" in page
    assert "at night" in page
    post(browser, **many, label="too_dark", undo="on", back="/samples")
    assert samples_of(browser.get("/samples?flagged=too_dark").text) == []


def test_what_a_form_did_is_said_once(browser: TestClient, own_store: Engine) -> None:
    set_flags(own_store, [81], "bad", actor="bob")
    post(browser, **{"sample-80": "on", "sample-81": "on", "sample-82": "on"}, label="bad", back="/samples")
    said = '<p class="said" role="status">2 samples flagged bad; 1 was already</p>'
    assert said in browser.get("/samples").text
    assert 'class="said"' not in browser.get("/samples").text, "not again"
    browser.cookies.set("alchemist_said", "0.All%20samples%20were%20removed")
    assert 'class="said"' not in browser.get("/samples").text, "another server of this host can set cookies"


@pytest.mark.parametrize(
    "form",
    [
        {"label": "bad"},
        {"one": "82"},
        {"one": "82:"},
        {"one": "82:<b>"},
        {"one": "999999:bad"},
        {"sample-82": "on", "label": "", "own": ""},
        {"sample-82": "on", "label": "bad", "comment": "x" * 2001},
    ],
)
def test_what_cannot_be_flagged_is_explained(browser: TestClient, own_store: Engine, form: dict[str, str]) -> None:
    answer = browser.post("/flags", data={TOKEN_FIELD: ANN.form_token, **form})
    assert answer.status_code == 400
    assert "<h1>What was asked for?</h1>" in answer.text
    assert read_history(own_store, 82) == []


def test_who_may_only_look_sees_flags_and_cannot_set_them(own_store: Engine) -> None:
    set_flags(own_store, [82], "bad", actor="ann")
    client = TestClient(make_app(Admits(VIEWER)), base_url=OWN, headers={"origin": OWN})
    for path in ("/samples", "/samples/82"):
        page = Elements(client.get(path).text)
        assert not {"script"} & {tag for tag, _ in page.found}
        assert not [1 for tag, a in page.found if tag == "form" and a.get("method") == "post"]
    assert "flagged bad" in client.get("/samples").text
    answer = client.post("/flags", data={TOKEN_FIELD: VIEWER.form_token, "one": "81:bad"})
    assert answer.status_code == 403
    assert labels_of(own_store, 81) == []


@pytest.mark.parametrize(
    "back", ["//evil.example", "https://evil.example", "/\\evil.example", "", "x", "/a\r\nset-cookie: x", "/a#b", "/é"]
)
def test_nobody_is_sent_elsewhere(back: str) -> None:
    assert own_path(back) == "/samples"


def test_enter_in_a_field_flags_nothing(browser: TestClient) -> None:
    """The default button of a form is its first one, and a disabled one sends nothing."""
    for path in ("/samples", "/samples/3"):
        forms = re.findall(r'<form class="flagging".+?</form>', browser.get(path).text, re.DOTALL)
        assert forms, path
        for form in forms:
            buttons = [attributes for tag, attributes in Elements(form).found if tag == "button"]
            assert "disabled" in buttons[0]
            assert not any("disabled" in button for button in buttons[1:])


def test_an_explorer_that_was_left_open_writes_nothing_into_a_store_that_was_migrated(
    browser: TestClient, own_store: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade replaces the files of the running server too, so these files agree with the migrated store."""
    assert browser.get("/samples").status_code == 200
    newer = shutil.copytree(store_engine.SQL, tmp_path / "sql")
    with (newer / "functions" / "hamming_distance.sql").open("a") as file:
        file.write("-- Of the next version.\n")
    monkeypatch.setattr(store_engine, "SQL", newer)
    assert store_engine.migrate(load_settings().database_url.get_secret_value())
    form = {TOKEN_FIELD: ANN.form_token, "one": "82:bad", "back": "/samples"}
    answer = browser.post("/flags", data=form)
    assert answer.status_code == 503
    assert "was migrated since this server was started, so nothing was done" in answer.text
    assert labels_of(own_store, 82) == []
    store_engine.close_stores()
    assert post(browser, **{name: form[name] for name in ("one", "back")}) == "/samples", (
        "a server that was started again"
    )
    assert labels_of(own_store, 82) == ["bad"]
