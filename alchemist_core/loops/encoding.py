"""Pairs behind the frozen encoders: computed once a content, kept across runs where a cache is given.

Letters: N pairs · K distinct captions · S tokens over all scales · T text tokens.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from alchemist_core.data.feature_cache import FeatureCache
from alchemist_core.loops.pairs import Batch, Pairs
from alchemist_core.models.text import CaptionTable, TextEncoder, TextFeatures, WordVectors, encode_captions
from alchemist_core.models.tokenizer import ImageTokens, Tokenizer

_CHUNK = 4096
# Above this a step computes the tokens' inputs from their codes: at 256 px they would be 87 kB an image.
_MOST_INPUT_BYTES = 2**30
_PROBE = "a red circle left of a blue square"


@dataclass(frozen=True, slots=True)
class EncodedPairs:
    """Codes of images and features of captions; with the tokens' inputs where they fit into memory."""

    code_NS: Int64[Tensor, "N S"]
    captions: CaptionTable
    tokenizer: Tokenizer
    tokens: ImageTokens | None

    def __len__(self) -> int:
        return len(self.captions.row_N)

    def rows(self, index_B: Int64[Tensor, " B"]) -> Batch:
        """Gather a batch."""
        tokens = (
            self.tokens.rows(index_B)
            if self.tokens is not None
            else _read_tokens(self.tokenizer, self.code_NS[index_B])
        )
        return Batch(tokens, self.captions.rows(index_B))


def encode_pairs(
    pairs: Pairs, tokenizer: Tokenizer, encoder: TextEncoder, *, cache: Path | None = None
) -> EncodedPairs:
    """Run both frozen encoders over all pairs.

    Args:
        pairs: Pairs; those without image keys are encoded anew.
        tokenizer: Encodes images.
        encoder: Encodes captions.
        cache: Folder of what these and other encoders gave before.
    """
    code_NS = _encode_images(pairs, tokenizer, cache)
    captions = _encode_captions(pairs.captions, encoder, cache)
    config = tokenizer.config
    is_small = len(pairs) * config.n_tokens * config.token_dim * 4 <= _MOST_INPUT_BYTES
    return EncodedPairs(code_NS, captions, tokenizer, _read_tokens(tokenizer, code_NS) if is_small else None)


def _encode_images(pairs: Pairs, tokenizer: Tokenizer, cache: Path | None) -> Int64[Tensor, "N S"]:
    if cache is None or pairs.image_keys is None:
        return tokenizer.encode(pairs.image_NHWC).cpu()
    folder = cache / "images" / _tokenizer_fingerprint(tokenizer)
    code_NS = torch.empty(len(pairs), tokenizer.config.n_tokens, dtype=torch.int64)
    is_known_N, found = FeatureCache(folder).find(pairs.image_keys)
    if found:
        code_NS[torch.from_numpy(is_known_N)] = torch.from_numpy(found["code"]).long()
    missing_M = np.flatnonzero(~is_known_N)
    for start in range(0, len(missing_M), _CHUNK):
        chunk = missing_M[start : start + _CHUNK]
        codes = tokenizer.encode(pairs.image_NHWC[chunk]).cpu()
        code_NS[torch.from_numpy(chunk)] = codes
        FeatureCache(folder).add([pairs.image_keys[row] for row in chunk], {"code": codes.int().numpy()})
    return code_NS


def _encode_captions(captions: Sequence[str], encoder: TextEncoder, cache: Path | None) -> CaptionTable:
    # Vectors of words cost less than reading a file.
    if cache is None or isinstance(encoder, WordVectors):
        return encode_captions(encoder, captions)
    distinct = list(dict.fromkeys(captions))
    keys = [hashlib.sha256(caption.encode("utf-8", "surrogatepass")).digest() for caption in distinct]
    folder = cache / "captions" / _encoder_fingerprint(encoder)
    is_known_K, _ = FeatureCache(folder).find(keys)
    missing = np.flatnonzero(~is_known_K)
    for start in range(0, len(missing), _CHUNK):
        chunk = missing[start : start + _CHUNK]
        features = encoder.encode([distinct[row] for row in chunk])
        arrays = {"token": features.token_BTD, "mask": features.mask_BT, "pooled": features.pooled_BD}
        stored = {name: tensor.numpy(force=True) for name, tensor in arrays.items()}
        FeatureCache(folder).add([keys[row] for row in chunk], stored)
    _, found = FeatureCache(folder).find(keys)
    known = TextFeatures(*(torch.from_numpy(found[name]) for name in ("token", "mask", "pooled")))
    row_of = {caption: row for row, caption in enumerate(distinct)}
    return CaptionTable(known.cropped(), torch.tensor([row_of[caption] for caption in captions], dtype=torch.int64))


def _read_tokens(tokenizer: Tokenizer, code_BS: Tensor) -> ImageTokens:
    device = tokenizer.quantiser.codebook.weight.device
    return tokenizer.tokens(code_BS.to(device)).to(torch.device("cpu"))


def _tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    digest = hashlib.sha256(tokenizer.config.model_dump_json().encode())
    for name, weight in sorted(tokenizer.state_dict().items()):
        digest.update(name.encode() + weight.numpy(force=True).tobytes())
    return digest.hexdigest()[:24]


def _encoder_fingerprint(encoder: TextEncoder) -> str:
    # An encoder is what it gives: a folder may hold other weights under the same name tomorrow.
    features = encoder.encode([_PROBE])
    return hashlib.sha256(features.token_BTD.numpy(force=True).tobytes()).hexdigest()[:24]
