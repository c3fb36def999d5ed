"""The pictures of the report are those of eligible samples, in bands of which one holds the ranks that were selected."""

from datetime import UTC, datetime

import numpy as np
import pytest
from sqlalchemy import Engine

from alchemist_core.cli.subset import PublishSubsetConfig, publish
from alchemist_core.report import gathering
from alchemist_core.store.sample_table import SampleTable
from tests.selectable_store import change, draw, fill

pytestmark = pytest.mark.db


def test_only_eligible_images_are_read_and_the_selected_range_is_a_band(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(engine)
    change(engine, 'UPDATE alchemist.raters SET config = \'{"validation": "good"}\'')
    # Ten samples are eligible; each of the bands could show more.
    selected = draw(0.5, strategy="top_k", where="sample_id <= 10")
    publish(PublishSubsetConfig(name=selected.name))
    wanted = list[int]()

    def read_images(rows: SampleTable, *_: object) -> tuple[np.ndarray, list[str], list[bytes], list[str]]:
        wanted.append(len(rows))
        return np.zeros((0, 8, 8, 3), np.uint8), [], [], []

    monkeypatch.setattr(gathering, "read_images", read_images)
    content = gathering.gather_content(engine, None, made_at=datetime.now(UTC), on_progress=lambda *_: None)
    assert (selected.n_eligible, wanted) == (10, [10])
    assert [sheet.subset for sheet in content.sheets].count(f"{selected.name} v1") == 1
