"""Features equal the networks' own for every batch size, and CLIP-Score equals a reference of ten lines."""

import string
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from alchemist_core.errors import ConfigError
from alchemist_core.metrics.distances import clip_score
from alchemist_core.models.extractors import find_weights, weights_sha256
from alchemist_core.models.features import Clip, EfficientNetLite0, InceptionV3
from tests.metrics.given_metric import read_image_protocol

START, END = "<|startoftext|>", "<|endoftext|>"
PROMPTS = ["a red cat", "blue " * 60, "", "a dog and a cat"]


def some_images(n: int, side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), np.uint8)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of random weights, 32 px, with CLIP's own tokenizer over letters."""
    folder = tmp_path_factory.mktemp("clip")
    letters = [*string.ascii_lowercase, *(letter + "</w>" for letter in string.ascii_lowercase)]
    vocabulary = {token: number for number, token in enumerate([START, END, *letters])}
    CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77).save_pretrained(folder)
    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = sizes | {"vocab_size": len(vocabulary), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    vision = sizes | {"image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    return folder


def reference_clip_score(folder: Path, images: np.ndarray, prompts: list[str]) -> float:
    """Ten lines: the model's own forward, pair by pair, its logits divided by their scale."""
    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), CLIPTokenizer.from_pretrained(folder)
    mean, spread = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    cosines = []
    for image, prompt in zip(images, prompts, strict=True):
        pixels = torch.from_numpy((image / 255 - mean) / spread).permute(2, 0, 1)[None].float()
        words = tokenizer([prompt], padding="max_length", truncation=True, max_length=77, return_tensors="pt")
        with torch.no_grad():
            found = model(**words, pixel_values=pixels)
        cosines.append(float(found.logits_per_image / model.logit_scale.detach().exp()))
    return sum(cosines) / len(cosines)


def test_clip_score_is_that_of_ten_lines(clip_folder: Path) -> None:
    images, clip = some_images(4, 32), Clip(clip_folder)
    ours = clip_score(clip.features(images), clip.text_features(PROMPTS))
    assert ours == pytest.approx(reference_clip_score(clip_folder, images, PROMPTS), abs=1e-6)


def test_prompts_are_cut_after_77_tokens(clip_folder: Path) -> None:
    clip = Clip(clip_folder)
    one, other = clip.text_features(["a" * 200, "a" * 300])
    assert np.array_equal(one, other)


def test_a_folder_without_clip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not hold a CLIP model"):
        Clip(tmp_path)


def test_efficientnet_s_features_do_not_depend_on_the_number_of_images() -> None:
    weights = find_weights("efficientnet_lite0", None)
    assert weights is not None
    network, images = EfficientNetLite0(weights), some_images(3, 64)
    feature_ND = network.features(images)
    assert feature_ND.shape == (3, 1280)
    np.testing.assert_allclose(network.features(images[1:2])[0], feature_ND[1], atol=1e-4)


def test_the_shipped_weights_are_those_that_the_protocol_pins() -> None:
    weights = find_weights("efficientnet_lite0", None)
    assert weights is not None
    assert weights_sha256(weights) == read_image_protocol("kid_offline").weights_sha256


@pytest.mark.slow
def test_inception_s_features_are_torch_fidelity_s(tmp_path: Path) -> None:
    """With weights of our own making, since no package ships FID's: the network is torch-fidelity's, and so is the resizing."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.manual_seed(0)
    own = FeatureExtractorInceptionV3.__new__(FeatureExtractorInceptionV3)
    path = tmp_path / "inception.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "load", lambda *_args, **_kwargs: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_args, **_kwargs: None)
        own.__init__("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))
    torch.save(own.state_dict(), path)
    images = some_images(2, 40)
    with torch.no_grad():
        (expected,) = own(torch.from_numpy(images).permute(0, 3, 1, 2))
    feature_ND = InceptionV3(path).features(images)
    assert feature_ND.shape == (2, 2048)
    np.testing.assert_allclose(feature_ND, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_weights_that_are_not_inception_s_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match="does not hold torch-fidelity's InceptionV3"):
        InceptionV3(tmp_path / "other.pth")


@pytest.mark.parametrize("extractor", ["inception_v3", "clip"])
def test_networks_that_no_package_carries_ask_for_their_weights(extractor: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="requires --weights"):
        find_weights(extractor, None)
    with pytest.raises(ConfigError, match=r"Given: .*nowhere"):
        find_weights(extractor, tmp_path / "nowhere")


def test_the_hash_of_a_folder_changes_with_its_weights(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"1")
    before = weights_sha256(tmp_path)
    (tmp_path / "README.md").write_text("of no account")
    assert weights_sha256(tmp_path) == before
    (tmp_path / "model.safetensors").write_bytes(b"2")
    assert weights_sha256(tmp_path) != before


@pytest.mark.parametrize("extractor", ["inception_v3", "inception_v3_clean"])
def test_of_a_folder_with_inception_the_file_is_hashed(tmp_path: Path, extractor: str) -> None:
    path = tmp_path / "weights-inception-2015-12-05-6726825d.pth"
    path.write_bytes(b"1")
    assert find_weights(extractor, tmp_path) == find_weights(extractor, path) == path


def test_a_folder_without_a_file_to_hash_is_refused(tmp_path: Path) -> None:
    (tmp_path / "network.pth").write_bytes(b"1")
    with pytest.raises(ConfigError, match="holds no model of transformers"):
        weights_sha256(tmp_path)


def test_the_hash_of_a_folder_changes_with_the_older_format_of_weights_that_is_loaded_from_it(tmp_path: Path) -> None:
    for name in ("config.json", "vocab.txt", "pytorch_model.bin"):
        (tmp_path / name).write_bytes(b"1")
    before = weights_sha256(tmp_path)
    (tmp_path / "README.md").write_text("of no account")
    assert weights_sha256(tmp_path) == before
    for name in ("config.json", "vocab.txt", "pytorch_model.bin"):
        (tmp_path / name).write_bytes(b"2")
        assert weights_sha256(tmp_path) != before
        (tmp_path / name).write_bytes(b"1")
    # Of both formats the newer one is loaded; its hash is as before.
    (tmp_path / "model.safetensors").write_bytes(b"1")
    both = weights_sha256(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"2")
    assert weights_sha256(tmp_path) == both
    (tmp_path / "pytorch_model.bin").unlink()
    assert weights_sha256(tmp_path) == both


def test_an_extractor_that_is_not_ours_brings_its_own_weights() -> None:
    assert find_weights("drawn_shapes", None) is None
