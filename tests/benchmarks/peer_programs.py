"""What a user would write or pick instead, tuned by each project's own documentation; `peers` measures the platform against it.

None of it uses the platform, but for the model's forward and for bytes that both sides must agree on.
"""

import gc
import hashlib
import io
import os
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BATCH = 64
Samples = Iterator[dict[str, Any]]


def n_cores() -> int:
    """Return how many processes each program gets: one per core that this process may use."""
    return len(os.sched_getaffinity(0))


def warm_pool() -> ProcessPoolExecutor:
    """Return processes that have imported what they need, because the clock starts later."""
    pool = ProcessPoolExecutor(n_cores())
    list(pool.map(_import_webdataset, range(4 * n_cores())))
    return pool


def _import_webdataset(_: int) -> None:
    import webdataset  # noqa: F401


def _shares(tars: Sequence[str]) -> list[list[str]]:
    """Return a share of the tars for each core."""
    return [list(share) for at in range(n_cores()) if (share := tars[at :: n_cores()])]


def read_tars(tars: Sequence[str]) -> Samples:
    """Read whole samples with webdataset, in order."""
    import webdataset

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield from webdataset.WebDataset(list(tars), shardshuffle=False, empty_check=False)
    # Its reader leaves open tars to the garbage collector.
    gc.collect()


# --- Copies -------------------------------------------------------------------------------------------------------------------

COPY_AND_SUM = 'cp "$1" "$2"/ && sync "$2/${1##*/}" && sha256sum "$1" "$2/${1##*/}" > /dev/null'


def copy_and_sum(tars: Sequence[Path], to: Path, *, n_processes: int) -> None:
    """Copy files, make each safe on the disk, and hash source and target: `cp`, `sync` and `sha256sum`."""
    names = b"\0".join(os.fsencode(path) for path in tars)
    command = ["xargs", "-0", "-P", str(n_processes), "-I{}", "sh", "-c", COPY_AND_SUM, "sh", "{}", str(to)]
    subprocess.run(command, input=names, check=True)


def copy_only(tars: Sequence[Path], to: Path) -> None:
    """Copy files and make each safe on the disk, one after another."""
    for path in tars:
        shutil.copyfile(path, to / path.name)
        with (to / path.name).open("rb") as file:
            os.fsync(file.fileno())


def filter_tars(
    pool: ProcessPoolExecutor, tars: Sequence[str], checksums: Mapping[str, bytes], to: Path, shard_size: int
) -> int:
    """Read, filter and write samples with webdataset, one process per core; each member is compared, each written tar is hashed.

    Args:
        pool: The processes.
        tars: The corpus.
        checksums: XXH3-128 of the image of each member, by its key.
        to: Folder of the written tars.
        shard_size: Samples of a written tar.
    """
    parts = _shares(tars)
    work = partial(_filter_part, checksums=checksums, to=str(to), shard_size=shard_size)
    return sum(pool.map(work, parts, range(len(parts))))


def _filter_part(tars: Sequence[str], number: int, *, checksums: Mapping[str, bytes], to: str, shard_size: int) -> int:
    import webdataset
    from xxhash import xxh3_128_digest

    n_written = 0
    with webdataset.ShardWriter(f"{to}/{number}-%06d.tar", maxcount=shard_size, verbose=0) as writer:
        for sample in read_tars(tars):
            if (checksum := checksums.get(sample["__key__"])) is not None:
                if xxh3_128_digest(sample["jpg"]) != checksum:
                    raise ValueError(sample["__key__"])
                writer.write(sample)
                n_written += 1
    for path in Path(to).glob(f"{number}-*.tar"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            hashlib.file_digest(file, "sha256")
    return n_written


# --- Ingest -------------------------------------------------------------------------------------------------------------------


def read_with_datasets(pool: ProcessPoolExecutor, tars: Sequence[str]) -> list[list[tuple[Any, ...]]]:
    """Read tars with the webdataset loader of Hugging Face's datasets, and note hashes, size and caption of each sample."""
    return list(pool.map(_read_part_with_datasets, _shares(tars)))


def _read_part_with_datasets(tars: Sequence[str]) -> list[tuple[Any, ...]]:
    os.environ |= {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    import datasets

    loaded = datasets.load_dataset("webdataset", data_files={"train": list(tars)}, split="train", streaming=True)
    undecoded = loaded.cast_column("jpg", datasets.Image(decode=False))
    return [_note(row["__key__"], row["jpg"]["bytes"], row["txt"].encode()) for row in undecoded]


def read_with_webdataset(pool: ProcessPoolExecutor, tars: Sequence[str]) -> list[list[tuple[Any, ...]]]:
    """Read tars with webdataset, and note the same."""
    return list(pool.map(_read_part_with_webdataset, _shares(tars)))


def _read_part_with_webdataset(tars: Sequence[str]) -> list[tuple[Any, ...]]:
    return [_note(sample["__key__"], sample["jpg"], sample["txt"]) for sample in read_tars(tars)]


def _note(key: str, image: bytes, text: bytes) -> tuple[Any, ...]:
    with Image.open(io.BytesIO(image)) as opened:
        width, height = opened.size
    return key, hashlib.sha256(image).digest(), hashlib.sha256(text).digest(), text.decode(), width, height


# --- Scoring ------------------------------------------------------------------------------------------------------------------


def decode(data: bytes, side: int, canvas_side: int) -> NDArray[np.uint8]:
    """Return the pixels of an image: decoded at its smallest reduced size of at least `canvas_side`, then resized."""
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (canvas_side, canvas_side))
    how = Image.Resampling.BOX if canvas_side == side else Image.Resampling.BICUBIC
    return np.asarray(image.convert("RGB").resize((side, side), how))


def load_batches(
    tars: Sequence[str], side: int, batch: int, canvas_side: int
) -> Iterable[tuple[NDArray[np.uint8], list[str], list[str]]]:
    """Return batches of pixels, captions and keys from DataLoader workers that decode, one per core."""
    import webdataset
    from torch.utils.data import DataLoader

    pipeline = webdataset.WebDataset(list(tars), shardshuffle=False, empty_check=False).map(
        partial(_decoded, side=side, canvas_side=canvas_side)
    )
    batched = pipeline.batched(batch, collation_fn=_collate)
    return DataLoader(batched, batch_size=None, num_workers=n_cores(), prefetch_factor=4)


def _decoded(sample: dict[str, Any], side: int, canvas_side: int) -> tuple[NDArray[np.uint8], str, str]:
    return decode(sample["jpg"], side, canvas_side), sample["txt"].decode(), sample["__key__"]


def _collate(samples: Sequence[tuple[NDArray[np.uint8], str, str]]) -> tuple[NDArray[np.uint8], list[str], list[str]]:
    images, captions, keys = zip(*samples, strict=True)
    return np.stack(images), list(captions), list(keys)


# --- Selection ----------------------------------------------------------------------------------------------------------------


def select_with_duckdb(parquet: Path, out: Path, k: int, *, is_weighted: bool) -> None:
    """Write the k samples with the highest scores, or k samples by weighted sampling without replacement, with DuckDB."""
    import duckdb

    # Efraimidis and Spirakis 2006: the largest u^(1/w), by its logarithm.
    key = "ln(random()) / exp(-power((rank - 0.3) / 0.15, 2) / 2)" if is_weighted else "score"
    with duckdb.connect() as connection:
        connection.execute(f"SET threads = {n_cores()}; SET preserve_insertion_order = false")
        connection.execute(
            f"COPY (SELECT pair_hash, rank, score FROM '{parquet}' ORDER BY {key} DESC LIMIT {k}) TO '{out}' (FORMAT parquet)"
        )


def select_with_polars(parquet: Path, out: Path, k: int, *, is_weighted: bool) -> None:
    """Do the same with Polars, lazily and streaming."""
    import polars as pl

    frame = pl.scan_parquet(parquet)
    if not is_weighted:
        frame.top_k(k, by="score").sink_parquet(out)
        return
    whole = frame.collect()
    noise = pl.Series(np.log(np.random.default_rng(0).random(len(whole))))
    weight = (-(((pl.col("rank") - 0.3) / 0.15) ** 2) / 2).exp()
    whole.with_columns(key=noise / weight).top_k(k, by="key").drop("key").write_parquet(out)


# --- Reading for training -----------------------------------------------------------------------------------------------------


def write_mds(samples: Iterable[dict[str, Any]], to: Path) -> None:
    """Convert samples to the format of mosaicml-streaming."""
    import streaming

    with streaming.MDSWriter(out=str(to), columns={"jpg": "bytes", "txt": "bytes"}, size_limit=1 << 26) as writer:
        for sample in samples:
            writer.write({"jpg": sample["jpg"], "txt": sample["txt"]})


def read_mds(folder: Path, epoch: int, transform: Callable[[dict[str, Any]], Any], *, n_workers: int) -> Iterable[Any]:
    """Read a converted dataset in random order with mosaicml-streaming, as its documentation proposes."""
    import streaming
    from torch.utils.data import DataLoader

    class Transformed(streaming.StreamingDataset):  # type: ignore[misc]  # installed for this benchmark only
        def __getitem__(self, at: int) -> Any:
            return transform(super().__getitem__(at))

    dataset = Transformed(local=str(folder), shuffle=True, shuffle_seed=epoch, batch_size=BATCH)
    return DataLoader(dataset, batch_size=BATCH, num_workers=n_workers)


# --- Duplicates ---------------------------------------------------------------------------------------------------------------


def find_with_faiss(unit_ND: NDArray[np.float32], min_cosine: float, *, n_clusters: int | None) -> NDArray[np.int64]:
    """Return the vectors that are near an earlier one, with FAISS: all pairs, or those of the 2 nearest of some clusters."""
    import faiss

    faiss.omp_set_num_threads(n_cores())
    dim = unit_ND.shape[1]
    if n_clusters is None:
        index = faiss.IndexFlatIP(dim)
    else:
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, n_clusters, faiss.METRIC_INNER_PRODUCT)
        index.nprobe = 2
        index.train(unit_ND[: 64 * n_clusters])
    index.add(unit_ND)
    limits, _, found = index.range_search(unit_ND, min_cosine)
    row = np.repeat(np.arange(len(unit_ND)), np.diff(limits.astype(np.int64)))
    return np.unique(row[found < row])


def find_by_products(unit_ND: NDArray[np.float32], min_cosine: float) -> NDArray[np.int64]:
    """Return the same by blocks of matrix products."""
    found = []
    for start in range(0, len(unit_ND), 4096):
        block = unit_ND[start : start + 4096]
        product = block @ unit_ND[: start + len(block)].T
        row, other = np.nonzero(product >= min_cosine)
        found.append(start + np.unique(row[other < start + row]))
    return np.concatenate(found)
