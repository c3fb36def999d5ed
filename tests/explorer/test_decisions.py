"""Decisions: their pages change nothing, their forms do what the command does, in the person's name, and only for those who may."""

import html
import json
import re
import shlex
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text
from starlette.testclient import TestClient

from alchemist_core.cli.command_line import build_parser, read_config
from alchemist_core.cli.held_nights import RejectNightConfig, ReleaseNightConfig, reject, release
from alchemist_core.cli.rater import PromoteConfig, promote
from alchemist_core.cli.subset import PublishSubsetConfig, WithdrawSubsetConfig, publish, withdraw
from alchemist_core.explorer.actions import TOKEN_FIELD
from alchemist_core.explorer.app import make_app
from alchemist_core.explorer.decisions import Condition
from alchemist_core.explorer.people import Person
from alchemist_core.files import artifact_path
from alchemist_core.project import load_project
from alchemist_core.selection.config import SelectionPolicy
from alchemist_core.stages.select import SelectConfig
from alchemist_core.store.audit import acting_as
from alchemist_core.store.engine import open_store
from alchemist_core.store.flags import set_flags
from alchemist_core.store.raters import find_named, record_acceptance_report
from tests.explorer.conftest import ANN, Admits, run
from tests.explorer.enriched import compared_arms, write_members
from tests.given import insert_rows
from tests.written_commands import require_accepted

pytestmark = pytest.mark.db
OWN = "http://127.0.0.1:9480"
EDITOR = Person("eve", b"of eve's session", may_flag=True)
RELEASE = {"dataset": "web", "night": "2026-01-02"}
VERSION, NEXT = ({"subset": "best", "version": version} for version in ("1", "2"))
PAGES = {
    "/decide/release": RELEASE, "/decide/reject": RELEASE, "/decide/withdraw": VERSION, "/decide/takedown": {"sample": "3"},
    "/decide/publish": NEXT, "/decide/promote": {"rater": "r2"}, "/decide/retry": {"reason": "too_slow"}, "/decide/select": VERSION,
}  # fmt: skip
REASON = "looked at it"


@pytest.fixture
def browser(own_store: Engine) -> Iterator[TestClient]:
    run(own_store, "UPDATE alchemist.nights SET state = 'held', reason = 'drift', decided_by = NULL WHERE night_id = 2")
    with own_store.begin() as connection:
        insert_rows(connection, {"raters": [{"rater_id": 7, "name": "r2"}], "subsets": [version_2()]})
    app = make_app(Admits(), dags="/dags/")
    yield TestClient(app, base_url=OWN, headers={"origin": OWN}, follow_redirects=False)
    app.state.pictures.close()


def version_2() -> dict[str, Any]:
    """Write the manifest of version 2 of best, which is not published; return its row."""
    uri, members = "best-2.parquet", [2, 6, 7]
    digest = write_members(uri, members)
    return {
        "subset_id": 2, "name": "best", "version": 2, "snapshot_id": 1, "strategy": "top_k", "n_samples": len(members),
        "manifest_uri": uri, "manifest_sha256": digest,
    }  # fmt: skip


def rows(engine: Engine, sql: str) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(sql))]


EVENTS = "SELECT actor, action, subject FROM alchemist.audit_events ORDER BY audit_event_id"


def decide(browser: TestClient, path: str, **form: str) -> str:
    answer = browser.post(path, data=filled_in(browser, path, form))
    assert answer.status_code == 303, html.unescape(answer.text)
    return answer.headers["location"]


def filled_in(browser: TestClient, path: str, given: dict[str, str]) -> dict[str, str]:
    """What the form of a decision sends: the fields of its page as it is now, the hidden ones too, and a reason."""
    page = browser.get(path, params=given).text
    form = page.partition('<form class="decide"')[2]
    fields = {
        name: html.unescape(value) for name, value in re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', form)
    }
    return {"reason": REASON, **fields}


def test_looking_at_a_decision_changes_nothing(browser: TestClient, own_store: Engine) -> None:
    for path, given in PAGES.items():
        page = browser.get(path, params=given)
        assert page.status_code == 200, (path, html.unescape(page.text))
        assert re.search(r"<h1>.+\?(</span>)?</h1>", page.text), path
    assert rows(own_store, EVENTS) == []


@pytest.mark.parametrize("path", PAGES)
def test_who_may_not_act_sees_no_decision_and_does_none(browser: TestClient, own_store: Engine, path: str) -> None:
    client = TestClient(make_app(Admits(EDITOR)), base_url=OWN, headers={"origin": OWN})
    assert client.get(path, params=PAGES[path]).status_code == 403
    form = {TOKEN_FIELD: EDITOR.form_token, "reason": REASON, **PAGES[path]}
    assert client.post(path, data=form).status_code in (403, 405)
    for page in (
        "/samples/3",
        "/subsets/best/1",
        "/nights/web/2026-01-02",
        "/raters/r2",
        "/samples?quarantine=too_slow",
    ):
        assert "/decide/" not in client.get(page).text, page
    assert rows(own_store, EVENTS) == []


def test_pages_lead_to_their_decisions(browser: TestClient) -> None:
    for page, path in (
        ("/samples/3", "takedown?sample=3"), ("/subsets/best/1", "withdraw?subset=best&amp;version=1"),
        ("/subsets/best/2", "publish?subset=best&amp;version=2"),
        ("/nights/web/2026-01-02", "release?dataset=web&amp;night=2026-01-02"), ("/raters/r2", "promote?rater=r2"),
        ("/samples?quarantine=too_slow", "retry?reason=too_slow"),
    ):  # fmt: skip
        assert f"/decide/{path}" in browser.get(page).text, page


def test_a_held_night_is_released(browser: TestClient, own_store: Engine) -> None:
    assert decide(browser, "/decide/release", **RELEASE) == "/nights/web/2026-01-02"
    assert rows(own_store, "SELECT state, decided_by FROM alchemist.nights WHERE night_id = 2") == [("released", "ann")]
    assert rows(own_store, EVENTS) == [("ann", "release", "night web 2026-01-02 r1")]
    again = browser.get("/decide/release", params=RELEASE)
    assert again.status_code == 400
    assert "There is nothing to release" in again.text


def test_a_held_night_is_rejected_and_still_released_later(browser: TestClient, own_store: Engine) -> None:
    assert decide(browser, "/decide/reject", **RELEASE) == "/nights/web/2026-01-02"
    assert rows(own_store, "SELECT state, reason, decided_by FROM alchemist.nights WHERE night_id = 2") == [
        ("rejected", REASON, "ann")
    ]
    page = html.unescape(browser.get("/nights/web/2026-01-02").text)
    assert f"<strong>No:</strong> rejected: {REASON}." in page
    assert "/decide/release" in page
    assert "/decide/reject" not in page
    assert "web, 2026-01-02" not in browser.get("/needs").text
    assert "There is nothing to reject" in browser.get("/decide/reject", params=RELEASE).text
    decide(browser, "/decide/release", **RELEASE)
    assert rows(own_store, EVENTS) == [
        ("ann", "reject", "night web 2026-01-02 r1"),
        ("ann", "release", "night web 2026-01-02 r1"),
    ]


def test_a_night_that_was_rejected_under_another_rater_has_the_command_that_releases_it(
    browser: TestClient, own_store: Engine
) -> None:
    run(own_store, """
        UPDATE alchemist.nights SET state = 'rejected', reason = 'wrong', decided_at = now() WHERE night_id = 2;
        UPDATE alchemist.raters SET state = 'retired' WHERE state = 'production';
        UPDATE alchemist.raters SET state = 'production' WHERE name = 'r2'
    """)  # fmt: skip
    page = html.unescape(browser.get("/nights/web/2026-01-02").text)
    assert "<strong>No:</strong> rejected under rater r1: wrong." in page
    assert "alchemist night release --dataset web --crawl-date 2026-01-02 --rater r1 --reason WHY" in page
    assert "/decide/release" not in page


def test_a_night_that_a_check_stopped_is_not_scored_by_this_server(browser: TestClient, own_store: Engine) -> None:
    run(own_store, """
        INSERT INTO alchemist.check_results (suite, expectation, severity, is_success, observed, dataset_name, crawl_date)
        VALUES ('samples', 'captions_are_long', 'fail', false, '{"in_words": "expected letters; found <b>"}', 'web', '2026-01-02')
    """)  # fmt: skip
    page = html.unescape(browser.get("/decide/release", params=RELEASE).text)
    assert "alchemist night release --dataset web --crawl-date 2026-01-02 --reason WHY" in page
    assert "samples.captions_are_long: expected letters; found <b>" in page
    assert "<button>Release" not in page
    assert "expected letters; found &lt;b&gt;" in browser.get("/nights/web/2026-01-02").text
    assert "samples.captions_are_long: expected letters" in html.unescape(
        browser.get("/decide/reject", params=RELEASE).text
    )
    answer = browser.post("/decide/release", data={TOKEN_FIELD: ANN.form_token, "reason": REASON, **RELEASE})
    assert answer.status_code == 400
    assert rows(own_store, EVENTS) == []
    decide(browser, "/decide/reject", **RELEASE)
    assert ("ann", "reject", "checks of web 2026-01-02") in rows(own_store, EVENTS)
    assert "web, 2026-01-02" not in browser.get("/needs").text


def test_a_version_is_published_instead_of_the_one_that_was(browser: TestClient, own_store: Engine) -> None:
    page = html.unescape(browser.get("/decide/publish", params=NEXT).text)
    assert "Programs that read best get it from then on, instead of best v1." in page
    assert decide(browser, "/decide/publish", **NEXT) == "/subsets/best/2"
    assert rows(own_store, "SELECT version, state FROM alchemist.subsets ORDER BY 1") == [
        (1, "superseded"),
        (2, "published"),
    ]
    assert rows(own_store, "SELECT actor, action, after FROM alchemist.audit_events") == [
        ("ann", "publish", {"version": 2, "approved_by": "ann", "comment": REASON})
    ]
    members = "SELECT sample_id FROM alchemist.subset_samples WHERE subset_id = 2 ORDER BY 1"
    assert rows(own_store, members) == [(2,), (6,), (7,)]
    again = browser.get("/decide/publish", params=NEXT)
    assert (again.status_code, "best v2 is published already" in again.text) == (400, True)


def test_a_publication_warns_unless_the_loss_of_any_model_was_measured(browser: TestClient, own_store: Engine) -> None:
    warning = "Nobody has measured whether it is better than a random subset."
    assert warning in browser.get("/decide/publish", params=NEXT).text
    with own_store.begin() as connection:
        insert_rows(connection, compared_arms())
    for metric in ("heldout_loss", "heldout_flow_loss"):
        run(own_store, "UPDATE alchemist.evaluations SET metric = :metric", metric=metric)
        assert warning not in browser.get("/decide/publish", params=NEXT).text


def test_a_version_is_withdrawn(browser: TestClient, own_store: Engine) -> None:
    assert decide(browser, "/decide/withdraw", **VERSION) == "/subsets/best/1"
    found = rows(own_store, "SELECT state, withdrawn_by, withdrawn_reason FROM alchemist.subsets WHERE version = 1")
    assert found == [("withdrawn", "ann", REASON)]
    page = html.unescape(browser.get("/decide/publish", params=VERSION).text)
    assert "It was withdrawn by ann: looked at it" in page


def test_an_image_is_taken_down(browser: TestClient, own_store: Engine) -> None:
    page_of_report = artifact_path("reports/all.html")
    page_of_report.parent.mkdir(parents=True)
    page_of_report.write_text("pictures of some images")
    assert decide(browser, "/decide/takedown", sample="6") == "/samples/6"
    assert not page_of_report.exists()
    taken = rows(own_store, "SELECT reason, requested_by FROM alchemist.takedowns ORDER BY takedown_id DESC LIMIT 1")
    assert taken == [(REASON, "ann")]
    page = html.unescape(browser.get("/samples/6").text)
    assert "Readers of best skip it" in page
    assert "/decide/takedown" not in page


def test_a_rater_is_promoted_with_the_reason_of_the_person(browser: TestClient, own_store: Engine) -> None:
    assert "It has not passed its acceptance checks" in browser.get("/decide/promote?rater=r2").text
    assert decide(browser, "/decide/promote", rater="r2") == "/raters/r2"
    assert rows(own_store, "SELECT name, state FROM alchemist.raters WHERE kind = 'trained' ORDER BY 1") == [
        ("r1", "retired"),
        ("r2", "production"),
    ]
    ((actor, after),) = rows(own_store, "SELECT actor, after FROM alchemist.audit_events WHERE action = 'promote'")
    assert actor == "ann"
    assert REASON in str(after)


def test_long_work_is_shown_as_a_command_and_a_dag(browser: TestClient) -> None:
    page = html.unescape(browser.get("/decide/select", params=VERSION).text)
    assert f"alchemist select --dataset web --name best --strategy top_k --retention 0.2 --where '{NO_FLAGS}'" in page
    assert "open <b>build_subset</b>, press <em>Trigger</em>" in page, (
        "no link, which the frame of Airflow would not follow"
    )
    in_a_tab = browser.get("/decide/select", params=VERSION, headers={"sec-fetch-dest": "document"}).text
    assert 'href="/dags/build_subset" target="_blank"' in in_a_tab, "the explorer stays open"
    assert "Advanced Options" in page
    assert f'"where": "{NO_FLAGS}"' in page
    assert '<a href="/subsets" aria-current="page">' in page
    page = html.unescape(browser.get("/decide/retry?reason=too_slow").text)
    assert "alchemist sample retry-quarantine --reason too_slow" in page
    assert browser.post("/decide/retry", data={TOKEN_FIELD: ANN.form_token}).status_code == 405


NO_FLAGS = "not flagged_bad and not flagged_wrong_caption and not flagged_unsafe"


def test_each_flag_is_chosen_and_what_stays_in_is_said(browser: TestClient, own_store: Engine) -> None:
    """Members of the version are the samples 2, 6, 10 and so on; sample 3 is none."""
    set_flags(own_store, [2, 6, 3], "wrong_caption", actor="ann")
    set_flags(own_store, [10], "Too dark", actor="ann")
    page = html.unescape(browser.get("/decide/select", params=VERSION).text)
    boxes = re.findall(r'name="without" value="(\w+)"( checked)?><label [^>]*>([^<]+)', page)
    assert boxes == [
        ("bad", " checked", "bad: 0 samples of v1"), ("wrong_caption", " checked", "wrong caption: 2 samples of v1"),
        ("unsafe", " checked", "unsafe: 0 samples of v1"), ("too_dark", "", "too dark: 1 sample of v1"),
    ]  # fmt: skip
    assert "Warning: </strong><bdi>1 sample of v1 flagged too dark can be selected again." in page
    chosen = {**VERSION, "chosen": "1", "without": ["too_dark", "bad"]}
    page = html.unescape(browser.get("/decide/select", params=chosen).text)
    assert "--where 'not flagged_bad and not flagged_too_dark'" in page
    assert "2 samples of v1 flagged wrong caption can be selected again" in page
    assert "--where" not in browser.get("/decide/select", params={**VERSION, "chosen": "1"}).text
    assert browser.get("/decide/select", params={**VERSION, "chosen": "1", "without": "x' or 1"}).status_code == 400
    run(own_store, "DELETE FROM alchemist.subset_samples")
    page = browser.get("/decide/select", params=VERSION).text
    assert "wrong caption</label>" in page, "without a number that nobody knows"


@pytest.mark.parametrize(
    ("condition", "rest", "without"),
    [
        (None, None, set()),
        ("not flagged_bad", None, {"bad"}),
        ("not flagged_bad and not flagged_unsafe", None, {"bad", "unsafe"}),
        ("(a or b) and (not flagged_bad)", "(a or b)", {"bad"}),
        ("(caption = 'x)') and (not flagged_bad)", "(caption = 'x)')", {"bad"}),
        ("(a) or (b) and (not flagged_bad)", "((a) or (b) and (not flagged_bad))", set()),
        ("not flagged_bad or width > 9", "(not flagged_bad or width > 9)", set()),
    ],
)
def test_flags_are_added_to_a_condition_without_a_change_of_its_meaning(
    condition: str | None, rest: str | None, without: set[str]
) -> None:
    taken = Condition.of(condition)
    assert taken == (rest, without)
    again = Condition.of(taken.without_flags(["good"]))
    assert again == (rest, {"good"}), "they are exchanged, not added once more"


SPEC = {
    "strategy": "head_gsample", "std_rank": 0.1, "retention": 0.2, "seed": 7, "dedup": "near", "decontaminate": ["books"],
    "where": "width > 10 or height > 10", "allow_fewer": True, "max_share": 0.5, "rater": "r1", "eligible_hash": "e", "scale": "s",
}  # fmt: skip


def shown(browser: TestClient) -> list[str]:
    """The command, and the configuration of the DAG if there is one."""
    page = browser.get("/decide/select", params=VERSION).text
    return [html.unescape(found) for found in re.findall(r'<pre class="json">(.*?)</pre>', page, re.DOTALL)]


def test_a_version_is_selected_again_with_its_own_options(browser: TestClient, own_store: Engine) -> None:
    """Otherwise the two versions would differ by more than the condition, and say nothing of it."""
    statement = "UPDATE alchemist.subsets SET spec = CAST(:spec AS jsonb), strategy = 'head_gsample', seed = 7"
    run(own_store, statement, spec=json.dumps(SPEC))
    command, conf = shown(browser)
    require_accepted(command)
    given = dict(zip(words := shlex.split(command)[2:], words[1:], strict=False))
    assert "--allow-fewer" in given
    assert given.items() >= {
        "--dataset": "web", "--name": "best", "--retention": "0.2", "--seed": "7", "--strategy": "head_gsample", "--std-rank": "0.1",
        "--dedup": "near", "--decontaminate": "books", "--max-share": "0.5",
        "--where": f"(width > 10 or height > 10) and ({NO_FLAGS})",
    }.items()  # fmt: skip
    assert "--rater" not in given, "it is the one in production"
    fields = json.loads(conf)
    assert (fields["seed"], fields["decontaminate"], fields["allow_fewer"]) == (7, "books", "yes")
    run(own_store, statement, spec=json.dumps(SPEC | {"where": given["--where"]}))
    assert shown(browser) == [command, conf], "the condition is not added twice"
    run(own_store, "UPDATE alchemist.raters SET state = 'retired' WHERE name = 'r1'")
    run(own_store, statement, spec=json.dumps(SPEC | {"p_rank": "inclusion"}))
    (command,) = shown(browser)
    assert "--rater r1" in command
    assert "--p-rank inclusion" in command, "for which the form of the DAG has no field"


OTHER_SELECTION = """
[selection]
recipe = "paper"
rater = "r2"
seed = 3
dedup = "near"
decontaminate = ["books"]
where = "width > 10"
max_share = 0.5
stratify = true
fill = "repeat"
"""


def test_the_project_file_changes_no_option_of_a_version_that_is_selected_again(
    browser: TestClient, own_store: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"strategy": "top_k", "retention": 0.2, "seed": 0}
    run(own_store, "UPDATE alchemist.subsets SET spec = CAST(:spec AS jsonb), seed = 0", spec=json.dumps(own))
    (tmp_path / "alchemist.toml").write_text(OTHER_SELECTION)
    monkeypatch.chdir(tmp_path)
    load_project.cache_clear()
    for chosen, condition in ({}, NO_FLAGS), ({"chosen": "1"}, None):
        page = browser.get("/decide/select", params=VERSION | chosen).text
        command, *dag = re.findall(r'<pre class="json">(.*?)</pre>', page, re.DOTALL)
        assert not dag, "its form takes no word for a number"
        words = shlex.split(html.unescape(command))[1:]
        config = read_config(SelectConfig, vars(build_parser(words).parse_args(words)))
        assert config.rater == "r1"
        assert config.policy == SelectionPolicy.model_validate(own | {"where": condition})


def test_the_dag_gets_the_options_that_its_project_file_would_change(
    browser: TestClient, own_store: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "alchemist.toml").write_text('[selection]\nseed = 3\nwhere = "width > 10"\nstratify = true\n')
    monkeypatch.chdir(tmp_path)
    load_project.cache_clear()
    page = browser.get("/decide/select", params=VERSION | {"chosen": "1"}).text
    _, conf = (html.unescape(found) for found in re.findall(r'<pre class="json">(.*?)</pre>', page, re.DOTALL))
    fields = json.loads(conf)
    assert (fields["seed"], fields["where"], fields["stratify"]) == (0, "none", "no")


@pytest.mark.parametrize(
    ("path", "form", "words"),
    [
        ("/decide/withdraw", {**VERSION, "reason": "x"}, "Give a reason of 3 to 500 characters"),
        ("/decide/withdraw", {**VERSION, "reason": "x" * 501}, "Give a reason of 3 to 500 characters"),
        ("/decide/withdraw", {"subset": "best", "version": "9"}, "best"),
        ("/decide/withdraw", {"subset": "best", "version": "x"}, "'x' is not a version"),
        ("/decide/release", {"dataset": "web", "night": "x"}, "'x' is not a crawl date"),
        ("/decide/takedown", {"sample": "99999"}, "There is no sample 99999"),
        ("/decide/takedown", {}, "has no field sample"),
        ("/decide/promote", {"rater": "nobody"}, "There is no rater 'nobody'"),
        ("/decide/promote", {"rater": "sharp"}, "Only a trained rater"),
        ("/decide/promote", {"rater": "r2"}, "The page was too old"),
        ("/decide/publish", {**NEXT, "seen": "[]"}, "The page was too old"),
        ("/decide/publish", {**NEXT, "seen": '{"event":1e999,"state":{}}'}, "The page was too old"),
        ("/decide/publish", {**NEXT, "seen": "[" * 20_000}, "The page was too old"),
    ],
)
def test_what_cannot_be_done_is_explained(
    browser: TestClient, own_store: Engine, path: str, form: dict[str, str], words: str
) -> None:
    answer = browser.post(path, data={TOKEN_FIELD: ANN.form_token, "reason": REASON, **form})
    assert answer.status_code == 400
    assert words in html.unescape(answer.text)
    assert rows(own_store, EVENTS) == []


def of_bob(decide: Callable[[], object]) -> None:
    """Let another person decide by their command."""
    with acting_as("bob"):
        decide()


NIGHT: dict[str, Any] = {"dataset": "web", "crawl_date": date(2026, 1, 2), "reason": "as it is"}
MEANWHILE: list[tuple[str, dict[str, str], Callable[[], object], str]] = [
    (
        "/decide/publish", NEXT, lambda: withdraw(WithdrawSubsetConfig(name="best", version=2, reason="leaked")),
        "bob has withdrawn subset best v2 (leaked) since this page was opened, so nothing was done",
    ),
    ("/decide/publish", NEXT, lambda: publish(PublishSubsetConfig(name="best", version=3)), "bob has published subset best v3 since"),
    ("/decide/withdraw", VERSION, lambda: publish(PublishSubsetConfig(name="best", version=3)), "bob has published subset best v3 since"),
    ("/decide/reject", RELEASE, lambda: release(ReleaseNightConfig(**NIGHT)), "bob has released night web 2026-01-02 r1 (as it is) since"),
    ("/decide/release", RELEASE, lambda: reject(RejectNightConfig(**NIGHT)), "bob has rejected night web 2026-01-02 r1 (as it is) since"),
    (
        "/decide/promote", {"rater": "r2"},
        lambda: record_acceptance_report(open_store(), find_named(open_store(), ["r2"])[0], [], is_certified=True, actor="bob"),
        "bob has checked rater r2 since",
    ),
    (
        "/decide/promote", {"rater": "r2"}, lambda: promote(PromoteConfig(rater="r3", without_acceptance="in a hurry")),
        "bob has promoted rater r3 since",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("path", "given", "meanwhile", "words"), MEANWHILE)
def test_a_decision_about_a_state_that_its_person_did_not_see_is_not_made(
    browser: TestClient,
    own_store: Engine,
    path: str,
    given: dict[str, str],
    meanwhile: Callable[[], object],
    words: str,
) -> None:
    version_3 = {**version_2(), "subset_id": 3, "version": 3}
    with own_store.begin() as connection:
        insert_rows(connection, {"raters": [{"rater_id": 8, "name": "r3"}], "subsets": [version_3]})
    form = filled_in(browser, path, given)
    of_bob(meanwhile)
    before = rows(own_store, EVENTS)
    answer = browser.post(path, data=form)
    assert answer.status_code == 400
    assert words in html.unescape(answer.text)
    assert rows(own_store, EVENTS) == before


def test_a_revision_that_arrived_after_the_page_was_opened_is_not_released_with_the_others(
    browser: TestClient, own_store: Engine
) -> None:
    form = filled_in(browser, "/decide/release", RELEASE)
    night = {
        "night_id": 3,
        "dataset_id": 1,
        "crawl_date": "2026-01-02",
        "rater_id": 1,
        "revision": 2,
        "state": "held",
        "reason": "drift",
    }
    with own_store.begin() as connection:
        insert_rows(connection, {"nights": [night]})
    answer = browser.post("/decide/release", data=form)
    assert answer.status_code == 400
    assert "What it shows has changed since this page was opened" in answer.text
    assert rows(own_store, "SELECT state FROM alchemist.nights WHERE night_id IN (2, 3)") == [("held",), ("held",)]


def test_a_withdrawn_version_is_published_again_by_who_saw_that_it_was_withdrawn(
    browser: TestClient, own_store: Engine
) -> None:
    of_bob(lambda: withdraw(WithdrawSubsetConfig(name="best", version=2, reason="leaked")))
    decide(browser, "/decide/publish", **NEXT)
    assert ("ann", "reinstate", "subset best") in rows(own_store, EVENTS)
