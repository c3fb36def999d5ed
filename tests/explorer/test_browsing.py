"""Pages of samples: each walk shows each of its samples once, forwards and back, whatever the conditions."""

from collections.abc import Iterator
from datetime import date

import pytest
from sqlalchemy import Engine

from alchemist_core.errors import ConfigError
from alchemist_core.store import browsing
from alchemist_core.store.browsing import Band, Conditions, Page, Quarantined, Walk, browse
from alchemist_core.store.engine import open_reader
from alchemist_core.store.overviews import quarantined_records
from tests.explorer.conftest import N_NEW, N_OLD, run
from tests.given import insert_rows
from tests.trained_store import TrainedStore

pytestmark = pytest.mark.db

N = N_OLD + N_NEW
RANKED = Conditions(rater_id=1, rank_scale_id=1)
TOP = Band(N * 0.75, float("inf"))
OLD_FIRST, NEW_FIRST = range(N_OLD, 0, -1), range(N, N_OLD, -1)
WALKS: dict[str, tuple[Walk, list[int]]] = {
    "all": (browsing.all_samples(), list(range(N, 0, -1))),
    "rated": (browsing.scored_by(2), list(range(10, 0, -1))),
    "band": (browsing.scored_by(1, TOP), [i for i in range(N, 0, -1) if 1 + i * 29 % N > TOP.lowest]),
    "dataset": (browsing.OfShards(1), [*NEW_FIRST, *OLD_FIRST]),
    "empty dataset": (browsing.OfShards(2), []),
    "members": (browsing.members_of(1), [i for i in range(N, 0, -1) if i % 4 == 2]),
    "group": (browsing.duplicates_of(3), [80, 3]),
    "no group": (browsing.duplicates_of(4), [4]),
    "quarantined": (Quarantined("too_slow"), [7]),
    "not quarantined": (Quarantined("no such reason"), []),
}


@pytest.fixture
def engine(store: TrainedStore) -> Engine:
    return open_reader()


@pytest.fixture(params=["usual pages", "small pages"])
def _pages(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "small pages":
        monkeypatch.setattr(browsing, "PAGE_SIZE", 5)
        read_at_most(7, monkeypatch, first=3)


def read_at_most(n: int, monkeypatch: pytest.MonkeyPatch, *, first: int) -> None:
    """Let a page read so many samples in two stretches."""
    monkeypatch.setattr(browsing, "MOST_READ", n)
    monkeypatch.setattr(browsing, "_FIRST_STRETCH", first)
    monkeypatch.setattr(browsing, "_LEAST_STRETCH", n)


def pages(engine: Engine, walk: Walk, conditions: Conditions = RANKED) -> Iterator[Page]:
    page = browse(engine, walk, conditions)
    yield page
    while page.older is not None:
        page = browse(engine, walk, conditions, start=page.older)
        yield page


def ids(page: Page) -> list[int]:
    return [sample.sample_id for sample in page.samples]


def seen_on_the_way_back(engine: Engine, walk: Walk) -> list[int]:
    """Return the samples of a walk's pages from the last to the first, in the order of the walk."""
    *_, page = pages(engine, walk)
    seen = ids(page)
    while page.newer is not None:
        page = browse(engine, walk, RANKED, start=page.newer, is_back=True)
        seen = ids(page) + seen
    return seen


@pytest.mark.usefixtures("_pages")
@pytest.mark.parametrize("name", sorted(WALKS))
def test_a_walk_shows_each_sample_once(engine: Engine, name: str) -> None:
    walk, expected = WALKS[name]
    found = list(pages(engine, walk))
    assert [one for page in found for one in ids(page)] == expected
    assert found[0].newer is None


@pytest.mark.usefixtures("_pages")
@pytest.mark.parametrize("name", ["all", "band", "dataset", "members"])
def test_the_way_back_shows_the_same(engine: Engine, name: str) -> None:
    walk, expected = WALKS[name]
    assert seen_on_the_way_back(engine, walk) == expected


@pytest.mark.usefixtures("_pages")
@pytest.mark.parametrize("name", ["all", "band", "dataset", "members"])
def test_conditions_keep_what_they_name_in_every_walk(engine: Engine, name: str) -> None:
    walk, expected = WALKS[name]
    conditions = Conditions(
        rater_id=1,
        rank_scale_id=1,
        min_width=103,
        source="HOST1.example",
        where="caption like '%4%' or sharp > .3",
        dataset_id=1,
    )
    number = {i: i - 1 if i <= N_OLD else i - N_OLD - 1 for i in expected}
    captions = {i: f"caption of {i}" if i <= N_OLD else f"a late picture {number[i]}" for i in expected}
    kept = [i for i in expected if number[i] >= 3 and number[i] % 3 == 1 and ("4" in captions[i] or 3 < i <= 10)]
    assert [one for page in pages(engine, walk, conditions) for one in ids(page)] == kept


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (Conditions(subset_id=1, dataset_id=1, crawl_date=None), [i for i in range(N, 0, -1) if i % 4 == 2]),
        (Conditions(dataset_id=2), []),
        (Conditions(rater_id=2, where="score >= .5"), [10, 9, 8, 7, 6, 5]),
        (Conditions(rater_id=1, rank_scale_id=1, where="rank < .01"), [i for i in range(N, 0, -1) if 1 + i * 29 % N == N]),
        (Conditions(rater_id=1, band=TOP), WALKS["band"][1]),
    ],
)  # fmt: skip
def test_conditions_beside_the_walk(engine: Engine, conditions: Conditions, expected: list[int]) -> None:
    assert [one for page in pages(engine, browsing.all_samples(), conditions) for one in ids(page)] == expected


def by_score(ids: list[int]) -> list[int]:
    return sorted(ids, key=lambda i: 1 + i * 29 % N, reverse=True)


@pytest.fixture
def ordered(own_store: Engine) -> Engine:
    """A store whose highest three quarters of the scores are kept in order."""
    with own_store.begin() as connection:
        connection.exec_driver_sql(f"SELECT alchemist.order_highest_scores(1, {N // 4}::real, 1000)")
    return own_store


@pytest.mark.usefixtures("_pages")
@pytest.mark.parametrize("name", ["all", "dataset", "members", "group", "band"])
def test_a_short_walk_is_sorted_by_rank_forwards_and_back(engine: Engine, name: str) -> None:
    walk, expected = WALKS[name]
    found = browsing.by_rank(engine, walk, 1, None, may_walk_all=True)
    assert [one for page in pages(engine, found) for one in ids(page)] == by_score(expected)
    assert seen_on_the_way_back(engine, found) == by_score(expected)


@pytest.mark.parametrize("band", [None, Band(N / 2, N * 0.75)])
def test_a_long_walk_follows_the_index_of_the_highest_scores(
    ordered: Engine, band: Band | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browsing, "MOST_ORDERED", 20)
    monkeypatch.setattr(browsing, "PAGE_SIZE", 7)
    walk = browsing.by_rank(ordered, browsing.all_samples(), 1, band, may_walk_all=True)
    assert isinstance(walk, browsing.ByRank)
    low, high = band or (N // 4 - 0.5, N)
    expected = by_score([i for i in range(1, N + 1) if low < 1 + i * 29 % N <= high])
    assert [one for page in pages(ordered, walk) for one in ids(page)] == expected
    assert seen_on_the_way_back(ordered, walk) == expected


def test_what_the_index_does_not_reach_is_sorted_among_the_newest(
    ordered: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browsing, "MOST_ORDERED", 20)
    lowest = Band(float("-inf"), N // 8)
    walk = browsing.by_rank(ordered, browsing.scored_by(1), 1, lowest, may_walk_all=True)
    assert isinstance(walk, browsing.Sorted)
    assert not walk.is_whole
    assert ids(browse(ordered, walk, RANKED)) == by_score(list(range(N, N - 20, -1)))


def test_samples_without_a_score_come_last(engine: Engine) -> None:
    walk = browsing.by_rank(engine, browsing.of_ids([9, 12, 11, 2]), 2, None, may_walk_all=True)
    assert ids(browse(engine, walk, Conditions(rater_id=2))) == [9, 2, 12, 11]


@pytest.mark.usefixtures("_pages")
@pytest.mark.parametrize("band", [None, Band(0.25, 0.75)])
def test_a_few_shards_are_ordered_by_rank_as_a_whole(
    engine: Engine, band: Band | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browsing, "MOST_ORDERED", 4)
    walk = browsing.by_rank(engine, browsing.OfShards(1), 2, band, may_walk_all=True)
    assert isinstance(walk, browsing.ShardsByRank)
    # Rater 2 has scored samples 1 to 10: a tenth of its number each.
    scored = [i for i in range(10, 0, -1) if band is None or band.lowest < i / 10 <= band.highest]
    expected = scored + (list(range(N, 10, -1)) if band is None else [])
    assert [one for page in pages(engine, walk) for one in ids(page)] == expected
    assert seen_on_the_way_back(engine, walk) == expected


def test_many_shards_are_not_ordered_as_a_whole(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browsing, "MOST_OF_SHARDS", N - 1)
    assert isinstance(browsing.by_rank(engine, browsing.OfShards(1), 1, None, may_walk_all=True), browsing.Sorted)


def test_a_page_that_finds_nothing_stops_and_goes_on_from_there(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_at_most(30, monkeypatch, first=10)
    found = list(pages(engine, browsing.all_samples(), Conditions(where="caption = 'caption of 2'")))
    assert [ids(page) for page in found] == [[], [], [2]]
    assert [page.n_read for page in found] == [30, 30, 22]
    assert [page.is_cut for page in found] == [True, True, False]


def test_a_record_that_two_raters_could_not_score_is_shown_once(
    own_store: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browsing, "PAGE_SIZE", 1)
    with own_store.begin() as connection:
        insert_rows(
            connection,
            {"quarantined_samples": [{"shard_id": 1, "ordinal": 6, "rater_id": 1, "reason": "too_slow", "key": "k"}]},
        )
    assert [ids(page) for page in pages(own_store, Quarantined("too_slow"))] == [[7]]
    (record,) = quarantined_records(own_store, "web", date(2026, 1, 1), "too_slow", limit=9)
    assert record.key == "k", "the newest row"


def test_a_sample_of_two_locations_is_on_a_page_once(own_store: Engine) -> None:
    again = """
        INSERT INTO alchemist.sample_locations (shard_id, ordinal, sample_id, key, file_exts, file_offsets, file_sizes)
        SELECT 2, 12, sample_id, key, file_exts, file_offsets, file_sizes FROM alchemist.sample_locations WHERE sample_id = 70
    """
    run(own_store, again)
    first = next(pages(own_store, browsing.OfShards(1)))
    assert ids(first) == [70, *NEW_FIRST, *range(69, 34, -1)]


def test_an_invalid_condition_is_refused_even_where_there_is_nothing(engine: Engine) -> None:
    with pytest.raises(ConfigError, match=r"no column 'nothing'"):
        browse(engine, browsing.OfShards(2), Conditions(where="nothing > 1"))


@pytest.mark.parametrize("given", ["", "x", "1-2-3", "1;2", "-", str(1 << 70)])
def test_a_place_that_was_made_by_hand_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="not a place"):
        browsing.read_place(given)


def test_ranks_become_the_scores_that_bound_them(engine: Engine) -> None:
    assert browsing.band_of_ranks(engine, 1, 0.0, 0.5) == Band(pytest.approx((1 + N) / 2), float("inf"))
    assert browsing.band_of_ranks(engine, 1, 0.5, 1.0) == Band(float("-inf"), pytest.approx((1 + N) / 2))


def test_everything_about_a_sample(engine: Engine) -> None:
    sample = browsing.read_sample(engine, 3)
    assert sample is not None
    assert (sample.caption, sample.width, sample.attributes) == (
        "caption of 3", 102, {"source_url": "https://host2.example/2.jpg"}
    )  # fmt: skip
    assert [(one.rater, one.score) for one in browsing.read_scores(engine, 3)] == [
        ("r1", 6.0),
        ("sharp", pytest.approx(0.3)),
    ]
    (place,) = browsing.read_places(engine, 3, 1)
    assert (place.dataset, place.uri, place.key, place.night_state) == (
        "web",
        "2026-01-01/a.tar",
        "000002",
        "selectable",
    )
    assert browsing.read_places(engine, 7, 2)[0].quarantine_reason == "too_slow"
    assert browsing.read_sample(engine, 10_000) is None


def test_a_reader_can_change_nothing(engine: Engine) -> None:
    with engine.connect() as connection, pytest.raises(Exception, match="read-only transaction"):
        connection.exec_driver_sql("DELETE FROM alchemist.takedowns")
