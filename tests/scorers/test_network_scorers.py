"""Scores of networks are those of the library's own model and processor, and a sample's scores do not depend on its batch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, AutoProcessor

from alchemist_core.errors import ConfigError
from alchemist_core.scorers.registration import describe, open_scorer
from alchemist_core.scorers.running import ScorerRunner
from alchemist_core.scorers.scorer import Batch
from tests.models.published.test_sources import FIRST, HubCache, hub
from tests.oracles.oracle_heuristics import aesthetic_value
from tests.scorers.given_networks import CAPTIONS, DIM, LABELS, SIDE, write_classifier, write_clip, write_siglip

__all__ = ["hub"]

N = len(CAPTIONS)
IMAGES = np.random.default_rng(0).integers(0, 256, (N, SIDE, SIDE, 3), np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("networks")
    head = np.random.default_rng(1).normal(size=(1, DIM)).astype(np.float32)
    save_file({"weight": head, "bias": np.array([5.0], np.float32)}, root / "head.safetensors")
    return {
        "clip": write_clip(root / "clip"), "siglip": write_siglip(root / "siglip"), "classifier": write_classifier(root / "one"),
        "each": write_classifier(root / "each", "multi_label_classification"), "head": root / "head.safetensors",
    }  # fmt: skip


def options_of(use: str, folders: dict[str, Path]) -> dict[str, Any]:
    more = {"aesthetic": {"head": str(folders["head"])}, "classifier": {"class_names": "Not safe|drawing"}}
    return {"model": str(folders["clip" if use == "aesthetic" else use])} | more.get(use, {})


def open_runner(use: str, folders: dict[str, Path]) -> ScorerRunner:
    return ScorerRunner(open_scorer(use, options_of(use, folders)), use)


def pictures() -> list[Image.Image]:
    return [Image.fromarray(image) for image in IMAGES]


def library_s_pair_scores(folder: Path) -> torch.Tensor:
    """The library's own logits of each image and its caption, one after the other."""
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    found = []
    for picture, caption in zip(pictures(), CAPTIONS, strict=True):
        inputs = processor(
            text=[caption], images=[picture], padding="max_length", truncation=True, return_tensors="pt",
            max_length=model.config.text_config.max_position_embeddings,
        )  # fmt: skip
        with torch.no_grad():
            found.append((model(**inputs).logits_per_image[0, 0], model.logit_scale.exp()))
    return torch.tensor(found)


def test_clip_s_score_is_the_library_s_cosine(folders: dict[str, Path]) -> None:
    logit_N, scale_N = library_s_pair_scores(folders["clip"]).T
    rated = open_runner("clip", folders).rate(Batch(IMAGES, CAPTIONS))
    np.testing.assert_allclose(rated.score_PM[:, 0], logit_N / scale_N, atol=1e-5)


def test_siglip_s_score_is_the_library_s_probability(folders: dict[str, Path]) -> None:
    logit_N, _ = library_s_pair_scores(folders["siglip"]).T
    rated = open_runner("siglip", folders).rate(Batch(IMAGES, CAPTIONS))
    assert float(np.ptp(rated.score_PM)) > 0.05, "the random weights tell the samples apart"
    np.testing.assert_allclose(rated.score_PM[:, 0], logit_N.sigmoid(), atol=1e-5)


@pytest.mark.parametrize("use", ["clip", "siglip", "aesthetic"])
def test_an_embedding_is_the_library_s_image_features_with_length_1(folders: dict[str, Path], use: str) -> None:
    folder = Path(options_of(use, folders)["model"])
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        feature_ND = model.get_image_features(**processor(pictures(), return_tensors="pt")).pooler_output
    rated = open_runner(use, folders).rate(Batch(IMAGES, CAPTIONS))
    assert rated.embedding_PD is not None
    np.testing.assert_allclose(rated.embedding_PD, torch.nn.functional.normalize(feature_ND), atol=1e-5)


def test_a_text_is_embedded_so_that_its_product_with_an_image_is_clips_score(folders: dict[str, Path]) -> None:
    for use in ("clip", "siglip"):
        runner = open_runner(use, folders)
        text_ND, image_ND = runner.scorer.embed_text(CAPTIONS), runner.rate(Batch(IMAGES, CAPTIONS)).embedding_PD
        assert text_ND is not None
        assert np.linalg.norm(text_ND, axis=1) == pytest.approx(np.ones(N), abs=1e-5)
        score_N = runner.rate(Batch(IMAGES, CAPTIONS)).score_PM[:, 0]
        product_N = np.einsum("nd,nd->n", text_ND, image_ND)
        # SigLIP's score is an increasing function of the product.
        wanted_N = product_N if use == "clip" else np.sort(score_N)[np.argsort(np.argsort(product_N))]
        np.testing.assert_allclose(score_N, wanted_N, atol=1e-5)


def test_the_aesthetic_score_is_the_head_on_the_library_s_features(folders: dict[str, Path]) -> None:
    rated = open_runner("aesthetic", folders).rate(Batch(IMAGES, CAPTIONS))
    weight_D = np.random.default_rng(1).normal(size=DIM).astype(np.float32)
    assert rated.embedding_PD is not None
    expected = [aesthetic_value(row.tolist(), weight_D.tolist(), 5.0) for row in rated.embedding_PD]
    np.testing.assert_allclose(rated.score_PM[:, 0], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["classifier", "each"])
def test_a_classifier_s_scores_are_the_library_s_probabilities(folders: dict[str, Path], name: str) -> None:
    folder = folders[name]
    model, processor = (
        AutoModelForImageClassification.from_pretrained(folder).eval(),
        AutoImageProcessor.from_pretrained(folder),
    )
    with torch.no_grad():
        logit_NL = model(**processor(pictures(), return_tensors="pt")).logits
    expected = logit_NL.sigmoid() if name == "each" else logit_NL.softmax(1)
    scorer = open_scorer("classifier", {"model": str(folder), "class_names": ["drawing", "Not safe"]})
    assert scorer.outputs == ("drawing", "not_safe")
    assert scorer.image_side == SIDE
    found = ScorerRunner(scorer, "x").rate(Batch(IMAGES, CAPTIONS)).score_PM
    assert float(np.ptp(found)) > 0.05
    np.testing.assert_allclose(found, expected[:, [2, 1]], atol=1e-5)


def test_a_classifier_with_one_class_gives_one_score(folders: dict[str, Path]) -> None:
    scorer = open_scorer("classifier", {"model": str(folders["classifier"]), "class_names": "Not safe"})
    assert scorer.outputs == ("score",)


def test_a_class_that_the_classifier_lacks_is_refused_with_those_it_has(folders: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=f"has no class 'nsfw'. It has: {', '.join(LABELS)}"):
        open_scorer("classifier", {"model": str(folders["classifier"]), "class_names": "nsfw"})


@pytest.mark.parametrize("use", ["clip", "siglip", "aesthetic", "classifier"])
def test_a_sample_s_scores_do_not_depend_on_its_batch_to_the_bit(folders: dict[str, Path], use: str) -> None:
    runner = open_runner(use, folders)
    together = runner.rate(Batch(IMAGES, CAPTIONS)).score_PM
    order_N = np.arange(N)[::-1]
    turned = runner.rate(Batch(IMAGES[order_N], [CAPTIONS[at] for at in order_N])).score_PM
    alone = np.concatenate([runner.rate(Batch(IMAGES[at : at + 1], CAPTIONS[at : at + 1])).score_PM for at in range(N)])
    assert np.array_equal(turned[order_N], together)
    assert np.array_equal(alone, together)
    many = runner.rate(Batch(np.concatenate([IMAGES] * 30), CAPTIONS * 30)).score_PM
    assert np.array_equal(many, np.concatenate([together] * 30))


@pytest.mark.slow
@pytest.mark.parametrize("use", ["clip", "siglip", "aesthetic", "classifier"])
def test_its_identity_is_the_content_of_its_files_and_not_their_place(
    folders: dict[str, Path], use: str, tmp_path: Path
) -> None:
    given = options_of(use, folders)
    before = describe(open_scorer(use, given))
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in Path(given["model"]).iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    after = describe(open_scorer(use, given | {"model": str(moved)}))
    assert [after.identity_hash(name) for name in after.outputs] == [
        before.identity_hash(name) for name in before.outputs
    ]
    assert after.all_options["model"] == str(moved)
    settings = moved / "preprocessor_config.json"
    settings.write_text(settings.read_text().replace("0.5", "0.4").replace("0.48145466", "0.4"))
    changed = describe(open_scorer(use, given | {"model": str(moved)}))
    assert changed.identity_hash(changed.outputs[0]) != before.identity_hash(before.outputs[0])


def test_a_name_on_the_hub_is_stored_with_its_commit(folders: dict[str, Path], hub: HubCache) -> None:
    snapshot = hub.commit("org/clip", FIRST)
    for path in folders["clip"].iterdir():
        (snapshot / path.name).write_bytes(path.read_bytes())
    spec = describe(open_scorer("clip", {"model": "hf:org/clip"}))
    assert spec.settings == {"model": f"hf:org/clip@{FIRST}"}
    assert spec.identity == describe(open_scorer("clip", options_of("clip", folders))).identity


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("use", "change", "told"),
    [
        (
            "clip",
            remove("model.safetensors"),
            "config.json and model.safetensors .* are needed. Give a folder of a model",
        ),
        ("clip", remove("tokenizer.json"), "does not hold CLIP's tokenizer"),
        ("classifier", remove("preprocessor_config.json"), "does not hold the classifier's image processor"),
    ],
)
def test_a_folder_that_lacks_a_part_is_refused_with_what_it_lacks(
    folders: dict[str, Path], use: str, change: Callable[[Path], None], told: str, tmp_path: Path
) -> None:
    for path in folders[use].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    change(tmp_path)
    with pytest.raises(ConfigError, match=told):
        open_scorer(use, options_of(use, folders) | {"model": str(tmp_path)})


def test_a_model_of_another_kind_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="does not hold a SigLIP model"):
        open_scorer("siglip", {"model": str(folders["clip"])})


def test_a_head_of_another_clip_is_refused_with_both_sizes(folders: dict[str, Path], tmp_path: Path) -> None:
    save_file(
        {"weight": np.zeros((1, 768), np.float32), "bias": np.zeros(1, np.float32)}, tmp_path / "head.safetensors"
    )
    with pytest.raises(ConfigError, match=r"is for 768 features, but .* gives 16"):
        open_scorer("aesthetic", {"model": str(folders["clip"]), "head": str(tmp_path / "head.safetensors")})
