from pathlib import Path

import pytest
import torch

from alchemist_core.errors import ConfigError
from alchemist_core.models.config import published_tokenizer, tokenizer_tiny
from alchemist_core.models.published.tokenizer import export_tokenizer, load_tokenizer
from alchemist_core.models.tokenizer import Tokenizer
from tests.models.given_models import lively_tokenizer
from tests.models.published.published_keys import tokenizer_keys
from tests.models.test_tokenizer import shapes


def test_the_published_tokenizer_has_exactly_the_published_keys_and_numbers() -> None:
    with torch.device("meta"):
        exported = export_tokenizer(Tokenizer(published_tokenizer()))
    assert {key: tuple(weight.shape) for key, weight in exported.items()} == tokenizer_keys()
    assert len(exported) == 324
    assert sum(weight.numel() for weight in exported.values()) == 108_989_315
    parts = {
        part: sum(weight.numel() for key, weight in exported.items() if key.startswith(part + "."))
        for part in ("encoder", "decoder")
    }
    assert parts == {"encoder": 44_107_872, "decoder": 64_653_923}


def test_a_tokenizer_goes_out_under_published_names_and_comes_back(tmp_path: Path) -> None:
    tokenizer, image_NHWC = lively_tokenizer(), shapes(5, seed=0)
    torch.save(export_tokenizer(tokenizer), tmp_path / "vae.pth")
    loaded = load_tokenizer(tmp_path / "vae.pth", tokenizer.config)
    assert all(torch.equal(loaded.state_dict()[name], weight) for name, weight in tokenizer.state_dict().items())
    code_NS = tokenizer.encode(image_NHWC)
    assert torch.equal(loaded.encode(image_NHWC), code_NS)
    assert len(code_NS.unique()) > 3
    assert not any(weight.requires_grad for weight in loaded.parameters())


def test_counts_of_used_codes_may_be_of_any_number_of_scales(tmp_path: Path) -> None:
    weights = export_tokenizer(lively_tokenizer())
    torch.save(weights | {"quantize.ema_vocab_hit_SV": torch.ones(14, 32)}, tmp_path / "vae.pth")
    assert isinstance(load_tokenizer(tmp_path / "vae.pth", tokenizer_tiny(n_codes=32)), Tokenizer)


def test_a_tokenizer_of_another_shape_is_refused_by_name(tmp_path: Path) -> None:
    torch.save(export_tokenizer(lively_tokenizer()), tmp_path / "vae.pth")
    with pytest.raises(ConfigError, match=r"1 wrongly shaped: quantize.embedding.weight is \(32, 12\), not \(64, 12\)"):
        load_tokenizer(tmp_path / "vae.pth", tokenizer_tiny(n_codes=64))
