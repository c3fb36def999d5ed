"""A dataset and a shard are registered once, whoever comes first."""

from concurrent.futures import ThreadPoolExecutor
from datetime import date

import pytest
from sqlalchemy import Engine, text

from alchemist_core.errors import ConfigError
from alchemist_core.store.registry import NewShard, known_shards, list_datasets, register_dataset, register_shard
from tests.given import insert_rows, sha256

pytestmark = pytest.mark.db


@pytest.mark.parametrize("role", ["train", "validation"])
def test_a_dataset_that_another_process_is_registering_is_found_once_it_has(engine: Engine, role: str) -> None:
    with ThreadPoolExecutor(1) as thread:
        with engine.begin() as other:
            other.execute(text("INSERT INTO alchemist.datasets (name, root_uri, role) VALUES ('web', '/a', 'train')"))
            second = thread.submit(register_dataset, engine, "web", root_uri="/a/", role=role)
            while not other.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar_one():
                assert not second.done()
        if role == "train":
            assert second.result().root_uri == "/a"
        else:
            with pytest.raises(ConfigError, match="'web' is registered with role 'train', not 'validation'"):
                second.result()
    assert [row.name for row in list_datasets(engine)] == ["web"]


def test_a_shard_that_another_process_is_registering_is_left_to_it(engine: Engine) -> None:
    web = register_dataset(engine, "web", root_uri="/a", role="train")
    shard = NewShard(web.dataset_id, "a.tar", sha256("a"), 1, date(2026, 1, 1), run_id=1)
    with ThreadPoolExecutor(1) as thread:
        with engine.begin() as other:
            insert_rows(
                other,
                {"shards": [{"shard_id": 1, "dataset_id": web.dataset_id, "uri": "a.tar", "crawl_date": "2026-01-01"}]},
            )
            second = thread.submit(register_shard, engine, shard, [], [])
            while not other.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar_one():
                assert not second.done()
        assert second.result() is None
    assert list(known_shards(engine, web.dataset_id)) == ["a.tar"]
