"""The drawn corpus: captioned scenes of which it is known, beside the shards, what each is worth.

Knows nothing of raters. Whoever reads the shards alone learns no truth: it lies in one file beside them.
"""

import datetime as dt
import hashlib
import io
import json
import random
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from alchemist_core.data.tar_writer import write_tar
from alchemist_core.errors import DataError
from alchemist_core.local import scene_drawing
from alchemist_core.local.corpus_marker import CorpusMarker
from alchemist_core.local.scene_drawing import Scene

_FIRST_NIGHT = dt.date(2026, 1, 1)
_MAX_TRIES = 1000


class SceneKind(StrEnum):
    """What a training scene is worth, known because it was drawn so."""

    INFORMATIVE = "informative"
    PLAIN = "plain"
    CHAOTIC = "chaotic"
    WRONG_CAPTION = "wrong_caption"


KIND_RATIOS = {
    SceneKind.INFORMATIVE: 0.40,
    SceneKind.PLAIN: 0.25,
    SceneKind.CHAOTIC: 0.20,
    SceneKind.WRONG_CAPTION: 0.15,
}
_DRAWERS: dict[SceneKind, Callable[[random.Random, int], Scene]] = {
    SceneKind.INFORMATIVE: scene_drawing.draw_informative,
    SceneKind.PLAIN: scene_drawing.draw_plain,
    SceneKind.CHAOTIC: scene_drawing.draw_chaotic,
    SceneKind.WRONG_CAPTION: scene_drawing.draw_informative,
}


class ScenesConfig(BaseModel):
    """What is drawn: the same values give the same bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_train: int = Field(12_000, ge=1, le=1_000_000, description="Training scenes, of all four kinds")
    n_validation: int = Field(6_000, ge=0, le=1_000_000, description="Clean scenes that say what the model is to learn")
    n_test: int = Field(1_000, ge=0, le=1_000_000, description="Clean scenes that nothing trains on")
    n_nights: int = Field(2, ge=1, le=365, description="Crawl dates over which the training scenes are spread")
    side: int = Field(64, ge=16, le=512, description="Width and height of a scene, in pixels")
    seed: int = Field(0, ge=0, description="Seed of everything drawn")
    shard_size: int = Field(1_000, ge=1, le=100_000, description="Scenes a shard")


class ScenesReport(NamedTuple):
    """How many scenes lie under the root, and whether they had to be drawn."""

    n_train: int
    n_validation: int
    n_test: int
    is_reused: bool


class _Sample(NamedTuple):
    png: bytes
    caption: str
    meaning: tuple[str, ...]
    kind: SceneKind


def draw_scenes(out_root: Path, **overrides: int) -> ScenesReport:
    """Draw the corpus under `out_root`, or find it already there.

    Args:
        out_root: Folder for `train/DATE/`, `validation/`, `test/` and `truth.parquet`.
        overrides: Fields of `ScenesConfig` that differ from their defaults.

    Raises:
        DataError: The folder holds something else.
    """
    config = ScenesConfig(**overrides)
    marker = CorpusMarker(out_root, "scenes", config.model_dump())
    is_reused = marker.is_finished()
    if not is_reused:
        marker.start()
        _draw_corpus(out_root, config)
        marker.finish()
    return ScenesReport(config.n_train, config.n_validation, config.n_test, is_reused)


def _draw_corpus(out_root: Path, config: ScenesConfig) -> None:
    seen: set[bytes] = set()
    truth: list[tuple[bytes, str, str]] = []
    for split, kinds in _plan_kinds(config).items():
        rng = random.Random(f"{split} {config.seed}")  # noqa: S311  pictures, not secrets
        rng.shuffle(kinds)
        samples = _draw_samples(rng, kinds, config.side, seen)
        truth += [(_pair_hash(sample), sample.kind.value, split) for sample in samples]
        for path, first, stop in _plan_shards(out_root, split, config):
            write_tar(path, _entries(samples, range(first, stop), config.side))
    _write_truth(out_root / "truth.parquet", truth)


def _plan_kinds(config: ScenesConfig) -> dict[str, list[SceneKind]]:
    bounds, total = [], 0.0
    for ratio in KIND_RATIOS.values():
        total += ratio
        bounds.append(round(total * config.n_train))
    counts = [stop - start for start, stop in zip([0, *bounds], bounds, strict=False)]
    train = [kind for kind, count in zip(KIND_RATIOS, counts, strict=True) for _ in range(count)]
    clean = SceneKind.INFORMATIVE
    return {"train": train, "validation": [clean] * config.n_validation, "test": [clean] * config.n_test}


def _draw_samples(rng: random.Random, kinds: list[SceneKind], side: int, seen: set[bytes]) -> list[_Sample]:
    samples = [_draw_unseen(rng, kind, side, seen) for kind in kinds]
    clean = [sample for sample in samples if sample.kind is SceneKind.INFORMATIVE]
    return [
        _caption_wrongly(rng, sample, clean) if sample.kind is SceneKind.WRONG_CAPTION else sample for sample in samples
    ]


def _draw_unseen(rng: random.Random, kind: SceneKind, side: int, seen: set[bytes]) -> _Sample:
    for _ in range(_MAX_TRIES):
        scene = _DRAWERS[kind](rng, side)
        # Pixels, not files: two encodings of one picture would be one picture.
        digest = hashlib.sha256(scene.image.tobytes()).digest()
        if digest not in seen:
            seen.add(digest)
            return _Sample(_encode_png(scene), scene.caption, scene.meaning, kind)
    raise DataError(f"no new {kind} scene of {side} px in {_MAX_TRIES} tries; draw fewer or larger ones")


def _caption_wrongly(rng: random.Random, sample: _Sample, clean: list[_Sample]) -> _Sample:
    for _ in range(_MAX_TRIES if clean else 0):
        other = rng.choice(clean)
        if other.meaning != sample.meaning:
            return sample._replace(caption=other.caption)
    raise DataError(f"no other caption for {sample.caption!r}; draw more training scenes")


def _encode_png(scene: Scene) -> bytes:
    buffer = io.BytesIO()
    scene.image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _plan_shards(out_root: Path, split: str, config: ScenesConfig) -> Iterator[tuple[Path, int, int]]:
    n_samples = {"train": config.n_train, "validation": config.n_validation, "test": config.n_test}[split]
    n_nights = config.n_nights if split == "train" else 1
    for night in range(n_nights):
        first, stop = (n_samples * edge // n_nights for edge in (night, night + 1))
        date = (_FIRST_NIGHT + dt.timedelta(days=night)).isoformat()
        folder = out_root / split / date if split == "train" else out_root / split
        for shard, start in enumerate(range(first, stop, config.shard_size)):
            yield folder / f"{shard:06d}.tar", start, min(start + config.shard_size, stop)


def _entries(samples: list[_Sample], indices: range, side: int) -> Iterator[tuple[str, bytes]]:
    about = json.dumps({"width": side, "height": side, "licence": "CC0-1.0"}).encode()
    for index in indices:
        yield f"{index:09d}.png", samples[index].png
        yield f"{index:09d}.txt", samples[index].caption.encode()
        yield f"{index:09d}.json", about


def _pair_hash(sample: _Sample) -> bytes:
    parts = (sample.png, sample.caption.encode())
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()


def _write_truth(path: Path, truth: list[tuple[bytes, str, str]]) -> None:
    pair_hashes, kinds, splits = zip(*truth, strict=True)
    columns = {"pair_hash": pa.array(pair_hashes, pa.binary(32)), "kind": kinds, "split": splits}
    pq.write_table(pa.table(columns), path)
