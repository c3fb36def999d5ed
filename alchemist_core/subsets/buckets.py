"""Buckets of aspect ratio and resolution: sizes that images are cropped to, so that all images of a batch have one shape.

Only metadata is read here. Letters: N images or members · B buckets · M members that one rank reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, NamedTuple

from pydantic import BeforeValidator, Field, model_validator

from alchemist_core.config import Config, split_commas
from alchemist_core.lazy import NDArray, np
from alchemist_core.selection.keys import Domain, mix64

MIN_AREA = 0.9
"""Smallest area of a bucket, as a share of its square's."""
Size = tuple[int, int]
"""Width and height in pixels."""


class Buckets(Config):
    """Sizes of about one area: all whose sides are multiples of a step, of 90% to 100% of the area of a square.

    Those of 1024 px with step 64 and ratio 4 are SDXL's. An image goes to the bucket of the nearest aspect ratio; of several squares, to
    the largest one whose bucket it fills without being enlarged, else to the smallest one.

    Source: NovelAI 2022, "Aspect ratio bucketing"; Podell et al. 2023 (SDXL), Appendix I, whose list lacks 1344 x 704.
    """

    squares: Annotated[tuple[Annotated[int, Field(ge=8, le=16384)], ...], BeforeValidator(split_commas)] = Field(
        (1024,),
        min_length=1,
        description="Sides in pixels of the squares, separated by commas: buckets have their areas, such as 256,512,1024",
    )
    step: int = Field(64, ge=1, le=1024, description="Widths and heights of buckets are multiples of it, in pixels")
    max_ratio: float = Field(
        4.0, ge=1, le=16, description="Largest ratio of the longer to the shorter side of a bucket"
    )

    @model_validator(mode="after")
    def _require_multiples(self) -> Buckets:
        if odd := [side for side in self.squares if side % self.step]:
            message = f"squares {', '.join(map(str, odd))} are no multiples of step {self.step}"
            raise ValueError(message)
        return self

    def sizes(self) -> list[Size]:
        """Return the buckets: of each square, the smallest first, from the tallest to the widest.

        >>> Buckets(squares=(256,)).sizes()
        [(128, 512), (192, 320), (256, 256), (320, 192), (512, 128)]
        """
        return [size for side in sorted(set(self.squares)) for size in self._sizes_of(side)]

    def _sizes_of(self, side: int) -> list[Size]:
        """Return the buckets of a square by their aspect ratio; of those with one ratio, the largest."""
        found: dict[Fraction, Size] = {}
        for width in range(self.step, int(side * self.max_ratio**0.5) + 1, self.step):
            for height in range(self.step, side * side // width + 1, self.step):
                is_of_area = width * height >= MIN_AREA * side * side
                if is_of_area and max(width, height) <= self.max_ratio * min(width, height):
                    # Heights ascend, and so do widths: the last one of a ratio is the largest.
                    found[Fraction(width, height)] = width, height
        return [found[ratio] for ratio in sorted(found)]

    def assign(self, width_N: NDArray[np.int64], height_N: NDArray[np.int64]) -> Assigned:
        """Return the bucket of each image, and how it is scaled and cropped to fill it."""
        sizes, first = self.sizes(), 0
        bucket_N, scale_N = np.zeros(len(width_N), np.int64), np.full(len(width_N), np.inf)
        for side in sorted(set(self.squares)):
            of_side = self._sizes_of(side)
            near_N = _nearest(width_N, height_N, of_side)
            wide_B, tall_B = np.array(of_side, np.int64).T
            new_scale_N = np.maximum(wide_B[near_N] / width_N, tall_B[near_N] / height_N)
            is_better_N = (new_scale_N <= 1) | (first == 0)
            bucket_N[is_better_N], scale_N[is_better_N] = near_N[is_better_N] + first, new_scale_N[is_better_N]
            first += len(of_side)
        area_B = np.array([width * height for width, height in sizes], np.float64)
        cropped_N = 1 - area_B[bucket_N] / (width_N * height_N * scale_N**2)
        return Assigned(sizes, bucket_N, scale_N, np.maximum(cropped_N, 0.0))


class Assigned(NamedTuple):
    """The bucket of each image."""

    sizes: list[Size]
    bucket_N: NDArray[np.int64]
    """Index into `sizes`."""
    scale_N: NDArray[np.float64]
    """Factor by which it is scaled to cover its bucket; above 1 it is enlarged."""
    cropped_N: NDArray[np.float64]
    """Share of its area that is cut off then, 0-1."""


def _nearest(width_N: NDArray[np.int64], height_N: NDArray[np.int64], sizes: list[Size]) -> NDArray[np.int64]:
    """Return the size of the nearest aspect ratio: two ratios meet at their geometric mean. The same on every machine."""
    ratio_B = np.array([width / height for width, height in sizes])
    # Division and square root are rounded in one way by IEEE 754; logarithms are not.
    return np.searchsorted(np.sqrt(ratio_B[:-1] * ratio_B[1:]), width_N / height_N)


class Batches(NamedTuple):
    """Batches in the order in which one rank reads them."""

    number_M: NDArray[np.int64]
    size_S: NDArray[np.int64]
    """Number of members of each batch."""

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self.size_S)

    def parts(self) -> list[NDArray[np.int64]]:
        """Return the members of each batch."""
        return np.split(self.number_M, np.cumsum(self.size_S)[:-1]) if len(self.size_S) else []


@dataclass(frozen=True, slots=True)
class Reader:
    """One of `world_size` processes that share an epoch, and the batch size of its loader.

    Without rank and number of ranks, `SubsetDataset` takes those of torch's process group.

    Raises:
        ValueError: Only one of them is given, or a value is out of its bounds.
    """

    rank: int | None = None
    world_size: int | None = None
    batch_size: int = 1

    def __post_init__(self) -> None:
        if (self.rank is None) != (self.world_size is None):
            raise ValueError(
                f"{self} has only one of rank and world_size. Give both (rank=0, world_size=1 reads the whole epoch), or neither "
                "for those of torch's process group."
            )
        rank, world_size = self.share
        if not 0 <= rank < world_size or self.batch_size < 1:
            raise ValueError(f"{self} is not valid: the rank is 0 to world_size - 1, the batch size at least 1.")

    @property
    def share(self) -> tuple[int, int]:
        """The rank and the number of ranks; without them that of a single process."""
        return self.rank or 0, 1 if self.world_size is None else self.world_size


def plan_batches(order_M: NDArray[np.int64], bucket_N: NDArray[np.int64], reader: Reader, *, seed: int) -> Batches:
    """Return the batches of one rank: each member is in one batch of one rank, and all members of a batch are of one bucket.

    At each step all ranks read batches of the same bucket. They differ by at most one sample and one batch, at the end of the epoch: a
    bucket's last members are shared, and those of which there are fewer than ranks come last.

    Args:
        order_M: Members in the order of the epoch, on every rank the same.
        bucket_N: Bucket of every member.
        reader: The rank.
        seed: Seed of the order of the batches in the epoch.
    """
    (rank, world_size), batch_size = reader.share, reader.batch_size
    whole: list[NDArray[np.int64]] = []
    few: list[NDArray[np.int64]] = []
    rest: list[NDArray[np.int64]] = []
    for members in _by_bucket(order_M, bucket_N):
        n_whole = len(members) // (world_size * batch_size)
        together, left = np.split(members, [n_whole * world_size * batch_size])
        whole += list(together.reshape(n_whole, world_size, batch_size)[:, rank])
        if len(left):
            (rest if len(left) >= world_size else few).append(left)
    # The next rank in turn gets the next sample that cannot be shared out.
    shares, turn = [], 0
    for left in [*few, *rest]:
        shares.append(left[(rank - turn) % world_size :: world_size])
        turn += len(left)
    steps = [*whole, *shares[len(few) :]]
    order = np.argsort(mix64(Domain.BUCKETS, seed, np.arange(len(steps))), kind="stable")
    batches = [steps[at] for at in order] + [share for share in shares[: len(few)] if len(share)]
    number_M = np.concatenate(batches) if batches else np.empty(0, np.int64)
    return Batches(number_M, np.array([len(batch) for batch in batches], np.int64))


def _by_bucket(order_M: NDArray[np.int64], bucket_N: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield the members of each bucket, in the order of the epoch."""
    of_bucket_M = bucket_N[order_M]
    sorted_M = order_M[np.argsort(of_bucket_M, kind="stable")]
    _, counts = np.unique(of_bucket_M, return_counts=True)
    yield from np.split(sorted_M, np.cumsum(counts)[:-1]) if len(counts) else []
