"""The pages of samples as a browser gets them."""

import html
import re
from html.parser import HTMLParser

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from alchemist_core.explorer.app import make_app
from tests.explorer.conftest import ATTACK, N_NEW, N_OLD, Admits, run

pytestmark = pytest.mark.db
N = N_OLD + N_NEW


def samples_of(page: str) -> list[int]:
    return [int(found) for found in re.findall(r'class="picture" href="/samples/(\d+)"', page)]


def link(page: str, rel: str) -> str:
    (found,) = set(re.findall(rf'rel="{rel}" href="([^"]+)"', page))
    return html.unescape(found)


def title(page: str) -> str:
    (found,) = re.findall(r"<h1>(.+)</h1>", page)
    return html.unescape(re.sub("<[^>]+>", "", found))


def test_the_first_page_leads_to_the_others_and_back(client: TestClient) -> None:
    first = client.get("/samples").text
    assert samples_of(first) == list(range(N, N - 48, -1))
    second = client.get(link(first, "next")).text
    assert samples_of(second) == list(range(N - 48, 0, -1))
    assert 'rel="next"' not in second
    assert samples_of(client.get(link(second, "prev")).text) == samples_of(first)


@pytest.mark.parametrize(
    ("query", "question", "n_samples"),
    [
        ("", "What is in the corpus?", 48),
        ("rank_from=0&rank_to=0.1", "Which samples does r1 rank 0% to 10%?", 9),
        ("rank_from=0.95", "Which samples does r1 rank 95% to 100%?", 5),
        ("dataset=web&night=2026-01-02", "Which samples of web, 2026-01-02 are there?", N_NEW),
        ("dataset=books", "Which samples of books are there?", 0),
        ("group=3", "Which samples look like 3?", 2),
        ("quarantine=too_slow", "Which samples could not be scored because of too_slow?", 1),
        ("subset=best:1", "Which samples in best:1 are there?", 21),
        ("subset=best&rank_to=0.5&rater=r1", "Which samples in best does r1 rank 0% to 50%?", 11),
        ("where=caption+%3D+'caption+of+2'", "Which samples are there?", 1),
        ("rater=sharp&where=score+%3E+.5", "Which samples are there?", 5),
        ("min_width=110&dataset=web&night=2026-01-02", "Which samples of web, 2026-01-02 are there?", 2),
    ],
)
def test_a_grid_answers_its_question(client: TestClient, query: str, question: str, n_samples: int) -> None:
    answer = client.get(f"/samples?{query}")
    assert answer.status_code == 200
    assert title(answer.text) == question
    assert len(samples_of(answer.text)) == n_samples


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("where=nothing+%3E+1", "there is no column 'nothing'"),
        ("where=score+%3E", "  score >\n         ^"),
        ("rater=nobody", "There is no rater 'nobody' (raters: r1, sharp)."),
        ("rater=sharp&rank_to=.1", "sharp has no ranks yet"),
        ("dataset=nothing", "There is no dataset 'nothing' (datasets: books, web)."),
        ("night=2026-01-01", "a night belongs to a dataset"),
        ("night=yesterday", "night: Input should be a valid date"),
        ("rank_from=2", "rank from: Input should be less than or equal to 1"),
        ("rank_from=.5&rank_to=.5", "rank from must be below rank to"),
        ("subset=nothing", "There is no subset"),
        ("subset=best:x", "'best:x' is not a subset"),
        ("older=x", "'x' is not a place in a list"),
        ("colour=red", "colour: Extra inputs are not permitted"),
    ],
)
def test_what_cannot_be_asked_is_explained_beside_the_form(client: TestClient, query: str, words: str) -> None:
    answer = client.get(f"/samples?{query}")
    assert answer.status_code == 400
    assert words in html.unescape(answer.text)
    assert 'id="where"' in answer.text


def test_the_highest_rank_can_come_first(client: TestClient) -> None:
    first = client.get("/samples?order=rank").text
    by_rank = sorted(range(1, N + 1), key=lambda i: 1 + i * 29 % N, reverse=True)
    assert samples_of(first) == by_rank[:48]
    assert "by rank of r1, highest first" in first
    second = client.get(link(first, "next")).text
    assert samples_of(second) == by_rank[48:]
    assert samples_of(client.get(link(second, "prev")).text) == by_rank[:48]
    members = client.get("/samples?order=rank&subset=best:1").text
    assert samples_of(members) == [i for i in by_rank if i % 4 == 2]
    assert "of a subset with 1 member." in members, "as many as the version's row says"


def test_given_ids_are_read_and_nothing_else(client: TestClient) -> None:
    page = client.get("/samples?where=sample_id+in+(7,+3,+81,+9999)").text
    assert samples_of(page) == [81, 7, 3]
    assert "Go on reading" not in page
    assert "searched" not in page


def test_what_a_condition_can_name_is_listed_with_examples_of_the_corpus(client: TestClient) -> None:
    page = html.unescape(client.get("/samples").text)
    for words in (
        "caption ilike '%picture%'",
        "<code>aspect_ratio</code>",
        "<code>sharp</code>",
        "not flagged_wrong_caption",
    ):
        assert words in page
    named = re.findall(r"<li><code>(\w+)</code>", page)
    for name in named:
        answer = client.get(
            "/samples", params={"where": f"{name} is not null" if not name.startswith("flagged") else name}
        )
        assert answer.status_code == 200, name


def test_the_form_keeps_what_was_asked(client: TestClient) -> None:
    page = client.get("/samples?where=width+%3E+1+and+caption+<>+'\"'&rater=sharp&dataset=web").text
    assert html.escape("width > 1 and caption <> '\"'") in page.replace("&#34;", "&quot;").replace("&#39;", "&#x27;")
    assert "<option selected>sharp</option>" in page
    assert "<option selected>web</option>" in page


def test_the_form_keeps_what_is_in_none_of_its_lists(own_store: Engine) -> None:
    run(own_store, "UPDATE alchemist.raters SET state = 'retired' WHERE name = 'sharp'")
    page = TestClient(make_app(Admits())).get("/samples?rater=sharp&flagged=Wrong+caption").text
    assert "<option selected>sharp</option>" in page
    assert "<option selected>Wrong caption</option>" in page


def test_the_page_of_a_sample_shows_everything(client: TestClient) -> None:
    page = html.unescape(client.get("/samples/3").text)
    assert title(page) == "What is known about sample 3?"
    for words in (
        "caption of 3",
        "102 × 50 pixels",
        "https://host2.example/2.jpg",
        "2026-01-01/a.tar",
        "000002",
        "sharp",
        "0.3000",
    ):
        assert words in page
    # Its near-duplicate, and the version that contains it.
    assert samples_of(page) == [80]
    taken = html.unescape(client.get("/samples/9").text)
    assert "Taken down:" in taken
    assert "asked by its author" in taken
    member = html.unescape(client.get("/samples/6").text)
    assert "alchemist sample explain 6 --subset best" in member
    assert "quarantined: too_slow" not in member


@pytest.mark.parametrize("path", ["/samples/1000", f"/samples/{1 << 80}", "/nothing"])
def test_what_does_not_exist_is_not_found(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert title(answer.text) == "Where is it?"


class Elements(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.mark.parametrize(
    "path",
    [
        "/samples?older=6",
        "/samples/5",
        f"/samples?where={ATTACK}",
        f"/samples?subset={ATTACK}",
        f"/samples?rater={ATTACK}",
        f"/{ATTACK}",
    ],
)
def test_hostile_text_is_shown_and_does_nothing(client: TestClient, path: str) -> None:
    page = Elements(client.get(path).text)
    assert not any(name.startswith("on") or name == "style" for _, attributes in page.found for name in attributes)
    assert not {"style", "iframe", "object", "base"} & {tag for tag, _ in page.found}
    (script,) = [attributes["src"] for tag, attributes in page.found if tag == "script"]
    assert re.fullmatch(r"/static/[0-9a-f]{12}/flags\.js", script or "")
    assert {attributes["src"] for tag, attributes in page.found if tag == "img"} <= {
        f"/pictures/{i}{kind}" for i in range(1, N + 1) for kind in ("", "/thumbnail")
    }
    # 7191 * 6113: the text is no template.
    assert "43958583" not in "".join(page.text)


def test_every_field_has_a_label_and_every_picture_its_caption(client: TestClient) -> None:
    for path in ("/samples", "/samples/3", "/samples/5"):
        page = Elements(client.get(path).text)
        labelled = {attributes.get("for") for tag, attributes in page.found if tag == "label"}
        fields = {a["id"] for tag, a in page.found if tag in ("input", "select") and a.get("type") != "hidden"}
        assert fields <= labelled
        assert all(attributes["alt"] for tag, attributes in page.found if tag == "img")
        ids = [attributes["id"] for _, attributes in page.found if "id" in attributes]
        assert len(ids) == len(set(ids))
        assert [tag for tag, _ in page.found if tag in ("main", "h1", "nav", "footer")].count("main") == 1
