"""Embeddings: which copies of real images they find, beside the perceptual hash, and what comparing them costs.

`python -m tests.benchmarks.embeddings [--rows 1000000] [--dim 512] [--images 400]` starts its own embedded Postgres, in
ALCHEMIST_BENCH_FOLDER, and writes `.alchemist/bench/embeddings.json`. The images are those of ALCHEMIST_TEST_CORPUS; their embeddings are
EfficientNet-lite0's features (extra offline), which were made for recognition and not for finding copies.

Letters: N images · B other images · D numbers of an embedding.
"""

import argparse
import io
import os
import tarfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from sqlalchemy import Engine, text

from alchemist_core.cli.duplicates import USUAL, FindSemanticConfig, FindSemanticResult, find_semantic
from alchemist_core.embeddings.clusters import THRESHOLD, WHITENED_THRESHOLD
from alchemist_core.embeddings.files import file_uri, write_embeddings
from alchemist_core.embeddings.reading import Embeddings, compared_vectors, load_clusters, unit_vectors
from alchemist_core.embeddings.search import search
from alchemist_core.embeddings.whitening import fit_whitening
from alchemist_core.selection.duplicates import MAX_DISTANCE, hamming_distance
from alchemist_core.shards.images import decode_image, perceptual_hash_of
from alchemist_core.store.embeddings import find_centroids, insert_file
from tests.benchmarks.picture_store import own_store
from tests.benchmarks.rows import Row, at_least, write_rows
from tests.given import insert_rows
from tests.peak_memory import peak_mib

SIDE, SHARD, RATER, COPIES = 224, 10_000, 1, 0.05
Found = TypeVar("Found")
RECALL, PRECISION = 0.95, 0.99
PROBES, MOST_RAW = USUAL["probes"], 2_000_000
"""Nearest clusters of a default first run, and the most embeddings that are also compared as they are."""
OTHER_CAPTION = 0.5
"""Cosine of the features of two captions (MiniLM) from which two different images may show the same, and are not judged."""
FIT_STEP = 3
"""Every third image that is no original is used to fit the whitening."""
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


class Picture(NamedTuple):
    """An image of the corpus."""

    data: bytes
    caption: str


class Way(NamedTuple):
    """A way to find copies: of each kind, which copies (rows) are near which originals (columns)."""

    name: str
    near_of: dict[str, NDArray[np.bool_]]


def find_copies(corpus: Path, n_images: int) -> list[Row]:
    """Return recall by kind of copy, and precision over all kinds, of whitened embeddings, raw ones and the perceptual hash.

    A pair is right if one is a copy of the other. The corpus has near-duplicates of its own (a clock at another time, a flag in another
    style), so two different images are judged only if their captions differ: a criterion that none of the three ways uses.
    The whitening is fitted on other images. Thresholds of cosines were chosen on the even images; the figures are those of the odd ones.
    """
    originals, others = _read(corpus, n_images)
    images = {"original": [data for data, _ in originals]} | {
        name: [_copy(data, name) for data, _ in originals] for name in COPIED
    }
    raw_of = {name: _embed(data) for name, data in images.items()}
    fitted_BD = _embed([data for data, _ in others])
    whitening = fit_whitening(fitted_BD)
    assert whitening is not None
    white_of = {name: whitening.apply(unit_ND) for name, unit_ND in raw_of.items()}
    caption_ND = _embed_captions([picture.caption for picture in [*originals, *others]])
    is_other_NB = caption_ND[: len(originals)] @ caption_ND.T < OTHER_CAPTION
    is_judged_NN = is_other_NB[:, : len(originals)] | np.eye(len(originals), dtype=bool)
    rows = _compare_ways(raw_of, white_of, images, is_judged_NN)
    is_other_NB = is_other_NB[:, len(originals) :]
    return [
        *rows,
        _rate_others("whitened", white_of["original"] @ whitening.apply(fitted_BD).T, WHITENED_THRESHOLD, is_other_NB),
        _rate_others("raw", raw_of["original"] @ fitted_BD.T, THRESHOLD, is_other_NB),
    ]


def _compare_ways(
    raw_of: dict[str, NDArray[np.float32]],
    white_of: dict[str, NDArray[np.float32]],
    images: dict[str, list[bytes]],
    is_judged_NN: NDArray[np.bool_],
) -> list[Row]:
    raw, white = _cosines(raw_of), _cosines(white_of)
    lowest, lowest_white = (_choose_threshold(cosine_of, is_judged_NN) for cosine_of in (raw, white))
    ways = [
        Way(f"whitened cosine from {WHITENED_THRESHOLD:g}", {name: found >= WHITENED_THRESHOLD for name, found in white.items()}),
        Way(f"raw cosine from {lowest:g}", {name: found >= lowest for name, found in raw.items()}),
        Way(f"perceptual hash within {MAX_DISTANCE} bits", _near_hashes(images)),
    ]  # fmt: skip
    rows = _rate([_odd(way) for way in ways], is_judged_NN[1::2, 1::2])
    share = float(is_judged_NN[1::2, 1::2].mean())
    detail = f"of different images with captions of a cosine below {OTHER_CAPTION:g}"
    rows.append(Row("pairs that are judged", round(share, 4), "share", None, None, detail))
    detail = f"on the even images; of raw cosines {lowest:g}"
    name = f"lowest whitened cosine with precision {PRECISION:g}"
    rows.append(Row(name, lowest_white, "cosine", None, None, detail))
    return rows


def _rate_others(name: str, cosine_NB: NDArray[np.float32], threshold: float, is_other_NB: NDArray[np.bool_]) -> Row:
    """Return how many pairs of different images a threshold takes for copies: in a large corpus, they are most of what is found."""
    n_wrong, n_pairs = int(((cosine_NB >= threshold) & is_other_NB).sum()), int(is_other_NB.sum())
    detail = f"{n_wrong:,} of {n_pairs:,} pairs of an original and another image"
    rate = round(1e6 * n_wrong / n_pairs, 1)
    return Row(f"different images, {name} cosine from {threshold:g}", rate, "per million", None, None, detail)


def _rate(ways: list[Way], is_judged_NN: NDArray[np.bool_]) -> list[Row]:
    recall = [{name: float(np.diagonal(near).mean()) for name, near in way.near_of.items()} for way in ways]
    rows = []
    for name in COPIED:
        beside = ", ".join(f"{way.name} {found[name]:.3f}" for way, found in zip(ways[1:], recall[1:], strict=True))
        rows.append(at_least(f"recall, {name}, {ways[0].name}", recall[0][name], RECALL, "recall", beside))
    for way, found in zip(ways[1:], recall[1:], strict=True):
        rows.append(at_least(f"lowest recall of a kind, {way.name}", min(found.values()), RECALL, "recall"))
    for way in ways:
        n_found = sum(int((near & is_judged_NN).sum()) for near in way.near_of.values())
        n_right = sum(int(np.diagonal(near).sum()) for near in way.near_of.values())
        n_pairs = len(way.near_of) * int(is_judged_NN.sum())
        detail = f"{n_found - n_right:,} wrong of {n_pairs:,} judged pairs"
        rows.append(at_least(f"precision, {way.name}", n_right / max(1, n_found), PRECISION, "precision", detail))
    return rows


def _choose_threshold(cosine_of: dict[str, NDArray[np.float32]], is_judged_NN: NDArray[np.bool_]) -> float:
    """Return the lowest threshold, in hundredths, at which the even images have the wanted precision."""
    even = slice(0, None, 2)
    is_judged_NN = is_judged_NN[even, even]
    for threshold in np.arange(20, 100) / 100:
        near = [cosine_NN[even, even] >= threshold for cosine_NN in cosine_of.values()]
        n_found = sum(int((near_NN & is_judged_NN).sum()) for near_NN in near)
        if sum(int(np.diagonal(near_NN).sum()) for near_NN in near) >= PRECISION * max(1, n_found):
            return float(threshold)
    return 1.0


def _odd(way: Way) -> Way:
    return Way(way.name, {name: near_NN[1::2, 1::2] for name, near_NN in way.near_of.items()})


def _cosines(unit_of: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    return {name: unit_of[name] @ unit_of["original"].T for name in COPIED}


def _near_hashes(images: dict[str, list[bytes]]) -> dict[str, NDArray[np.bool_]]:
    hash_of = {name: [perceptual_hash_of(data) for data in kind] for name, kind in images.items()}
    return {
        name: np.array([[hamming_distance(one, other) <= MAX_DISTANCE for other in hash_of["original"]] for one in hash_of[name]])
        for name in COPIED
    }  # fmt: skip


def _read(corpus: Path, n_images: int) -> tuple[list[Picture], list[Picture]]:
    """Return the originals and the images that the whitening is fitted on."""
    originals: list[Picture] = []
    others: list[Picture] = []
    for path in sorted(corpus.glob("0*.tar")):
        with tarfile.open(path) as tar:
            names = [name for name in tar.getnames() if name.endswith((".jpg", ".png"))]
            chosen = names[:: max(1, 6 * len(names) // n_images)]
            for found, wanted in ((originals, chosen), (others, sorted({*names[1::FIT_STEP]} - {*chosen}))):
                for name in wanted:
                    caption = tar.extractfile(f"{name.rpartition('.')[0]}.txt").read().decode()  # type: ignore[union-attr]
                    found.append(Picture(tar.extractfile(name).read(), caption))  # type: ignore[union-attr]
    return originals[:n_images], others


def _copy(data: bytes, kind: str) -> bytes:
    return _encode(COPIED[kind](Image.open(io.BytesIO(data)).convert("RGB")), 30 if "30" in kind else 90)


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


def _embed_captions(captions: list[str]) -> NDArray[np.float32]:
    from alchemist_core.models.image_text import Encoders

    return unit_vectors(Encoders().encode_texts(captions).astype(np.float16))


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
    """Measure first runs of embeddings as they are and whitened, then a night of a hundredth, and a search."""
    detail = f"{n_rows:,} embeddings of {dim} numbers"
    n_copies, seconds = _timed(lambda: add(engine, n_rows, dim, seed=0))
    rows = [Row("files written", round(n_rows / seconds), "samples/s", None, None, detail)]
    for is_whitened in (False, True) if n_rows <= MOST_RAW else (True,):
        peak_mib(reset=True)
        # The synthetic embeddings lie around centres, as no default expects.
        given = {"restart": True, "whiten": is_whitened, "threshold": THRESHOLD}
        found, seconds = _timed(lambda given=given: _find(**given))
        how, of = ", whitened" if is_whitened else "", f"{detail}, {found.n_clusters:,} clusters"
        rows += [
            Row(f"first run, {PROBES} nearest clusters{how}", round(seconds, 1), "s", None, None, of),
            Row(f"peak memory{how}, mapped files included", round(peak_mib()), "MiB", None, None, detail),
            Row(f"planted copies found{how}", round(found.n_duplicates / n_copies, 4), "recall", None, None, f"{n_copies:,} copies"),
        ]  # fmt: skip
    rows.append(_time_whitening(engine))
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


def _time_whitening(engine: Engine) -> Row:
    """Measure what whitening adds to a block, beside the division by the length that every embedding needs."""
    row = find_centroids(engine, RATER)
    assert row is not None
    whitening = load_clusters(row).whitening
    blocks = islice(Embeddings(engine, RATER).blocks(), 100_000 // SHARD)
    embedding_BD = np.concatenate([block.embedding_BD for block in blocks])
    _, plain_s = _timed(lambda: unit_vectors(embedding_BD))
    _, white_s = _timed(lambda: compared_vectors(embedding_BD, whitening))
    detail = (
        f"{len(embedding_BD):,} embeddings of {embedding_BD.shape[1]} numbers; division by their length {plain_s:.2f} s"
    )
    return Row("whitening", round(white_s, 2), "s", None, None, detail)


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
