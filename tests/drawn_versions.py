"""A corpus of one night, and subset versions selected from it."""

import numpy as np
import pytest
from sqlalchemy import Engine

from alchemist_core.cli.subset import PublishSubsetConfig, publish
from alchemist_core.files import artifact_path
from alchemist_core.stages.select import SelectConfig, SelectResult
from alchemist_core.stages.select import run as run_select
from alchemist_core.store.manifests import read_manifest
from alchemist_core.store.subsets import SubsetRow, find_subset, published_version
from tests.scored_nights import add_dataset, add_night, add_rater

N_PAIRS, NAME = 2_000, "best"


@pytest.fixture
def pool(engine: Engine) -> Engine:
    """A night of 2,000 eligible samples."""
    fill_pool(engine)
    return engine


def fill_pool(engine: Engine) -> None:
    with engine.begin() as connection:
        add_dataset(connection)
        add_rater(connection)
    grow(engine, "2026-01-01", N_PAIRS)


def grow(engine: Engine, crawl_date: str, n: int, *, shift: float = 0.0, state: str = "selectable") -> int:
    """Add a night whose scores are spread as the first night's, or moved by a shift."""
    scores = np.random.default_rng(n).normal(shift, 1, n).astype(np.float32).tolist()
    return add_night(engine, crawl_date, {f"{i}.tar": scores[i::4] for i in range(4)}, state=state)


def select(*, rescale: bool = False, name: str = NAME, dataset: str = "web", **policy: object) -> SelectResult:
    policy = {"strategy": "shift_gsample", "retention": 0.2, **policy}
    config = {"dataset": dataset, "name": name, "rescale": rescale, "policy": policy}
    return run_select(SelectConfig.model_validate(config))


def run_publish(version: int | None = None) -> None:
    publish(PublishSubsetConfig(name=NAME, version=version))


def members(engine: Engine, version: int) -> set[bytes]:
    row = find_subset(engine, NAME, version=version)
    return set(read_manifest(artifact_path(row.manifest_uri), sha256=row.manifest_sha256).pair_hashes())


def current(engine: Engine) -> SubsetRow:
    row = published_version(engine, NAME)
    assert row is not None
    return row
