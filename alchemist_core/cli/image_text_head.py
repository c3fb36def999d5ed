"""Train the image-text head, a critic of how well images match captions, on frozen encoders and the user's samples."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from sqlalchemy import Engine

from alchemist_core.config import Command, Config, Result
from alchemist_core.errors import DataError
from alchemist_core.files import write_bytes_atomically
from alchemist_core.models.image_text_config import HeadRecord, HeadTrainingConfig, refuse_weak
from alchemist_core.stages.devices import hold_device
from alchemist_core.stages.execution import StageRun, execute
from alchemist_core.store.registry import find_dataset
from alchemist_core.store.sample_table import LocatedSample, SampleTable
from alchemist_core.store.samples import read_training_samples
from alchemist_core.training.sample_reading import StoredSamples

if TYPE_CHECKING:
    from alchemist_core.models.image_text import Encoders

_ONE_IN, _LEAST = 10, 20
"""Without a held-out dataset, one caption in _ONE_IN is held out. At least _LEAST samples are needed to train on and to hold out."""


class HeadConfig(Config):
    """Which dataset to train on, and where to write the head."""

    dataset: str = Field(..., description="Dataset to train on")
    heldout: str | None = Field(
        None, description="Held-out dataset; none: a tenth of the captions of --dataset, by their hash"
    )
    out: Path = Field(..., description="safetensors file to write, for evaluate --weights")
    resolution: int = Field(
        224,
        ge=32,
        le=1024,
        description="Side of the images in pixels; must equal the resolution of the evaluation protocol",
    )
    training: HeadTrainingConfig = Field(default_factory=HeadTrainingConfig, description="Training of the head")


class HeadResult(Result):
    """The file, and the held-out AUC: how often an image is nearer to its own caption than to another one."""

    file: str
    sha256: str
    n_train: int
    n_heldout: int
    heldout_auc: float


class _Encoded(NamedTuple):
    captions: list[str]
    image_ND: NDArray[np.float32]
    text_NC: NDArray[np.float32]


def run(config: HeadConfig) -> HeadResult:
    """Encode the samples, train the head, measure it on held-out samples and write it.

    Raises:
        ConfigError: The held-out AUC is too low; nothing is written.
        DataError: There are too few samples.
    """
    return execute("image_text_head", config, lambda stage_run: make_head(config, stage_run), HeadResult)


def make_head(config: HeadConfig, stage_run: StageRun) -> HeadResult:
    """Train the head on the samples of the dataset and write its file."""
    train_rows, heldout_rows = _split(stage_run.engine, config)
    hold_device(stage_run, is_on_cpu=True)
    from alchemist_core.models.image_text import Encoders, pack_head  # noqa: PLC0415
    from alchemist_core.training.image_text_training import heldout_auc, train_head  # noqa: PLC0415  torch only when there is work

    encoders = Encoders()
    train = _encode(stage_run, train_rows, encoders, config.resolution)
    heldout = _encode(stage_run, heldout_rows, encoders, config.resolution)
    head = train_head(train.image_ND, train.text_NC, train.captions, config.training, on_progress=stage_run.report)
    record = HeadRecord(
        dataset=config.dataset, heldout=config.heldout or f"one caption in {_ONE_IN} of {config.dataset}",
        n_train=len(train.captions), n_heldout=len(heldout.captions),
        heldout_auc=heldout_auc(head, heldout.image_ND, heldout.text_NC, heldout.captions),
        resolution=config.resolution, training=config.training,
        image_encoder_sha256=encoders.sha256s[0], text_encoder_sha256=encoders.sha256s[1],
    )  # fmt: skip
    refuse_weak(record, str(config.out))
    data = pack_head(head, record)
    write_bytes_atomically(config.out, data)
    return HeadResult(
        file=str(config.out.resolve()), sha256=hashlib.sha256(data).hexdigest(), n_train=record.n_train,
        n_heldout=record.n_heldout, heldout_auc=round(record.heldout_auc, 4),
    )  # fmt: skip


def _split(engine: Engine, config: HeadConfig) -> tuple[SampleTable, SampleTable]:
    """Split samples so that no held-out caption or image is trained on."""
    rows = read_training_samples(engine, find_dataset(engine, config.dataset).dataset_id)
    if config.heldout is None:
        heldout = _rows_where(rows, lambda row: _is_held_out(row.caption))
    else:
        heldout = read_training_samples(engine, find_dataset(engine, config.heldout).dataset_id)
    captions, images = {row.caption for row in heldout}, {row.image_hash for row in heldout}
    train = _rows_where(rows, lambda row: row.caption not in captions and row.image_hash not in images)
    for side, name in ((train, "train on"), (heldout, "hold out")):
        if (found := len({row.caption for row in side})) < _LEAST:
            raise DataError(
                f"{config.dataset} has {found} different captions to {name}, but at least {_LEAST} are needed. "
                "Give a larger dataset, or a held-out dataset by --heldout."
            )
    return train, heldout


def _rows_where(rows: SampleTable, is_wanted: Callable[[LocatedSample], bool]) -> SampleTable:
    return rows.take(np.flatnonzero([is_wanted(row) for row in rows]))


def _is_held_out(caption: str) -> bool:
    digest = hashlib.sha256(b"image-text-head held out " + caption.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % _ONE_IN == 0


def _encode(stage_run: StageRun, rows: SampleTable, encoders: "Encoders", side: int) -> _Encoded:
    """Encode each sample whose image can be decoded, in the order of the rows."""
    features: dict[int, NDArray[np.float32]] = {}
    for place_M, image_MHWC in StoredSamples(rows, side, lambda *_: None).read(np.arange(len(rows))):
        features.update(zip(place_M.tolist(), encoders.encode_images(image_MHWC), strict=True))
        stage_run.report(len(features), len(rows), "encoded")
    kept = sorted(features)
    captions = [rows[place].caption for place in kept]
    return _Encoded(captions, np.stack([features[place] for place in kept]), encoders.encode_texts(captions))


COMMANDS = {"": Command(HeadConfig, run)}
