"""What `alchemist scorer train` wrote: a file, and the frozen encoders that its scorer must be opened with."""

from abc import abstractmethod
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol

from pydantic import Field

from alchemist_core.config import Config, Located
from alchemist_core.errors import ConfigError
from alchemist_core.files import artifact_path, file_sha256
from alchemist_core.scorers.scorer import NOT_IDENTITY, Scorer

ARTIFACT = "artifact:"
"""Prefix of an address relative to the artifacts of the home, so that a home can be moved."""
FILE_HELP = "File that alchemist scorer train wrote; its hash is part of the identity"


class EncoderOptions(Config):
    """The encoders of a scorer's training."""

    encoders: Annotated[str, Located(is_or_name=True)] = Field(
        "offline",
        description="Frozen encoders of its training: offline, or a folder or hub name of a CLIP or SigLIP; their hash is part of the "
        "identity",
        json_schema_extra=NOT_IDENTITY,
    )


class TrainingRecord(Protocol):
    """What the record in a trained file says about its encoders."""

    @property
    def resolution(self) -> int:
        """Side of the images in pixels."""

    @property
    def encoder_sha256s(self) -> tuple[str, ...]:
        """Hashes of the encoders' files."""


class TrainedScorer(Scorer):
    """A scorer that `alchemist scorer train` fitted to the features of frozen encoders.

    A subclass sets `file_option` and `noun`, and implements `read` and `score`.
    """

    uses_device = True
    file_option: ClassVar[str]
    """Option that holds the address of the file; with _sha256, the name of its hash in the identity."""
    noun: ClassVar[str]

    def __init__(self, options: Config, device: str = "cpu") -> None:
        assert isinstance(options, EncoderOptions)
        from alchemist_core.models.critic import load_encoders  # noqa: PLC0415  imports torch

        path = trained_file(getattr(options, self.file_option))
        record = self.read(path)
        self._encoders = load_encoders(options.encoders, record.resolution, device)
        if self._encoders.sha256s != record.encoder_sha256s:
            raise ConfigError(
                f"The {self.noun} {path} was trained on other encoders than {options.encoders}. Give the encoders of its training, or "
                "train it again with alchemist scorer train."
            )
        super().__init__(options.model_copy(update={"encoders": self._encoders.source}), device)
        self._file_sha256 = file_sha256(path).hex()
        self.image_side, self.dtype = self._encoders.side, self._encoders.dtype

    @abstractmethod
    def read(self, path: Path) -> TrainingRecord:
        """Read the file, keep what scores, and return the record of its training.

        Raises:
            ConfigError: The file does not hold one.
        """

    def identity(self) -> dict[str, Any]:
        """Return the hashes of the file and of its encoders."""
        return {
            f"{self.file_option}_sha256": self._file_sha256,
            "encoder_sha256s": list(self._encoders.sha256s),
        }


def trained_file(address: str) -> Path:
    """Return the path of a file that `alchemist scorer train` wrote.

    Raises:
        ConfigError: There is no such file.
    """
    path = artifact_path(address.removeprefix(ARTIFACT)) if address.startswith(ARTIFACT) else Path(address)
    if not path.is_file():
        raise ConfigError(f"There is no file {path}. Train the scorer with alchemist scorer train, or give its file.")
    return path
