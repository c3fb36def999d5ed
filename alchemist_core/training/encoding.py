"""Samples encoded by the frozen encoders: each image and each caption once, by all processes of a run, each a share.

With a cache the outputs are on the disk and mapped into memory: memory does not grow with the number of samples, and a run that was
killed does not encode again what it had encoded. Without one they are in memory. Images are read in chunks, and never kept.

Letters: N samples · M of them · K distinct captions · S tokens over all scales · T text tokens · B samples in a batch.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from alchemist_core.errors import DataError
from alchemist_core.models.config import TokenizerConfig
from alchemist_core.models.images import ImageArray
from alchemist_core.models.text import TextEncoder, TextFeatures
from alchemist_core.models.tokenizer import ImageTokens, Tokenizer
from alchemist_core.shards.decode_versions import UNPINNED, DecodeVersion
from alchemist_core.store.manifests import HASH_BYTES, hash_prefixes
from alchemist_core.telemetry import OnProgress
from alchemist_core.training.feature_cache import Arrays, FeatureCache, FoundRows, Segment
from alchemist_core.training.launching import broadcast
from alchemist_core.training.samples import CHUNK, Batch, Captions, SampleSource, SomeCaptions, none_decoded

# Above this size a step computes the tokens' inputs from their codes: at 256 px they take 87 kB per image.
_MOST_INPUT_BYTES = 2**30
MOST_TEXT_BYTES = 2**32
"""Above this size a step encodes its own captions: 16 tokens of 768 numbers take 49 kB per caption."""
TYPICAL_TOKENS = 32
"""Tokens of a caption in a plan, which has no captions."""
IMAGES_ENCODED = "images encoded"
"""The note of the progress of encoding, which comes before that of the steps."""
_N_MEASURED = 256
# Captions that are counted at a time.
_HASHED = 2**20
_PROBE = "a red circle left of a blue square"

Encode = Callable[[Int64[np.ndarray, " M"]], Iterator[tuple[Int64[np.ndarray, " M"], Arrays]]]
"""Encodes inputs in chunks; yields the indices of each chunk with its rows, and leaves out what cannot be read."""


@dataclass(frozen=True, slots=True)
class EncodedImages:
    """An encoder's output for each image that can be decoded."""

    found: FoundRows
    name: str

    def __len__(self) -> int:
        return len(self.found)

    @property
    def kept(self) -> Int64[np.ndarray, " N"]:
        """Indices of the samples whose images can be decoded."""
        return np.flatnonzero(self.found.is_known_N)

    def rows(self, index_B: Int64[Tensor, " B"]) -> Tensor:
        """Read the outputs for some images, in the number format in which they are kept."""
        return torch.from_numpy(self.found.read(self.name, index_B.numpy()))


@dataclass(frozen=True, slots=True)
class StoredCaptions:
    """The features of each sample's caption, without the padding that all share; equal captions have one row."""

    found: FoundRows
    n_tokens: int

    def rows(self, index_B: Int64[Tensor, " B"]) -> TextFeatures:
        """Read the features of the captions of some samples."""
        token_BTD, mask_BT, pooled_BD = (
            torch.from_numpy(self.found.read(name, index_B.numpy(), first=first))
            for name, first in (("token", self.n_tokens), ("mask", self.n_tokens), ("pooled", None))
        )
        return TextFeatures(token_BTD, mask_BT, pooled_BD)


@dataclass(frozen=True, slots=True)
class StepCaptions:
    """Captions that are encoded when a step reads them; the encoder is frozen, so the result is always the same."""

    encoder: TextEncoder
    captions: Captions

    def rows(self, index_B: Int64[Tensor, " B"]) -> TextFeatures:
        """Encode the captions of some samples."""
        return self.encoder.encode([self.captions[place] for place in index_B.tolist()])


@dataclass(frozen=True, slots=True)
class EmptyCaptions:
    """The empty caption in place of a share of a batch's captions, drawn by torch's generator: a step seeds it."""

    features: TextFeatures
    share: float

    def draw(self, text: TextFeatures) -> TextFeatures:
        """Replace each caption with the empty one by chance."""
        n_captions = len(text.mask_BT)
        is_empty_B = torch.rand(n_captions) < self.share
        row_B = torch.where(is_empty_B, n_captions, torch.arange(n_captions))
        return text.joined(self.features.to(text.mask_BT.device)).rows(row_B.to(text.mask_BT.device))


@dataclass(frozen=True, slots=True)
class EncodedSamples:
    """Codes of images and features of captions, and the tokens' inputs where they fit into memory."""

    # Two bytes per token where the codebook is small enough.
    codes: EncodedImages
    captions: StoredCaptions | StepCaptions
    tokenizer: Tokenizer
    tokens: ImageTokens | None
    empty: EmptyCaptions | None = None

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def kept(self) -> Int64[np.ndarray, " N"]:
        """Indices of the samples whose images can be decoded."""
        return self.codes.kept

    def rows(self, index_B: Int64[Tensor, " B"]) -> Batch:
        """Gather a batch."""
        tokens = (
            self.tokens.rows(index_B)
            if self.tokens is not None
            else _read_tokens(self.tokenizer, self.codes.rows(index_B))
        )
        text = self.captions.rows(index_B)
        return Batch(tokens, text if self.empty is None else self.empty.draw(text))


def encode_samples(
    samples: SampleSource,
    tokenizer: Tokenizer,
    encoder: TextEncoder,
    *,
    cache: Path | None = None,
    accelerator: Accelerator | None = None,
    on_progress: OnProgress | None = None,
) -> EncodedSamples:
    """Run both frozen encoders over all samples.

    Args:
        samples: Samples; the images of those without image keys are not cached.
        tokenizer: Encodes images.
        encoder: Encodes captions.
        cache: Folder of cached outputs of these and other encoders.
        accelerator: The processes that share the work; each must call this. Without a cache each of them encodes all samples.
        on_progress: Called with the images that this process has encoded, those that it encodes in all, and a note.

    Raises:
        DataError: No image can be decoded, or the processes do not see the same files in the cache.
    """
    config = tokenizer.config
    codes = encode_images(
        samples,
        ImageEncoder(
            tokenizer.encode, tokenizer.encode_batch, "code", torch.int16 if config.n_codes <= 1 << 15 else torch.int32
        ),
        None if cache is None else cache / "images" / tokenizer_fingerprint(tokenizer),
        accelerator,
        on_progress,
    )
    captions = encode_captions(kept_captions(samples, codes), encoder, cache, accelerator)
    is_small = kept_bytes(len(codes), config) > 0
    tokens = _read_tokens(tokenizer, codes.rows(torch.arange(len(codes)))).to(torch.device("cpu")) if is_small else None
    return EncodedSamples(codes, captions, tokenizer, tokens)


def kept_bytes(n_samples: int, config: TokenizerConfig) -> int:
    """Return the bytes of the tokens that `encode_samples` keeps in memory, codes and inputs; 0 for too many samples to keep.

    Args:
        n_samples: Samples that are encoded.
        config: Sizes of the tokenizer.
    """
    n_tokens = n_samples * config.n_tokens
    return n_tokens * (4 * config.token_dim + 8) if n_tokens * config.token_dim * 4 <= _MOST_INPUT_BYTES else 0


class ImageEncoder(NamedTuple):
    """A frozen encoder of images, and how its outputs are kept."""

    encode: Callable[[ImageArray], Tensor]
    """Returns a row for each image."""
    n_at_once: int
    """Images of one forward."""
    name: str
    """Name of the array in the cache."""
    dtype: torch.dtype
    """Number format to keep."""


def encode_images(
    samples: SampleSource,
    encoder: ImageEncoder,
    cache: Path | None,
    accelerator: Accelerator | None,
    on_progress: OnProgress | None = None,
) -> EncodedImages:
    """Return an encoder's output for each image.

    Args:
        samples: Samples; those without image keys are not cached.
        encoder: The encoder.
        cache: Folder of cached outputs of this encoder.
        accelerator: As in `encode_samples`.
        on_progress: As in `encode_samples`.

    Raises:
        DataError: As in `encode_samples`.
    """

    def encode_some(index_M: Int64[np.ndarray, " M"]) -> Iterator[tuple[Int64[np.ndarray, " M"], Arrays]]:
        n_done = 0
        for chunk, image_NHWC in samples.read(index_M):
            parts = []
            for start in range(0, len(chunk), encoder.n_at_once):
                rows = encoder.encode(image_NHWC[start : start + encoder.n_at_once])
                parts.append(rows.cpu().to(encoder.dtype).numpy())
                n_done += len(rows)
                if on_progress is not None:
                    on_progress(n_done, len(index_M), IMAGES_ENCODED)
            yield chunk, {encoder.name: np.concatenate(parts)}

    key_N32 = None if cache is None else samples.image_keys
    if cache is None or key_N32 is None:
        found = _encode_all(len(samples), encode_some)
    else:
        found = _find_or_encode(
            FeatureCache(_folder_for(cache, samples.decode_version)), key_N32, encode_some, accelerator
        )
    if not len(found):
        raise none_decoded(len(samples))
    return EncodedImages(found, encoder.name)


def _folder_for(cache: Path, version: DecodeVersion) -> Path:
    """Return the folder of the outputs for images of a decode version: another version has other pixels under the same keys."""
    return cache if version == UNPINNED else cache.with_name(f"{cache.name}-decode{version}")


def kept_captions(samples: SampleSource, images: EncodedImages) -> Captions:
    """Return the captions of the samples whose images can be decoded."""
    captions = samples.captions
    return captions if len(images) == len(samples) else SomeCaptions(captions, images.kept)


def encode_captions(
    captions: Captions, encoder: TextEncoder, cache: Path | None, accelerator: Accelerator | None
) -> StoredCaptions | StepCaptions:
    """Return the features of captions, or what encodes them at each step if they take too much space.

    Args:
        captions: A caption for each sample; equal ones are encoded once.
        encoder: Encodes captions.
        cache: As in `encode_samples`.
        accelerator: As in `encode_samples`.

    Raises:
        DataError: The processes do not see the same files in the cache.
    """
    longest = max(captions, key=lambda caption: (len(caption), caption), default="")
    most = MOST_TEXT_BYTES // encoder.encode([longest]).token_BTD.nbytes
    if len(captions) > most:
        most = MOST_TEXT_BYTES // _bytes_a_caption(captions, encoder)
    key_N32 = _hash_captions(captions, most=most)
    if key_N32 is None:
        return StepCaptions(encoder, captions)

    def encode_some(index_M: Int64[np.ndarray, " M"]) -> Iterator[tuple[Int64[np.ndarray, " M"], Arrays]]:
        for start in range(0, len(index_M), CHUNK):
            chunk = index_M[start : start + CHUNK]
            text = encoder.encode([captions[place] for place in chunk.tolist()])
            width_M = _widths(text)
            for width in np.unique(width_M):
                place_P = np.flatnonzero(width_M == width)
                arrays = {"token": text.token_BTD[:, :width], "mask": text.mask_BT[:, :width], "pooled": text.pooled_BD}
                yield chunk[place_P], {name: tensor[place_P].numpy(force=True) for name, tensor in arrays.items()}

    if cache is None:
        found = _encode_distinct(key_N32, encode_some)
    else:
        folder = FeatureCache(cache / "captions" / _encoder_fingerprint(encoder))
        found = _find_or_encode(folder, key_N32, encode_some, accelerator)
    return StoredCaptions(found, _longest(found))


def _find_or_encode(
    cache: FeatureCache, key_N32: UInt8[np.ndarray, "N 32"], encode: Encode, accelerator: Accelerator | None
) -> FoundRows:
    """Encode what the cache lacks, and return the rows of all. A process has the share of the inputs that their keys give it."""
    index, count = (0, 1) if accelerator is None else (accelerator.process_index, accelerator.num_processes)
    cache.check(key_N32, index=index, count=count)
    # No process may look before all have deleted what is damaged.
    _wait(accelerator)
    is_own_N = np.ascontiguousarray(key_N32[:, -4:]).view(np.uint32)[:, 0] % count == index
    index_M = np.flatnonzero(is_own_N & ~cache.find(key_N32).is_known_N)
    while len(index_M):
        is_first_M = _is_first(key_N32[index_M])
        for chunk, arrays in encode(index_M[is_first_M]):
            cache.add(key_N32[chunk], arrays)
        # Of several copies of an image the first may be the only one that cannot be read.
        rest_M = index_M[~is_first_M]
        index_M = rest_M[~cache.find(key_N32[rest_M]).is_known_N]
    _wait(accelerator)
    found = cache.find(key_N32)
    _require_same(found.is_known_N, accelerator)
    return found


def _encode_all(n: int, encode: Encode) -> FoundRows:
    row_N, segments, ends = np.full(n, -1), list[Segment](), [0]
    for chunk, arrays in encode(np.arange(n)):
        ends.append(ends[-1] + len(chunk))
        row_N[chunk] = np.arange(*ends[-2:])
        segments.append(Segment(arrays))
    return FoundRows(row_N >= 0, row_N[row_N >= 0], segments, np.array(ends[1:]))


def _encode_distinct(key_N32: UInt8[np.ndarray, "N 32"], encode: Encode) -> FoundRows:
    _, first_K, row_N = np.unique(key_N32.view("V32").ravel(), return_index=True, return_inverse=True)
    rows = _encode_all(
        len(first_K), lambda row_M: ((row_N[place_M], arrays) for place_M, arrays in encode(first_K[row_M]))
    )
    return FoundRows(np.ones(len(key_N32), bool), rows.row_M[row_N], rows.segments, rows.end_S)


def _wait(accelerator: Accelerator | None) -> None:
    if accelerator is not None:
        accelerator.wait_for_everyone()


def _require_same(is_known_N: Bool[np.ndarray, " N"], accelerator: Accelerator | None) -> None:
    # Otherwise each process would number the samples in its own way, and train on others.
    own = hashlib.sha256(is_known_N.tobytes()).digest()
    if accelerator is not None and broadcast(own) != own:
        raise DataError(
            "The processes of this run do not see the same files in the feature cache: a takedown or a slow shared disk changed it "
            "at this moment. Run the command again; what was encoded is kept."
        )


def _is_first(key_M32: UInt8[np.ndarray, "M 32"]) -> Bool[np.ndarray, " M"]:
    """Return whether a key is the first of its value."""
    _, first = np.unique(key_M32.view("V32").ravel(), return_index=True)
    is_first_M = np.zeros(len(key_M32), bool)
    is_first_M[first] = True
    return is_first_M


def _hash_captions(captions: Captions, *, most: int) -> UInt8[np.ndarray, "N 32"] | None:
    """Return the sha256 of each caption; None if more than `most` are distinct."""
    key_N32 = np.empty((len(captions), HASH_BYTES), np.uint8)
    for n_hashed, caption in enumerate(captions, 1):
        digest = hashlib.sha256(caption.encode("utf-8", "surrogatepass")).digest()
        key_N32[n_hashed - 1] = np.frombuffer(digest, np.uint8)
        if n_hashed % _HASHED == 0 or n_hashed == len(captions):
            prefix_M = np.sort(hash_prefixes(key_N32[:n_hashed]))
            if 1 + np.count_nonzero(np.diff(prefix_M)) > most:
                return None
    return key_N32


def _widths(text: TextFeatures) -> Int64[np.ndarray, " B"]:
    """Return how many tokens of each caption are stored: a power of two that holds them, so that a long caption does not pad all others."""
    n_words_B = text.mask_BT.sum(1).clamp(min=1)
    width_B = torch.pow(2, n_words_B.log2().ceil()).long().clamp(max=text.mask_BT.shape[1])
    return width_B.numpy(force=True)


def _bytes_a_caption(captions: Captions, encoder: TextEncoder) -> int:
    """Return the mean size of the stored features of some captions, which lie at equal distances."""
    step = -(-len(captions) // _N_MEASURED)
    text = encoder.encode([captions[place] for place in range(0, len(captions), step)])
    return int(np.ceil(_widths(text).mean() * text.token_BTD[0, 0].nbytes))


def _longest(found: FoundRows) -> int:
    """Return the most tokens that a caption has."""
    chunks = (np.arange(start, min(start + CHUNK, len(found))) for start in range(0, len(found), CHUNK))
    return max(int(found.read("mask", chunk).sum(1).max()) for chunk in chunks)


def _read_tokens(tokenizer: Tokenizer, code_BS: Tensor) -> ImageTokens:
    return tokenizer.tokens(code_BS.to(tokenizer.quantiser.codebook.weight.device).long())


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """Return a hash of a tokenizer's config and weights, the name of the folder of its codes in the cache."""
    digest = hashlib.sha256(tokenizer.config.model_dump_json().encode())
    for name, weight in sorted(tokenizer.state_dict().items()):
        digest.update(name.encode() + weight.numpy(force=True).tobytes())
    return digest.hexdigest()[:24]


def _encoder_fingerprint(encoder: TextEncoder) -> str:
    # Hashed by output, not by name: a folder may later hold other weights under the same name.
    features = encoder.encode([_PROBE])
    return hashlib.sha256(features.token_BTD.numpy(force=True).tobytes()).hexdigest()[:24]
