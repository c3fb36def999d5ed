"""The pages of subsets: what one is worth comes first, and a difference shows its pictures."""

import html
import re

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from alchemist_core.explorer.app import make_app
from alchemist_core.explorer.subsets import N_SHOWN
from alchemist_core.report.comparison import judge_worth
from alchemist_core.report.gathering import read_metrics
from alchemist_core.store.overviews import Comparison
from alchemist_core.store.strata import find_candidates
from alchemist_core.store.subsets import find_subset
from tests.explorer.conftest import N_NEW, N_OLD, Admits, run
from tests.explorer.enriched import compared_arms, write_members
from tests.explorer.test_samples import Elements, samples_of, title
from tests.given import insert_rows

pytestmark = pytest.mark.db
N = N_OLD + N_NEW
OLD, NEW = [i for i in range(N, 0, -1) if i % 4 == 2], [i for i in range(N, 0, -1) if i % 6 == 2]


@pytest.fixture
def client(own_store: Engine) -> TestClient:
    with own_store.begin() as connection:
        insert_rows(connection, {
            "subsets": [
                {"subset_id": 2, "name": "best", "version": 2, "snapshot_id": 1, "n_samples": len(NEW), "strategy": "top_k"},
                {"subset_id": 3, "name": "best", "version": 3, "snapshot_id": 1, "strategy": "top_k"},
            ],
            "subset_samples": [{"subset_id": 2, "sample_id": i, "rank": 0.5} for i in NEW],
            **compared_arms(),
        })  # fmt: skip
    return TestClient(make_app(Admits()))


def sections(page: str) -> dict[str, list[int]]:
    """The samples under each heading."""
    parts = re.split(r'<h2 id="(\w+)">', page)
    return {name: samples_of(text) for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def test_the_list_leads_to_each_version(client: TestClient) -> None:
    page = client.get("/subsets").text
    assert title(page) == "Which subsets are there?"
    assert re.findall(r'href="/subsets/best/(\d)"', page) == ["1", "3", "2"], "the published one first"
    assert "not shown: alchemist subset list" not in page


def test_the_published_version_and_the_version_before_are_found_among_many(
    client: TestClient, own_store: Engine
) -> None:
    later = [
        {"subset_id": 3 + version, "name": "trial", "version": version, "snapshot_id": 1, "strategy": "top_k"}
        for version in range(1, N_SHOWN + 2)
    ]
    with own_store.begin() as connection:
        insert_rows(connection, {"subsets": later})
    page = client.get("/subsets").text
    assert re.findall(r'href="/subsets/best/(\d)"', page) == ["1"]
    assert len(re.findall(r'href="/subsets/trial/\d+"', page)) == N_SHOWN - 1
    assert "4 older versions not shown: alchemist subset list" in page
    assert "What entered and left since v1<" in client.get("/subsets/trial/2").text
    assert "What entered and left since" not in client.get("/subsets/trial/1").text


def test_a_name_leads_to_the_published_version(client: TestClient) -> None:
    answer = client.get("/subsets/best", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/subsets/best/1")


def test_a_version_says_first_what_it_is_worth(client: TestClient) -> None:
    page = html.unescape(client.get("/subsets/best/2").text)
    assert title(page) == "Is best v2 better than random?"
    assert "<strong>Yes:</strong> held-out loss lower than random's by 0.5100 (95% interval of the gain" in page
    assert page.index("Yes:") < page.index("What was selected?")
    assert 'SubsetDataset("best", version=2)' in page
    assert "1 eligible sample<" in page
    unshown = html.unescape(client.get("/subsets/best/3").text)
    assert "Not proven yet:" in unshown
    command = re.search(r"Next: (alchemist train-downstream [^.]+?), then (alchemist evaluate [^.]+)\.", unshown)
    assert command is not None
    assert (
        command[1] == "alchemist train-downstream best --version 3 --preset PRESET --arms subset,random --seeds 0,1,2"
    )
    assert command[2] == "alchemist evaluate best --version 3"


def test_a_metric_of_images_is_of_the_models_that_are_compared_by_it(client: TestClient, own_store: Engine) -> None:
    """A newer training that only one model of was measured so far was mixed with the one before it."""
    newer = {"subset_id": 2, "config": {"model": {"width": 2}}}
    with own_store.begin() as connection:
        insert_rows(connection, {
            "models": [
                {**newer, "model_id": 10 + 2 * seed + number, "arm": arm, "seed": seed, "identity_hash": f"{arm} {seed} newer"}
                for seed in range(3) for number, arm in enumerate(("subset", "random"), 1)
            ],
            "evaluation_protocols": [{"protocol_id": 2, "protocol": {"name": "offline"}}],
            "evaluations": [
                *({"model_id": model_id, "protocol_id": 1, "value": 2} for model_id in range(11, 17)),
                *({"model_id": model_id, "protocol_id": 2, "metric": "fid", "value": model_id} for model_id in (*range(1, 7), 11)),
            ],
        })  # fmt: skip
    found = read_metrics(own_store, find_subset(own_store, "best", version=2))
    assert [(one.arm, one.seed, one.value) for one in found] == [
        ("random", 0, 2), ("random", 1, 4), ("random", 2, 6), ("subset", 0, 1), ("subset", 1, 3), ("subset", 2, 5),
    ]  # fmt: skip


def test_a_version_of_which_flux_was_trained_is_judged_by_its_flow_loss(client: TestClient, own_store: Engine) -> None:
    run(own_store, "UPDATE alchemist.evaluations SET metric = 'heldout_flow_loss'")
    page = html.unescape(client.get("/subsets/best/2").text)
    assert "<strong>Yes:</strong> held-out flow loss lower than random's by 0.5100" in page
    assert ">Held-out flow loss</th>" in page


def test_a_version_is_compared_with_an_earlier_one_that_was_evaluated(client: TestClient, own_store: Engine) -> None:
    assert 'id="versus"' not in client.get("/subsets/best/2").text, "version 1 was not evaluated"
    with own_store.begin() as connection:
        insert_rows(connection, {
            "models": [
                {"model_id": 10 + seed, "arm": "subset", "subset_id": 1, "seed": seed, "identity_hash": f"old {seed}"} for seed in range(3)
            ],
            "evaluations": [{"model_id": 10 + seed, "protocol_id": 1, "value": 2.2 + seed + seed / 100} for seed in range(3)],
        })  # fmt: skip
    page = html.unescape(client.get("/subsets/best/2").text)
    assert "Is it better than v1?" in page
    assert "<strong>Yes:</strong> held-out loss 3.0000, that of v1 3.2100, lower by 0.2100 (95% interval" in page
    assert "Do not compare the gains over random of two versions" in page
    back = html.unescape(client.get("/subsets/best/1?against=2").text)
    assert "<strong>No:</strong> held-out loss 3.2100" in back
    assert 'id="versus"' not in client.get("/subsets/best/1").text, "no version is earlier"
    refused = client.get("/subsets/best/2?against=3")
    assert refused.status_code == 400
    assert "alchemist evaluate best --version 3" in html.unescape(refused.text)


def test_a_difference_shows_what_entered_and_what_left(client: TestClient) -> None:
    page = client.get("/subsets/best/2/difference?since=1").text
    assert title(page) == "What entered best v2, and what left, since v1?"
    assert sections(page) == {"joined": [i for i in NEW if i not in OLD], "left": [i for i in OLD if i not in NEW]}
    back = client.get("/subsets/best/1/difference?since=2").text
    assert sections(back)["joined"] == sections(page)["left"]
    assert sections(client.get("/subsets/best/2/difference").text) == sections(page), "since the version before"


def ranks_and_scores(page: str) -> dict[str, set[tuple[str | None, bool]]]:
    """Of each side: the ranks of its samples, and whether they have a score beside them."""
    parts = re.split(r'<h2 id="(\w+)">', page)
    tiles = {
        name: re.findall(r'<p class="figures">(.*?)</p>', text)
        for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }
    ranks = {
        name: [(re.search(r"rank ([\d.]+)<", tile), "score" in tile) for tile in found] for name, found in tiles.items()
    }
    return {name: {(rank and rank[1], has_score) for rank, has_score in found} for name, found in ranks.items()}


def test_a_difference_shows_the_ranks_by_which_each_version_was_selected(client: TestClient, own_store: Engine) -> None:
    with own_store.begin() as connection:
        insert_rows(connection, {
            # The knots of another score: the rater's scores, 1 to 82, lie all above them.
            "rank_scales": [{"rank_scale_id": 7, "rater_id": 1, "score": "sharp", "knot_scores": [0.1, 0.9], "knot_ranks": [1.0, 0.0]}],
            "rank_snapshots": [{"snapshot_id": 7, "rank_scale_id": 7, "dataset_names": ["web"]}],
            "subsets": [{"subset_id": 4, "name": "best", "version": 4, "snapshot_id": 7, "strategy": "top_k"}],
            "subset_samples": [{"subset_id": 4, "sample_id": i, "rank": 0.25} for i in NEW],
        })  # fmt: skip
    page = client.get("/subsets/best/4/difference?since=1").text
    assert ranks_and_scores(page) == {"joined": {("0.250", False)}, "left": {("0.100", True)}}


def test_a_version_shows_where_its_members_come_from(client: TestClient) -> None:
    assert 'href="/subsets/best/1/strata"' in client.get("/subsets/best/1").text
    page = html.unescape(client.get("/subsets/best/1/strata").text)
    assert title(page) == "Where does best v1 come from?"
    # Every id of the small store was drawn; sample 9 was taken down, and is no member.
    assert f"among {len(OLD)} random members and among {N - 1} random samples" in page
    shares = dict(re.findall(r"<bdi>([^<]+)</bdi></td>.*?([\d.]+)%", page, re.DOTALL))
    hosts = [(i - 1 if i <= N_OLD else i - N_OLD - 1) % 3 for i in OLD]
    assert float(shares["host0.example"]) == pytest.approx(100 * hosts.count(0) / len(OLD), abs=0.6)
    assert shares["web"] == "100"
    assert client.get("/subsets/best/3/strata").status_code == 400


def test_candidates_are_the_samples_that_a_version_could_have_been_selected_from(own_store: Engine) -> None:
    options = """{"where": "width >= 105 and not flagged_bad", "last_flag_id": 1, "duplicates": "near", "last_compared_id": 82}"""
    with own_store.begin() as connection:
        insert_rows(connection, {
            "sample_flags": [
                {"flag_id": i, "sample_id": 19 + i, "label": "bad", "is_set": True, "flagged_by": "ann"} for i in (1, 2)
            ],
            "distinct_images": [{"sample_id": 10}],
            "duplicate_samples": [{"sample_id": 81, "first_sample_id": 10, "distance": 1, "is_same_image": False}],
        })  # fmt: skip
    run(own_store, "UPDATE alchemist.rank_snapshots SET options = :options", options=options)
    # 9 was taken down; the flag of 21 came later; 81 is a near-duplicate of 10, and 80 of 3, which is too narrow.
    narrow = {*range(1, 6), *range(N_OLD + 1, N_OLD + 6)}
    expected = set(range(1, N + 1)) - narrow - {9, 20, 81}
    assert candidates(own_store) == expected
    run(own_store, "UPDATE alchemist.rank_scales SET score = 'sharp'")
    assert candidates(own_store) == {6, 7, 8, 10}, "a scorer that only they have a score of"
    run(own_store, "UPDATE alchemist.rank_scales SET score = 'rater'")
    run(own_store, "UPDATE alchemist.rank_snapshots SET night_ids = '{2}'")
    assert candidates(own_store) == {i for i in expected if i > N_OLD} | {81}, "without 10, 81 is no duplicate"


def candidates(engine: Engine) -> set[int]:
    subset = find_subset(engine, "best", version=1)
    with engine.connect() as connection:
        return set(find_candidates(connection, subset, range(1, N + 10)))


def test_strata_leave_out_nights_that_were_not_selected_from(client: TestClient, own_store: Engine) -> None:
    run(own_store, "DELETE FROM alchemist.subset_samples WHERE sample_id > :n", n=N_OLD)
    run(own_store, "UPDATE alchemist.rank_snapshots SET night_ids = '{1}'")
    page = html.unescape(client.get("/subsets/best/1/strata").text)
    n_members = len([i for i in OLD if i <= N_OLD])
    assert f"among {n_members} random members and among {N_OLD - 1} random samples" in page


def test_members_that_are_not_in_the_store_are_copied_into_it(client: TestClient, own_store: Engine) -> None:
    digest = write_members("best-3.parquet", NEW[:5])
    statement = (
        "UPDATE alchemist.subsets SET manifest_uri = 'best-3.parquet', manifest_sha256 = :digest WHERE subset_id = 3"
    )
    run(own_store, statement, digest=digest)
    address = "/subsets/best/3/difference?since=2"
    page = html.unescape(client.get(address).text)
    assert "The members of best v3 are only listed in a file, the manifest." in page
    assert "alchemist subset diff best --from 2 --to 3" in page
    assert "Copy the members of v3 into the store" in client.get("/subsets/best/3").text
    fields = {a["name"]: a["value"] for tag, a in Elements(page).found if tag == "input" and a.get("type") == "hidden"}
    shown = client.post("/members", data=fields, headers={"origin": "http://testserver"})
    assert shown.url.path == "/subsets/best/3/difference"
    assert "The members of best v3 are in the store." in shown.text
    assert sections(shown.text)["left"] == NEW[5:]
    assert 'href="/subsets/best/3/strata"' in client.get("/subsets/best/3").text


def test_the_condition_of_a_version_is_at_the_top_of_its_page(client: TestClient, own_store: Engine) -> None:
    run(own_store, """UPDATE alchemist.subsets SET spec = '{"where": "not flagged_bad"}' WHERE subset_id = 2""")
    page = client.get("/subsets/best/2").text
    assert page.index("<code>not flagged_bad</code>") < page.index("What is it worth?")
    assert "this condition" not in client.get("/subsets/best/1").text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/subsets/nothing", 400), ("/subsets/best/9", 404), (f"/subsets/best/{1 << 70}", 404), ("/subsets/best/1/difference", 400),
        ("/subsets/best/2/difference?since=x", 400), ("/subsets/best/2?against=x", 400), ("/subsets/best/2/difference?since=7", 400),
        ("/subsets/best/2/difference?joined=x", 400), ("/subsets/best/2/difference?colour=red", 400),
    ],
)  # fmt: skip
def test_what_cannot_be_shown_is_explained(client: TestClient, path: str, status: int) -> None:
    assert client.get(path).status_code == status


def compared(arm: str, gain: float | None, low: float | None = None, high: float | None = None) -> Comparison:
    """An arm with 5 seeds, of which random has 3."""
    return Comparison("heldout_loss", arm, 5, 2.0, gain, low, high, 3, None, None, None, 1)


@pytest.mark.parametrize(
    ("arms", "verdict", "words"),
    [
        ([], "not shown", "no model was trained on it"),
        ([compared("random", None)], "not shown", "no model was trained on it"),
        ([compared("subset", None)], "not shown", "no model that was trained on a random subset of the same size"),
        ([compared("subset", None), compared("random", None)], "not shown", "have no common seed"),
        ([compared("subset", 0.5)], "not shown", "one common seed has no interval"),
        (
            [compared("subset", 0.5, -0.1, 1.1)],
            "not shown",
            "the interval includes 0 (95% interval of the gain −0.1000 to 1.1000, 3 common seeds)",
        ),
        ([compared("subset", 0.5, 0.2, 0.8)], "better", "lower than random's by 0.5000"),
        ([compared("subset", -0.5, -0.8, -0.2)], "worse", "higher than random's by 0.5000"),
    ],
)
def test_the_verdict_follows_from_the_interval(arms: list[Comparison], verdict: str, words: str) -> None:
    found = judge_worth(arms, "best", 2)
    assert found.verdict == verdict
    assert words in found.text
