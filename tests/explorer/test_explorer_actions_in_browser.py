"""Every button and every key of the explorer as a person uses them, from the page on which they look to the page that shows the outcome."""

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import text

from alchemist_core.store.blind import count_judgements
from alchemist_core.store.flags import read_flags_of
from tests.e2e.browser import DESKTOP, needs_chromium
from tests.explorer.browsed import WAYS, Visit, visiting
from tests.trained_store import TrainedStore

pytestmark = [pytest.mark.db, pytest.mark.stack, pytest.mark.timeout(1200), needs_chromium]
REASON = "looked at all of it"


@pytest.fixture(scope="module", params=WAYS)
def visit(
    request: pytest.FixtureRequest, filled_once: TrainedStore, make_database: Callable[..., str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Visit]:  # fmt: skip
    with visiting(request.param, filled_once, make_database, tmp_path_factory.mktemp("visit")) as found:
        found.browser.resize(*DESKTOP)
        yield found
        assert found.browser.evaluate("violations.length") == 0


def labels(visit: Visit, sample_id: int) -> list[str]:
    return [flag.label for flag in read_flags_of(visit.engine, [sample_id]).get(sample_id, [])]


def ask(visit: Visit, sql: str) -> list[tuple[object, ...]]:
    with visit.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(sql))]


def decide(visit: Visit, link: str, button: str) -> str:
    """Follow the link of a decision, give a reason and press its button; return the text of the page that follows."""
    visit.click(link)
    visit.fill("reason", REASON)
    return visit.click(button, within="form.decide")


def test_the_explorer_flags_by_buttons_and_undoes(visit: Visit) -> None:
    visit.go("/samples")
    visit.click("bad", within="#s-82")
    assert labels(visit, 82) == ["bad"]
    assert visit.browser.evaluate("location.hash") == "#s-82", "it is still there"
    visit.click("bad", within="#s-82")
    assert labels(visit, 82) == []


def test_the_explorer_flags_many_with_a_label_and_a_comment(visit: Visit) -> None:
    visit.go("/samples")
    for sample_id in (81, 80):
        visit.browser.evaluate(f"document.getElementById('x-s-{sample_id}').click()")
    visit.fill("s-own", "Too dark")
    visit.fill("s-comment", "at night")
    visit.click("flag so", within=".flag-many")
    assert labels(visit, 81) == labels(visit, 80) == ["too_dark"]
    assert "at night" in visit.go("/samples/81")


def test_the_explorer_flags_by_keys(visit: Visit) -> None:
    visit.go("/samples?older=71")
    press = visit.browser.press
    press("j")
    assert visit.browser.evaluate("document.querySelector('.current').id") == "s-70"
    press("ArrowRight", code=39)
    press("k")
    for key, label in (("1", "good"), ("2", "bad"), ("3", "wrong_caption"), ("4", "unsafe")):
        visit.browser.evaluate("window.isLeft = true")
        press(key)
        visit.browser.until(
            "!window.isLeft && document.readyState === 'complete' && Boolean(document.querySelector('.current'))"
        )
        assert label in labels(visit, 70)
    visit.browser.evaluate("window.isLeft = true")
    press("u")
    visit.browser.until(
        "!window.isLeft && document.readyState === 'complete' && Boolean(document.querySelector('.current'))"
    )
    assert len(labels(visit, 70)) == 3
    press("x")
    assert visit.browser.evaluate("document.getElementById('x-s-70').checked")
    press("j")
    press("x")
    visit.browser.evaluate("window.isLeft = true")
    press("2")
    visit.browser.until("!window.isLeft && document.readyState === 'complete'")
    assert "bad" in labels(visit, 70), "both of the selected ones"
    assert "bad" in labels(visit, 69)


def test_the_keys_of_the_explorer_are_explained_and_can_be_switched_off(visit: Visit) -> None:
    visit.go("/samples")
    visit.browser.press("?", text="?")
    visit.browser.until("document.querySelector('dialog').open")
    assert "wrong caption" in str(visit.browser.evaluate("document.querySelector('dialog').innerText"))
    visit.browser.evaluate(
        "document.querySelector('dialog input').click(); document.querySelector('dialog button').click()"
    )
    before = labels(visit, 82)
    visit.browser.press("j")
    visit.browser.press("1")
    assert visit.browser.evaluate("document.querySelector('.current')") is None
    assert labels(visit, 82) == before
    visit.browser.evaluate("localStorage.clear()")


def test_the_explorer_is_used_by_keyboard_alone(visit: Visit) -> None:
    visit.go("/samples")
    visit.browser.press("Tab", code=9)
    assert visit.browser.evaluate("document.activeElement.className") == "skip"
    visit.browser.press("Enter", code=13, text="\r")
    visit.browser.until("location.hash === '#content'")
    visit.browser.evaluate("document.querySelector('summary').focus()")
    visit.browser.press("Enter", code=13, text="\r")
    visit.browser.until("document.querySelector('details').open")
    visit.fill("where", "caption = 'caption of 2'")
    visit.browser.evaluate("window.isLeft = true")
    visit.browser.press("Enter", code=13, text="\r")
    visit.browser.until("!window.isLeft && document.readyState === 'complete'")
    assert "1 sample, newest first" in visit.browser.text()


def test_the_explorer_narrows_down_by_its_form(visit: Visit) -> None:
    visit.go("/samples")
    visit.browser.evaluate(
        "document.querySelector('details').open = true; document.getElementById('dataset').value = 'web'"
    )
    visit.fill("caption", "LATE")
    assert "12 samples, newest first" in visit.click("Show")
    assert "Which samples of web are there?" in visit.browser.text()
    assert "Which samples does r1 rank" in visit.go("/samples") + visit.click("highest 5%")


def test_the_explorer_searches_by_words_and_by_a_sample(visit: Visit) -> None:
    visit.go("/samples")
    visit.click("search by content")
    visit.fill("text", "a red bicycle")
    assert "Which images show “a red bicycle”?" in visit.click("Search")
    assert "48 samples, the most similar first, of 81 compared." in visit.browser.text()
    assert "81 samples" in visit.click("Show 96 →")
    visit.go("/samples/4")
    assert "Which samples are most like 4?" in visit.click("More like this, by content")


def test_the_explorer_compares_blindly_by_keys(visit: Visit) -> None:
    visit.go("/subsets/best/1")
    assert "Which of the two would you rather train on?" in visit.click("Compare it with random samples, without names")
    for key in ("1", "2", "3"):
        visit.browser.evaluate("window.isLeft = true")
        visit.browser.press(key)
        visit.browser.until("!window.isLeft && document.readyState === 'complete'")
    visit.click("Left (1)")
    (judged,) = count_judgements(visit.engine, 1)
    assert (judged.n_subset + judged.n_other, judged.n_neither) == (3, 1)
    assert "You have judged 4 pairs" in visit.browser.text()
    assert "Against random samples: not proven yet." in visit.click("What have people preferred?")


def test_a_night_is_rejected_and_released_in_the_explorer(visit: Visit) -> None:
    visit.go("/needs")
    assert "Reject web, 2026-01-02?" in visit.click("Reject")
    visit.fill("reason", REASON)
    assert f"No: rejected: {REASON}." in visit.click("Reject", within="form.decide")
    assert "web, 2026-01-02" not in visit.go("/needs")
    visit.go("/nights/web/2026-01-02")
    assert "Yes: selectable." in decide(visit, "Release it", "Release")
    assert ask(visit, "SELECT action FROM alchemist.audit_events WHERE subject LIKE 'night%' ORDER BY audit_event_id") == [
        ("reject",), ("release",)
    ]  # fmt: skip


def test_a_version_is_published_and_withdrawn_in_the_explorer(visit: Visit) -> None:
    visit.go("/subsets/best/2")
    assert "published ·" in decide(visit, "Publish it", "Publish")
    assert ask(visit, "SELECT version, state FROM alchemist.subsets ORDER BY 1") == [
        (1, "superseded"),
        (2, "published"),
    ]
    assert "withdrawn ·" in decide(visit, "Withdraw it", "Withdraw")
    assert REASON in visit.browser.text()
    assert ask(visit, "SELECT version, state FROM alchemist.subsets ORDER BY 1") == [(1, "published"), (2, "withdrawn")]


def test_an_image_is_taken_down_in_the_explorer(visit: Visit) -> None:
    visit.go("/samples/12")
    assert f"Taken down: {REASON}" in decide(visit, "Take its image down", "Take down")
    visit.browser.until("[...document.images].every(image => image.complete)")
    assert ask(
        visit, "SELECT reason, requested_by IS NOT NULL FROM alchemist.takedowns ORDER BY takedown_id DESC LIMIT 1"
    ) == [(REASON, True)]


def test_a_rater_is_promoted_in_the_explorer(visit: Visit) -> None:
    visit.go("/needs")
    visit.click("Promote")
    visit.fill("reason", REASON)
    assert "production · rule" in visit.click("Promote", within="form.decide")
    assert ask(visit, "SELECT name FROM alchemist.raters WHERE state = 'production'") == [("r2",)]


def test_what_takes_long_is_a_command_in_the_explorer(visit: Visit) -> None:
    visit.go("/subsets/best/1")
    assert "alchemist select --dataset web" in visit.click("Select it again without flagged samples")
    visit.go("/samples?quarantine=too_slow")
    assert "alchemist sample retry-quarantine --reason too_slow" in visit.click("Retry these")
    assert "Which samples could not be scored because of too_slow?" in visit.click("Back")


def test_a_decision_without_a_reason_is_not_sent(visit: Visit) -> None:
    visit.go("/decide/takedown?sample=20")
    visit.browser.evaluate("document.querySelector('form.decide button').click()")
    assert visit.browser.evaluate("document.querySelector('#reason').matches(':invalid')")
    assert "Take the image of sample 20 down?" in visit.browser.text()
    assert "Take down" not in visit.click("Leave it as it is").splitlines()[:1]
    assert not ask(
        visit, "SELECT 1 FROM alchemist.takedowns INNER JOIN alchemist.samples USING (image_hash) WHERE sample_id = 20"
    )
