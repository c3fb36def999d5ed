"""Aesthetic scores: the result of CLIP and the head, computed once per image, and a ranking by them."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file
from sqlalchemy import text
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from alchemist_core.cli.score_aesthetics import AestheticConfig, run
from alchemist_core.errors import ConfigError
from alchemist_core.settings import load_settings
from alchemist_core.stages.select import SelectConfig
from alchemist_core.stages.select import run as select
from alchemist_core.store.engine import open_store
from tests.trained_store import TrainedStore, make_selectable

pytestmark = [pytest.mark.db, pytest.mark.e2e]

DIM, SIDE = 16, 32


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of random weights that looks at 32 px."""
    folder = tmp_path_factory.mktemp("clip")
    CLIPTokenizer(vocab={"<|startoftext|>": 0, "<|endoftext|>": 1}, merges=[]).save_pretrained(folder)
    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = sizes | {"image_size": SIDE, "patch_size": 8}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=sizes | {"vocab_size": 2}, vision_config=vision, projection_dim=DIM)
    CLIPModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def configured(
    trained_store: TrainedStore, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Settings that name the encoder and a head."""
    head = tmp_path / "head.safetensors"
    weight = np.random.default_rng(0).normal(size=(1, DIM)).astype(np.float32)
    save_file({"weight": weight, "bias": np.array([5.0], np.float32)}, head)
    monkeypatch.setenv("ALCHEMIST_AESTHETIC_CLIP", str(clip))
    monkeypatch.setenv("ALCHEMIST_AESTHETIC_HEAD", str(head))
    load_settings.cache_clear()
    yield head
    load_settings.cache_clear()


def scores() -> dict[int, float]:
    query = "SELECT sample_id, aesthetic FROM alchemist.heuristic_scores WHERE aesthetic IS NOT NULL"
    with open_store().connect() as connection:
        return dict(tuple(row) for row in connection.execute(text(query)))


def test_every_image_gets_the_value_of_ten_lines_of_clip(configured: Path, clip: Path) -> None:
    report = run(AestheticConfig(dataset="scenes"))
    assert (report.n_judged, report.n_unreadable) == (240, 0)
    found = scores()
    assert len(found) == 240
    model = CLIPModel.from_pretrained(clip).eval()
    place = """
        SELECT sample_id, datasets.root_uri || '/' || uri, file_offsets[1], file_sizes[1]
        FROM alchemist.sample_locations JOIN alchemist.shards USING (shard_id) JOIN alchemist.datasets USING (dataset_id)
        WHERE name = 'scenes' AND file_exts[1] IN ('png', 'jpg') LIMIT 5
    """
    with open_store().connect() as connection:
        rows = connection.execute(text(place)).all()
    assert len(rows) == 5
    for sample_id, path, offset, size in rows:
        with Path(path).open("rb") as file:
            file.seek(offset)
            data = file.read(size)
        pixels = torch.from_numpy(np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float32) / 255)
        mean, spread = (
            torch.tensor([0.48145466, 0.4578275, 0.40821073]),
            torch.tensor([0.26862954, 0.26130258, 0.27577711]),
        )
        with torch.no_grad():
            pooled = model.vision_model(((pixels - mean) / spread).permute(2, 0, 1)[None]).pooler_output
            feature = torch.nn.functional.normalize(model.visual_projection(pooled))[0]
        weight = np.random.default_rng(0).normal(size=(1, DIM)).astype(np.float32)[0]
        assert found[sample_id] == pytest.approx(float(feature @ torch.from_numpy(weight)) + 5, abs=1e-4)


def test_a_second_run_judges_nothing_and_a_crawl_s_own_scores_stay(configured: Path) -> None:
    with open_store().begin() as connection:
        connection.execute(
            text(
                "INSERT INTO alchemist.heuristic_scores (sample_id, aesthetic) SELECT min(sample_id), 9 FROM alchemist.samples"
            )
        )
    run(AestheticConfig(dataset="scenes"))
    before = scores()
    assert run(AestheticConfig(dataset="scenes")).n_judged == 0
    assert scores() == before
    assert 9.0 in before.values()


def test_samples_are_ranked_by_it(configured: Path) -> None:
    run(AestheticConfig(dataset="scenes"))
    make_selectable()
    policy = {"rank_by": "aesthetic", "strategy": "top_k", "retention": 0.1}
    report = select(SelectConfig.model_validate({"dataset": "scenes", "name": "liked", "policy": policy}))
    assert report.n_samples == 24


def test_without_an_encoder_the_error_names_the_settings(trained_store: TrainedStore) -> None:
    with pytest.raises(ConfigError, match="ALCHEMIST_AESTHETIC_CLIP"):
        run(AestheticConfig(dataset="scenes"))


def test_a_head_of_another_model_is_refused_with_both_numbers(configured: Path) -> None:
    save_file({"weight": np.zeros((1, 768), np.float32), "bias": np.zeros(1, np.float32)}, configured)
    with pytest.raises(ConfigError, match=r"is for 768 features.*gives 16"):
        run(AestheticConfig(dataset="scenes"))
