"""The critic: two small networks on frozen encoders that measure how well an image matches its caption, relative to other captions.

Letters: N samples · D C features of the two encoders · E of the shared space · R reference captions.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from alchemist_core.errors import ConfigError
from alchemist_core.models import features
from alchemist_core.models.critic_config import OFFLINE, CriticRecord, read_critic_record
from alchemist_core.models.features import Features
from alchemist_core.models.image_text import IMAGE_DIM, TEXT_DIM, Encoders, Head
from alchemist_core.models.images import ImageArray
from alchemist_core.models.published.sources import locate_model, model_sha256

_HEAD = "head."


class FrozenEncoders(Protocol):
    """An image encoder and a text encoder, both frozen."""

    @property
    def source(self) -> str:
        """What names them; a name on the hub carries its commit."""

    @property
    def sha256s(self) -> tuple[str, ...]:
        """Hashes of their files."""

    @property
    def side(self) -> int:
        """Side of the images in pixels."""

    @property
    def dims(self) -> tuple[int, int]:
        """Number of features of images and of texts."""

    @property
    def dtype(self) -> str:
        """Number format of their networks."""

    def encode_images(self, image_NHWC: ImageArray) -> Features:
        """Return each image's features."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Features:
        """Return each text's features."""
        ...


class OfflineEncoders(Encoders):
    """EfficientNet-lite0 and all-MiniLM-L6-v2, from their packages."""

    dims = (IMAGE_DIM, TEXT_DIM)
    dtype = "float32"

    def __init__(self, side: int, device: str = "cpu") -> None:
        super().__init__(device)
        self.source, self.side = OFFLINE, side


class PublishedEncoders:
    """The two towers of a CLIP or a SigLIP, in fp32: a critic's scores must not depend on the device."""

    def __init__(self, source: str, device: str = "cpu") -> None:
        located = locate_model(source)
        config = json.loads((located.path / "config.json").read_text(encoding="utf-8"))
        kind = features.Siglip if str(config.get("model_type", "")).startswith("siglip") else features.Clip
        self._network = kind(located.path, device)
        self.source, self.sha256s = located.source, (model_sha256(located.path),)
        self.side, self.dims = self._network.side, (self._network.dim, self._network.dim)
        self.dtype = self._network.dtype

    def encode_images(self, image_NHWC: ImageArray) -> Features:
        """Return each image's features."""
        return self._network.features(image_NHWC)

    def encode_texts(self, texts: Sequence[str]) -> Features:
        """Return each text's features."""
        return self._network.text_features(texts)


def load_encoders(source: str, side: int, device: str = "cpu") -> FrozenEncoders:
    """Load frozen encoders.

    Args:
        source: `offline`, or a folder or hub name of a CLIP or SigLIP.
        side: Side of the images in pixels for `offline`; the others have one of their own.
        device: Device type.
    """
    return OfflineEncoders(side, device) if source == OFFLINE else PublishedEncoders(source, device)


class Critic:
    """A trained head, and the captions with which it compares an image's own caption.

    Args:
        head: The head, in eval mode.
        sharpness: Factor of its cosines.
        reference_RE: Projections of the reference captions, of length 1.
        reference_hash_R: Hashes of these captions, by `caption_hashes`.
    """

    def __init__(
        self,
        head: Head,
        sharpness: float,
        reference_RE: Float[Tensor, "R E"],
        reference_hash_R: Int64[Tensor, " R"],
    ) -> None:
        self.head, self.sharpness = head, sharpness
        self.reference_RE, self.reference_hash_R = reference_RE, reference_hash_R

    @torch.inference_mode()
    def project(self, image_ND: Features, text_NC: Features) -> tuple[Float[Tensor, "N E"], Float[Tensor, "N E"]]:
        """Return the projections of images and texts, of length 1."""
        image_NE, text_NE = self.head(torch.from_numpy(image_ND), torch.from_numpy(text_NC))
        return image_NE, text_NE

    @torch.inference_mode()
    def score(
        self, image_NE: Float[Tensor, "N E"], text_NE: Float[Tensor, "N E"], captions: Sequence[str]
    ) -> Float32[np.ndarray, " N"]:
        """Return by how much each image matches its own caption better than the reference captions, in nats.

        The score is the sharpened cosine with the own caption less the logarithm of the mean of the exponentials of those with the
        reference captions, without one that equals the own caption. At 0, the own caption matches no better than other captions.
        """
        own_N = self.sharpness * torch.linalg.vecdot(image_NE, text_NE)
        other_NR = self.sharpness * (image_NE @ self.reference_RE.T)
        is_own_NR = caption_hashes(captions)[:, None] == self.reference_hash_R
        other_NR = other_NR.masked_fill(is_own_NR, -torch.inf)
        n_others_N = (~is_own_NR).sum(1)
        score_N: Float32[np.ndarray, " N"] = (own_N - (other_NR.logsumexp(1) - n_others_N.log())).numpy()
        return score_N


def caption_hashes(captions: Sequence[str]) -> Int64[Tensor, " N"]:
    """Return a 64-bit hash of each caption: a critic's file names its reference captions without their text."""
    digests = [hashlib.sha256(caption.encode("utf-8", "surrogatepass")).digest()[:8] for caption in captions]
    return torch.tensor([int.from_bytes(digest, "big", signed=True) for digest in digests], dtype=torch.int64)


def pack_critic(critic: Critic, record: CriticRecord) -> bytes:
    """Return the file of a critic and its record; equal critics give equal bytes."""
    tensors = {_HEAD + name: weight for name, weight in critic.head.state_dict().items()} | {
        "sharpness": torch.tensor(critic.sharpness),
        "reference": critic.reference_RE.contiguous(),
        "reference_hash": critic.reference_hash_R,
    }
    # Use one metadata entry, because safetensors does not keep the order of several entries.
    return save(tensors, {"record": json.dumps(record.as_json(), sort_keys=True)})


def load_critic(path: Path) -> tuple[Critic, CriticRecord]:
    """Read a critic in eval mode, and its record.

    Raises:
        ConfigError: The file does not hold a critic.
    """
    record = read_critic_record(path)
    try:
        head = Head(record.training.hidden, record.training.dim, dims=record.dims)
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        head.load_state_dict({name.removeprefix(_HEAD): weight for name, weight in tensors.items() if _HEAD in name})
        critic = Critic(
            head.eval().requires_grad_(requires_grad=False),
            float(tensors["sharpness"]), tensors["reference"], tensors["reference_hash"],
        )  # fmt: skip
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise ConfigError(
            f"{path} does not hold a whole critic: {error}. Train one with alchemist scorer train."
        ) from error
    return critic, record
