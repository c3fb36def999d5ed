"""What needs me?, raters and experiments."""

import html
import re

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from alchemist_core.experiments.trial import Cell
from alchemist_core.explorer.app import make_app
from alchemist_core.explorer.people import Person
from alchemist_core.explorer.raters import N_SHOWN
from alchemist_core.store import browsing
from tests.explorer.conftest import ATTACK, N_NEW, N_OLD, Admits, run
from tests.explorer.enriched import enrich
from tests.explorer.test_samples import Elements, samples_of, title
from tests.given import insert_rows

pytestmark = pytest.mark.db
N = N_OLD + N_NEW
CHECKS = [
    {"name": "auc", "value": 0.9123, "low": 0.7, "high": None, "note": "AUC", "is_ok": True},
    {"name": "spread", "value": None, "low": None, "high": 0.5, "note": "wide", "is_ok": False},
    {"name": "side", "value": 5, "low": None, "high": None, "note": "Small images.", "is_warning": True},
]


@pytest.fixture
def client(own_store: Engine) -> TestClient:
    return TestClient(make_app(Admits()))


def test_the_first_page_says_what_waits(client: TestClient, own_store: Engine) -> None:
    run(own_store, "UPDATE alchemist.nights SET state = 'held', reason = 'drift' WHERE night_id = 1")
    page = html.unescape(client.get("/").text)
    assert title(page) == "What needs me?"
    assert page.index("Nights that are held") < page.index("Published subsets not yet shown")
    assert 'href="/nights/web/2026-01-01"' in page
    assert 'href="/decide/release?dataset=web&night=2026-01-01">Release</a>' in page
    assert 'href="/decide/reject?dataset=web&night=2026-01-01">Reject</a>' in page
    looking = html.unescape(TestClient(make_app(Admits(Person("vic", b"s")))).get("/").text)
    assert "alchemist night release --dataset web --crawl-date 2026-01-01 --reason WHY" in looking
    assert 'href="/subsets/best/1"' in page
    command = "alchemist train-downstream best --version 1 --preset PRESET --arms subset,random --seeds 0,1,2"
    assert f"{command} && alchemist evaluate best --version 1" in page


def test_a_link_of_an_event_leads_only_to_a_web_page(client: TestClient, own_store: Engine) -> None:
    with own_store.begin() as connection:
        insert_rows(connection, {"notifications": [
            {"key": f"failed_task:{number}", "kind": "failed_task", "event": {"what_happened": ATTACK, "where_to_look": page}}
            for number, page in enumerate(("javascript:alert(1)", "https://air.example/1", '" onclick="alert(1)'))
        ]})  # fmt: skip
    page = Elements(client.get("/needs").text)
    links = [attributes["href"] for tag, attributes in page.found if tag == "a"]
    assert "https://air.example/1" in links
    assert not any("alert" in str(link) for link in links)
    assert not any(name.startswith("on") for _, attributes in page.found for name in attributes)


def test_without_anything_to_do_the_page_says_so(client: TestClient, own_store: Engine) -> None:
    run(own_store, "UPDATE alchemist.subsets SET state = 'superseded'")
    assert "Nothing waits for a person." in client.get("/needs").text


def test_raters_are_listed_and_shown(client: TestClient, own_store: Engine) -> None:
    with own_store.begin() as connection:
        insert_rows(connection, {
            "raters": [{
                "rater_id": 9, "name": "r9", "acceptance_report": {"is_certified": False, "checks": CHECKS, "final_loss": 1.25},
                "config": {"training": {"batch_size": 8}, "note": ATTACK},
            }],
            # The order of r1 turned around, for the first 20 samples.
            "rank_scales": [{"rater_id": 9, "knot_scores": [1.0, float(N)], "knot_ranks": [1.0, 0.0]}],
            "scores": [{"rater_id": 9, "sample_id": i, "score": N - (i * 29) % N} for i in range(1, 21)],
        })  # fmt: skip
    page = html.unescape(client.get("/raters").text)
    assert page.index("/raters/r1") < page.index("/raters/r9") < page.index("/raters/sharp")
    assert "not shown: alchemist rater list" not in page
    page = html.unescape(client.get("/raters/r9").text)
    assert title(page) == "Did r9 pass?"
    for words in (
        "it failed acceptance checks",
        "0.9123",
        "≥ 0.7",
        "✗ failed",
        "Small images.",
        "training.batch_size",
        "1.25",
    ):
        assert words in page
    up, down = (samples_of(part) for part in page.split('<h3 id="down">'))
    rank = {i: 1 - (i * 29 % N) / (N - 1) for i in range(1, 21)}
    moved = sorted((i for i in rank if abs(1 - 2 * rank[i]) >= 0.2), key=lambda i: (-abs(1 - 2 * rank[i]), i))
    assert up == [i for i in moved if rank[i] > 0.5][:12]
    assert down == [i for i in moved if rank[i] < 0.5][:12]
    assert "has no acceptance checks" in client.get("/raters/sharp").text
    assert client.get("/raters/nobody").status_code == 404


@pytest.mark.parametrize(
    "scale",
    [{"rater_id": 2, "score": "rater"}, {"rater_id": 1, "score": "sharp"}],
    ids=["--rater sharp", "--rank-by sharp"],
)
def test_a_scorer_is_ranked_by_the_scale_of_either_form_of_selection(
    client: TestClient, own_store: Engine, scale: dict[str, object]
) -> None:
    assert "up" not in moved(client.get("/raters/sharp").text), "no selection has made ranks of its scores yet"
    with own_store.begin() as connection:
        # Scores 0.1 to 1.0 of samples 1 to 10: sample 10 has rank 0.
        insert_rows(connection, {"rank_scales": [{**scale, "knot_scores": [0.1, 1.0], "knot_ranks": [1.0, 0.0]}]})
    move = {i: (10 - i) / 9 - (1 - (i * 29 % N) / (N - 1)) for i in range(1, 11)}
    ups = sorted((i for i in move if move[i] <= -0.2), key=lambda i: move[i])
    assert moved(client.get("/raters/sharp").text)["up"] == ups != []
    ranked = html.unescape(client.get("/samples?rater=sharp&rank_to=.3").text)
    assert samples_of(ranked) == [10, 9, 8]


def test_samples_that_moved_are_found_behind_many_that_did_not(
    client: TestClient, own_store: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browsing, "MOST_READ", 5)
    with own_store.begin() as connection:
        insert_rows(connection, {
            "raters": [{"rater_id": 9, "name": "r9"}],
            "rank_scales": [{"rater_id": 9, "knot_scores": [1.0, float(N)], "knot_ranks": [1.0, 0.0]}],
            # As r1 does, except sample 6.
            "scores": [{"rater_id": 9, "sample_id": i, "score": N if i == 6 else 1 + i * 29 % N} for i in range(1, 9)],
        })  # fmt: skip
    first = client.get("/raters/r9").text
    assert moved(first) == {"up": [], "down": []}
    (further,) = re.findall(r'rel="next" href="([^"]+)"', first)
    second = client.get(html.unescape(further)).text
    assert moved(second) == {"up": [6], "down": []}
    assert 'rel="next"' not in second, "of 3 samples, nothing follows"


def moved(page: str) -> dict[str, list[int]]:
    """The samples that a rater ranks higher and lower than the production rater."""
    parts = re.split(r'<h3 id="(up|down)">', page)
    return {name: samples_of(text) for name, text in zip(parts[1::2], parts[2::2], strict=True)}


TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d.{4}"
"""A time and the four signs after it."""


def test_every_page_with_a_time_names_its_zone(client: TestClient, own_store: Engine) -> None:
    enrich(own_store)
    run(own_store, "UPDATE alchemist.nights SET state = 'released', decided_by = 'ann', decided_at = now()")
    without: list[tuple[str, str]] = []
    for path in ("/needs", "/nights/web/2026-01-02", "/raters", "/experiments", "/subsets", "/samples/3"):
        page = client.get(path).text
        times = re.findall(TIME, page)
        assert times, path
        # The head of a table may name the zone of its cells, and of nothing else.
        if re.search(r"<th[^>]*>[^<]+ \(UTC\)</th>", page):
            times = re.findall(TIME, re.sub(r"<td\b.*?</td>", "", page, flags=re.DOTALL))
        without += [(path, time) for time in times if not time.endswith(" UTC")]
    assert without == []


def test_a_list_of_many_raters_says_how_many_it_leaves_out(client: TestClient, own_store: Engine) -> None:
    with own_store.begin() as connection:
        insert_rows(connection, {"raters": [{"rater_id": 10 + n, "name": f"later{n}"} for n in range(N_SHOWN)]})
    page = client.get("/raters").text
    assert page.index("/raters/r1") < page.index(f"/raters/later{N_SHOWN - 1}")
    assert "/raters/sharp" not in page
    assert "2 older ones not shown: alchemist rater list, alchemist scorer list" in page


def test_experiments_are_listed_and_shown(client: TestClient, own_store: Engine) -> None:
    svg = '<svg xmlns="http://www.w3.org/2000/svg"><style>path { fill: red }</style></svg>'
    sheet = {
        "notes": ["Does it help?", "A note."],
        "table": [["arm", "loss"], ["random", "3.2"]],
        "figures": [["Loss", svg]],
    }
    losses = {"random": (3.0, 3.1, 3.2), "loss/top_k": (2.9, 3.01, 3.11), "planted": (2.0, 2.0, 2.0)}
    cells = [
        Cell(arm, 0.2, seed, 9, 9, loss).as_json() for arm, found in losses.items() for seed, loss in enumerate(found)
    ]
    begun = {"experiment": "retention_sweep", "seeds": [4, 5, 6], "dataset": "my web"}
    with own_store.begin() as connection:
        insert_rows(connection, {"experiments": [
            {"experiment_id": 1, "name": "sweep", "config": begun, "result": {"sheet": sheet, "cells": cells}, "finished_at": "2026-01-05"},
            {"experiment_id": 2, "name": "begun", "config": begun, "result": {"before": {}}},
            {"experiment_id": 3, "name": "bare", "config": begun, "result": {"sheet": sheet}, "finished_at": "2026-01-05"},
        ]})  # fmt: skip
    page = html.unescape(client.get("/experiments").text)
    assert page.count("How much of the corpus is needed?") == 3
    assert page.count("loss/top_k at 20% is better than random by 0.0933 ± 0.0143 nats per token") == 1
    assert page.count("not finished") == 1
    page = html.unescape(client.get("/experiments/sweep").text)
    assert title(page) == "sweep: loss/top_k at 20% is better than random by 0.0933 ± 0.0143 nats per token"
    assert "<h1>sweep: loss/<wbr>top_k at" in page
    assert title(client.get("/experiments/bare").text) == "bare: its result has no losses of arms"
    assert "3.2" in page
    assert 'src="/experiments/sweep/figures/0"' in page
    figure = client.get("/experiments/sweep/figures/0")
    assert (figure.text, figure.headers["content-type"]) == (svg, "image/svg+xml")
    assert "sandbox" in figure.headers["content-security-policy"]
    page = html.unescape(client.get("/experiments/begun").text)
    assert title(page) == "begun is not finished"
    assert "How much of the corpus is needed?" in page
    resumes = "alchemist experiment run --experiment retention_sweep --name begun --dataset 'my web' --seeds 4,5,6"
    assert resumes in page
    for path in ("/experiments/sweep/figures/1", "/experiments/begun/figures/0", "/experiments/nothing"):
        assert client.get(path).status_code == 404
