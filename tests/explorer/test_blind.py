"""The blind comparison: no page tells which side is which, an answer counts for what was shown, and once; a test judges."""

import html
import re

import numpy as np
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from starlette.testclient import TestClient

from alchemist_core.explorer.actions import TOKEN_FIELD
from alchemist_core.explorer.app import make_app
from alchemist_core.explorer.blind import is_left
from alchemist_core.explorer.people import Person
from alchemist_core.store.blind import N_SHOWN, Pair, count_judgements, draw_pair, store_judgement
from alchemist_core.store.subsets import find_subset
from tests.explorer.conftest import ANN, N_NEW, N_OLD, Admits
from tests.explorer.test_samples import Elements, title
from tests.given import insert_rows

pytestmark = pytest.mark.db
OWN = "http://127.0.0.1:9480"
N = N_OLD + N_NEW
MEMBERS = set(range(2, N + 1, 4))
PATH = "/subsets/best/1/blind"


@pytest.fixture
def browser(own_store: Engine) -> TestClient:
    with own_store.begin() as connection:
        insert_rows(connection, {
            "subsets": [{"subset_id": i, "name": "best", "version": i, "snapshot_id": 1} for i in (2, 3)],
            "subset_samples": [{"subset_id": 2, "sample_id": i, "rank": 0.1} for i in range(1, 31)],
        })  # fmt: skip
    app = make_app(Admits())
    return TestClient(app, base_url=OWN, headers={"origin": OWN}, follow_redirects=False)


def fields(page: str) -> dict[str, str]:
    found = [a for tag, a in Elements(page).found if tag == "input" and a.get("type") == "hidden"]
    return {str(a["name"]): str(a["value"]) for a in found}


def shown(page: str) -> tuple[list[int], list[int]]:
    left, right = page.split('<h2 id="right">')
    return tuple([int(one) for one in re.findall(r"/pictures/(\d+)/thumbnail", part)] for part in (left, right))  # type: ignore[return-value]


def test_the_page_shows_both_sides_and_nothing_that_tells_them_apart(browser: TestClient) -> None:
    places = set()
    for _ in range(12):
        page = browser.get(PATH).text
        left, right = shown(page)
        assert len(left) == len(right) == N_SHOWN
        assert 9 not in {*left, *right}, "its image was taken down"
        own = [set(side) <= MEMBERS for side in (left, right)]
        assert any(own)
        places.add(own[0])
        assert "/samples/" not in page.replace("/samples/search", ""), "a sample's own page names its subsets"
        assert "rank" not in page.lower().replace("ranks", "")
    assert places == {True, False}


def test_an_answer_counts_for_the_side_that_was_shown_there(browser: TestClient, own_store: Engine) -> None:
    for answer in ("left", "right", "neither", "left"):
        page = browser.get(PATH).text
        left, _ = shown(page)
        form = fields(page)
        sent = browser.post("/judgements", data={**form, "preferred": answer})
        assert (sent.status_code, sent.headers["location"]) == (303, f"{PATH}?against=random")
        seed = int(form["shown"].partition(".")[0])
        has_left = is_left(ANN, "1 random", seed)
        assert set(left) <= MEMBERS or not has_left
        with own_store.connect() as connection:
            row = connection.execute(
                text("SELECT * FROM alchemist.blind_judgements ORDER BY judgement_id DESC LIMIT 1")
            ).one()
        expected = "neither" if answer == "neither" else "subset" if (answer == "left") == has_left else "other"
        assert (row.preferred, row.judged_by, row.other_subset_id) == (expected, "ann", None)
        assert set(row.sample_ids) <= MEMBERS
        assert (row.sample_ids if has_left else row.other_sample_ids) == left
        # The same form again counts no second time.
        browser.post("/judgements", data={**form, "preferred": "left"})
    (judged,) = count_judgements(own_store, 1)
    assert (judged.n_subset + judged.n_other, judged.n_neither, judged.n_people) == (3, 1, 1)
    assert "You have judged 4 pairs" in browser.get(PATH).text


def test_two_versions_are_compared(browser: TestClient, own_store: Engine) -> None:
    page = browser.get(f"{PATH}?against=2").text
    assert any(set(side) <= set(range(1, 31)) for side in shown(page))
    assert browser.post("/judgements", data={**fields(page), "preferred": "left"}).status_code == 303
    assert [one.other_subset_id for one in count_judgements(own_store, 1)] == [2]


def test_the_page_of_the_version_says_what_people_prefer(browser: TestClient, own_store: Engine) -> None:
    assert "A preference needs 8 pairs at least." in browser.get("/subsets/best/1").text
    subset = find_subset(own_store, "best", version=1)
    for seed in range(10):
        preferred = "subset" if seed < 9 else "neither"
        store_judgement(
            own_store, subset, None, Pair([2], [3]), seed=seed, preferred=preferred, judged_by=f"p{seed % 2}"
        )  # type: ignore[arg-type]
    page = html.unescape(browser.get("/subsets/best/1").text)
    assert "Against random samples: preferred." in page
    assert "2 people preferred it in 9 of 9 pairs, and had no preference in 1; p = 0.020." in page


MADE_UP = [
    ({"shown": "1.2.3." + "0" * 64}, "The page was too old"),
    ({"shown": "1.2--3.4." + "0" * 64}, "The page was too old"),
    ({"shown": f"1.2.{'3' * 5000}." + "0" * 64}, "The page was too old"),
    ({"shown": ""}, "The page was too old"),
    ({"against": "2"}, "The page was too old"),
    ({"against": "1"}, "'1' is not another version"),
    ({"against": "3"}, "The members of best v3 are not in the store"),
    ({"preferred": "both"}, "The buttons of this form are not known"),
    ({"version": "x"}, "The buttons of this form are not known"),
]


def test_a_made_up_answer_is_refused(browser: TestClient, own_store: Engine) -> None:
    form = fields(browser.get(PATH).text)
    for change, words in MADE_UP:
        answer = browser.post("/judgements", data={**form, "preferred": "left", **change})
        assert answer.status_code == 400
        assert words in html.unescape(answer.text)
    assert count_judgements(own_store, 1) == []


def test_another_persons_pair_is_not_theirs(browser: TestClient, own_store: Engine) -> None:
    form = fields(browser.get(PATH).text)
    bob = Person("bob", b"of bob's session", may_flag=True)
    other = TestClient(make_app(Admits(bob)), base_url=OWN, headers={"origin": OWN}, follow_redirects=False)
    answer = other.post("/judgements", data={**form, "preferred": "left", TOKEN_FIELD: bob.form_token})
    assert answer.status_code == 400
    assert count_judgements(own_store, 1) == []
    looking = TestClient(make_app(Admits(Person("vic", b"s"))), base_url=OWN)
    assert "<form" not in looking.get(PATH).text
    assert title(looking.get(PATH).text) == "Which of the two would you rather train on?"


def test_members_are_drawn_at_random_and_alike_for_a_seed(own_store: Engine) -> None:
    subset = find_subset(own_store, "best", version=1)
    pairs = [draw_pair(own_store, subset, None, seed) for seed in range(60)]
    assert draw_pair(own_store, subset, None, 5) == pairs[5]
    drawn = np.array([one for pair in pairs for one in pair.sample_ids])
    assert set(drawn.tolist()) == MEMBERS, "each member is shown sooner or later"
    assert {one for pair in pairs for one in pair.other_sample_ids} > MEMBERS


def test_a_version_of_other_datasets_shows_its_own_members_and_no_side_shows_more(own_store: Engine) -> None:
    others = range(101, 106)
    with own_store.begin() as connection:
        insert_rows(connection, {
            "shards": [{"shard_id": 9, "dataset_id": 2, "crawl_date": "2026-01-01", "n_samples": 5}],
            "samples": [{"sample_id": i} for i in others],
            "sample_locations": [{"shard_id": 9, "ordinal": i, "sample_id": i} for i in others],
            "rank_snapshots": [{"snapshot_id": 2, "rank_scale_id": 1, "dataset_names": ["books"]}],
            "subsets": [{"subset_id": 4, "name": "best", "version": 4, "snapshot_id": 2}],
            "subset_samples": [{"subset_id": 4, "sample_id": i, "rank": 0.1} for i in others],
        })  # fmt: skip
    web, books = (find_subset(own_store, "best", version=version) for version in (1, 4))
    pair, turned = draw_pair(own_store, web, books, 0), draw_pair(own_store, books, web, 0)
    assert set(pair.other_sample_ids) == set(turned.sample_ids) == set(others)
    assert [len(side) for side in (*pair, *turned)] == [5] * 4
    assert {*pair.sample_ids, *turned.other_sample_ids} <= MEMBERS


def test_answers_are_append_only(own_store: Engine) -> None:
    subset = find_subset(own_store, "best", version=1)
    assert store_judgement(own_store, subset, None, Pair([2], [3]), seed=1, preferred="subset", judged_by="ann")
    assert not store_judgement(own_store, subset, None, Pair([2], [3]), seed=1, preferred="other", judged_by="ann")
    with own_store.connect() as connection, pytest.raises(DBAPIError, match="append"):
        connection.exec_driver_sql("DELETE FROM alchemist.blind_judgements")
