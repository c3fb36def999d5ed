"""Tars for the rehearsal: a few samples of a folder of real tars, or synthetic scenes where none is given."""

import tarfile
from collections.abc import Iterator
from pathlib import Path

from alchemist_core.local.scenes import draw_scenes
from alchemist_core.shards.tar_writer import write_tar

PARTS = {"train": 32, "validation": 24, "test": 16}
NIGHT = "2026-01-01"
SIDE = 256


def write_parts(folder: Path, corpus: Path | None) -> str:
    """Write `PARTS` into folders of these names, and return in words what they hold."""
    if not folder.exists():
        unfinished = folder.with_name(f".{folder.name}")
        if corpus is None:
            draw_scenes(
                unfinished,
                n_train=PARTS["train"],
                n_validation=PARTS["validation"],
                n_test=PARTS["test"],
                side=SIDE,
                shard_size=48,
            )
        else:
            _copy_samples(unfinished, corpus)
        unfinished.rename(folder)
    return (
        f"samples of {corpus}"
        if corpus is not None
        else f"synthetic scenes of {SIDE} px, because CORPUS names no folder of real tars"
    )


def _copy_samples(folder: Path, corpus: Path) -> None:
    records = _read_records(corpus)
    for part, n_samples in PARTS.items():
        place = folder / part / NIGHT if part == "train" else folder / part
        place.mkdir(parents=True)
        entries = [entry for _, record in zip(range(n_samples), records, strict=False) for entry in record]
        write_tar(place / "000000.tar", entries)


def _read_records(corpus: Path) -> Iterator[list[tuple[str, bytes]]]:
    """Yield the files of each record that has an image and a caption, from tars in the order of their names."""
    for path in sorted(corpus.glob("*.tar")):
        record: list[tuple[str, bytes]] = []
        with tarfile.open(path) as tar:
            for member in tar:
                key = member.name.partition(".")[0]
                if record and record[0][0].partition(".")[0] != key:
                    yield record
                    record = []
                file = tar.extractfile(member)
                if file is not None:
                    record.append((member.name, file.read()))
        if record:
            yield record
