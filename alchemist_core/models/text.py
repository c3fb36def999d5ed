"""Text encoders behind one function: a caption becomes a short sequence of vectors and a mask. Always frozen.

`words` needs no weights and no data: a fixed vector for each word, made from the word's hash. The others are networks and lie
in `text_models`. Which captions are true of which images is not known here. No caption, for guidance, is the caption "".

Letters: B captions · T text tokens · D features.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from alchemist_core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """A batch of captions; a token counts where the mask is true, and the first one always does."""

    token_BTD: Float[Tensor, "B T D"]
    mask_BT: Bool[Tensor, "B T"]
    pooled_BD: Float[Tensor, "B D"]

    def rows(self, index_B: Int64[Tensor, " B"]) -> "TextFeatures":
        """Gather some captions."""
        return TextFeatures(self.token_BTD[index_B], self.mask_BT[index_B], self.pooled_BD[index_B])

    def between(self, start: int | None, stop: int | None) -> "TextFeatures":
        """Give the captions between two places, views of these."""
        return TextFeatures(self.token_BTD[start:stop], self.mask_BT[start:stop], self.pooled_BD[start:stop])

    def to(self, device: torch.device) -> "TextFeatures":
        """Move to a device."""
        return TextFeatures(self.token_BTD.to(device), self.mask_BT.to(device), self.pooled_BD.to(device))

    def joined(self, other: "TextFeatures") -> "TextFeatures":
        """Put further captions after these; the shorter ones are padded."""
        length = max(self.mask_BT.shape[1], other.mask_BT.shape[1])
        both = [text.padded(length) for text in (self, other)]
        return TextFeatures(
            torch.cat([text.token_BTD for text in both]),
            torch.cat([text.mask_BT for text in both]),
            torch.cat([text.pooled_BD for text in both]),
        )

    def padded(self, length: int) -> "TextFeatures":
        """Add places that no caption reaches."""
        n_more = length - self.mask_BT.shape[1]
        token_BTD, mask_BT = (
            functional.pad(self.token_BTD, (0, 0, 0, n_more)),
            functional.pad(self.mask_BT, (0, n_more)),
        )
        return TextFeatures(token_BTD, mask_BT, self.pooled_BD)

    def cropped(self) -> "TextFeatures":
        """Drop the places that no caption reaches."""
        longest = int(self.mask_BT.sum(1).max())
        return TextFeatures(self.token_BTD[:, :longest].clone(), self.mask_BT[:, :longest].clone(), self.pooled_BD)


class TextEncoder(Protocol):
    """What a caller may ask of an encoder."""

    dim: int

    def encode(self, captions: Sequence[str]) -> TextFeatures:
        """Encode captions one by one: none depends on its neighbours."""
        ...


class WordVectors:
    """Fixed vectors from hashes: a token is its word, the word before it, and its place.

    The neighbour is in the token because colours and shapes bind by adjacency, and a model of two blocks has no depth
    to spare for finding it out.
    """

    word_dim, place_dim, n_tokens = 64, 16, 16
    dim = 2 * word_dim + place_dim

    def __init__(self) -> None:
        self._known: dict[str, Tensor] = {}
        self._place_TD = _places(self.n_tokens, self.place_dim)

    def encode(self, captions: Sequence[str]) -> TextFeatures:
        """Encode the first words of each caption, lower-cased; the first token stands for the beginning."""
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
        if word not in self._known:
            digest = hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest()
            normals = np.random.default_rng(int.from_bytes(digest[:8], "big")).standard_normal(self.word_dim)
            self._known[word] = torch.from_numpy(normals).float() / self.word_dim**0.5
        return self._known[word]


def load_text_encoder(name: str, device: str = "cpu") -> TextEncoder:
    """Load an encoder by name; its features lie on the CPU wherever it runs.

    Args:
        name: `words`, `minilm`, or `clip:` before the folder or hub name of a CLIP text model.
        device: Where a network runs; `words` has none.

    Raises:
        ConfigError: The name is none of them, or nothing lies there.
        MissingDependencyError: The package that carries the weights is not installed.
    """
    if name == "words":
        return WordVectors()
    if name == "minilm" or name.startswith("clip:"):
        from alchemist_core.models.text_models import Clip, MiniLm  # noqa: PLC0415  `words` need not pay for transformers

        return MiniLm(device) if name == "minilm" else Clip(name.removeprefix("clip:"), device)
    raise ConfigError(
        f"text encoder {name!r} is unknown; choose 'words' or 'minilm', or 'clip:' and a folder or hub name"
    )


@dataclass(frozen=True, slots=True)
class CaptionTable:
    """The features of each distinct caption once, and which caption each pair carries."""

    distinct: TextFeatures
    row_N: Int64[Tensor, " N"]

    def rows(self, index_B: Int64[Tensor, " B"]) -> TextFeatures:
        """Gather the captions of some pairs."""
        return self.distinct.rows(self.row_N[index_B])


def encode_captions(encoder: TextEncoder, captions: Sequence[str]) -> CaptionTable:
    """Encode each distinct caption once; the features are frozen, so training never pays for them again."""
    order = {caption: row for row, caption in enumerate(dict.fromkeys(captions))}
    row_N = torch.tensor([order[caption] for caption in captions], dtype=torch.int64)
    return CaptionTable(encoder.encode(list(order)).cropped(), row_N)


def _places(n_tokens: int, dim: int) -> Tensor:
    angle_TD = torch.arange(n_tokens)[:, None] / 64.0 ** (torch.arange(dim // 2) / (dim // 2))
    place_TD: Tensor = torch.cat([angle_TD.sin(), angle_TD.cos()], 1) / dim**0.5
    return place_TD
