"""Samples encoded by the frozen encoders: once per image and caption, and cached across runs where a cache is given.

Images are read in chunks, and only those that are not cached: codes and captions stay in memory, images do not.

Letters: N samples · K distinct captions · S tokens over all scales · T text tokens.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor

from alchemist_core.models.images import ImageArray
from alchemist_core.models.text import CaptionTable, TextEncoder, TextFeatures, WordVectors, encode_captions
from alchemist_core.models.tokenizer import ImageTokens, Tokenizer
from alchemist_core.training.feature_cache import FeatureCache
from alchemist_core.training.samples import CHUNK, Batch, SampleSource, none_decoded

# Above this size a step computes the tokens' inputs from their codes: at 256 px they take 87 kB per image.
_MOST_INPUT_BYTES = 2**30
# Above this size a step encodes its own captions: 77 tokens of 768 numbers take 240 kB per caption.
_MOST_TEXT_BYTES = 2**32
_PROBE = "a red circle left of a blue square"


@dataclass(frozen=True, slots=True)
class StepCaptions:
    """Captions that are encoded when a step reads them; the encoder is frozen, so the result is always the same."""

    encoder: TextEncoder
    captions: Sequence[str]

    def rows(self, index_B: Int64[Tensor, " B"]) -> TextFeatures:
        """Encode the captions of some samples."""
        return self.encoder.encode([self.captions[place] for place in index_B.tolist()])


@dataclass(frozen=True, slots=True)
class EncodedSamples:
    """Codes of images and features of captions, and the tokens' inputs where they fit into memory."""

    # Indices of the samples whose images can be decoded.
    kept_N: Int64[np.ndarray, " N"]
    # Two bytes per token where the codebook is small enough.
    code_NS: Int[Tensor, "N S"]
    captions: CaptionTable | StepCaptions
    tokenizer: Tokenizer
    tokens: ImageTokens | None

    def __len__(self) -> int:
        return len(self.kept_N)

    def rows(self, index_B: Int64[Tensor, " B"]) -> Batch:
        """Gather a batch."""
        tokens = (
            self.tokens.rows(index_B)
            if self.tokens is not None
            else _read_tokens(self.tokenizer, self.code_NS[index_B])
        )
        return Batch(tokens, self.captions.rows(index_B))


def encode_samples(
    samples: SampleSource, tokenizer: Tokenizer, encoder: TextEncoder, *, cache: Path | None = None
) -> EncodedSamples:
    """Run both frozen encoders over all samples.

    Args:
        samples: Samples; those without image keys are not cached.
        tokenizer: Encodes images.
        encoder: Encodes captions.
        cache: Folder of cached outputs of these and other encoders.

    Raises:
        DataError: No image can be decoded.
    """
    config = tokenizer.config
    code_NS = torch.zeros(
        len(samples), config.n_tokens, dtype=torch.int16 if config.n_codes <= 1 << 15 else torch.int32
    )
    folder = None if cache is None else cache / "images" / _tokenizer_fingerprint(tokenizer)
    is_had_N = encode_images(samples, tokenizer.encode, code_NS, name="code", cache=folder)
    kept_N, captions = np.flatnonzero(is_had_N), samples.captions
    if len(kept_N) < len(samples):
        code_NS, captions = code_NS[kept_N], [captions[place] for place in kept_N.tolist()]
    table = _encode_captions(captions, encoder, cache)
    is_small = len(kept_N) * config.n_tokens * config.token_dim * 4 <= _MOST_INPUT_BYTES
    tokens = _read_tokens(tokenizer, code_NS).to(torch.device("cpu")) if is_small else None
    return EncodedSamples(kept_N, code_NS, table, tokenizer, tokens)


def encode_images(
    samples: SampleSource, encode: Callable[[ImageArray], Tensor], row_N: Tensor, *, name: str, cache: Path | None
) -> Bool[np.ndarray, " N"]:
    """Fill each sample's row with the encoder's output for its image; return which samples have one.

    Args:
        samples: Samples; those without image keys are not cached.
        encode: Returns a row for each image.
        row_N: Rows to fill, in the number format to keep.
        name: Name of the array in the cache.
        cache: Folder of cached outputs of this encoder.

    Raises:
        DataError: No image can be decoded.
    """
    keys, is_had_N = samples.image_keys, np.zeros(len(samples), bool)
    known = None if cache is None or keys is None else FeatureCache(cache)
    if known is not None and keys is not None:
        is_had_N, found = known.find(keys)
        if found:
            row_N[torch.from_numpy(is_had_N)] = torch.from_numpy(found[name]).to(row_N.dtype)
    for chunk, image_NHWC in samples.read(np.flatnonzero(~is_had_N)):
        row_M = encode(image_NHWC).cpu().to(row_N.dtype)
        row_N[torch.from_numpy(chunk)], is_had_N[chunk] = row_M, True
        if known is not None and keys is not None:
            known.add([keys[place] for place in chunk], {name: row_M.numpy()})
    if not is_had_N.any():
        raise none_decoded(len(samples))
    return is_had_N


def _encode_captions(captions: Sequence[str], encoder: TextEncoder, cache: Path | None) -> CaptionTable | StepCaptions:
    if _text_bytes(captions, encoder) > _MOST_TEXT_BYTES:
        return StepCaptions(encoder, captions)
    # Computing word vectors is faster than reading a file.
    if cache is None or isinstance(encoder, WordVectors):
        return encode_captions(encoder, captions)
    distinct = list(dict.fromkeys(captions))
    keys = [hashlib.sha256(caption.encode("utf-8", "surrogatepass")).digest() for caption in distinct]
    folder = cache / "captions" / _encoder_fingerprint(encoder)
    is_known_K, _ = FeatureCache(folder).find(keys)
    missing = np.flatnonzero(~is_known_K)
    for start in range(0, len(missing), CHUNK):
        chunk = missing[start : start + CHUNK]
        features = encoder.encode([distinct[row] for row in chunk])
        arrays = {"token": features.token_BTD, "mask": features.mask_BT, "pooled": features.pooled_BD}
        stored = {name: tensor.numpy(force=True) for name, tensor in arrays.items()}
        FeatureCache(folder).add([keys[row] for row in chunk], stored)
    _, found = FeatureCache(folder).find(keys)
    known = TextFeatures(*(torch.from_numpy(found[name]) for name in ("token", "mask", "pooled")))
    row_of = {caption: row for row, caption in enumerate(distinct)}
    return CaptionTable(known.cropped(), torch.tensor([row_of[caption] for caption in captions], dtype=torch.int64))


def _text_bytes(captions: Sequence[str], encoder: TextEncoder) -> int:
    """Return an upper bound of the memory for the features of all captions, from the longest caption."""
    distinct = set(captions)
    longest = max(distinct, key=lambda caption: (len(caption), caption), default="")
    return len(distinct) * encoder.encode([longest]).token_BTD.nbytes


def _read_tokens(tokenizer: Tokenizer, code_BS: Tensor) -> ImageTokens:
    return tokenizer.tokens(code_BS.to(tokenizer.quantiser.codebook.weight.device).long())


def _tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    digest = hashlib.sha256(tokenizer.config.model_dump_json().encode())
    for name, weight in sorted(tokenizer.state_dict().items()):
        digest.update(name.encode() + weight.numpy(force=True).tobytes())
    return digest.hexdigest()[:24]


def _encoder_fingerprint(encoder: TextEncoder) -> str:
    # Hashed by output, not by name: a folder may later hold other weights under the same name.
    features = encoder.encode([_PROBE])
    return hashlib.sha256(features.token_BTD.numpy(force=True).tobytes()).hexdigest()[:24]
