"""A look at the shards under a root, without a store: how many there are, and the sizes, formats and captions of a sample of them."""

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, starmap
from pathlib import Path
from statistics import median

from alchemist_core.config import counted
from alchemist_core.errors import DataError, UnreachableRootError
from alchemist_core.shards.faults import Fault
from alchemist_core.shards.layouts.pictures import find_pictures
from alchemist_core.shards.samples import Reading, Sample, read_samples
from alchemist_core.shards.storage import ShardFile, is_s3, list_root, open_shard, remedy_of
from alchemist_core.shards.tars import NotATarError

N_TARS, N_RECORDS = 5, 200
"""Number of tars that are opened, and of records that are read from the beginning of each."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found under a root. Sides are the shorter sides of images in pixels; captions are measured in words."""

    n_tars: int
    n_bytes: int
    n_samples: int
    """Estimated from the bytes of the records that were read."""
    n_read: int
    n_faults: int
    side: int | None
    """Median; None if no record could be read."""
    smallest_side: int | None
    words: int | None
    """Median."""
    most_words: int | None
    """95% of the captions are not longer."""
    formats: dict[str, int]

    def describe(self) -> str:
        """Return the findings in one line.

        >>> Survey(2, 3_000_000, 110, 100, 1, 512, 64, 9, 20, {"jpeg": 99, "png": 1}).describe()
        '2 tars, about 110 samples, 0.003 GB. Of 101 read: median short side 512 px, 99% jpeg, median caption 9 words, 1 damaged'
        """
        size = f"{counted(self.n_tars, 'tar')}, about {counted(self.n_samples, 'sample')}, {self.n_bytes / 1e9:.3g} GB"
        if not self.n_read:
            return f"{size}. No record could be read"
        ((name, n),) = Counter(self.formats).most_common(1)
        damaged = f", {self.n_faults:,} damaged" if self.n_faults else ""
        return (
            f"{size}. Of {self.n_read + self.n_faults:,} read: median short side {self.side:,} px, {n / self.n_read:.0%} {name}, "
            f"median caption {self.words} words{damaged}"
        )


def survey_root(root_uri: str) -> Survey:
    """List the tars under a folder or s3:// address, and read the first records of a few of them, spread over the list.

    Raises:
        DataError: The root cannot be listed or has no tar, or none of its tars can be read.
    """
    shards = list_root(root_uri).shards
    if not shards:
        raise DataError(f"{root_uri} has no .tar file. {_remedy(root_uri)}")
    opened = _read_some(_spread(shards))
    records = [record for _, tar in opened for record in tar]
    samples = [record for record in records if isinstance(record, Sample)]
    n_bytes = sum(shard.size_bytes for shard in shards)
    sides = sorted(min(sample.width, sample.height) for sample in samples)
    words = sorted(len(sample.caption.split()) for sample in samples)
    return Survey(
        n_tars=len(shards),
        n_bytes=n_bytes,
        n_samples=round(n_bytes * len(samples) / max(1, sum(starmap(_bytes_read, opened)))),
        n_read=len(samples),
        n_faults=len(records) - len(samples),
        side=round(median(sides)) if sides else None,
        smallest_side=sides[0] if sides else None,
        words=round(median(words)) if words else None,
        most_words=words[int(0.95 * (len(words) - 1))] if words else None,
        formats=dict(Counter(sample.format for sample in samples)),
    )


def _remedy(root_uri: str) -> str:
    if is_s3(root_uri) or next(find_pictures(Path(root_uri)), None) is None:
        return "Give a folder or s3:// address of webdataset tars."
    out = f"{root_uri.rstrip('/')}-tars"
    words = ["alchemist", "corpus", "import", "--layout", "pictures", "--source", root_uri, "--out", out]
    return f"It holds pictures. Write them into tars, then give that folder: {shlex.join(words)}"


def _spread(shards: Sequence[ShardFile]) -> list[ShardFile]:
    step = max(1, len(shards) // N_TARS)
    return list(shards[::step][:N_TARS])


def _bytes_read(shard: ShardFile, records: Sequence[Sample | Fault]) -> int:
    """Return how many bytes of a tar its first records take: all of them if there are no more records."""
    if len(records) < N_RECORDS:
        return shard.size_bytes
    return max(
        (file.offset + file.size for one in records if isinstance(one, Sample) for file in one.record.files), default=0
    )


def _read_some(shards: Sequence[ShardFile]) -> list[tuple[ShardFile, list[Sample | Fault]]]:
    """Return the tars that can be read with their first records, none of a file that is not a tar; `ingest` reports the others.

    Raises:
        DataError: The store cannot be reached, or a tar cannot be read and no other has a record.
    """
    found: list[tuple[ShardFile, list[Sample | Fault]]] = []
    refusals: list[str] = []
    for shard in shards:
        try:
            with open_shard(shard.uri) as file:
                samples = read_samples(file, shard.size_bytes, Reading(has_perceptual_hash=False))
                found.append((shard, list(islice(samples, N_RECORDS))))
        except NotATarError:
            found.append((shard, []))
        except UnreachableRootError:
            raise
        except DataError as error:
            # The commands for shards find registered ones only.
            refusals.append(
                str(error).replace(remedy_of(shard.uri), "Correct its permissions, or give another folder.")
            )
    if refusals and not any(records for _, records in found):
        raise DataError(refusals[0])
    return found
