"""A dataset is registered once, whoever comes first."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, text

from alchemist_core.errors import ConfigError
from alchemist_core.store.registry import list_datasets, register_dataset

pytestmark = pytest.mark.db


@pytest.mark.parametrize("role", ["train", "validation"])
def test_a_dataset_that_another_process_is_registering_is_found_once_it_has(engine: Engine, role: str) -> None:
    with ThreadPoolExecutor(1) as thread:
        with engine.begin() as other:
            other.execute(text("INSERT INTO alchemist.datasets (name, root_uri, role) VALUES ('web', '/a', 'train')"))
            second = thread.submit(register_dataset, engine, "web", root_uri="/b", role=role)
            while not other.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar_one():
                assert not second.done()
        if role == "train":
            assert second.result().root_uri == "/b"
        else:
            with pytest.raises(ConfigError, match="'web' is registered with role 'train', not 'validation'"):
                second.result()
    assert [row.name for row in list_datasets(engine)] == ["web"]
