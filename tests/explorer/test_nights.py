"""The pages of nights: whether one may be used comes first, then what moved it and how its ends look."""

import html
import json
import re

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from alchemist_core.explorer.app import make_app
from alchemist_core.explorer.people import Person
from alchemist_core.store import browsing
from tests.explorer.conftest import N_NEW, N_OLD, Admits, run
from tests.explorer.test_samples import samples_of, title
from tests.explorer.test_subsets import sections

pytestmark = pytest.mark.db
N = N_OLD + N_NEW
BY_SCORE = sorted(range(1, N_OLD + 1), key=lambda i: 1 + i * 29 % N)


def test_the_list_leads_to_each_night(client: TestClient) -> None:
    page = client.get("/nights").text
    assert title(page) == "Which nights may be used?"
    assert page.index("/nights/web/2026-01-02") < page.index("/nights/web/2026-01-01")


def test_a_night_shows_its_ends(client: TestClient) -> None:
    page = html.unescape(client.get("/nights/web/2026-01-01").text)
    assert title(page) == "May web, 2026-01-01 be used?"
    assert "<strong>Yes:</strong> selectable." in page
    found = sections(page)
    assert found["top"] == BY_SCORE[::-1][:12]
    assert found["bottom"] == BY_SCORE[:12]
    assert "quarantine=too_slow&dataset=web&night=2026-01-01" in page


def test_a_large_night_shows_samples_of_the_outer_ranks(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browsing, "MOST_OF_SHARDS", 10)
    found = sections(client.get("/nights/web/2026-01-01").text)
    assert found["top"] == sorted((i for i in BY_SCORE if 1 + i * 29 % N > 1 + (N - 1) * 0.95), reverse=True)
    assert found["bottom"] == sorted((i for i in BY_SCORE if 1 + i * 29 % N <= 1 + (N - 1) * 0.05), reverse=True)


def test_a_held_night_says_why_and_how_to_release_it(own_store: Engine) -> None:
    mover = {
        "kind": "shard",
        "name": "b.tar",
        "n": 12,
        "contribution": 0.3,
        "psi_without": 0.01,
        "samples": ["web/b/1"],
    }
    run(own_store, "UPDATE alchemist.nights SET state = 'held', reason = 'drift <b>' WHERE night_id = 2")
    run(
        own_store,
        """
        INSERT INTO alchemist.score_distributions (
            night_id, n, quantiles, histogram, psi, ks_distance, verdict, n_tested, reference, explanation
        ) VALUES (2, 12, '{}', :histogram, 0.31, 0.2, 'held', 12, :reference, :movers)
    """,
        histogram=json.dumps({"edges": [1.0, 2.0], "counts": [2, 4, 6], "reference_shares": [0.3, 0.3, 0.4]}),
        reference="the rater's rank scale",
        movers=json.dumps([mover]),
    )
    page = html.unescape(TestClient(make_app(Admits())).get("/nights/web/2026-01-02").text)
    assert "<strong>No:</strong> held: drift <b>." in page
    for verb in ("release", "reject"):
        assert f'href="/decide/{verb}?dataset=web&night=2026-01-02"' in page
    looking = html.unescape(TestClient(make_app(Admits(Person("vic", b"s")))).get("/nights/web/2026-01-02").text)
    assert "/decide/" not in looking
    assert "alchemist night release --dataset web --crawl-date 2026-01-02 --reason WHY" in looking
    assert "shard b.tar" in page
    assert "score 1 to 2: 4 samples, 33.3%" in page
    # The cell of the table, and the legend of the chart.
    assert page.count("the rater's rank scale<") == 2
    assert "accepted nights before<" not in page
    assert 'style="' not in page


def test_a_stopped_night_is_released_or_rejected_and_is_only_not_scored_yet(own_store: Engine) -> None:
    run(own_store, """
        INSERT INTO alchemist.shards (shard_id, dataset_id, uri, size_bytes, crawl_date, state, n_samples, sha256)
        OVERRIDING SYSTEM VALUE
        SELECT 90, dataset_id, 'new.tar', 1, '2026-01-05', state, 602, sha256 FROM alchemist.shards WHERE shard_id = 1
    """)  # fmt: skip
    run(own_store, """
        INSERT INTO alchemist.check_results (suite, expectation, severity, is_success, observed, dataset_name, crawl_date)
        VALUES ('samples', 'most_locations_are_usable', 'fail', false, '{}', 'web', '2026-01-05')
    """)  # fmt: skip
    run(own_store, """
        INSERT INTO alchemist.quarantined_samples (shard_id, ordinal, key, reason, detail, stage)
        VALUES (90, 700, 'k7', 'truncated_image', 'ends <early>', 'ingest')
    """)  # fmt: skip
    client = TestClient(make_app(Admits()))
    page = html.unescape(client.get("/nights/web/2026-01-05").text)
    assert "A failed check stopped it." in page
    for verb in ("release", "reject"):
        assert f'href="/decide/{verb}?dataset=web&night=2026-01-05"' in page
    assert "601 not scored yet" in page
    (link,) = re.findall(r'href="(/samples\?quarantine=truncated_image[^"]*)"', page)
    records = client.get(link).text
    assert "k7" in records
    assert "ends &lt;early&gt;" in records
    assert "Retry these" not in records
    assert "Ingest a dataset" not in records


@pytest.mark.parametrize("path", ["/nights/web/2026-01-09", "/nights/nothing/2026-01-01", "/nights/web/today"])
def test_a_night_that_does_not_exist_is_not_found(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404
    assert samples_of(client.get("/samples").text)
