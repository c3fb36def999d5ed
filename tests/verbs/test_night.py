"""What is said of nights: how each ended, what was left out, and the next step."""

from datetime import date

import pytest
from sqlalchemy import Engine

from alchemist_core.errors import ConfigError
from alchemist_core.verbs.night import NightListConfig, list_
from tests.given import insert_rows
from tests.scored_nights import add_dataset, add_rater

pytestmark = pytest.mark.db

WHY = {
    "rejected": {"rejected_reason": "not a tar"},
    **{state: {"state_reason": "seen tonight"} for state in ("growing", "missing", "changed")},
}


def add_shards(engine: Engine, dataset_id: int, **states: str) -> None:
    shard = {"dataset_id": dataset_id, "crawl_date": "2026-01-02", "n_samples": 5}
    rows = [
        {**shard, "shard_id": 10 * dataset_id + number, "uri": f"{name}.tar", "state": state, **WHY.get(state, {})}
        for number, (name, state) in enumerate(states.items())
    ]
    with engine.begin() as connection:
        insert_rows(connection, {"shards": rows})


@pytest.fixture
def two_datasets(engine: Engine) -> Engine:
    with engine.begin() as connection:
        add_dataset(connection)
        add_dataset(connection, dataset_id=2, name="books")
        add_rater(connection)
    add_shards(engine, 1, good="verified", gone="missing", other="changed", upload="growing", broken="rejected")
    add_shards(engine, 2, fine="verified")
    return engine


def test_every_shard_that_is_left_out_of_a_night_is_named_with_its_next_step(two_datasets: Engine) -> None:
    web = next(night for night in list_(NightListConfig()).nights if night.dataset == "web")
    steps = {shard.uri: shard.remedy for shard in web.unread}
    assert steps.keys() == {"gone.tar", "other.tar", "upload.tar", "broken.tar"}
    assert "alchemist shard retire 11" in steps["gone.tar"]
    assert "alchemist shard reread 12" in steps["other.tar"]
    assert steps["upload.tar"].startswith("none")
    assert web.remedy == "alchemist score --dataset web --crawl-date 2026-01-02"


def test_the_trouble_of_one_dataset_is_not_said_of_another(two_datasets: Engine) -> None:
    books = next(night for night in list_(NightListConfig()).nights if night.dataset == "books")
    assert books.unread == []


def test_only_the_nights_that_are_asked_for_are_listed(two_datasets: Engine) -> None:
    report = list_(NightListConfig(nights=("books:2026-01-02", "books:2026-01-03")))
    assert [(night.dataset, night.crawl_date) for night in report.nights] == [("books", date(2026, 1, 2))]


def test_a_long_list_of_shards_is_cut_and_says_so(two_datasets: Engine) -> None:
    with two_datasets.begin() as connection:
        rows = [
            {
                "shard_id": 100 + n,
                "dataset_id": 2,
                "uri": f"{n}.tar",
                "state": "missing",
                "crawl_date": "2026-01-02",
                "n_samples": 1,
            }
            for n in range(25)
        ]
        insert_rows(connection, {"shards": rows})
    assert "and 15 more shards" in list_(NightListConfig(dataset="books")).summary()


def test_a_night_that_cannot_be_read_is_refused_with_its_form(database_url: str) -> None:
    with pytest.raises(ConfigError, match="DATASET:YYYY-MM-DD"):
        list_(NightListConfig(nights=("2026-01-02",)))
