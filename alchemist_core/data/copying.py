"""Copies chosen records into new tars, byte by byte. Knows neither why they were chosen nor any database.

The same records give the same bytes, whatever the order in which they come: samples lie in the order of their pair_hash,
which is no order of the crawl. Members keep their bytes; where a record came from stands in `manifest.parquet`.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

from alchemist_core.data.captions import BadTextError, read_annotation
from alchemist_core.data.copy_manifest import (
    MANIFEST_NAME,
    MaterializedShard,
    MemberSource,
    find_finished,
    hash_plan,
    write_copy_manifest,
)
from alchemist_core.data.pairs import hash_pair
from alchemist_core.data.storage import read_ranges
from alchemist_core.data.tar_writer import hash_tar, write_tar
from alchemist_core.data.tars import IMAGE_EXTS
from alchemist_core.errors import DataError

__all__ = ["MaterializedShard", "MemberSource", "materialize_shards"]

_CHUNK_SAMPLES = 256
# Hugging Face's reader takes the columns of a dataset from so many first samples.
_N_LEADING = 5


def materialize_shards(
    sources: Sequence[MemberSource],
    out_dir: Path,
    *,
    shard_size: int,
    report: Callable[[int, int, str], None] | None = None,
) -> list[MaterializedShard]:
    """Copy the records into `out_dir/NNNNNN.tar` and write the manifest last.

    What is already there and right is kept: a run after a finished one writes nothing, a run after a killed one goes on
    with the first shard that is missing. Pictures of different formats get the extension of the commonest, so that a
    dataset has one picture column; readers look at the content.

    Raises:
        DataError: A source's bytes are not those of its pair any more (nothing is written in its place), a pair comes
            twice, or the folder holds other tars.
    """
    samples = _order_samples(sources)
    plan = hash_plan(samples, shard_size)
    paths = [out_dir / f"{number:06d}.tar" for number in range(-(-len(samples) // shard_size))]
    _refuse_strangers(out_dir, paths)
    if (finished := find_finished(out_dir, plan)) is not None:
        return finished
    image_ext = _commonest_image_ext(samples)
    shards: list[MaterializedShard] = []
    for number, path in enumerate(paths):
        first = number * shard_size
        part = samples[first : first + shard_size]
        shards.append(_copy_shard(path, part, first, image_ext))
        if report is not None:
            report(first + len(part), len(samples), path.name)
    write_copy_manifest(out_dir / MANIFEST_NAME, samples, shards, plan)
    return shards


def _order_samples(sources: Sequence[MemberSource]) -> list[MemberSource]:
    samples = sorted(sources, key=lambda source: source.pair_hash)
    for before, after in pairwise(samples):
        if before.pair_hash == after.pair_hash:
            raise DataError(f"pair {after.pair_hash.hex()[:16]} is to be copied twice: {before.key} and {after.key}")
    n_members = max((len(sample.exts) for sample in samples), default=0)
    leading = list(islice((sample for sample in samples if len(sample.exts) == n_members), _N_LEADING))
    led = {sample.pair_hash for sample in leading}
    return leading + [sample for sample in samples if sample.pair_hash not in led]


def _commonest_image_ext(samples: Sequence[MemberSource]) -> str:
    counts = Counter(ext for sample in samples for ext in sample.exts if ext in IMAGE_EXTS)
    return min(counts, key=lambda ext: (-counts[ext], ext), default="jpg")


def _refuse_strangers(out_dir: Path, paths: Sequence[Path]) -> None:
    strangers = sorted(set(out_dir.glob("*.tar")) - set(paths))
    if strangers:
        raise DataError(
            f"{out_dir} holds {strangers[0].name} and {len(strangers) - 1} more tars of another copy; "
            "remove the folder, or name another one"
        )


def _copy_shard(path: Path, samples: Sequence[MemberSource], first: int, image_ext: str) -> MaterializedShard:
    shard = MaterializedShard(path, len(samples), b"", 0)
    if path.exists():
        digest = hash_tar(_read_entries(samples, first, image_ext))
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").digest() == digest:
                return replace(shard, sha256=digest)
    digest = write_tar(path, _read_entries(samples, first, image_ext))
    return replace(shard, sha256=digest, n_bytes_written=path.stat().st_size)


def _read_entries(samples: Sequence[MemberSource], first: int, image_ext: str) -> Iterator[tuple[str, bytes]]:
    for start in range(0, len(samples), _CHUNK_SAMPLES):
        chunk = samples[start : start + _CHUNK_SAMPLES]
        for position, (sample, parts) in enumerate(zip(chunk, _read_members(chunk), strict=True)):
            _verify_pair(sample, dict(zip(sample.exts, parts, strict=True)))
            for ext, data in zip(sample.exts, parts, strict=True):
                shown = image_ext if ext in IMAGE_EXTS else ext
                yield f"{first + start + position:09d}.{shown}", data


def _read_members(samples: Sequence[MemberSource]) -> list[list[bytes]]:
    """Read all members of some samples, each source shard opened once."""
    by_uri: dict[str, list[int]] = {}
    for position, sample in enumerate(samples):
        by_uri.setdefault(sample.uri, []).append(position)
    parts: list[list[bytes]] = [[] for _ in samples]
    for uri, positions in by_uri.items():
        spans = [span for at in positions for span in zip(samples[at].offsets, samples[at].sizes, strict=True)]
        data = iter(read_ranges(uri, spans))
        for at in positions:
            parts[at] = list(islice(data, len(samples[at].exts)))
    return parts


def _verify_pair(sample: MemberSource, members: dict[str, bytes]) -> None:
    """Refuse bytes that are not the pair that was registered, judged by its own name."""
    images = [data for ext, data in members.items() if ext in IMAGE_EXTS]
    try:
        caption = read_annotation(members.get("txt"), members.get("json")).caption
    except BadTextError as error:
        raise DataError(_describe_change(sample, str(error))) from error
    image_hash, caption_hash = (hashlib.sha256(data).digest() for data in (b"".join(images), caption.encode()))
    if hash_pair(image_hash, caption_hash) != sample.pair_hash:
        raise DataError(_describe_change(sample, "its picture or caption has another sha256"))


def _describe_change(sample: MemberSource, detail: str) -> str:
    return (
        f"{sample.uri}: record {sample.key!r} is not the pair {sample.pair_hash.hex()[:16]} that was registered ({detail}). "
        "Restore the shard, or retire it and select again."
    )
