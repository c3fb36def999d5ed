"""FLUX at tiny size works like every other model: trained on samples, killed and resumed, loaded, sampled from."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from transformers import get_scheduler

from alchemist_core.errors import ConfigError
from alchemist_core.models.flux_config import FlowSamplingConfig
from alchemist_core.models.flux_encoders import FluxAutoencoder
from alchemist_core.models.published.flux import export_flux, load_flux
from alchemist_core.store.manifests import hash_rows
from alchemist_core.training import flux
from alchemist_core.training.config import DownstreamConfig
from alchemist_core.training.downstream_training import train_downstream
from alchemist_core.training.flux import FluxGenerator, FluxRecipe, encode_latents, heldout_flow_losses, read_trained
from alchemist_core.training.generators import load_drawer, read_config
from alchemist_core.training.samples import Chunks, Samples
from tests.models.given_flux import TINY, new_transformer, write_flux_parts
from tests.training.progress import KilledError, ignore, kill_at

SAMPLING = FlowSamplingConfig(num_inference_steps=3, batch_size=2)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DownstreamConfig:
    folder = tmp_path_factory.mktemp("flux")
    save_file(export_flux(new_transformer().state_dict(), TINY), folder / "flux-tiny.safetensors")
    return DownstreamConfig(
        method="lora", base_model=folder / "flux-tiny.safetensors", flux=TINY, flux_components=write_flux_parts(folder / "parts"),
        lora_rank=4, max_train_steps=20, batch_size=16, learning_rate=3e-2, checkpointing_steps=10,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(config: DownstreamConfig, validation_pairs: Samples, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "model"
    train(config, validation_pairs, out)
    return out


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    # For matrices this small a second one does not pay.
    torch.set_num_threads(1)


def train(config: DownstreamConfig, pairs: Samples, out: Path, cache: Path | None = None) -> list[float]:
    result = train_downstream(config, pairs, tokenizer_from=out, out=out, on_progress=ignore, cache=cache)
    return list(result["losses"])


@pytest.mark.slow
def test_the_loss_falls_in_training_and_on_held_out_samples(
    config: DownstreamConfig, validation_pairs: Samples, heldout_pairs: Samples, tmp_path: Path
) -> None:
    trained = tmp_path / "long"
    losses = train(config.model_copy(update={"max_train_steps": 60}), validation_pairs, trained)
    assert np.mean(losses[-15:]) < np.mean(losses[:15]) - 0.3
    short = config.model_copy(update={"max_train_steps": 1, "learning_rate": 1e-6})
    train(short, validation_pairs, tmp_path / "short")
    before_N, after_N = (
        heldout_flow_losses(path, read_config(path), heldout_pairs) for path in (tmp_path / "short", trained)
    )
    assert before_N.shape == after_N.shape == (60,)
    assert after_N.mean() < before_N.mean() - 0.3


def test_recomputing_activations_changes_no_loss(
    config: DownstreamConfig, validation_pairs: Samples, tmp_path: Path
) -> None:
    few = config.model_copy(update={"max_train_steps": 3})
    expected = train(few, validation_pairs, tmp_path / "plain")
    for name in ("flux", "gradient_checkpointing"):
        sparing = {"flux": TINY.model_copy(update={"gradient_checkpointing": True}), "gradient_checkpointing": True}[
            name
        ]
        found = train(few.model_copy(update={name: sparing}), validation_pairs, tmp_path / name)
        assert found == pytest.approx(expected, rel=1e-4), name


@pytest.mark.slow
def test_a_batch_in_parts_learns_as_much(config: DownstreamConfig, validation_pairs: Samples, tmp_path: Path) -> None:
    # Not the same steps: each part samples its own times and noise.
    longer = config.model_copy(update={"max_train_steps": 60})
    whole = train(longer, validation_pairs, tmp_path / "whole")
    parts = train(longer.model_copy(update={"gradient_accumulation_steps": 4}), validation_pairs, tmp_path / "parts")
    assert np.mean(parts[-15:]) == pytest.approx(np.mean(whole[-15:]), rel=0.1)


@pytest.mark.slow
def test_a_killed_run_resumes_to_bit_identical_adapters(
    config: DownstreamConfig, validation_pairs: Samples, tmp_path: Path
) -> None:
    train(config, validation_pairs, tmp_path / "whole")
    with pytest.raises(KilledError):
        train_downstream(
            config, validation_pairs, tokenizer_from=tmp_path, out=tmp_path / "killed", on_progress=kill_at(17)
        )
    train(config, validation_pairs, tmp_path / "killed")
    whole, killed = (load_file(tmp_path / name / "adapters.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_adapters_are_all_that_is_written_and_the_read_model_computes_what_merged_weights_do(
    config: DownstreamConfig, trained: Path
) -> None:
    assert {path.name for path in trained.iterdir()} == {
        "adapters.safetensors", "base.sha256", "config.json", "metrics.json",
    }  # fmt: skip
    names = load_file(trained / "adapters.safetensors")
    assert all("lora_" in name for name in names)
    given = {
        "hidden_states": torch.randn(2, 16, 16), "encoder_hidden_states": torch.randn(2, 12, 24),
        "pooled_projections": torch.randn(2, 20), "timestep": torch.tensor([0.2, 0.9]),
        "guidance": torch.full((2,), 4.0), "img_ids": torch.zeros(16, 3), "txt_ids": torch.zeros(12, 3),
    }  # fmt: skip
    assert config.base_model is not None
    read, plain, merged = read_trained(trained, config), *(load_flux(config.base_model, TINY) for _ in range(2))
    weights = merged.state_dict()
    for name in [name for name in names if "lora_A" in name]:
        # Hu et al. 2021: W + B A, where the rank equals alpha. In place, so that the model has the sum.
        of = name.removeprefix("base_model.model.").replace("lora_A.", "")
        weights[of] += names[name.replace("lora_A", "lora_B")] @ names[name]
    with torch.no_grad():
        ours, theirs, before = (model(**given).sample for model in (read, merged, plain))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(ours, before, atol=1e-2)


def test_weights_of_16_bits_are_read_as_they_are_with_the_trained_adapters_in_fp32_beside_them(
    config: DownstreamConfig, trained: Path
) -> None:
    assert config.flux is not None
    assert config.base_model is not None
    in_16_bits = config.model_copy(update={"flux": config.flux.model_copy(update={"weight_dtype": "bf16"})})
    read = read_trained(trained, in_16_bits).state_dict()
    adapters = load_file(trained / "adapters.safetensors")
    expected = {
        name.removeprefix("base_model.model.").replace(".weight", ".default.weight"): value
        for name, value in adapters.items()
    }
    found = {name: read.pop(name) for name in expected}
    assert {value.dtype for value in found.values()} == {torch.float32}
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    base = load_flux(config.base_model, TINY, torch.bfloat16).state_dict()
    kept = {name.replace(".base_layer", ""): value for name, value in read.items()}
    assert kept.keys() == base.keys()
    assert all(torch.equal(kept[name], value) for name, value in base.items())


def test_an_image_that_cannot_be_decoded_changes_no_held_out_loss_of_the_others(
    trained: Path, heldout_pairs: Samples
) -> None:
    class Unreadable(Samples):
        def read(self, index_M: np.ndarray) -> Chunks:
            return super().read(index_M[index_M != 2])

    few = heldout_pairs.rows(np.arange(12))
    whole_N = heldout_flow_losses(trained, read_config(trained), few)
    without_N = heldout_flow_losses(trained, read_config(trained), Unreadable(few.image_NHWC, few.captions))
    np.testing.assert_allclose(without_N, np.delete(whole_N, 2), rtol=1e-4)


def test_other_base_weights_are_refused(config: DownstreamConfig, trained: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match="the adapters were trained on"):
        read_trained(trained, config.model_copy(update={"base_model": tmp_path / "other.safetensors"}))


def test_latents_are_computed_once_an_image(
    config: DownstreamConfig, heldout_pairs: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert config.flux_components is not None
    vae = FluxAutoencoder(config.flux_components, TINY)
    keyed = Samples(heldout_pairs.image_NHWC, heldout_pairs.captions, hash_rows([bytes([k]) * 32 for k in range(60)]))
    first = encode_latents(keyed, vae, tmp_path, None)
    assert len(first) == 60
    expected = vae.encode(heldout_pairs.image_NHWC).half()
    monkeypatch.setattr(flux.FluxAutoencoder, "encode", lambda *_: pytest.fail("encoded again"))
    monkeypatch.setattr(flux.FluxAutoencoder, "fingerprint", lambda _: next((tmp_path / "latents").iterdir()).name)
    again = encode_latents(keyed, vae, tmp_path, None)
    every = torch.arange(60)
    assert torch.equal(first.rows(every), again.rows(every))
    assert torch.equal(again.rows(every), expected)


def test_other_weights_of_the_vae_have_other_latents(config: DownstreamConfig) -> None:
    assert config.flux_components is not None
    first, again, other = (FluxAutoencoder(config.flux_components, TINY) for _ in range(3))
    other.vae.encoder.conv_in.weight[0, 0, 0, 0] += 1
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()


def test_on_a_cpu_the_vae_computes_in_fp32_whatever_the_transformer_does(config: DownstreamConfig) -> None:
    assert config.flux_components is not None
    vae = FluxAutoencoder(config.flux_components, TINY.model_copy(update={"weight_dtype": "bf16"}))
    assert {weight.dtype for weight in vae.vae.parameters()} == {torch.float32}


@pytest.mark.slow
def test_an_image_depends_on_its_seed_and_prompt_only(trained: Path) -> None:
    generator = FluxGenerator(trained, read_config(trained), torch.device("cpu"))
    prompts, seeds = ["a red box at the top", "a blue box at the left", "a green box"], [4, 5, 6]
    images = generator.draw(prompts, seeds, SAMPLING)
    assert images.shape == (3, 16, 16, 3)
    assert np.array_equal(load_drawer(trained, torch.device("cpu"))(prompts, seeds, SAMPLING), images)
    assert np.array_equal(generator.draw(prompts[2:], seeds[2:], SAMPLING)[0], images[2])
    assert not np.array_equal(generator.draw(prompts[:1], [9], SAMPLING)[0], images[0])


@pytest.mark.parametrize(("changed", "message"), [
    ({"flux": None}, "belongs to preset flux_mini"), ({"method": "scratch"}, "is trained by lora"),
    ({"proportion_empty_prompts": 0.1}, r"proportion_empty_prompts 0\.1: FLUX-mini needs none"),
])  # fmt: skip
def test_flux_is_trained_by_adapters(config: DownstreamConfig, changed: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DownstreamConfig.model_validate(config.model_dump() | changed)


def test_the_learning_rate_rises_in_the_warm_up_and_then_stays() -> None:
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], 1.0)
    schedule = get_scheduler(FluxRecipe.schedule, optimizer, num_warmup_steps=2, num_training_steps=20)
    rates = []
    for _ in range(5):
        rates += schedule.get_last_lr()
        optimizer.step()
        schedule.step()
    assert rates == [0.0, 0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("field", ["base_model", "flux_components"])
def test_flux_asks_for_what_no_package_carries(
    config: DownstreamConfig, field: str, validation_pairs: Samples, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"FLUX-mini needs its weights \(flux-mini\.safetensors\)"):
        train(config.model_copy(update={field: None}), validation_pairs, tmp_path / "model")


def test_encoders_of_another_size_are_refused(
    config: DownstreamConfig, validation_pairs: Samples, tmp_path: Path
) -> None:
    wrong = config.model_copy(update={"flux": TINY.model_copy(update={"text_dim": 32})})
    with pytest.raises(ConfigError, match="have 24 and 20 features, but the transformer needs 32 and 20"):
        train(wrong, validation_pairs, tmp_path / "model")
