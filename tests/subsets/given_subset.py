"""Sources found without a store, materialized datasets of them, and the contents of a folder."""

from dataclasses import replace
from pathlib import Path

from alchemist_core.shards.samples import Reading, Sample, read_samples
from alchemist_core.shards.storage import list_shards, open_shard
from alchemist_core.subsets.materialized import Layout, MaterializedDataset, materialize_folder
from alchemist_core.subsets.member_table import MemberLocation
from alchemist_core.subsets.members import table_of


def find_sources(root: Path, *, has_content_hash: bool = True, has_checksum: bool = True) -> list[MemberLocation]:
    sources = []
    for shard in list_shards(str(root)):
        with open_shard(shard.uri) as file:
            for number, pair in enumerate(read_samples(file, shard.size_bytes, Reading(has_perceptual_hash=False))):
                assert isinstance(pair, Sample)
                exts, offsets, sizes = zip(*((m.ext, m.offset, m.size) for m in pair.record.files), strict=True)
                source = MemberLocation(shard.uri, pair.record.key, exts, offsets, sizes, pair.pair_hash, number / 10)
                hashes = {
                    "content_hash": pair.content_hash if has_content_hash else None,
                    "content_checksum": pair.content_checksum if has_content_hash and has_checksum else None,
                }
                sources.append(replace(source, repair=pair.repair, **hashes))
    return sources


def copy(
    sources: list[MemberLocation], out_dir: Path, *, shard_size: int = 5, seed: int | None = None, **options
) -> MaterializedDataset:
    return materialize_folder(table_of(sources), out_dir, Layout(shard_size, seed), **options)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def hidden(folder: Path) -> dict[str, bytes]:
    """What a copy that did not end has left beside the place where it was to be."""
    return files(folder.with_name(f".{folder.name}.part"))
