"""The image tokenizer: a coder of pixels, and residual quantisation of its features scale by scale (as in VAR). Frozen in use.

The coder is a convolutional autoencoder, or none: then a token's features are the pixels of a patch, and k-means fits the codebook.

Letters: B samples in a batch · N images · S tokens over all scales · D features · V codebook size · C H W image.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from alchemist_core.models.autoencoder import Autoencoder, PatchCoder, train_autoencoder
from alchemist_core.models.config import TokenizerConfig
from alchemist_core.models.images import ImageArray, ImageSource, resize_images
from alchemist_core.models.quantiser import ResidualQuantiser, fit_codebook

# Between two batch shapes, codes of about 1 in 1,000 images differ, so all images are encoded in this one shape.
ENCODE_BATCH = 256
# An autoencoder at 256 px needs about a gigabyte for 16 images, so larger images are encoded in smaller batches.
_MOST_PIXELS = 2**20


@dataclass(frozen=True, slots=True)
class ImageTokens:
    """A batch of tokenized images."""

    code_BS: Int64[Tensor, "B S"]
    input_BSD: Float[Tensor, "B S D"]
    """The generator's input for each token: the image so far, at the token's own scale."""

    def rows(self, index_B: Int64[Tensor, " B"]) -> "ImageTokens":
        """Gather some images."""
        return ImageTokens(self.code_BS[index_B], self.input_BSD[index_B])

    def between(self, start: int | None, stop: int | None) -> "ImageTokens":
        """Return the images between two indices, as views."""
        return ImageTokens(self.code_BS[start:stop], self.input_BSD[start:stop])

    def to(self, device: torch.device) -> "ImageTokens":
        """Move to a device."""
        return ImageTokens(self.code_BS.to(device), self.input_BSD.to(device))


class Tokenizer(nn.Module):
    """Turns images into S codes and back; frozen in use."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.coder = Autoencoder(config.autoencoder) if config.autoencoder else PatchCoder(config.patch)
        self.quantiser = ResidualQuantiser(config)
        self.requires_grad_(requires_grad=False).eval()

    @property
    def encode_batch(self) -> int:
        """Batch size of every forward, always the same, because kernels depend on the shape, and codes must not."""
        return max(1, min(ENCODE_BATCH, _MOST_PIXELS // self.config.resolution**2))

    @torch.no_grad()
    def encode(self, image_NHWC: ImageArray) -> Int64[Tensor, "N S"]:
        """Return the codes of images of any side, computed in one fixed batch shape."""
        code_chunks = []
        for start in range(0, len(image_NHWC), self.encode_batch):
            chunk = image_NHWC[start : start + self.encode_batch]
            padding = ((0, self.encode_batch - len(chunk)), (0, 0), (0, 0), (0, 0))
            code_BS, _ = self.quantise(self.features(np.pad(chunk, padding)))
            code_chunks.append(code_BS[: len(chunk)])
        return torch.cat(code_chunks) if code_chunks else torch.zeros(0, self.config.n_tokens, dtype=torch.int64)

    def features(self, image_NHWC: ImageArray) -> Float[Tensor, "N D H W"]:
        """Return one feature vector for each cell of the finest grid."""
        return self.coder.encode(self._pixels(image_NHWC))

    def quantise(self, feature_BDHW: Float[Tensor, "B D H W"]) -> tuple[Int64[Tensor, "B S"], Float[Tensor, "B S D"]]:
        """Quantise residuals from the coarsest scale on; return codes and the residual vectors that were quantised."""
        return self.quantiser.quantise(feature_BDHW)

    @torch.no_grad()
    def tokens(self, code_BS: Int64[Tensor, "B S"]) -> ImageTokens:
        """Return codes with the inputs that teacher forcing needs."""
        return ImageTokens(code_BS, self._by_chunks(self.quantiser.inputs, code_BS))

    @torch.no_grad()
    def decode(self, code_BS: Int64[Tensor, "B S"]) -> ImageArray:
        """Return the images of codes, at the tokenizer's resolution."""
        pixels_BCHW = self._by_chunks(self._decode, code_BS)
        pixels_BHWC = ((pixels_BCHW + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        return np.ascontiguousarray(pixels_BHWC.cpu().numpy())

    def save(self, path: Path) -> None:
        """Write weights and configuration to one safetensors file."""
        weights = {name: weight.contiguous() for name, weight in self.state_dict().items()}
        save_file(weights, path, {"config": self.config.model_dump_json()})

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Read a tokenizer that `save` wrote."""
        with safe_open(path, framework="pt") as file:
            tokenizer = cls(TokenizerConfig.model_validate_json(file.metadata()["config"]))
            tokenizer.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118  not a dict
        return tokenizer

    def _pixels(self, image_NHWC: ImageArray) -> Tensor:
        return resize_images(image_NHWC, self.config.resolution).to(self.quantiser.codebook.weight.device)

    def _decode(self, code_BS: Tensor) -> Tensor:
        *_, grid_BDHW = self.quantiser.grow(code_BS)
        return self.coder.decode(grid_BDHW)

    def _by_chunks(self, function: Callable[[Tensor], Tensor], code_BS: Tensor) -> Tensor:
        # At least one chunk, so that zero codes return a result of the right shape.
        return torch.cat([function(chunk_BS) for chunk_BS in torch.split(code_BS, self.encode_batch)])


def fit_tokenizer(image_NHWC: ImageSource, config: TokenizerConfig, seed: int) -> Tokenizer:
    """Fit the codebook, and train the autoencoder if there is one; equal seeds give equal bytes.

    Args:
        image_NHWC: Images, a random part of which is used.
        config: Shape of the tokenizer and length of the fit.
        seed: Seed of the choice of images, the initial weights and codes, and the restarts of unused codes.
    """
    generator = np.random.default_rng(seed)
    picked_N = np.sort(generator.permutation(len(image_NHWC))[: config.n_images])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = Tokenizer(config)
    if config.autoencoder is None:
        feature_NDHW = tokenizer.features(image_NHWC[picked_N])
        fit_codebook(tokenizer.quantiser, feature_NDHW, n_rounds=config.n_rounds, generator=generator)
        return tokenizer
    assert isinstance(tokenizer.coder, Autoencoder)
    tokenizer.requires_grad_(requires_grad=True).train()
    pixels_NCHW = resize_images(image_NHWC[picked_N], config.resolution)
    train_autoencoder(tokenizer.coder, tokenizer.quantiser, pixels_NCHW, config.autoencoder, generator=generator)
    tokenizer.requires_grad_(requires_grad=False).eval()
    return tokenizer
