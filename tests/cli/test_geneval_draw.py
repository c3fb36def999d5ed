"""`geneval draw` refuses what it cannot draw, before it writes or loads anything."""

import json
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine

from alchemist_core.cli.geneval import DrawConfig, draw
from alchemist_core.errors import ConfigError
from alchemist_core.metrics.geneval import write_images
from tests.given import insert_rows

pytestmark = pytest.mark.db
CUP, DOGS = (
    {"tag": tag, "prompt": prompt, "include": []} for tag, prompt in (("colors", "a red cup"), ("counting", "two dogs"))
)


@pytest.fixture(autouse=True)
def _models(engine: Engine) -> None:
    configs = {
        "star": {"model": {"flux": None}},
        "star2": {"model": {"flux": None}},
        "flux": {"model": {"flux": {"resolution": 64}}},
    }
    with engine.begin() as connection:
        rows = [
            {"model_id": n, "arm": "full", "seed": 0, "identity_hash": name, "config": config}
            for n, (name, config) in enumerate(configs.items(), 1)
        ]
        insert_rows(connection, {"models": rows})


def config_of(folder: Path, *prompts: dict[str, object], model: str = "star") -> DrawConfig:
    path = folder / "prompts.jsonl"
    path.write_text("".join(f"{json.dumps(prompt)}\n" for prompt in prompts))
    return DrawConfig(model=model, prompts=path, out=folder / "out", images_per_prompt=1)


def test_a_model_of_flux_mini_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Model flux is a FLUX-mini model"):
        draw(config_of(tmp_path, CUP, model="flux"))
    assert not (tmp_path / "out").exists()


def test_a_folder_with_images_of_other_prompts_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "out", 0, CUP, [np.zeros((8, 8, 3), np.uint8)])
    assert draw(config_of(tmp_path, CUP)).n_drawn == 0
    for prompts in ((DOGS,), ()):
        with pytest.raises(ConfigError, match=r"00000 holds images of another prompt than line 1 of --prompts"):
            draw(config_of(tmp_path, *prompts))


def test_a_folder_with_images_of_another_model_or_with_other_options_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "out", 0, CUP, [np.zeros((8, 8, 3), np.uint8)])
    config = config_of(tmp_path, CUP)
    draw(config)
    for change, difference in (
        ({"model": "star2"}, "--model star, not star2"),
        ({"images_per_prompt": 2}, "--images-per-prompt 1, not 2"),
        ({"sampling": {"guidance_scale": 3}}, r"--guidance-scale 4\.0, not 3\.0"),
    ):
        with pytest.raises(ConfigError, match=rf"generated with {difference}\. Give another --out"):
            draw(DrawConfig.model_validate(config.as_json() | change))
