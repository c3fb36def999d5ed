"""Sources of weights: a file, a folder, or a name on the Hugging Face hub with its revision. No torch.

A hub name without a revision means the repository's main branch of today, so a run pins it first: it stores the name with the
commit. Pinned names are read from the hub's cache, without a network if HF_HUB_OFFLINE=1 is set.

hf:ORG/NAME/FILE@REVISION names one file; clip:ORG/NAME[/FOLDER]@REVISION names a text encoder; hf:ORG/NAME[/FOLDER]@REVISION names
a folder where a whole model is wanted.
"""

import hashlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Self

from alchemist_core.errors import ConfigError
from alchemist_core.extras import missing_library
from alchemist_core.files import file_sha256, folder_sha256

HUB_FILE, HUB_ENCODER = "hf:", "clip:"
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
"""Suffixes of files of weights."""
OWN_FILE = "model.safetensors"
"""The weights of a model that was trained here, in the folder of the model; its tokenizer is beside them."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
FILE_FORM = "hf:ORG/NAME/FILE or hf:ORG/NAME/FILE@REVISION"
ENCODER_FORM = "a folder, clip:ORG/NAME@REVISION, or clip:ORG/NAME/text_encoder@REVISION"
MODEL_FORM = "a folder of a model of transformers, or hf:ORG/NAME@REVISION"


class HubName(NamedTuple):
    """The parts of a name on the hub."""

    kind: str
    """`hf:` or `clip:`."""
    repository: str
    path: str
    """A file, or the folder of an encoder; empty: the repository's root."""
    revision: str | None

    @classmethod
    def parse(cls, source: str) -> Self:
        """Split a name into its parts.

        >>> HubName.parse("hf:org/name/deep/star.pth@v1")
        HubName(kind='hf:', repository='org/name', path='deep/star.pth', revision='v1')
        """
        kind, _, rest = source.partition(":")
        place, _, revision = rest.partition("@")
        organisation, _, inner = place.partition("/")
        name, _, path = inner.partition("/")
        return cls(f"{kind}:", f"{organisation}/{name}".strip("/"), path, revision or None)

    def __str__(self) -> str:
        place = "/".join(part for part in (self.repository, self.path) if part)
        return f"{self.kind}{place}" + (f"@{self.revision}" if self.revision else "")

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, which no publisher can change."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    def pinned_by(self, path: Path) -> "HubName":
        """Return the name with the commit of a file or folder in the hub's cache."""
        parts = path.parts
        # The cache keeps each commit in a folder of its own: …/snapshots/COMMIT/FILE.
        commit = parts[len(parts) - parts[::-1].index("snapshots")]
        return self._replace(revision=commit)


class Located(NamedTuple):
    """A source whose files are on this machine."""

    source: str
    """The source as it is stored: a hub name carries its commit."""
    path: Path


def locate_file(source: str, *, is_offline: bool = False) -> Located:
    """Return the file of weights that a source names; a folder must hold one such file.

    Args:
        source: A file, a folder, or `hf:ORG/NAME/FILE@REVISION`, which is downloaded if the hub's cache lacks it.
        is_offline: Only look, and download nothing.

    Raises:
        ConfigError: The file does not exist, or the folder contains several files of weights.
    """
    if source.startswith(HUB_FILE):
        name = HubName.parse(source)
        if not name.path:
            raise ConfigError(f"{source} does not name a file. Write {FILE_FORM}.")
        path = _call_hub(name, "hf_hub_download", filename=name.path, local_files_only=is_offline)
        return Located(str(name.pinned_by(path)), path)
    path = Path(source)
    return Located(source, _only_file(path) if path.is_dir() else _existing(path))


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ConfigError(
            f"There is no file of weights at {path}. Give a path, a folder that holds one, or {FILE_FORM}."
        )
    return path


def _only_file(folder: Path) -> Path:
    found = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())
    own = [path for path in found if path.name == OWN_FILE]
    if len(own or found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ConfigError(
            f"The folder {folder} must hold one file of weights ({', '.join(SUFFIXES)}); it holds: {names}. Name the file."
        )
    return (own or found)[0]


class Encoder(NamedTuple):
    """The two folders of a text encoder, which may be one."""

    model: Path
    tokenizer: Path

    def sha256(self) -> str:
        """Hash the files that determine the encoder's output: its config, its weights and its vocabulary."""
        paths = [self.model / "config.json", *self.weights(), *self.vocabulary()]
        return _digest((path.name, file_sha256(path)) for path in paths)

    def is_complete(self) -> bool:
        """Whether the folders hold a config, weights and a vocabulary."""
        return (self.model / "config.json").is_file() and bool(self.weights()) and bool(self.vocabulary())

    def weights(self) -> list[Path]:
        """Return the files of weights; none if there are none."""
        for pattern in ("model*.safetensors", "pytorch_model*.bin"):
            # Not model.fp16.safetensors and the like, which are the same weights in other number formats.
            if found := sorted(path for path in self.model.glob(pattern) if path.name.count(".") == 1):
                return found
        return []

    def vocabulary(self) -> list[Path]:
        """Return the files of the vocabulary; none if there are none."""
        # The first set that exists is read; the others contain the same in other formats.
        for names in (("tokenizer.json",), ("vocab.json", "merges.txt"), ("vocab.txt",), ("spiece.model",)):
            if all((self.tokenizer / name).is_file() for name in names):
                return [self.tokenizer / name for name in names]
        return []


_ENCODER_FILES = ("config.json", "model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
_OLDER_FILES = ("pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json")
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "vocab.txt", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


def locate_encoder(source: str, *, is_offline: bool = False) -> tuple[str, Encoder]:
    """Return the source of a CLIP text encoder with its commit, and its folders.

    Args:
        source: `clip:FOLDER` of a model, or of a diffusion pipeline with text_encoder and tokenizer; or
            `clip:ORG/NAME[/FOLDER]@REVISION`, which is downloaded if the hub's cache lacks it.
        is_offline: Only look, and download nothing.

    Raises:
        ConfigError: The encoder is incomplete; the message lists what is missing.
    """
    place = source.removeprefix(HUB_ENCODER)
    if Path(place).is_dir():
        folder = Path(place)
        is_pipeline = (folder / "text_encoder").is_dir()
        encoder = Encoder(folder / "text_encoder", folder / "tokenizer") if is_pipeline else Encoder(folder, folder)
        stored = source
    else:
        if place.startswith(("/", ".", "~")):
            raise ConfigError(f"There is no folder {place}. Give {ENCODER_FORM}.")
        name = HubName.parse(source)
        encoder = _fetch_encoder(name, is_offline=is_offline)
        stored = str(name.pinned_by(encoder.model))
    if not encoder.is_complete():
        raise ConfigError(
            f"No CLIP text model at {place!r}: config.json, model.safetensors (or pytorch_model.bin) and a vocabulary are needed. "
            f"Give {ENCODER_FORM}."
        )
    return stored, encoder


def _fetch_encoder(name: HubName, *, is_offline: bool) -> Encoder:
    model = f"{name.path}/" if name.path else ""
    # In a pipeline the two folders are side by side.
    tokenizer = f"{PurePosixPath(name.path).parent / 'tokenizer'}/" if name.path else ""
    for weights in (_ENCODER_FILES, _OLDER_FILES):
        patterns = [*(model + file for file in weights), *(tokenizer + file for file in _TOKENIZER_FILES)]
        root = _call_hub(name, "snapshot_download", allow_patterns=patterns, local_files_only=is_offline)
        encoder = Encoder(root / model, root / tokenizer)
        if encoder.is_complete():
            break
    return encoder


def locate_model(source: str) -> Located:
    """Return the folder of a model of transformers: its config and weights, with its tokenizer and image processor if it has them.

    Args:
        source: A folder, or `hf:ORG/NAME[/FOLDER]@REVISION`, which is downloaded if the hub's cache lacks it.

    Raises:
        ConfigError: The folder does not exist, or lacks the config or the weights.
    """
    if source.startswith(HUB_FILE):
        name = HubName.parse(source)
        folder = _fetch_model(name)
        found = Located(str(name.pinned_by(folder)), folder)
    else:
        found = Located(source, Path(source))
    if not (found.path / "config.json").is_file() or not Encoder(found.path, found.path).weights():
        raise ConfigError(
            f"No model at {source!r}: config.json and model.safetensors (or pytorch_model.bin) are needed. Give {MODEL_FORM}."
        )
    return found


def _fetch_model(name: HubName) -> Path:
    prefix = f"{name.path}/" if name.path else ""
    beside = (*_TOKENIZER_FILES, "spiece.model", *_PROCESSOR_FILES)
    for weights in (_ENCODER_FILES, _OLDER_FILES):
        patterns = [prefix + file for file in (*weights, "config.json", *beside)]
        folder = _call_hub(name, "snapshot_download", allow_patterns=patterns) / name.path
        if Encoder(folder, folder).weights():
            break
    return folder


def model_sha256(folder: Path) -> str:
    """Hash the files that decide what a model of transformers computes: config, weights, vocabulary, and settings of its inputs."""
    parts = Encoder(folder, folder)
    settings = [folder / name for name in ("config.json", "tokenizer_config.json", *_PROCESSOR_FILES)]
    paths = [path for path in (*settings, *parts.weights(), *parts.vocabulary()) if path.is_file()]
    return _digest((path.name, file_sha256(path)) for path in paths)


def _call_hub(name: HubName, function: str, **options: Any) -> Path:
    """Call a function of the hub's library, which reads its cache first."""
    try:
        import huggingface_hub  # noqa: PLC0415  local files need no hub
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError  # noqa: PLC0415
    except ImportError as error:
        raise missing_library("huggingface_hub") from error
    fetch: Callable[..., str] = getattr(huggingface_hub, function)
    try:
        return Path(fetch(name.repository, revision=name.revision, **options))
    except (HfHubHTTPError, HFValidationError, EntryNotFoundError) as error:
        reason = str(error).strip().replace("\n", " ")
        kind = "file" if name.kind == HUB_FILE else "folder"
        raise ConfigError(
            f"{name} cannot be downloaded, and the hub's cache does not hold it: {reason} Download the {kind} and give its path."
        ) from error


def components_sha256(folder: Path, names: Iterable[str]) -> str:
    """Hash some folders of a diffusion pipeline by their names and files.

    Raises:
        ConfigError: One of them is missing.
    """
    missing = [name for name in names if not (folder / name).is_dir()]
    if missing:
        raise ConfigError(f"{folder} lacks {', '.join(missing)}. Give the folder of FLUX.1 in diffusers' layout.")
    return _digest((name, folder_sha256(folder / name)) for name in names)


def _digest(parts: Iterable[tuple[str, bytes]]) -> str:
    return hashlib.sha256("".join(f"{name} {sha256.hex()}\n" for name, sha256 in parts).encode()).hexdigest()
