"""Frozen networks that turn images and prompts into the features that metrics compare.

Letters: N images · H W pixels · D features.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from alchemist_core.errors import ConfigError
from alchemist_core.extras import missing_library
from alchemist_core.models.images import ImageArray
from alchemist_core.models.precision import without_tf32
from alchemist_core.models.published.recognition import recognise
from alchemist_core.models.published.sources import Encoder, locate_file
from alchemist_core.models.published.weights import read_weights, shapes_of

_BATCH = 32
# In larger ones, the layers' outputs do not stay in the cache: 35 ms an image instead of 25.
_CPU_BATCH = 16
Features = Float32[np.ndarray, "N D"]


class EfficientNetLite0:
    """EfficientNet-lite0's 1280 pooled features; weights and network come from two packages. Not comparable with published FIDs."""

    def __init__(self, weights: Path, device: str = "cpu") -> None:
        try:
            from efficientnet_lite_pytorch import EfficientNet  # noqa: PLC0415  an extra of its own
        except ImportError as error:
            raise missing_library("efficientnet_lite_pytorch") from error
        self._network = EfficientNet.from_name("efficientnet-lite0")
        self._network.load_state_dict(torch.load(weights, weights_only=True))
        _freeze(self._network, device)
        self._device = device

    def features(self, image_NHWC: ImageArray) -> Features:
        """Return each image's features; images are not resized."""
        return _by_batches(image_NHWC, self._device, lambda pixels: self._pooled((pixels - 127) / 128))

    def _pooled(self, pixels_BCHW: Tensor) -> Tensor:
        pooled_BD: Tensor = self._network.extract_features(pixels_BCHW).mean((2, 3))
        return pooled_BD


class InceptionV3:
    """The 2048 pooled features of InceptionV3 that FID is defined on, by torch-fidelity, which resizes images to 299 px."""

    def __init__(self, weights: Path, device: str = "cpu") -> None:
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import (  # noqa: PLC0415  an extra of its own
                FeatureExtractorInceptionV3,
            )
        except ImportError as error:
            raise missing_library("torch_fidelity") from error
        # The library would run code from a malicious file, so the file is checked first to hold only weights.
        weights = locate_file(str(weights)).path
        found = recognise(shapes_of(read_weights(weights)))
        try:
            self._network = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(weights)
            )
        except RuntimeError as error:
            raise ConfigError(
                f"{weights} does not hold torch-fidelity's InceptionV3. First difference: {_first_misfit(error)}. "
                + (f"The shapes are those of {found}. " if found else "")
                + "Give the file weights-inception-2015-12-05-6726825d.pth."
            ) from error
        _freeze(self._network, device)
        self._device = device

    def features(self, image_NHWC: ImageArray) -> Features:
        """Return each image's features."""
        return _by_batches(image_NHWC, self._device, lambda pixels: self._network(pixels.to(torch.uint8))[0])


class CleanInceptionV3(InceptionV3):
    """The same network with clean-fid's resizing: Pillow's bicubic to 299 px, channel by channel, without rounding.

    Source: Parmar et al. 2022.
    """

    def __init__(self, weights: Path, device: str = "cpu") -> None:
        super().__init__(weights, device)
        try:
            from cleanfid.resize import build_resizer  # noqa: PLC0415  an extra of its own
        except ImportError as error:
            raise missing_library("cleanfid") from error
        self._resize = build_resizer("clean")
        # torch-fidelity's forward resizes its input, so its layers are run in order here, without the classifier.
        self._layers = nn.Sequential(*(layer for name, layer in self._network.named_children() if name != "fc"))

    def features(self, image_NHWC: ImageArray) -> Features:
        """Return each image's features."""
        parts = [
            _by_batches(
                np.stack([self._resize(image) for image in image_NHWC[start : start + _BATCH]]),
                self._device,
                self._pooled,
            )
            for start in range(0, len(image_NHWC), _BATCH)
        ]
        return np.concatenate(parts)

    def _pooled(self, pixels_BCHW: Tensor) -> Tensor:
        pooled_BD: Tensor = self._layers((pixels_BCHW - 128) / 128).flatten(1)
        return pooled_BD


class Clip:
    """CLIP's projections of images and texts into one space.

    Args:
        weights: Its folder.
        device: Where the network runs.
        half: Run the network in fp16 if the device is a GPU.

    Raises:
        ConfigError: The folder does not hold it, or lacks its tokenizer.

    Source: Radford et al. 2021.
    """

    kind, name, example = "CLIPModel", "CLIP", "openai/clip-vit-large-patch14"
    # OpenAI's constants; a model with others says so in its folder.
    mean, spread = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

    def __init__(self, weights: Path, device: str = "cpu", *, half: bool = False) -> None:
        import transformers  # noqa: PLC0415  takes seconds to import

        from alchemist_core.models.pretrained import load_pretrained  # noqa: PLC0415  imports transformers

        remedy = f"Give the folder of {self.example}."
        dtype = torch.float16 if half and torch.device(device).type == "cuda" else torch.float32
        kind = getattr(transformers, self.kind)
        self._network = load_pretrained(kind, weights, what=f"a {self.name} model", remedy=remedy, dtype=dtype)
        self._tokenizer = _load_tokenizer(weights, self.name, remedy)
        _freeze(self._network, device)
        self._device, self._dtype = device, dtype
        mean, spread = _read_constants(weights, self.mean, self.spread)
        self._mean = torch.tensor(mean, device=device).view(1, 3, 1, 1)
        self._spread = torch.tensor(spread, device=device).view(1, 3, 1, 1)

    @property
    def side(self) -> int:
        """Side of the input images in pixels."""
        sizes: Any = self._network.config.vision_config
        return int(sizes.image_size)

    @property
    def dim(self) -> int:
        """Number of features of a projection."""
        return int(self._network.config.projection_dim)

    @property
    def dtype(self) -> str:
        """Number format of the network."""
        return str(self._dtype).removeprefix("torch.")

    def features(self, image_NHWC: ImageArray) -> Features:
        """Return each image's projection; images must have the model's side."""
        return _by_batches(image_NHWC, self._device, self._project)

    @torch.inference_mode()
    def text_features(self, prompts: Sequence[str]) -> Features:
        """Return each prompt's projection, padded and truncated to the model's maximum length: 77 tokens in CLIP, 64 in SigLIP."""
        sizes: Any = self._network.config.text_config
        n_tokens = int(sizes.max_position_embeddings)
        parts = []
        for start in range(0, len(prompts), _BATCH):
            words = self._tokenizer(
                list(prompts[start : start + _BATCH]), padding="max_length", truncation=True, max_length=n_tokens,
                return_tensors="pt",
            ).to(self._device)  # fmt: skip
            parts.append(self._network.get_text_features(**words).pooler_output.float().cpu())
        return torch.cat(parts).numpy()

    def _project(self, pixels_BCHW: Tensor) -> Tensor:
        values = ((pixels_BCHW / 255 - self._mean) / self._spread).to(self._dtype)
        projected: Tensor = self._network.get_image_features(pixel_values=values).pooler_output
        return projected


class Siglip(Clip):
    """SigLIP's features of images and texts, and its probability that they belong together.

    Source: Zhai et al. 2023; the files of SigLIP 2 with a fixed image size have the same layout.
    """

    kind, name, example = "SiglipModel", "SigLIP", "google/siglip-so400m-patch14-384"
    mean, spread = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

    @property
    def dim(self) -> int:
        """Number of features."""
        sizes: Any = self._network.config.vision_config
        return int(sizes.hidden_size)

    @property
    def scale_and_bias(self) -> tuple[float, float]:
        """Factor and summand that turn a cosine into the log-odds."""
        return float(self._network.logit_scale.float().exp()), float(self._network.logit_bias)


def _load_tokenizer(folder: Path, name: str, remedy: str) -> Any:
    from transformers import AutoTokenizer  # noqa: PLC0415  as above

    # The library would make a tokenizer without words of a folder without a vocabulary.
    if not Encoder(folder, folder).vocabulary():
        raise ConfigError(f"{folder} does not hold {name}'s tokenizer: it has no vocabulary. {remedy}")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except ImportError as error:
        raise missing_library("sentencepiece") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder} does not hold {name}'s tokenizer: {error}. {remedy}") from error


def _read_constants(
    folder: Path, mean: Sequence[float], spread: Sequence[float]
) -> tuple[Sequence[float], Sequence[float]]:
    """Return the mean and the standard deviation of the image processor in a folder, else the given ones."""
    path = folder / "preprocessor_config.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return stored.get("image_mean", mean), stored.get("image_std", spread)


@without_tf32
@torch.inference_mode()
def _by_batches(image_NHWC: ImageArray, device: str, function: Any) -> Features:
    parts, size = [], _CPU_BATCH if torch.device(device).type == "cpu" else _BATCH
    for start in range(0, len(image_NHWC), size):
        pixels_BHWC = torch.from_numpy(np.ascontiguousarray(image_NHWC[start : start + size])).to(device)
        parts.append(function(pixels_BHWC.permute(0, 3, 1, 2).float()).float().cpu())
    return torch.cat(parts).numpy()


def _first_misfit(error: RuntimeError) -> str:
    """Return the first key that differs from torch's error, which names all of them on many lines."""
    text = str(error)
    if missing := re.search(r'Missing key\(s\) in state_dict: "([^"]+)"', text):
        return f"{missing[1]} is missing"
    if size := re.search(
        r"size mismatch for (\S+): copying a param with shape torch.Size\(\[([^]]*)\]\).*torch.Size\(\[([^]]*)\]\)",
        text,
    ):
        return f"{size[1]} is ({size[2]}), not ({size[3]})"
    return text.strip().partition("\n")[0]


def _freeze(network: nn.Module, device: str) -> None:
    network.eval().requires_grad_(requires_grad=False).to(device)
