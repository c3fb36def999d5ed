import string
from pathlib import Path

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from alchemist_core.errors import ConfigError
from alchemist_core.models.text import TextEncoder, load_text_encoder

START, END = "<|startoftext|>", "<|endoftext|>"


def make_tokenizer() -> CLIPTokenizer:
    """CLIP's own tokenizer over letters and two merges."""
    letters = [*string.ascii_lowercase, *(letter + "</w>" for letter in string.ascii_lowercase), "re", "red</w>"]
    vocabulary = {token: number for number, token in enumerate([START, END, *letters])}
    return CLIPTokenizer(vocab=vocabulary, merges=[("r", "e"), ("re", "d</w>")], model_max_length=77)


def save_clip(model_folder: Path, tokenizer_folder: Path) -> None:
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        projection_dim=24, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    CLIPTextModel(config).save_pretrained(model_folder)
    tokenizer.save_pretrained(tokenizer_folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip")
    save_clip(path, path)
    return path


@pytest.fixture(scope="module")
def clip(folder: Path) -> TextEncoder:
    return load_text_encoder(f"clip:{folder}")


def test_features_are_the_model_s_own(clip: TextEncoder, folder: Path) -> None:
    text = clip.encode(["red", "a red cat"])
    assert text.token_BTD.shape == (2, 77, 24)
    assert clip.dim == 24
    words = make_tokenizer()(["red", "a red cat"], padding="max_length", max_length=77, return_tensors="pt")
    with torch.no_grad():
        found = CLIPTextModel.from_pretrained(folder).eval()(**words)
    is_word_BT = words["attention_mask"].bool()
    assert torch.equal(text.mask_BT, is_word_BT)
    torch.testing.assert_close(text.token_BTD[is_word_BT], found.last_hidden_state[is_word_BT])
    torch.testing.assert_close(text.pooled_BD, found.pooler_output)
    assert text.token_BTD[~is_word_BT].abs().sum() == 0


def test_a_caption_s_features_do_not_depend_on_the_batch_composition(clip: TextEncoder) -> None:
    captions = [f"cat {letter}" for letter in string.ascii_lowercase] * 3
    together, alone = clip.encode(captions), clip.encode(captions[70:71])
    assert torch.equal(together.token_BTD[70], alone.token_BTD[0])
    assert torch.equal(together.pooled_BD[70], alone.pooled_BD[0])


def test_captions_of_any_length_leave_the_tokenizer_as_it_is(clip: TextEncoder) -> None:
    """Threads that rate share it: it must not cut or pad otherwise while another one reads by it."""
    shared, seen = clip._tokenizer.backend_tokenizer, []
    settings = shared.truncation, shared.padding
    hook = clip._model.register_forward_pre_hook(lambda *_: seen.append((shared.truncation, shared.padding)))
    clip.encode(["red", "a red cat and a red dog", "red " * 40])
    hook.remove()
    assert len(seen) == 3
    assert all(each == settings for each in seen)


def test_no_caption_has_features_too(clip: TextEncoder) -> None:
    text = clip.encode(["", "red"])
    assert text.mask_BT.sum(1).tolist() == [2, 3]
    assert not torch.equal(text.pooled_BD[0], text.pooled_BD[1])


def test_long_captions_are_cut_after_77_tokens(clip: TextEncoder) -> None:
    text = clip.encode(["red " * 200])
    assert text.mask_BT.sum().item() == 77
    assert torch.isfinite(text.token_BTD).all()


def test_captions_are_cut_where_the_config_says(clip: TextEncoder, folder: Path) -> None:
    text = load_text_encoder(f"clip:{folder}", n_tokens=5).encode(["red " * 200])
    assert text.mask_BT.sum().item() == text.token_BTD.shape[1] == 5
    assert load_text_encoder(f"clip:{folder}", n_tokens=500).encode(["red"]).token_BTD.shape[1] == 77


def test_nothing_of_it_is_trained(clip: TextEncoder) -> None:
    assert not clip.encode(["red"]).token_BTD.requires_grad
    assert not any(weight.requires_grad for weight in clip._model.parameters())


def test_a_diffusion_pipeline_s_two_folders_are_found(clip: TextEncoder, tmp_path: Path) -> None:
    save_clip(tmp_path / "text_encoder", tmp_path / "tokenizer")
    pipeline = load_text_encoder(f"clip:{tmp_path}")
    assert torch.equal(pipeline.encode(["red"]).token_BTD, clip.encode(["red"]).token_BTD)


def test_a_folder_without_a_model_is_refused_with_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="Give a folder, clip:ORG/NAME@REVISION, or clip:ORG/NAME/text_encoder@REVISION"
    ):
        load_text_encoder(f"clip:{tmp_path}")


def test_a_short_caption_has_the_same_features_beside_a_long_one_to_the_bit(clip: TextEncoder) -> None:
    """The padded length depends on the caption alone: sorting by length saves time and changes no feature."""
    alone = clip.encode(["a red cat"])
    beside = clip.encode(["red " * 40, "a red cat", "cat " * 12])
    assert torch.equal(beside.token_BTD[1], alone.token_BTD[0])
    assert torch.equal(beside.pooled_BD[1], alone.pooled_BD[0])
