"""Embeddings: which copies of real images they find, beside the perceptual hash, and what comparing them costs.

`python -m tests.benchmarks.embeddings [--rows 1000000] [--dim 512] [--images 400]` starts its own embedded Postgres, in
ALCHEMIST_BENCH_FOLDER, and writes `.alchemist/bench/embeddings.json`. The images are those of ALCHEMIST_TEST_CORPUS; their embeddings are
EfficientNet-lite0's features (extra offline), which were made for recognition and not for finding copies.
"""

import argparse
import io
import os
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from sqlalchemy import Engine, text

from alchemist_core.cli.duplicates import FindSemanticConfig, FindSemanticResult, find_semantic
from alchemist_core.embeddings.files import file_uri, write_embeddings
from alchemist_core.embeddings.reading import Embeddings, unit_vectors
from alchemist_core.embeddings.search import search
from alchemist_core.selection.duplicates import MAX_DISTANCE, hamming_distance
from alchemist_core.shards.images import decode_image, perceptual_hash_of
from alchemist_core.store.embeddings import insert_file
from tests.benchmarks.picture_store import own_store
from tests.benchmarks.rows import Row, write_rows
from tests.given import insert_rows
from tests.peak_memory import peak_mib

SIDE, SHARD, RATER, COPIES = 224, 10_000, 1, 0.05
Found = TypeVar("Found")
THRESHOLDS = (0.8, 0.85, 0.9, 0.95)
CORPUS = Path(__file__).parents[3] / "shared" / "corpus"


def main() -> None:
    """Measure and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="number of synthetic embeddings; 0: none")
    parser.add_argument("--dim", type=int, default=512, help="numbers of an embedding")
    parser.add_argument("--images", type=int, default=400, help="number of real images; 0: none")
    given = parser.parse_args()
    rows = find_copies(Path(os.environ.get("ALCHEMIST_TEST_CORPUS", CORPUS)), given.images) if given.images else []
    if given.rows:
        with own_store() as engine:
            rows += compare(engine, given.rows, given.dim)
    write_rows("embeddings", rows)


# --- Copies of real images ----------------------------------------------------------------------------------------------------


def _crop(image: Image.Image) -> Image.Image:
    width, height = image.size
    return image.crop((width // 10, height // 10, width - width // 20, height - width // 20))


def _mark(image: Image.Image) -> Image.Image:
    marked = image.copy()
    ImageDraw.Draw(marked).text((image.width // 6, image.height // 2), "EXAMPLE", fill=(255, 255, 255))
    return marked


COPIED: dict[str, Callable[[Image.Image], Image.Image]] = {
    "recompressed (quality 30)": lambda image: image,
    "resized to 75%": lambda image: image.resize((image.width * 3 // 4, image.height * 3 // 4)),
    "cropped by 15%": _crop,
    "mirrored": ImageOps.mirror,
    "colour and contrast": lambda image: ImageEnhance.Contrast(ImageEnhance.Color(image).enhance(1.6)).enhance(1.2),
    "watermark": _mark,
}


def find_copies(corpus: Path, n_images: int) -> list[Row]:
    """Return recall and precision of both ways for each kind of copy.

    A pair is true if one is a copy of the other. Two images of the corpus that are near-duplicates by themselves count as wrong, for
    both ways.
    """
    originals = _read(corpus, n_images)
    kinds = {"original": originals} | {
        name: [
            _encode(change(Image.open(io.BytesIO(data)).convert("RGB")), 30 if "30" in name else 90)
            for data in originals
        ]
        for name, change in COPIED.items()
    }
    unit_of = {name: _embed(images) for name, images in kinds.items()}
    hash_of = {name: [perceptual_hash_of(data) for data in images] for name, images in kinds.items()}
    rows = []
    for name in COPIED:
        cosine_NN = unit_of[name] @ unit_of["original"].T
        near = [
            [hamming_distance(one, other) <= MAX_DISTANCE for other in hash_of["original"]] for one in hash_of[name]
        ]
        rows += _rate(f"{name}: perceptual hash within {MAX_DISTANCE} bits", np.array(near))
        for threshold in THRESHOLDS:
            rows += _rate(f"{name}: cosine at least {threshold}", cosine_NN >= threshold)
    return rows


def _rate(name: str, is_near_NN: NDArray[np.bool_]) -> list[Row]:
    n_right, n_found = int(np.diagonal(is_near_NN).sum()), int(is_near_NN.sum())
    detail = f"precision {n_right / max(1, n_found):.3f}: {n_found - n_right:,} of {is_near_NN.size:,} other pairs"
    return [Row(name, round(n_right / len(is_near_NN), 4), "recall", None, None, detail)]


def _read(corpus: Path, n_images: int) -> list[bytes]:
    found: list[bytes] = []
    for path in sorted(corpus.glob("0*.tar")):
        with tarfile.open(path) as tar:
            names = [member for member in tar if member.name.endswith((".jpg", ".png"))]
            found += [tar.extractfile(member).read() for member in names[:: max(1, 6 * len(names) // n_images)]]  # type: ignore[union-attr]
    return found[:n_images]


def _encode(image: Image.Image, quality: int) -> bytes:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return data.getvalue()


def _embed(images: list[bytes]) -> NDArray[np.float32]:
    from alchemist_core.models.extractors import find_weights
    from alchemist_core.models.features import EfficientNetLite0

    weights = find_weights("efficientnet_lite0", None)
    assert weights is not None
    pixels = np.stack([decode_image(data, SIDE) for data in images])
    return unit_vectors(EfficientNetLite0(weights).features(pixels).astype(np.float16))


# --- Time and memory ----------------------------------------------------------------------------------------------------------


def vectors(n: int, dim: int, *, seed: int) -> Iterator[tuple[NDArray[np.float16], int]]:
    """Yield shards of embeddings around some thousand centres, and the number of copies among them, each after its original."""
    rng = np.random.default_rng(seed)
    centre_KD = np.random.default_rng(99).normal(size=(2000, dim)).astype(np.float32)
    for start in range(0, n, SHARD):
        size = min(SHARD, n - start)
        vector_ND = centre_KD[rng.integers(0, len(centre_KD), size)] + rng.normal(size=(size, dim)).astype(np.float32)
        n_copies = int(size * COPIES)
        # Cosines from about 0.955 to 1.
        noise_ND = rng.normal(size=(n_copies, dim)).astype(np.float32) * rng.uniform(0, 0.42, (n_copies, 1)).astype(
            np.float32
        )
        vector_ND[size - n_copies :] = vector_ND[:n_copies] + noise_ND
        yield vector_ND.astype(np.float16), n_copies


def compare(engine: Engine, n_rows: int, dim: int) -> list[Row]:
    """Measure a first run with 1 and with 2 nearest clusters, a night of a hundredth, and a search."""
    detail = f"{n_rows:,} embeddings of {dim} numbers"
    n_copies, seconds = _timed(lambda: add(engine, n_rows, dim, seed=0))
    rows = [Row("files written", round(n_rows / seconds), "samples/s", None, None, detail)]
    for probes in (1, 2):
        peak_mib(reset=True)
        found, seconds = _timed(lambda probes=probes: _find(restart=True, probes=probes))
        rows += [
            Row(f"first run, {probes} nearest clusters", round(seconds, 1), "s", None, None, f"{detail}, {found.n_clusters:,} clusters"),
            Row("peak memory, mapped files included", round(peak_mib()), "MiB", None, None, detail),
            Row("planted copies found", round(found.n_duplicates / n_copies, 4), "recall", None, None, f"{n_copies:,} copies"),
        ]  # fmt: skip
    n_night = max(1, n_rows // 100)
    n_copies, _ = _timed(lambda: add(engine, n_night, dim, seed=1, first_id=n_rows + 1))
    found, seconds = _timed(_find)
    rows.append(
        Row(
            "a night's new samples",
            round(seconds, 2),
            "s",
            None,
            None,
            f"{n_night:,} after {n_rows:,}; {found.n_duplicates:,} found",
        )
    )
    embeddings = Embeddings(engine, RATER)
    query_D = next(embeddings.blocks()).embedding_BD[0].astype(np.float32)
    for is_exact in (True, False):
        best, seconds = _timed(
            lambda is_exact=is_exact: search(engine, embeddings, query_D, limit=20, is_exact=is_exact)
        )
        rows.append(
            Row(
                f"search, {'exact' if is_exact else 'usual'}",
                round(seconds, 3),
                "s",
                None,
                None,
                f"{best.n_compared:,} compared",
            )
        )
    return rows


def add(engine: Engine, n: int, dim: int, *, seed: int, first_id: int = 1) -> int:
    """Store embeddings in files by shard, without samples; return the number of copies among them."""
    n_copies = 0
    with engine.begin() as connection:
        shard_id = connection.execute(text("SELECT coalesce(max(shard_id), 0) + 1 FROM alchemist.shards")).scalar_one()
        if shard_id == 1:
            insert_rows(connection, {
                "datasets": [{"dataset_id": 1, "name": "web"}],
                "raters": [{"rater_id": RATER, "name": "clip", "kind": "scorer", "rule": "scorer", "config": {"name": "clip"}}],
                "nights": [{"night_id": 1, "dataset_id": 1, "crawl_date": "2026-01-01", "rater_id": RATER}],
            })  # fmt: skip
        for vector_ND, n_own in vectors(n, dim, seed=seed):
            insert_rows(connection, {
                "shards": [{"shard_id": shard_id, "dataset_id": 1, "crawl_date": "2026-01-01"}],
                "shard_scores": [{"rater_id": RATER, "shard_id": shard_id, "night_id": 1, "n_scored": len(vector_ND)}],
            })  # fmt: skip
            ids = np.arange(first_id, first_id + len(vector_ND))
            insert_file(connection, RATER, shard_id, write_embeddings(file_uri(RATER, str(shard_id)), ids, vector_ND))
            shard_id, first_id, n_copies = shard_id + 1, first_id + len(vector_ND), n_copies + n_own
    return n_copies


def _find(**fields: object) -> FindSemanticResult:
    return find_semantic(FindSemanticConfig.model_validate(fields))


def _timed(run: Callable[[], Found]) -> tuple[Found, float]:
    began = time.perf_counter()
    found = run()
    return found, time.perf_counter() - began


if __name__ == "__main__":
    main()
