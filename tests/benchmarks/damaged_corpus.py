"""Make a corpus in which the value of each sample is known from a folder of real tars: split it and damage some samples.

The seed selects the validation samples, the damaged samples and their damage. With `is_damaged` false the corpus is only split.
"""

import hashlib
import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from alchemist_core.shards.tar_writer import write_tar
from alchemist_core.training.samples import Samples
from tests.benchmarks.rater_real import damage
from tests.benchmarks.scenes_study import read_tars

SHARES = {"blank": 0.1, "noise": 0.1, "collage": 0.1, "wrong_caption": 0.1, "blur": 0.05, "near_duplicate": 0.05}
SIDE, SHARD_SIZE = 64, 1000


def make_corpus(
    corpus: Path,
    out: Path,
    *,
    seed: int,
    is_damaged: bool,
    validation_share: float | None = None,
    n_validation: int | None = None,
    n_train: int | None = None,
    test_half: int | None = None,
) -> None:
    """Write train, validation and test (the `val-` tars: unseen concepts), with truth.parquet.

    Args:
        corpus: Folder of real tars.
        out: Folder of the corpus.
        seed: Of the split and of the damage.
        is_damaged: Whether some samples are damaged.
        validation_share: Size of the validation dataset as a share of the corpus; None: a third of the training tars' pairs.
        n_validation: Size of the validation dataset instead of a share.
        n_train: Largest number of training samples; None: all others.
        test_half: 0 or 1: this half of the test samples, so that seeds which choose and seeds which report share none; None: all.
    """
    if (out / "truth.parquet").exists():
        return
    pairs, test = read_pairs(corpus), _read(corpus, "val-*.tar")
    held_out, chosen = split(
        len(pairs), seed, validation_share=validation_share, n_validation=n_validation, n_train=n_train
    )
    train, kinds = damage(pairs.rows(chosen), seed, SHARES if is_damaged else {})
    _write(out / "validation", pairs.rows(held_out))
    _write(out / "test", test if test_half is None else test.rows(np.arange(test_half, len(test), 2)))
    hashes = _write(out / "train" / "2026-01-01", train)
    # The oracle arm uses the samples that the synthetic corpus marks as informative.
    words = ["informative" if kind == "clean" else str(kind) for kind in kinds]
    table = pa.table({"pair_hash": pa.array(hashes, pa.binary(32)), "kind": words, "split": ["train"] * len(words)})
    pq.write_table(table, out / "truth.parquet")


def split(
    n: int,
    seed: int,
    *,
    validation_share: float | None = None,
    n_validation: int | None = None,
    n_train: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the validation and of the training samples; the options are those of make_corpus."""
    order = np.random.default_rng(seed).permutation(n)
    if n_validation is None:
        n_all = min(n, n_train or n)
        n_validation = n // 3 if validation_share is None else round(n_all * validation_share / (1 + validation_share))
    return order[:n_validation], order[n_validation:][:n_train]


def read_pairs(corpus: Path) -> Samples:
    """Return the samples of the training tars of a folder."""
    return _read(corpus, "[0-9]*.tar")


def _read(corpus: Path, pattern: str) -> Samples:
    """Read the tars of a pattern; they are linked into a folder of their own, which is what a reader takes."""
    with tempfile.TemporaryDirectory() as folder:
        for path in corpus.glob(pattern):
            (Path(folder) / path.name).symlink_to(path.resolve())
        return read_tars(Path(folder), SIDE)[0]


def _write(folder: Path, pairs: Samples) -> list[bytes]:
    pngs = [_encode(image) for image in pairs.image_NHWC]
    for shard, start in enumerate(range(0, len(pairs), SHARD_SIZE)):
        write_tar(
            folder / f"{shard:06d}.tar",
            _entries(pngs, pairs.captions, range(start, min(start + SHARD_SIZE, len(pngs)))),
        )
    both = zip(pngs, pairs.captions, strict=True)
    return [_sha256(_sha256(png) + _sha256(caption.encode())) for png, caption in both]


def _entries(pngs: list[bytes], captions: list[str], indices: range) -> Iterator[tuple[str, bytes]]:
    for index in indices:
        yield f"{index:09d}.png", pngs[index]
        yield f"{index:09d}.txt", captions[index].encode()
        yield f"{index:09d}.json", json.dumps({"width": SIDE, "height": SIDE}).encode()


def _encode(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
