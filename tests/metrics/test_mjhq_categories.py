"""A dataset in MJHQ-30K's layout gives one FID per category beside the total, from the images of that category alone."""

import io
import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import text

from alchemist_core.cli.corpus import ImportConfig, import_layout
from alchemist_core.errors import DataError
from alchemist_core.local.scenes import draw_informative
from alchemist_core.metrics.image_sets import ImageSet
from alchemist_core.models.extractors import find_weights
from alchemist_core.protocols.protocol import ImageProtocol
from alchemist_core.stages.evaluate import EvaluateConfig
from alchemist_core.stages.evaluate import run as evaluate
from alchemist_core.stages.ingest import IngestConfig
from alchemist_core.stages.ingest import run as ingest
from alchemist_core.store.engine import open_store
from tests.metrics.given_metric import metric_of

CATEGORIES = ("animals", "indoor")
N_IMAGES = 24
PROTOCOL = f"""
metric = "fid"
extractor = "efficientnet_lite0"
resolution = 32
n_images = {N_IMAGES}
categories = ["animals", "indoor"]
sampling = {{ guidance = 1.0, batch_size = 8 }}
"""


def some_scenes(seed: int) -> tuple[np.ndarray, list[str]]:
    rng = random.Random(seed)
    scenes = [draw_informative(rng, 32) for _ in range(N_IMAGES)]
    return np.stack([np.asarray(scene.image) for scene in scenes]), [scene.caption for scene in scenes]


def write_mjhq(folder: Path) -> None:
    """Two categories of twelve images, in the published layout."""
    images, captions = some_scenes(5)
    described = {}
    for place, (image, caption) in enumerate(zip(images, captions, strict=True)):
        category = CATEGORIES[place % 2]
        described[f"{place:040x}"] = {"category": category, "prompt": caption}
        path = folder / category / f"{place:040x}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=95)
        path.write_bytes(buffer.getvalue())
    (folder / "meta_data.json").write_text(json.dumps(described))


def protocol(**changed: object) -> ImageProtocol:
    fields = {"metric": "fid", "extractor": "efficientnet_lite0", "resolution": 32, "n_images": N_IMAGES}
    return ImageProtocol.model_validate(fields | {"categories": CATEGORIES} | changed)


@pytest.mark.slow
def test_a_category_s_row_is_the_fid_of_its_images_alone() -> None:
    weights = find_weights("efficientnet_lite0", None)
    images, prompts = some_scenes(0)
    references = np.concatenate([some_scenes(1)[0], some_scenes(2)[0]])
    labels = [CATEGORIES[place % 3 == 0] for place in range(len(references))]
    metric = metric_of(protocol(), weights, [references], labels)
    values = metric.measure_images([ImageSet(images, prompts, [0] * N_IMAGES)])
    assert values.keys() == {f"fid_efficientnet_lite0{end}" for end in ("", "_animals", "_indoor")}
    for name in CATEGORIES:
        of_reference = np.array(labels) == name
        own = images[of_reference[:N_IMAGES]]
        alone = metric_of(protocol(n_images=len(own), categories=None), weights, [references[of_reference]])
        (value,) = alone.measure_images([ImageSet(own, [""] * len(own), [0] * len(own))]).values()
        assert values[f"fid_efficientnet_lite0_{name}"] == pytest.approx(value, rel=1e-4)


def test_a_reference_without_its_category_is_refused() -> None:
    weights, (references, _) = find_weights("efficientnet_lite0", None), some_scenes(1)
    with pytest.raises(DataError, match="24 reference images can be decoded, but 23 have a category"):
        metric_of(protocol(), weights, [references], ["animals"] * 23).load()


@pytest.fixture
def imported(trained_arms: list[str], tmp_path: Path) -> None:
    """An evaluation dataset in MJHQ's layout beside two trained arms."""
    write_mjhq(tmp_path / "mjhq")
    import_layout(ImportConfig(layout="mjhq", source=str(tmp_path / "mjhq"), out=tmp_path / "tars"))
    ingest(IngestConfig.model_validate({"dataset": "mjhq", "root": str(tmp_path / "tars"), "role": "evaluation"}))


@pytest.mark.slow
@pytest.mark.db
@pytest.mark.e2e
@pytest.mark.usefixtures("imported")
def test_every_category_is_a_row_and_other_categories_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "categories.toml"
    path.write_text(PROTOCOL)
    measured = evaluate(EvaluateConfig(subset="s", evaluation="mjhq", protocol=str(path)))
    assert (measured.metric, measured.n_measured) == ("fid_efficientnet_lite0", 2)
    rows = "SELECT metric, count(*) AS n FROM alchemist.evaluations GROUP BY metric"
    with open_store().connect() as connection:
        found = {row.metric: row.n for row in connection.execute(text(rows))}
        pinned = connection.execute(text("SELECT protocol FROM alchemist.evaluation_protocols")).scalar_one()
    assert found == {f"fid_efficientnet_lite0{end}": 2 for end in ("", "_animals", "_indoor")}
    assert pinned["categories"] == list(CATEGORIES)
    assert len(pinned["labels_sha256"]) == 64
    other = tmp_path / "other.toml"
    other.write_text(PROTOCOL.replace('"indoor"', '"outdoor"'))
    with pytest.raises(DataError, match="are animals, outdoor in the protocol, but animals, indoor in the evaluation"):
        evaluate(EvaluateConfig(subset="s", evaluation="mjhq", protocol=str(other)))
    with pytest.raises(DataError, match="but none in the evaluation dataset"):
        evaluate(EvaluateConfig(subset="s", evaluation="t", protocol=str(path)))
