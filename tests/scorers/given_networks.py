"""Networks of transformers with random weights, saved as their publishers save them: config, weights, tokenizer, image processor."""

import io
import string
from pathlib import Path

import sentencepiece
import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipTokenizer,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

SIDE, DIM = 32, 16
SIZES = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = SIZES | {"image_size": SIDE, "patch_size": 8}
LABELS = ("safe", "Not safe", "drawing")
CAPTIONS = ["a red cat", "blue " * 120, "", "a dog and a cat", "Two DOGS!"]


def write_clip(folder: Path) -> Path:
    letters = [*string.ascii_lowercase, *(letter + "</w>" for letter in string.ascii_lowercase)]
    vocabulary = {token: number for number, token in enumerate(["<|startoftext|>", "<|endoftext|>", *letters])}
    CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    text = SIZES | {"vocab_size": len(vocabulary), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=DIM)).save_pretrained(folder)
    return folder


def write_siglip(folder: Path) -> Path:
    words = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a red cat", "two dogs", "blue sky and a dog"] * 20), model_writer=words, vocab_size=40,
        hard_vocab_limit=False, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "words.model").write_bytes(words.getvalue())
    # As google's files say: the model was trained without a mask over the padding.
    SiglipTokenizer(str(folder / "words.model"), model_max_length=64, model_input_names=["input_ids"]).save_pretrained(
        folder
    )
    (folder / "words.model").unlink()
    SiglipImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    text = SIZES | {
        "vocab_size": 40,
        "max_position_embeddings": 64,
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    torch.manual_seed(1)
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=VISION))
    with torch.no_grad():
        # So that the random features give probabilities on both sides of 0.5.
        model.logit_scale.fill_(3.0)
        model.logit_bias.fill_(-5.0)
    model.save_pretrained(folder)
    return folder


def write_classifier(folder: Path, problem_type: str | None = None) -> Path:
    ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    torch.manual_seed(2)
    config = ViTConfig(**VISION, id2label=dict(enumerate(LABELS)), problem_type=problem_type)
    model = ViTForImageClassification(config)
    with torch.no_grad():
        model.classifier.weight.mul_(20)
    model.save_pretrained(folder)
    return folder
