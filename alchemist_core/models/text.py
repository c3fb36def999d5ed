"""Text encoders: a caption becomes a short sequence of vectors, a mask and a pooled vector. Encoders are always frozen.

`words` needs neither weights nor data: a fixed vector for each word, computed from the word's hash. `minilm` and `clip:` are networks.
For classifier-free guidance, the empty caption is "".

Letters: B captions · N samples · T text tokens · D features.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from alchemist_core.errors import ConfigError
from alchemist_core.models.extractors import minilm_folder
from alchemist_core.models.pretrained import load_pretrained
from alchemist_core.models.published.sources import ENCODER_FORM, locate_encoder


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """Encoded captions. The mask is true for tokens that count; the first token always counts."""

    token_BTD: Float[Tensor, "B T D"]
    mask_BT: Bool[Tensor, "B T"]
    pooled_BD: Float[Tensor, "B D"]

    def rows(self, index_B: Int64[Tensor, " B"]) -> "TextFeatures":
        """Gather some captions."""
        return TextFeatures(self.token_BTD[index_B], self.mask_BT[index_B], self.pooled_BD[index_B])

    def between(self, start: int | None, stop: int | None) -> "TextFeatures":
        """Return the captions between two indices, as views."""
        return TextFeatures(self.token_BTD[start:stop], self.mask_BT[start:stop], self.pooled_BD[start:stop])

    def to(self, device: torch.device) -> "TextFeatures":
        """Move to a device."""
        return TextFeatures(self.token_BTD.to(device), self.mask_BT.to(device), self.pooled_BD.to(device))

    def joined(self, other: "TextFeatures") -> "TextFeatures":
        """Append other captions; the shorter ones are padded."""
        length = max(self.mask_BT.shape[1], other.mask_BT.shape[1])
        both = [text.padded(length) for text in (self, other)]
        return TextFeatures(
            torch.cat([text.token_BTD for text in both]),
            torch.cat([text.mask_BT for text in both]),
            torch.cat([text.pooled_BD for text in both]),
        )

    def padded(self, length: int) -> "TextFeatures":
        """Pad to a number of tokens."""
        n_more = length - self.mask_BT.shape[1]
        token_BTD, mask_BT = (
            functional.pad(self.token_BTD, (0, 0, 0, n_more)),
            functional.pad(self.mask_BT, (0, n_more)),
        )
        return TextFeatures(token_BTD, mask_BT, self.pooled_BD)


class TextEncoder(Protocol):
    """Interface of a text encoder."""

    dim: int

    def encode(self, captions: Sequence[str]) -> TextFeatures:
        """Encode captions; the features of a caption do not depend on the others."""
        ...


def load_text_encoder(name: str, device: str = "cpu", *, n_tokens: int | None = None) -> TextEncoder:
    """Load an encoder by name. Its features are returned on the CPU.

    Args:
        name: `words`, `minilm`, or `clip:` followed by the folder or hub name of a CLIP text model.
        device: Device of the network; `words` has none.
        n_tokens: Tokens at which captions are cut; none: 32 for `minilm`, as its first raters were trained, and the model's own
            limit for `clip:`.

    Raises:
        ConfigError: The name is unknown, or the folder does not hold a model.
        MissingDependencyError: The package with the weights is not installed.
    """
    if name == "words":
        return WordVectors()
    if name == "minilm":
        return MiniLm(device, n_tokens or MiniLm.n_first_tokens)
    if name.startswith("clip:"):
        return Clip(name, device, n_tokens)
    raise ConfigError(
        f"Unknown text encoder {name!r}. Choose 'words', 'minilm', or 'clip:' followed by a folder or hub name."
    )


class WordVectors:
    """Fixed vectors from hashes: a token holds its word, the word before it, and its position.

    A token includes the previous word, because a model of two blocks is too small to learn which colour belongs to which shape.
    """

    word_dim, place_dim, n_tokens = 64, 16, 16
    dim = 2 * word_dim + place_dim
    n_most_known = 200_000
    """Vectors that are kept, about 100 MB: in scripts without spaces nearly every caption has a new word."""

    def __init__(self) -> None:
        self._known: dict[str, Tensor] = {}
        self._place_TD = _places(self.n_tokens, self.place_dim)

    def encode(self, captions: Sequence[str]) -> TextFeatures:
        """Encode the first words of each caption, lower-cased; the first token marks the beginning."""
        token_BTD = torch.zeros(len(captions), self.n_tokens, self.dim)
        mask_BT = torch.zeros(len(captions), self.n_tokens, dtype=torch.bool)
        for row, caption in enumerate(captions):
            words = ["", *re.findall(r"\w+|[^\w\s]", caption.lower())][: self.n_tokens]
            word_TD = torch.stack([self._vector(word) for word in words])
            before_TD = torch.cat([torch.zeros(1, self.word_dim), word_TD[:-1]])
            token_BTD[row, : len(words)] = torch.cat([word_TD, before_TD, self._place_TD[: len(words)]], 1)
            mask_BT[row, : len(words)] = True
        return TextFeatures(token_BTD, mask_BT, token_BTD.sum(1) / mask_BT.sum(1, keepdim=True).sqrt())

    def _vector(self, word: str) -> Tensor:
        if (known := self._known.get(word)) is not None:
            return known
        digest = hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest()
        normals = np.random.default_rng(int.from_bytes(digest[:8], "big")).standard_normal(self.word_dim)
        if len(self._known) >= self.n_most_known:
            self._known.clear()
        vector: Tensor = torch.from_numpy(normals).float() / self.word_dim**0.5
        self._known[word] = vector
        return vector


def _places(n_tokens: int, dim: int) -> Tensor:
    angle_TD = torch.arange(n_tokens)[:, None] / 64.0 ** (torch.arange(dim // 2) / (dim // 2))
    place_TD: Tensor = torch.cat([angle_TD.sin(), angle_TD.cos()], 1) / dim**0.5
    return place_TD


class MiniLm:
    """The last hidden states of all-MiniLM-L6-v2, loaded from the installed package without a download.

    Captions are cut at 256 tokens, the model's own limit. The first raters and the image-text head were trained on 32.
    """

    dim, n_first_tokens = 384, 32

    def __init__(self, device: str = "cpu", n_tokens: int = 256) -> None:
        from transformers import AutoModel  # noqa: PLC0415  seconds that hashed words need not pay

        folder, self.n_tokens = minilm_folder(), n_tokens
        self._tokenizer = _load_tokenizer(folder, n_tokens)
        model = load_pretrained(AutoModel, folder, what="all-MiniLM-L6-v2", remedy="Install the extra offline again.")
        self._model = _freeze(model, device)

    def encode(self, captions: Sequence[str]) -> TextFeatures:
        """Encode captions; the pooled vector is the mean over the tokens."""
        lengths = (*_LENGTHS, _LONG)
        token_BTD, mask_BT, _ = _encode(self._tokenizer, self._model, captions, self.n_tokens, lengths)
        return TextFeatures(token_BTD, mask_BT, token_BTD.sum(1) / mask_BT.sum(1, keepdim=True))


class Clip:
    """The last hidden states and the pooled vector of a CLIP text model.

    Source: Radford et al. 2021. STAR uses the text model of Stable Diffusion 2.1: 1024 features, 77 tokens.
    """

    def __init__(self, source: str, device: str = "cpu", n_tokens: int | None = None) -> None:
        from transformers import CLIPTextModel  # noqa: PLC0415  seconds that hashed words need not pay

        _, (model, tokenizer) = locate_encoder(source)
        self._model = _freeze(
            load_pretrained(CLIPTextModel, model, what="a CLIP text model", remedy=f"Give {ENCODER_FORM}."), device
        )
        self.dim = int(self._model.config.hidden_size)
        most = int(self._model.config.max_position_embeddings)
        self.n_tokens = min(n_tokens or most, most)
        try:
            self._tokenizer = _load_tokenizer(str(tokenizer), self.n_tokens)
        except (OSError, ValueError) as error:
            raise ConfigError(f"No CLIP tokenizer in {tokenizer}: {error}. Give {ENCODER_FORM}.") from error

    def encode(self, captions: Sequence[str]) -> TextFeatures:
        """Encode captions, truncated to the model's maximum length."""
        return TextFeatures(*_encode(self._tokenizer, self._model, captions, self.n_tokens))


# Batch size of every forward; smaller batches are padded, because kernels depend on the shape, and features must not.
_BATCH = 64
_LENGTHS = (8, 16, 32, 64)
# Only where captions may be that long and no score depends on it yet.
_LONG = 128


# Not inference mode: a step that encodes its own captions takes these features into its backward pass.
@torch.no_grad()
def _encode(
    tokenizer: Any, model: Any, captions: Sequence[str], n_tokens: int, lengths: tuple[int, ...] = _LENGTHS
) -> tuple[Tensor, Tensor, Tensor]:
    """Encode captions grouped by length, each padded to the shortest of a few lengths that fits."""
    *ids_B, empty = _read_words(tokenizer, [*captions, ""], n_tokens)
    length_B = torch.tensor([padded_length(len(ids), n_tokens, lengths) for ids in ids_B])
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


def padded_length(n_words: int, n_tokens: int, lengths: tuple[int, ...] = _LENGTHS) -> int:
    """Return the padded length of a caption. It depends on the caption alone, so that its features do too.

    >>> [padded_length(n, 77) for n in (2, 8, 9, 70)]
    [8, 8, 16, 77]
    """
    return next((length for length in lengths if n_words <= length < n_tokens), n_tokens)


def _forward(model: Any, ids_B: list[list[int]], length: int, *, padding: int) -> list[Tensor]:
    word_BT = torch.tensor([[*ids, *[padding] * (length - len(ids))] for ids in ids_B], device=model.device)
    n_words_B = torch.tensor([len(ids) for ids in ids_B], device=model.device)
    mask_BT = torch.arange(length, device=model.device) < n_words_B[:, None]
    found = model(input_ids=word_BT, attention_mask=mask_BT.long())
    part = (found.last_hidden_state * mask_BT[..., None]).float(), mask_BT, found.pooler_output.float()
    return [tensor.cpu() for tensor in part]


def _load_tokenizer(source: str, n_tokens: int, **place: str) -> Any:
    from transformers import AutoTokenizer  # noqa: PLC0415  seconds that hashed words need not pay

    tokenizer = AutoTokenizer.from_pretrained(source, **place)
    # Set truncation once, here: threads share the tokenizer, and must not change its state while another thread uses it.
    _read_words(tokenizer, [""], n_tokens)
    return tokenizer


def _read_words(tokenizer: Any, captions: list[str], n_tokens: int) -> list[list[int]]:
    ids_B: list[list[int]] = tokenizer(captions, truncation=True, max_length=n_tokens)["input_ids"]
    return ids_B


def _freeze(model: Any, device: str) -> Any:
    return model.eval().requires_grad_(requires_grad=False).to(device)
