"""Training starts from published weights: proxies, rater and downstream model, at a narrow size of the published layout."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from alchemist_core.errors import ConfigError
from alchemist_core.metrics.heldout import heldout_losses
from alchemist_core.models.config import StarConfig, TokenizerConfig
from alchemist_core.models.published.star import export_star, rater_layout
from alchemist_core.models.published.weights import export_weights
from alchemist_core.models.star import Star
from alchemist_core.models.text import WordVectors
from alchemist_core.models.tokenizer import Tokenizer
from alchemist_core.rating.config import RaterFeatures, ScoringRule
from alchemist_core.rating.rater import Rater
from alchemist_core.training.config import DownstreamConfig, RaterTrainingConfig
from alchemist_core.training.downstream_training import train_downstream
from alchemist_core.training.pinning import pin
from alchemist_core.training.rater_training import train_rater
from alchemist_core.training.samples import Samples
from alchemist_core.training.scoring import Scorer
from tests.models.given_models import lively_star
from tests.training.progress import KilledError, collect, ignore, kill_at_any_step

# As published: 64 features and one head for each block, here of two; codes and captions are those of the tests' encoders.
SIZES = {"proxy_depth": 2, "proxy_width": 128, "rater_depth": 2, "rater_width": 128, "n_heads": None}
CONFIG = RaterTrainingConfig(
    proxy_warmup_steps=0, max_train_steps=1, batch_size=8, codebook_size=64, proxy_learning_rate=1e-9, rater_learning_rate=1e-9, **SIZES,
)  # fmt: skip
STAR = CONFIG.proxy(CONFIG.tokenizer_config, WordVectors.dim)


@pytest.fixture(scope="module")
def few(train_pairs: Samples) -> Samples:
    """Boxes and noise."""
    return train_pairs.rows(np.arange(0, 400, 10))


def stretched(star: StarConfig, **fields: Any) -> StarConfig:
    return StarConfig.model_validate(star.model_dump() | fields)


def published_star_file(path: Path, size: StarConfig = STAR) -> Path:
    """As STAR's publishers write it: in a training checkpoint."""
    torch.save({"epoch": 1, "iter": 2, "trainer": {"var_wo_ddp": export_star(lively_star(size))}}, path)
    return path


def published_rater_file(path: Path) -> Path:
    torch.manual_seed(3)
    rater = Rater(lively_star(STAR, seed=1).trunk, STAR.width, reading=RaterFeatures.HIDDEN)
    torch.nn.init.normal_(rater.instance_head[2].weight)
    torch.save({"trainer": {"varRater_wo_ddp": export_weights(rater, rater_layout(STAR))}}, path)
    return path


def near(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    """After one step at a learning rate of 1e-9."""
    return ours.keys() == theirs.keys() and all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in ours)


def train(config: RaterTrainingConfig, out: Path, few: Samples) -> dict[str, Tensor]:
    train_rater(config, few, few, out=out, on_progress=ignore)
    return load_file(out / "rater.safetensors")


def test_proxies_start_from_published_star_and_the_rater_from_the_proxy(tmp_path: Path, few: Samples) -> None:
    source = published_star_file(tmp_path / "star.pth")
    config = CONFIG.model_copy(update={"proxy_weights": str(source)})
    rater = train(config, tmp_path / "rater", few)
    star = lively_star(STAR).state_dict()
    assert near(load_file(tmp_path / "rater" / "proxy.safetensors"), star)
    assert near({name.removeprefix("backbone."): rater[name] for name in rater if "backbone." in name}, star)
    score_N = Scorer.load(tmp_path / "rater").score(few.image_NHWC, few.captions)
    assert np.isfinite(score_N).all()


@pytest.mark.slow
def test_a_rater_s_backbone_starts_from_published_star(tmp_path: Path, few: Samples) -> None:
    published_star_file(tmp_path / "star.pth")
    update = {"rater_weights": str(tmp_path), "rater_init": "weights", "rater_features": RaterFeatures.HIDDEN}
    rater = train(CONFIG.model_copy(update=update), tmp_path / "rater", few)
    trunk = lively_star(STAR).trunk.state_dict()
    assert near({name.removeprefix("backbone."): rater[name] for name in rater if "backbone." in name}, trunk)


def test_a_published_rater_goes_on_being_trained_and_scores(tmp_path: Path, few: Samples) -> None:
    source = published_rater_file(tmp_path / "rater.pth")
    update = {"rater_weights": str(source), "rater_init": "weights", "rater_features": RaterFeatures.HIDDEN}
    rater = train(CONFIG.model_copy(update=update), tmp_path / "rater", few)
    published = torch.load(source)["trainer"]["varRater_wo_ddp"]
    torch.testing.assert_close(rater["instance_head.2.weight"], published["head_instance.2.weight"], atol=1e-5, rtol=0)
    score_N = Scorer.load(tmp_path / "rater").score(few.image_NHWC, few.captions)
    assert score_N.std() > 0.01, "its heads are those of the file: a new rater scores every sample alike"


@pytest.mark.slow
def test_rule_learnability_starts_both_its_proxies_from_published_star(tmp_path: Path, few: Samples) -> None:
    update = {"proxy_weights": str(published_star_file(tmp_path / "star.pth")), "rule": ScoringRule.LEARNABILITY}
    train(CONFIG.model_copy(update=update), tmp_path / "rater", few)
    assert near(load_file(tmp_path / "rater" / "proxy.safetensors"), lively_star(STAR).state_dict())


@pytest.mark.slow
def test_a_killed_run_goes_on_after_its_weights_were_moved(tmp_path: Path, few: Samples) -> None:
    source = published_star_file(tmp_path / "star.pth")
    config = pin(
        CONFIG.model_copy(update={"proxy_weights": str(source), "max_train_steps": 2, "checkpointing_steps": 1})
    )
    with pytest.raises(KilledError):
        train_rater(config, few, few, out=tmp_path / "rater", on_progress=kill_at_any_step)
    (tmp_path / "moved").mkdir()
    moved = config.model_copy(update={"proxy_weights": str(source.rename(tmp_path / "moved" / "star.pth"))})
    steps: list[int] = []
    train_rater(moved, few, few, out=tmp_path / "rater", on_progress=collect(steps))
    assert steps == [2]


class Unread(Samples):
    """Samples whose images must not be read."""

    def read(self, index_N: Any) -> Any:
        raise AssertionError("an image was read")


@pytest.mark.parametrize(
    ("size", "told"),
    [
        (stretched(STAR, depth=3, width=192, n_heads=3), "pos_start is (1, 1, 192), not (1, 1, 128)"),
        (stretched(STAR, text_dim=1024), "encoder_proj.weight is (128, 1024), not (128, 144)"),
        (stretched(STAR, n_codes=4096), "head_logits.weight is (4096, 128), not (64, 128)"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("field", ["proxy_weights", "rater_weights"])
def test_weights_of_another_size_are_refused_before_an_image_is_read(
    tmp_path: Path, few: Samples, field: str, size: StarConfig, told: str
) -> None:
    source = published_star_file(tmp_path / "star.pth", size)
    config = CONFIG.model_copy(update={field: str(source), "rater_init": "weights"})
    unread = Unread(few.image_NHWC, few.captions)
    with pytest.raises(ConfigError) as refused:
        train_rater(config, unread, unread, out=tmp_path / "rater", on_progress=ignore)
    assert f"First difference: {told}" in str(refused.value)
    assert f"The shapes are those of a STAR of {size.depth} blocks" in str(refused.value)


def downstream(**fields: Any) -> DownstreamConfig:
    given = {
        "max_train_steps": 1,
        "batch_size": 8,
        "depth": 2,
        "width": 128,
        "n_heads": 2,
        "learning_rate": 1e-9,
        "lora_rank": 2,
    }
    return DownstreamConfig.model_validate(given | fields)


@pytest.mark.parametrize(("form", "method"), [("pth", "finetune"), ("safetensors", "lora"), ("folder", "finetune")])
def test_a_model_starts_from_published_star(
    tmp_path: Path, tokenizer_from: Path, few: Samples, method: str, form: str
) -> None:
    source = published_star_file(tmp_path / "star.pth")
    if form == "safetensors":
        source = tmp_path / "star.safetensors"
        save_file(export_star(lively_star(STAR)), source)
    config = downstream(method=method, base_model=tmp_path if form == "folder" else source)
    train_downstream(config, few, tokenizer_from=tokenizer_from, out=tmp_path / "model", on_progress=ignore)
    assert near(load_file(tmp_path / "model" / "model.safetensors"), lively_star(STAR).state_dict())
    assert (tmp_path / "model" / "adapters.safetensors").exists() == (method == "lora")
    assert np.isfinite(heldout_losses(tmp_path / "model", few)).all()


def test_finetuning_moves_every_weight_and_lora_leaves_most(tmp_path: Path, tokenizer_from: Path, few: Samples) -> None:
    source, moved = published_star_file(tmp_path / "star.pth"), {}
    for method in ("finetune", "lora"):
        config = downstream(method=method, base_model=source, learning_rate=1e-2, max_train_steps=2)
        train_downstream(config, few, tokenizer_from=tokenizer_from, out=tmp_path / method, on_progress=ignore)
        model, base = load_file(tmp_path / method / "model.safetensors"), lively_star(STAR).state_dict()
        moved[method] = {name for name in base if not torch.equal(model[name], base[name])}
    assert moved["finetune"] == set(Star(STAR).state_dict())
    assert 0 < len(moved["lora"]) < len(moved["finetune"])


def test_a_base_model_that_was_trained_with_another_tokenizer_is_refused(
    tmp_path: Path, tokenizer_from: Path, few: Samples
) -> None:
    own = tmp_path / "own"
    train_downstream(downstream(), few, tokenizer_from=tokenizer_from, out=own, on_progress=ignore)
    goes_on = downstream(method="finetune", base_model=own)
    train_downstream(goes_on, few, tokenizer_from=tokenizer_from, out=tmp_path / "on", on_progress=ignore)
    other = Tokenizer.load(own / "tokenizer.safetensors")
    with torch.no_grad():
        other.quantiser.codebook.weight.add_(1.0)
    (tmp_path / "other").mkdir()
    other.save(tmp_path / "other" / "tokenizer.safetensors")
    with pytest.raises(
        ConfigError, match=r"was trained with the tokenizer .*, and the rater of this subset has another one"
    ):
        train_downstream(
            goes_on, Unread(few.image_NHWC, few.captions), tokenizer_from=tmp_path / "other", out=tmp_path / "no", on_progress=ignore
        )  # fmt: skip


def test_a_base_model_of_another_size_is_refused_before_an_image_is_read(
    tmp_path: Path, tokenizer_from: Path, few: Samples
) -> None:
    source = published_star_file(tmp_path / "star.pth", stretched(STAR, depth=3, width=192, n_heads=3))
    unread = Unread(few.image_NHWC, few.captions)
    with pytest.raises(ConfigError, match=r"First difference: pos_start .* a STAR of 3 blocks \(depth 3, width 192"):
        train_downstream(
            downstream(method="finetune", base_model=source), unread, tokenizer_from=tokenizer_from, out=tmp_path / "model",
            on_progress=ignore,
        )  # fmt: skip


def test_the_tokenizer_s_sizes_are_known_before_it_is_fitted() -> None:
    assert CONFIG.tokenizer_config == TokenizerConfig(n_codes=64)


@pytest.mark.parametrize(
    "given",
    [
        {"rater_weights": "x.pth"},
        {"rater_init": "weights"},
        {"rater_weights": "x.pth", "rater_init": "weights", "rule": "learnability"},
    ],
)
def test_weights_that_would_not_be_used_are_refused(given: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="rater_weights"):
        RaterTrainingConfig.model_validate(given)
