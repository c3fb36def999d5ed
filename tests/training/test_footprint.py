"""Memory and arithmetic are counted on the real networks and steps, without computing; a CPU needs what was counted."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from alchemist_core.models.config import StarConfig, TokenizerConfig
from alchemist_core.models.flux_config import FluxConfig
from alchemist_core.training import scoring
from alchemist_core.training.config import DownstreamConfig, RaterTrainingConfig
from alchemist_core.training.footprint import (
    Footprint,
    downstream_footprint,
    rater_footprint,
    scoring_footprint,
    text_shape,
)

TINY: dict[str, Any] = {"proxy_width": 32, "rater_width": 32, "proxy_depth": 1, "rater_depth": 1, "batch_size": 8}
# Large enough that tensors, not the interpreter, take the memory: 680 tokens an image.
WIDE = {
    "proxy_width": 192, "rater_width": 192, "proxy_depth": 3, "rater_depth": 2, "n_heads": 3, "rater_init": "scratch",
    "resolution": 256, "tokenizer_weights": "published", "batch_size": 4,
}  # fmt: skip

REAL = """
import json, re, sys
from pathlib import Path
import torch
from alchemist_core.training.config import DownstreamConfig, RaterTrainingConfig
from alchemist_core.training.footprint import _star_batch, text_shape
from alchemist_core.training.launching import make_accelerator
from alchemist_core.training.rater_training import make_models
from tests.peak_memory import peak_mib
torch.set_num_threads(1)

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

def train(config, n_steps):
    sizes, text = config.tokenizer_config, text_shape(config.text_encoder)
    accelerator = make_accelerator(config.mixed_precision)
    models = make_models(config, accelerator, (config.proxy(sizes, text.dim), config.rater(sizes, text.dim)))
    n = config.batch_size // config.gradient_accumulation_steps
    for _ in range(n_steps):
        models.step([_star_batch(2 * n, sizes, text) for _ in range(config.gradient_accumulation_steps)], n)

given = json.loads(sys.argv[1])
small = {"proxy_width": 12, "rater_width": 12, "n_heads": 3, "batch_size": 2, "gradient_accumulation_steps": 1}
train(RaterTrainingConfig.model_validate(given | small), 1)  # kernels and threads are set up
before = resident()
peak_mib(reset=True)
train(RaterTrainingConfig.model_validate(given), 2)
print((peak_mib() - before) * 2**20)
"""


def rater(**fields: Any) -> RaterTrainingConfig:
    return RaterTrainingConfig.model_validate(TINY | fields)


@cache
def count(*, n_processes: int = 1, **fields: Any) -> Footprint:
    """The footprint for one sample, so that an evaluation takes less than a step."""
    return rater_footprint(rater(**fields), n_processes=n_processes, n_samples=1)


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"mixed_precision": "bf16", "gradient_checkpointing": True, "batch_size": 8, "gradient_accumulation_steps": 2},
    ],
    ids=["fp32", "bf16, checkpointing, two parts"],
)
def test_a_step_of_rater_training_takes_the_memory_that_was_counted(change: dict[str, Any], tmp_path: Path) -> None:
    given = WIDE | change
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", REAL, json.dumps(given)], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    footprint = rater_footprint(RaterTrainingConfig.model_validate(given), n_samples=1, is_gpu=False)
    # The process of the test holds no tokenizer.
    counted = footprint.peak - 4 * footprint.parameters["tokenizer"]
    assert counted == pytest.approx(float(done.stdout), rel=0.25)


def star_parameters(config: StarConfig) -> int:
    """Count STAR's parameters by hand."""
    width, text_dim = config.width, config.text_dim
    attention = 3 * width**2 + 2 * width + width**2 + width + config.n_heads
    cross = width**2 + width + 2 * text_dim * width + width + width**2 + width + config.n_heads
    feed_forward = 8 * width**2 + 5 * width
    inputs = width + config.token_dim * width + width + text_dim * width + width + len(config.scales) * width
    return config.depth * (attention + cross + feed_forward) + inputs + config.n_codes * (width + 1)


@pytest.mark.slow
def test_parameters_are_those_of_the_networks() -> None:
    proxy = rater().proxy(rater().tokenizer_config, text_shape("words").dim)
    assert count().parameters["proxy"] == star_parameters(proxy)
    assert "rater" not in count(rule="learnability").parameters
    make = text_shape("clip:someone/something").make
    assert make is not None
    with torch.device("meta"):
        n_text = sum(weight.numel() for weight in make().parameters())
    assert n_text == pytest.approx(340.4e6, rel=1e-3), "as Stable Diffusion 2.1's"


@pytest.mark.slow
def test_weights_and_optimizer_are_counted_in_bytes() -> None:
    found = count()
    n_proxy, n_rater = found.parameters["proxy"], found.parameters["rater"]
    # Both proxies, the rater, its average and the best one so far, and buffers that grow with the tokens.
    held = 4 * (2 * n_proxy + 3 * n_rater + found.parameters["tokenizer"])
    assert held <= found.weights <= held * 1.1
    assert found.optimizer == 8 * (2 * n_proxy + n_rater)
    assert count(rule="learnability").optimizer == 8 * n_proxy, "only the proxy is trained"


def attention_and_products(config: StarConfig, n_text: int) -> float:
    """Count the FLOPs of STAR's forward for a sample by hand: two for each product with its sum."""
    n, width = config.n_tokens, config.width
    products = n * (12 * width**2 + 2 * width**2) + n_text * 2 * config.text_dim * width
    attention = 2 * n * n * width + 2 * n * n_text * width
    ends = (n - 1) * config.token_dim * width + config.text_dim * width + n * width * config.n_codes
    return 2 * (config.depth * (products + attention) + ends)


@pytest.mark.slow
def test_arithmetic_is_that_of_forward_and_backward() -> None:
    config, text = rater(), text_shape("words")
    proxy = config.proxy(config.tokenizer_config, text.dim)
    found = count().work
    forward = attention_and_products(proxy, text.n_tokens)
    # A backward takes twice the forward, without the gradients of the inputs and with attention computed again.
    assert found["warm-up"].flops == pytest.approx(8 * 3 * forward, rel=0.1)
    # θ reads twice the samples, θ̂ as many, and the rater is as large as they are.
    assert found["step"].flops == pytest.approx(4 * found["warm-up"].flops, rel=0.1)


@pytest.mark.slow
def test_scoring_by_rule_pmi_takes_a_forward_for_each_caption() -> None:
    flops = {
        captions: scoring_footprint(RaterTrainingConfig.model_validate(given)).work["scores"].flops
        for captions, given in (
            (2, {"rule": "learnability", "score_batch_size": 8}),
            (4, {"rule": "pmi", "score_batch_size": 8, "pmi_captions": 3}),
            (10, {"rule": "pmi", "score_batch_size": 8, "pmi_captions": 9}),
        )
    }
    assert flops[4] == pytest.approx(2 * flops[2], rel=1e-3)
    assert flops[10] == pytest.approx(5 * flops[2], rel=1e-3)


@pytest.mark.slow
def test_parts_and_processes_share_the_work_and_need_less_memory_each() -> None:
    whole, parts = (count(batch_size=32, gradient_accumulation_steps=n) for n in (1, 4))
    # Each softmax group has a score of its own.
    assert parts.work["step"].flops == pytest.approx(whole.work["step"].flops, rel=1e-3)
    assert parts.step < whole.step / 2
    both = count(batch_size=32, softmax_group_size=16, n_processes=2)
    assert both.work["step"].flops == pytest.approx(whole.work["step"].flops, rel=1e-3)
    assert both.step < whole.step


@pytest.mark.slow
def test_checkpointing_takes_less_memory_and_more_arithmetic() -> None:
    deep = {"proxy_depth": 4, "rater_depth": 4, "rater_init": "scratch", "batch_size": 32}
    plain, recomputed = (count(**deep, gradient_checkpointing=is_on) for is_on in (False, True))
    assert recomputed.step < 0.6 * plain.step
    assert 1.2 < recomputed.work["step"].flops / plain.work["step"].flops < 1.4


@pytest.mark.slow
def test_bf16_halves_most_activations_and_frozen_encoders_stay_in_fp32() -> None:
    wide = {"proxy_width": 256, "rater_width": 256, "batch_size": 32}
    full, half = count(**wide), count(**wide, mixed_precision="bf16")
    # The residual stream and the losses stay in fp32.
    assert 0.5 * full.step < half.step < 0.85 * full.step
    assert (full.work["step"].number_format, half.work["step"].number_format) == ("fp32", "bf16")
    assert half.work["images"].number_format == "fp32", "a flipped code would be another image"


@pytest.mark.slow
def test_counting_computes_nothing_and_leaves_torch_as_it_was() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    torch.use_deterministic_algorithms(mode=False)
    scoring_footprint(rater())
    rater_footprint(rater(seed=7))
    assert torch.rand(1) == expected
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.zeros(1).item() == 0, "no fake tensor is left"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"ema_decay": 0.9}, marks=pytest.mark.slow),
        {"method": "finetune", "base_model": "base"},
        {"method": "lora", "base_model": "base"},
    ],
)
@pytest.mark.slow
def test_a_downstream_model_is_counted_as_it_is_trained(change: dict[str, Any]) -> None:
    config = DownstreamConfig.model_validate({"width": 32, "depth": 2, "batch_size": 8} | change)
    found = downstream_footprint(config, TokenizerConfig())
    n_star = star_parameters(config.star(TokenizerConfig(), text_shape("words").dim))
    n_trained = found.optimizer // 8
    if config.method == "lora":
        assert n_trained < n_star / 2 < found.parameters["model"]
        assert found.parameters["model"] == n_star + n_trained
    else:
        assert (n_trained, found.parameters["model"]) == (n_star, n_star)
        assert found.weights >= 4 * n_star * (2 if config.ema_decay else 1)


@pytest.mark.slow
def test_scoring_is_a_forward_of_the_rater_in_batches_of_a_fixed_size() -> None:
    config = rater()
    scoring, training = scoring_footprint(config, is_gpu=False), count()
    assert scoring.parameters["rater"] == training.parameters["rater"]
    assert scoring.optimizer == 0
    forward = attention_and_products(config.rater(config.tokenizer_config, text_shape("words").dim), 16)
    head = 2 * config.tokenizer_config.n_tokens * (32 * 64 - 32 * config.codebook_size)
    assert scoring.work["scores"].flops == pytest.approx(forward + head, rel=0.02)
    assert scoring.work["scores"].number_format == "fp32"
    assert scoring_footprint(config).work["scores"].number_format == "bf16"


@pytest.mark.slow
def test_each_thread_of_scoring_encodes_the_images_of_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    large = rater(resolution=256, tokenizer_weights="published", score_batch_size=1)
    # 16 images of 256 px are encoded at a time; the first layer's 160 channels and its input are there together.
    first_layer = 16 * 160 * 256**2 * 4
    found = scoring_footprint(large)
    assert found.step > 2 * 2 * first_layer
    assert found.weights < 1.1 * 4 * sum(found.parameters.values()), "the tokenizer is counted once"
    sizes = TokenizerConfig()
    small = rater(score_batch_size=64)
    steps: dict[int, int] = {}
    for n_cores in (1, 3, 40):
        monkeypatch.setattr(scoring, "n_own_cores", lambda n_cores=n_cores: n_cores)
        steps[n_cores] = scoring_footprint(small, is_gpu=False).step
    assert steps[1] > 64 * sizes.n_tokens * sizes.n_codes * 4, "the logits of a batch"
    assert (steps[3], steps[40]) == (3 * steps[1], 16 * steps[1])


def test_the_sizes_of_a_text_encoder_are_read_where_its_folder_is(tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    (tmp_path / "text_encoder").mkdir()
    (tmp_path / "text_encoder" / "config.json").write_text(
        json.dumps({"model_type": "clip_text_model", "max_position_embeddings": 20, **sizes}), encoding="utf-8"
    )
    assert text_shape(f"clip:{tmp_path}")[:2] == (64, 20)
    assert text_shape("clip:someone/something")[:2] == (1024, 77)
    assert text_shape("minilm")[:2] == (384, 32), "as the first raters were trained"
    assert text_shape("minilm", 256)[:2] == (384, 256)
    assert text_shape("words") == (144, 16, None)


@pytest.mark.slow
def test_a_flow_matching_transformer_is_counted_with_its_frozen_weights() -> None:
    pytest.importorskip("diffusers")
    flux = FluxConfig(n_double_blocks=1, n_single_blocks=1, n_heads=2, head_dim=16, rope_dims=(4, 6, 6), text_dim=64, pooled_dim=48,
                      resolution=32, n_text_tokens=8)  # fmt: skip
    config = DownstreamConfig(flux=flux, method="lora", lora_rank=2, batch_size=4)
    found = downstream_footprint(config, TokenizerConfig())
    n_trained = found.optimizer // 8
    assert 0 < n_trained < found.parameters["model"] / 10
    # Frozen weights are bf16, adapters fp32.
    held = 2 * (found.parameters["model"] - n_trained + found.parameters["text encoder"]) + 4 * n_trained
    assert found.weights == pytest.approx(held, rel=0.01)
    assert found.work["step"].number_format == found.work["captions"].number_format == "bf16"
