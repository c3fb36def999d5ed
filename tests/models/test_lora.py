from pathlib import Path

import pytest
import torch

from alchemist_core.models.config import StarConfig
from alchemist_core.models.lora import add_lora, load_lora, merge_lora, save_lora
from alchemist_core.models.star import Star
from alchemist_core.models.text import TextFeatures, WordVectors
from alchemist_core.models.tokenizer import ImageTokens

CONFIG = StarConfig(width=32)


def new_star() -> Star:
    torch.manual_seed(0)
    star = Star(CONFIG)
    # A new head is nearly 0, so no gradient reaches the layers before it; a trained one is as large as this.
    torch.nn.init.normal_(star.head.weight, std=0.2)
    return star


@pytest.fixture
def batch() -> tuple[ImageTokens, TextFeatures]:
    generator = torch.Generator().manual_seed(0)
    code_BS = torch.randint(0, 128, (8, 21), generator=generator)
    captions = [f"a red circle number {number}" for number in range(8)]
    return ImageTokens(code_BS, torch.randn(8, 21, 48, generator=generator)), WordVectors().encode(captions)


def train(model: torch.nn.Module, batch: tuple[ImageTokens, TextFeatures]) -> tuple[float, float]:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = model(*batch).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[0], losses[-1]


def test_fresh_adapters_change_nothing(batch: tuple[ImageTokens, TextFeatures]) -> None:
    torch.testing.assert_close(add_lora(new_star(), rank=4)(*batch), new_star()(*batch))


def test_only_adapters_are_trained_and_they_lower_the_loss(batch: tuple[ImageTokens, TextFeatures]) -> None:
    model, before = add_lora(new_star(), rank=4), new_star().state_dict()
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trainable
    assert all("lora_" in name for name in trainable)
    first, last = train(model, batch)
    assert last < first - 0.2
    after = model.get_base_model().state_dict()
    assert torch.equal(after["trunk.blocks.0.feed_in.base_layer.weight"], before["trunk.blocks.0.feed_in.weight"])


def test_saved_adapters_come_back_on_the_same_base(batch: tuple[ImageTokens, TextFeatures], tmp_path: Path) -> None:
    model = add_lora(new_star(), rank=4)
    train(model, batch)
    save_lora(model, tmp_path / "adapters.safetensors")
    torch.testing.assert_close(load_lora(new_star(), tmp_path / "adapters.safetensors", rank=4)(*batch), model(*batch))


def test_a_merged_generator_is_plain_and_gives_the_same(batch: tuple[ImageTokens, TextFeatures]) -> None:
    model = add_lora(new_star(), rank=4)
    train(model, batch)
    adapted_B = model(*batch)
    merged = merge_lora(model)
    assert merged.state_dict().keys() == new_star().state_dict().keys()
    torch.testing.assert_close(merged(*batch), adapted_B, rtol=1e-4, atol=1e-5)
