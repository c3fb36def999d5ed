import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from alchemist_core.errors import ConfigError
from alchemist_core.models.config import StarConfig, published_star
from alchemist_core.models.published.star import (
    export_star,
    fill_rater,
    fill_star,
    load_star,
    rater_layout,
    star_layout,
)
from alchemist_core.models.published.weights import export_weights
from alchemist_core.models.star import Star
from alchemist_core.models.text import TextFeatures
from alchemist_core.models.tokenizer import ImageTokens
from alchemist_core.rating.config import RaterFeatures
from alchemist_core.rating.rater import Rater
from tests.models.published.published_keys import Shapes, rater_keys, star_keys

SMALL = published_star(1)


def published(shapes: Shapes) -> dict[str, Tensor]:
    """A state dict as published: random, but for the zeros that its keys' biases are."""
    generator = torch.Generator().manual_seed(0)
    weights = {key: 0.1 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    return {key: torch.zeros_like(w) if key.endswith("zero_k_bias") else w for key, w in weights.items()}


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return published(star_keys(1))


def new_rater(reading: RaterFeatures) -> Rater:
    star = Star(SMALL)
    return Rater(star.trunk if reading is RaterFeatures.HIDDEN else star, 64, reading=reading)


def written(tmp_path: Path, content: Any) -> str:
    torch.save(content, tmp_path / "star.pth")
    return str(tmp_path / "star.pth")


@pytest.mark.parametrize("depth", [4, 8, 16, 30])
@pytest.mark.slow
def test_every_size_is_written_under_exactly_the_published_keys(depth: int) -> None:
    with torch.device("meta"):
        exported = export_star(Star(published_star(depth)))
    assert {key: tuple(weight.shape) for key, weight in exported.items()} == star_keys(depth)
    assert len(exported) == 19 * depth + 9


def test_the_paper_s_rater_is_written_under_exactly_the_published_keys() -> None:
    with torch.device("meta"):
        rater = Rater(Star(published_star(8)).trunk, 512, reading=RaterFeatures.HIDDEN)
        exported = export_weights(rater, rater_layout(published_star(8)))
    assert {key: tuple(weight.shape) for key, weight in exported.items()} == rater_keys(8)
    assert sum(weight.numel() for weight in exported.values()) == 38_960_514


def test_a_published_model_comes_in_and_goes_out_unchanged(weights: dict[str, Tensor], tmp_path: Path) -> None:
    exported = export_star(load_star(written(tmp_path, weights), SMALL))
    assert exported.keys() == weights.keys()
    for key, weight in weights.items():
        expected = torch.zeros_like(weight) if key in star_layout(SMALL).spare else weight
        assert torch.equal(exported[key], expected), key


@pytest.mark.parametrize("form", ["flat", "nested", "safetensors"])
def test_a_model_is_read_from_every_form_of_file(form: str, weights: dict[str, Tensor], tmp_path: Path) -> None:
    content = {"epoch": 3, "iter": 7, "trainer": {"config": {"depth": 1}, "var_wo_ddp": weights}}
    source = written(tmp_path, content if form == "nested" else weights)
    if form == "safetensors":
        source = str(tmp_path / "star.safetensors")
        save_file(weights, source)
    star = load_star(source, SMALL)
    assert torch.equal(star.head.weight, weights["head_logits.weight"])
    assert torch.equal(star.trunk.blocks[0].feed_out.bias, weights["blocks.0.ffn.fc2.bias"])


def test_a_loaded_model_computes_what_the_published_names_say(weights: dict[str, Tensor], tmp_path: Path) -> None:
    """The first token's logits by hand: nothing before it, so it attends to itself and to the one word alone."""
    star = load_star(written(tmp_path, weights), SMALL)
    word, pooled = torch.randn(2, 1024, generator=torch.Generator().manual_seed(1))
    text = TextFeatures(word[None, None], torch.ones(1, 1, dtype=torch.bool), pooled[None])
    logit_V = star.logits(torch.zeros(1, 680, 32), text)[0, 0]

    def normed(vector: Tensor) -> Tensor:
        return (vector - vector.mean()) / torch.sqrt(vector.var(unbiased=False) + 1e-6)

    w, b = weights, "blocks.0."
    x = w["encoder_proj.weight"] @ pooled + w["encoder_proj.bias"] + w["pos_start"][0, 0] + w["lvl_embed.weight"][0]
    value = w[b + "attn.mat_qkv.weight"][128:] @ normed(x) + w[b + "attn.v_bias"]
    x = x + w[b + "attn.proj.weight"] @ value + w[b + "attn.proj.bias"]
    value = w[b + "cross_attn.mat_kv.weight"][64:] @ word + w[b + "cross_attn.v_bias"]
    x = x + w[b + "cross_attn.proj.weight"] @ value + w[b + "cross_attn.proj.bias"]
    inner = nn.functional.gelu(w[b + "ffn.fc1.weight"] @ normed(x) + w[b + "ffn.fc1.bias"], approximate="tanh")
    x = x + w[b + "ffn.fc2.weight"] @ inner + w[b + "ffn.fc2.bias"]
    torch.testing.assert_close(
        logit_V, w["head_logits.weight"] @ normed(x) + w["head_logits.bias"], rtol=1e-4, atol=1e-5
    )


def test_a_published_rater_fills_the_paper_s_rater(tmp_path: Path) -> None:
    weights = published(rater_keys(1))
    rater = Rater(Star(SMALL).trunk, 64, reading=RaterFeatures.HIDDEN)
    fill_rater(rater, written(tmp_path, {"trainer": {"varRater_wo_ddp": weights}}))
    assert torch.equal(rater.instance_head[2].weight, weights["head_instance.2.weight"])
    assert torch.equal(rater.group_head[0].weight, weights["head_batch.fc.0.weight"])
    text = TextFeatures(torch.randn(2, 3, 1024), torch.ones(2, 3, dtype=torch.bool), torch.randn(2, 1024))
    tokens = ImageTokens(torch.zeros(2, 680, dtype=torch.int64), torch.randn(2, 680, 32))
    pooled_BE = rater.backbone.hidden(tokens.input_BSD, text).mean(1)
    inner = nn.functional.gelu(
        pooled_BE @ weights["head_instance.0.weight"].T + weights["head_instance.0.bias"], approximate="tanh"
    )
    by_hand_B = (inner @ weights["head_instance.2.weight"].T + weights["head_instance.2.bias"])[:, 0]
    torch.testing.assert_close(rater.score(tokens, text), by_hand_B, rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_is_refused_by_name(weights: dict[str, Tensor], tmp_path: Path) -> None:
    broken = dict(weights)
    del broken["pos_start"]
    broken["pos_1LC"] = torch.zeros(1, 680, 64)
    broken["lvl_embed.weight"] = torch.zeros(14, 64)
    expected = (
        "First difference: pos_start is missing. In all, 1 missing: pos_start; 1 unexpected: pos_1LC; "
        "1 wrongly shaped: lvl_embed.weight is (14, 64), not (10, 64). No known model has these keys. "
        "Choose the size that it was trained with."
    )
    with pytest.raises(ConfigError, match=re.escape(expected)):
        load_star(written(tmp_path, broken), SMALL)


def test_a_model_of_another_depth_is_refused_with_the_count_of_its_keys(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(
        ConfigError, match=r"17 missing: blocks\.1\.attn\.mat_qkv.* and 9 more; .*wrongly shaped"
    ) as refused:
        load_star(written(tmp_path, weights), published_star(2))
    assert "First difference: pos_start is (1, 1, 64), not (1, 1, 128)." in str(refused.value)
    assert "The shapes are those of a STAR of 1 blocks (depth 1, width 64, captions of 1,024 features)." in str(
        refused.value
    )


def test_a_renamed_key_is_refused_by_its_name(weights: dict[str, Tensor], tmp_path: Path) -> None:
    renamed = {key.replace("ffn.fc1.bias", "ffn.fc_1.bias"): weight for key, weight in weights.items()}
    with pytest.raises(
        ConfigError,
        match=r"First difference: blocks\.0\.ffn\.fc1\.bias is missing.*unexpected: blocks\.0\.ffn\.fc_1\.bias",
    ):
        load_star(written(tmp_path, renamed), SMALL)


def test_a_key_too_many_is_refused_by_its_name(weights: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"First difference: head_logits2\.weight is unexpected"):
        load_star(written(tmp_path, weights | {"head_logits2.weight": torch.zeros(1)}), SMALL)


def test_an_unused_table_may_be_left_out(weights: dict[str, Tensor], tmp_path: Path) -> None:
    without = {key: weight for key, weight in weights.items() if key != "class_emb.weight"}
    assert isinstance(load_star(written(tmp_path, without), SMALL), Star)


def test_the_defect_of_the_published_training_is_a_matter_of_the_config(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    config = StarConfig(**SMALL.model_dump() | {"is_legacy": True})
    assert load_star(written(tmp_path, weights), config).trunk.blocks[0].is_legacy


def equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_model_starts_from_one_that_was_trained_here(weights: dict[str, Tensor], tmp_path: Path) -> None:
    star, other = load_star(written(tmp_path, weights), SMALL), Star(SMALL)
    save_file(star.state_dict(), tmp_path / "model.safetensors")
    fill_star(other, tmp_path / "model.safetensors")
    assert equal(other.state_dict(), star.state_dict())


@pytest.mark.parametrize("reading", list(RaterFeatures))
@pytest.mark.parametrize("is_own", [True, False])
def test_a_generator_fills_the_backbone_of_a_rater_and_leaves_its_heads(
    reading: RaterFeatures, is_own: bool, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    star, rater = load_star(written(tmp_path, weights), SMALL), new_rater(reading)
    heads = {
        name: weight.clone()
        for name, weight in rater.state_dict().items()
        if "head." in name and "backbone" not in name
    }
    source = written(tmp_path, star.state_dict()) if is_own else str(tmp_path / "star.pth")
    fill_rater(rater, source)
    wanted = star.trunk if reading is RaterFeatures.HIDDEN else star
    assert equal(rater.backbone.state_dict(), wanted.state_dict())
    assert all(torch.equal(rater.state_dict()[name], weight) for name, weight in heads.items())


def test_a_published_rater_fills_the_whole_rater_and_one_that_was_trained_here_does_too(tmp_path: Path) -> None:
    weights = published(rater_keys(1))
    first, second = (new_rater(RaterFeatures.HIDDEN) for _ in range(2))
    fill_rater(first, written(tmp_path, {"trainer": {"varRater_wo_ddp": weights}}))
    assert torch.equal(first.instance_head[2].weight, weights["head_instance.2.weight"])
    assert torch.equal(first.backbone.first_in, weights["pos_start"])
    fill_rater(second, written(tmp_path, first.state_dict()))
    assert equal(second.state_dict(), first.state_dict())


def test_a_published_rater_is_refused_where_its_feature_is_not_used(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"which pools hidden states\. Set --rater-features hidden"):
        fill_rater(new_rater(RaterFeatures.MATCH), written(tmp_path, published(rater_keys(1))))


def test_on_the_meta_device_sizes_are_compared_and_nothing_is_loaded(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    with torch.device("meta"):
        right, wrong = Star(SMALL), Star(published_star(2))
    fill_star(right, written(tmp_path, weights))
    assert right.head.weight.is_meta
    with pytest.raises(ConfigError, match="First difference: pos_start"):
        fill_star(wrong, written(tmp_path, weights))


class Trap:
    """An object in a malicious pickle."""


@pytest.mark.parametrize("content", [{"weights": Trap()}, [1, 2], {"trainer": {"var_opt": 3}}])
def test_a_file_of_something_else_is_refused(content: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds more than tensors|has no state dict"):
        load_star(written(tmp_path, content), SMALL)
