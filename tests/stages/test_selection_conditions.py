"""A condition decides which samples are eligible; what it may contain, and that no value in it is executed."""

import pytest
from sqlalchemy import Engine, text

from alchemist_core.errors import ConfigError
from alchemist_core.store.subsets import find_subset
from alchemist_core.subsets.selected import manifest_of, reselect
from tests.selectable_store import change, draw, fill, member_ids, members
from tests.stages.test_selection_options import ALL

pytestmark = pytest.mark.db


@pytest.fixture
def store(engine: Engine) -> Engine:
    fill(engine)
    return engine


def test_a_condition_decides_who_is_eligible(store: Engine) -> None:
    report = draw(where="(sample_id <= 60 or aesthetic >= 30) and source_url like '%one.example%'", **ALL)
    with store.connect() as connection:
        expected = set(connection.execute(text("""
            SELECT sample_id FROM alchemist.samples LEFT JOIN alchemist.heuristic_scores USING (sample_id)
            WHERE (sample_id <= 60 OR aesthetic >= 30) AND source_url LIKE '%one.example%'
        """)).scalars())  # fmt: skip
    assert member_ids(store) == expected
    assert report.n_removed == {"predicate": 400 - len(expected)}


@pytest.mark.parametrize(
    "where",
    [
        "1 = 1; DROP TABLE alchemist.samples",
        "caption = 'a' OR 1 = 1 --",
        "sample_id = (SELECT 1)",
        "pg_sleep(9) is null",
        "score > 1",
        "sample_id > 1 UNION SELECT 1",
        "width >= 'x'",
        "sample_id in ()",
        "$1 = 1",
        '"caption" = 1',
        "caption like",
        "(" * 60 + "width = 1" + ")" * 60,
    ],
)
def test_what_is_not_a_condition_over_known_columns_is_refused_with_its_place(store: Engine, where: str) -> None:
    with pytest.raises(ConfigError):
        draw(where=where)


@pytest.mark.parametrize(
    "value", ["x'; DROP TABLE samples; --", "%s", "%(where)s", "\\", ":name", "$1", "\u2028é", "?"]
)
def test_a_hostile_value_is_only_a_value(store: Engine, value: str) -> None:
    change(store, "UPDATE alchemist.samples SET caption = :value WHERE sample_id = 77", value=value)
    assert draw(where="caption = '" + value.replace("'", "''") + "'", **ALL).n_samples == 1
    assert member_ids(store) == {77}


def test_a_condition_that_nothing_meets_reports_it(store: Engine) -> None:
    with pytest.raises(ConfigError, match="No sample is eligible"):
        draw(where="width > 100000")


def test_a_condition_that_excludes_no_sample_keeps_no_snapshot_from_sql(store: Engine) -> None:
    draw(where="sample_id > 0")
    subset = find_subset(store, "s")
    statement = text("SELECT pair_hash FROM alchemist.shift_gsample(:snapshot, 0.2)")
    with store.connect() as connection:
        found = {bytes(word) for word in connection.execute(statement, {"snapshot": subset.snapshot_id}).scalars()}
    assert found == members(store)
    assert manifest_of(reselect(store, subset)).sha256() == subset.manifest_sha256
