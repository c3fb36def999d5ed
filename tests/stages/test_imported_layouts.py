"""A dataset in each published layout passes through import, ingest, score and select."""

import io
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from alchemist_core.cli.corpus import ImportConfig, import_layout
from alchemist_core.local.scenes import draw_informative
from alchemist_core.stages.ingest import IngestConfig, IngestResult
from alchemist_core.stages.ingest import run as ingest
from alchemist_core.stages.publishing import PublishNightConfig, publish_night
from alchemist_core.stages.score import ScoreConfig
from alchemist_core.stages.score import run as score
from alchemist_core.stages.select import SelectConfig
from alchemist_core.stages.select import run as select
from alchemist_core.store.engine import open_store
from tests.shards.layouts.given_layouts import (
    write_flux_reason,
    write_hpdv3,
    write_img2dataset,
    write_img2dataset_parquet,
    write_mjhq,
)
from tests.trained_store import TrainedStore

pytestmark = [pytest.mark.db, pytest.mark.e2e]


def write_folder_of_pictures(folder: Path) -> None:
    folder.mkdir(parents=True)
    rng, lines = random.Random(0), []
    for k in range(3):
        scene, buffer = draw_informative(rng, 32), io.BytesIO()
        scene.image.save(buffer, "PNG")
        (folder / f"{k}.png").write_bytes(buffer.getvalue())
        lines.append(json.dumps({"file_name": f"{k}.png", "text": scene.caption}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))


# The writer of a dataset, the layout of its import (None: its tars are read directly), good samples and quarantined ones.
LAYOUTS: dict[str, tuple[Callable[[Path], None], str | None, int, dict[str, int]]] = {
    "laion": (write_img2dataset, None, 2, {"missing_caption": 1}),
    "laion_parquet": (write_img2dataset_parquet, "parquet", 2, {"empty_image": 1}),
    "flux_reason": (lambda folder: write_flux_reason(folder, n=5), "parquet", 5, {}),
    "hpdv3": (write_hpdv3, "hpdv3", 3, {"empty_image": 1}),
    "mjhq": (write_mjhq, "mjhq", 2, {}),
    "folder": (write_folder_of_pictures, "huggingface", 3, {}),
}


def bring_in(name: str, folder: Path) -> IngestResult:
    write, layout, _, _ = LAYOUTS[name]
    write(folder / name)
    root = folder / name
    if layout is not None:
        source = root / "train.json" if layout == "hpdv3" else root
        root = folder / f"{name}-tars"
        given = {"layout": layout, "source": str(source), "out": root, "shard_size": 2}
        first = import_layout(ImportConfig.model_validate(given))
        assert first.counts["records"] > 0
        assert import_layout(ImportConfig.model_validate(given)).counts == {}
    return ingest(IngestConfig(dataset=name, root=str(root)))


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.slow
def test_a_set_in_a_published_layout_is_ingested_scored_and_selected(
    name: str, trained_store: TrainedStore, tmp_path: Path
) -> None:
    _, _, n_pairs, quarantined = LAYOUTS[name]
    report = bring_in(name, tmp_path)
    assert (report.n_new_pairs, report.quarantined, report.n_rejected) == (n_pairs, quarantined, 0)
    assert score(ScoreConfig(dataset=name)).n_scored == n_pairs
    publish_night(PublishNightConfig(dataset=name))
    chosen = select(
        SelectConfig.model_validate({"dataset": name, "name": name, "policy": {"retention": 1.0, "strategy": "top_k"}})
    )
    assert chosen.n_samples == n_pairs


def test_which_image_was_preferred_can_be_asked_in_sql(trained_store: TrainedStore, tmp_path: Path) -> None:
    bring_in("hpdv3", tmp_path)
    statement = """
        SELECT caption, (metadata ->> 'is_preferred')::boolean AS is_preferred, metadata ->> 'model' AS model
        FROM alchemist.samples WHERE metadata ? 'is_preferred' ORDER BY caption, is_preferred DESC
    """
    with open_store().connect() as connection:
        found = [tuple(row) for row in connection.execute(text(statement))]
    assert found == [("a cat", True, "flux"), ("a cat", False, "sd3"), ("a dog", True, "midjourney")]
