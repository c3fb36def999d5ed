"""What we train and sample with equals diffusers' `FluxPipeline`, as a user of FLUX.1 loads it: random weights, fp32.

`pytest -s` prints the differences.
"""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from safetensors.torch import save_file
from transformers import AutoTokenizer, CLIPTextModel, T5EncoderModel

from alchemist_core.models.flux import make_pipeline, pack_latents, predict_velocity
from alchemist_core.models.flux_config import FlowSamplingConfig
from alchemist_core.models.flux_encoders import FluxTextEncoder
from alchemist_core.models.published.flux import export_flux
from alchemist_core.training.config import DownstreamConfig
from alchemist_core.training.flux import FluxGenerator, FluxRecipe
from tests.models.given_flux import TINY, new_transformer, write_flux_parts

PROMPTS, SEEDS, N_STEPS, GUIDANCE = ["a red box at the top", "a blue box " * 40], [4, 5], 5, 3.5
# FLUX.1-dev's scheduler/scheduler_config.json.
PUBLISHED_SCHEDULE = {
    "base_image_seq_len": 256, "base_shift": 0.5, "max_image_seq_len": 4096, "max_shift": 1.15,
    "num_train_timesteps": 1000, "shift": 3.0, "use_dynamic_shifting": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_flux_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def published(parts: Path) -> Any:
    """The pipeline as diffusers' own documentation loads it."""
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler.from_config(PUBLISHED_SCHEDULE),
        vae=AutoencoderKL.from_pretrained(parts / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(parts / "text_encoder"),
        tokenizer=AutoTokenizer.from_pretrained(parts / "tokenizer"),
        text_encoder_2=T5EncoderModel.from_pretrained(parts / "text_encoder_2"),
        tokenizer_2=AutoTokenizer.from_pretrained(parts / "tokenizer_2"),
        transformer=new_transformer().eval(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in SEEDS]


@pytest.fixture(scope="module")
def steps(published: Any) -> list[dict[str, Any]]:
    """Each step of the published pipeline: latents before, time, velocity and latents after."""
    found: list[dict[str, Any]] = []
    watch = published.transformer.register_forward_hook(
        lambda _module, _args, given, output: found.append(given | {"velocity": output[0]}), with_kwargs=True
    )

    def note(_pipeline: Any, at: int, _time: Any, values: dict[str, Any]) -> dict[str, Any]:
        found[at]["after"] = values["latents"]
        return values

    published(
        PROMPTS, generator=generators(), height=16, width=16, num_inference_steps=N_STEPS, guidance_scale=GUIDANCE,
        max_sequence_length=TINY.n_text_tokens, output_type="latent", callback_on_step_end=note,
    )  # fmt: skip
    watch.remove()
    return found


def unpack(token_BND: torch.Tensor) -> torch.Tensor:
    return FluxPipeline._unpack_latents(token_BND, 16, 16, 2)


def differs(name: str, ours: Any, theirs: Any) -> float:
    found = float(np.abs(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)).max())
    print(f"{name}: largest difference {found:.1e}")
    return found


def test_captions_have_the_features_of_the_pipeline(parts: Path, steps: list[dict[str, Any]]) -> None:
    ours = FluxTextEncoder(parts, TINY).encode(PROMPTS)
    assert torch.equal(ours.token_BTD, steps[0]["encoder_hidden_states"])
    assert torch.equal(ours.pooled_BD, steps[0]["pooled_projections"])


@torch.no_grad()
def test_the_velocity_that_training_learns_is_the_one_that_the_pipeline_follows(
    parts: Path, steps: list[dict[str, Any]]
) -> None:
    text, transformer = FluxTextEncoder(parts, TINY).encode(PROMPTS), new_transformer().eval()
    for step in steps:
        ours = predict_velocity(
            transformer, unpack(step["hidden_states"]), text, time_B=step["timestep"], guidance=GUIDANCE
        )
        assert differs(f"velocity at time {float(step['timestep'][0]):.3f}", ours, step["velocity"]) < 1e-5


def oracle_times(n_steps: int, n_tokens: int) -> np.ndarray:
    """Written from FLUX.1's description: a line through (256 tokens, 0.5) and (4096 tokens, 1.15) is the log of the shift."""
    shift = math.exp(0.5 + (n_tokens - 256) * (1.15 - 0.5) / (4096 - 256))
    time_S = np.linspace(1, 0, n_steps + 1)
    return shift * time_S / (1 + (shift - 1) * time_S)


@pytest.mark.parametrize("side", [16, 512, 1024])
def test_the_schedule_is_shifted_by_the_resolution(side: int) -> None:
    """With a VAE of 8 px a cell, an image of 512 px has 1,024 tokens."""

    n_steps, n_tokens = 28, (side // 16) ** 2
    # Without blocks, so that a large image costs nothing.
    transformer = FluxTransformer2DModel(
        in_channels=64, num_layers=0, num_single_layers=0, attention_head_dim=16, num_attention_heads=1,
        joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    pipeline = make_pipeline(transformer=transformer)
    pipeline(
        prompt_embeds=torch.zeros(1, 2, 8), pooled_prompt_embeds=torch.zeros(1, 8), height=side, width=side,
        num_inference_steps=n_steps, output_type="latent",
    )  # fmt: skip
    expected = oracle_times(n_steps, n_tokens)
    assert differs(f"sigmas of {n_tokens} tokens", pipeline.scheduler.sigmas, expected) < 1e-6
    assert differs(f"timesteps of {n_tokens} tokens", pipeline.scheduler.timesteps / 1000, expected[:-1]) < 1e-6


@torch.no_grad()
def test_five_steps_are_euler_steps_of_our_velocity(parts: Path, steps: list[dict[str, Any]]) -> None:
    text, transformer = FluxTextEncoder(parts, TINY).encode(PROMPTS), new_transformer().eval()
    latent_BCHW = unpack(steps[0]["hidden_states"])
    times = oracle_times(N_STEPS, 16)
    for step, (now, later) in zip(steps, itertools.pairwise(times), strict=True):
        time_B = torch.full((2,), now, dtype=torch.float32)
        velocity_BND = predict_velocity(transformer, latent_BCHW, text, time_B=time_B, guidance=GUIDANCE)
        latent_BCHW = latent_BCHW + float(later - now) * unpack(velocity_BND)
        assert differs(f"latents at time {later:.3f}", pack_latents(latent_BCHW), step["after"]) < 1e-5


def test_our_generator_draws_the_images_of_the_pipeline(parts: Path, published: Any, tmp_path: Path) -> None:
    """With adapters that are new, and therefore change nothing."""
    save_file(export_flux(new_transformer().state_dict(), TINY), tmp_path / "flux-tiny.safetensors")
    config = DownstreamConfig(
        method="lora", base_model=tmp_path / "flux-tiny.safetensors", flux=TINY, flux_components=parts, lora_rank=4
    )
    recipe = FluxRecipe(config, torch.device("cpu"))
    recipe.write(recipe.make_model(), tmp_path)
    sampling = FlowSamplingConfig(num_inference_steps=N_STEPS, guidance_scale=GUIDANCE, batch_size=2)
    ours = FluxGenerator(tmp_path, config, torch.device("cpu")).draw(PROMPTS, SEEDS, sampling)
    theirs = published(
        PROMPTS, generator=generators(), height=16, width=16, num_inference_steps=N_STEPS, guidance_scale=GUIDANCE,
        max_sequence_length=TINY.n_text_tokens,
    ).images  # fmt: skip
    assert differs("pixels", ours, np.stack([np.asarray(image) for image in theirs])) <= 1
    assert ours.std() > 5, "a blank image would agree too"
