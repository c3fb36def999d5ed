"""Buckets of aspect ratio: usual sizes, the nearest ratio, batches of one shape, each sample once per epoch however it is read."""

import io
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from torch import distributed
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.data import DataLoader

from alchemist_core.errors import DataError
from alchemist_core.shards.images import decode_covering
from alchemist_core.store.manifests import Manifest, hash_rows
from alchemist_core.subsets.buckets import Batches, Buckets, Reader, plan_batches
from alchemist_core.subsets.dataset import SubsetDataset, crop_to_bucket
from alchemist_core.subsets.members import LocatedSubset, table_of
from tests.subsets.given_subset import find_sources

# The portrait half of the list in the appendix of the paper about SDXL, with its square.
SDXL = (
    (512, 2048), (512, 1984), (512, 1920), (512, 1856), (576, 1792), (576, 1728), (576, 1664), (640, 1600), (640, 1536), (704, 1472),
    (704, 1408), (704, 1344), (768, 1344), (768, 1280), (832, 1216), (832, 1152), (896, 1152), (896, 1088), (960, 1088), (960, 1024),
    (1024, 1024),
)  # fmt: skip
SHAPES = ((64, 64), (96, 48), (40, 80), (300, 100))
SMALL = Buckets(squares=(32, 64), step=16, max_ratio=2)
N, BATCH = 75, 4


def test_the_buckets_of_1024_pixels_are_those_of_sdxl() -> None:
    assert set(Buckets().sizes()) == {*SDXL, *((height, width) for width, height in SDXL)}


@given(
    side=st.integers(1, 40), step=st.sampled_from((8, 16, 64)), max_ratio=st.floats(1, 8),
    width=st.integers(1, 9000), height=st.integers(1, 9000),
)  # fmt: skip
@settings(deadline=None, max_examples=50)
def test_an_image_goes_to_the_nearest_ratio_and_is_cropped_in_one_direction_alone(
    side: int, step: int, max_ratio: float, width: int, height: int
) -> None:
    buckets = Buckets(squares=(side * step,), step=step, max_ratio=max_ratio)
    sizes = buckets.sizes()
    assert all(wide % step == tall % step == 0 and wide * tall <= (side * step) ** 2 for wide, tall in sizes)
    assert all(max(size) <= max_ratio * min(size) for size in sizes)
    found = buckets.assign(np.array([width]), np.array([height]))
    wide, tall = sizes[int(found.bucket_N[0])]
    distance = lambda size: max(Fraction(*size) / Fraction(width, height), Fraction(width, height) / Fraction(*size))  # noqa: E731
    assert float(distance((wide, tall))) <= float(min(map(distance, sizes))) * (1 + 1e-12)
    scale = max(Fraction(wide, width), Fraction(tall, height))
    assert found.scale_N[0] == pytest.approx(float(scale))
    assert found.cropped_N[0] == pytest.approx(float(1 - Fraction(wide * tall) / (width * height * scale**2)), abs=1e-9)


def test_an_image_goes_to_the_largest_square_that_does_not_enlarge_it() -> None:
    found = Buckets(squares=(256, 512, 1024)).assign(np.array([2000, 1023, 600, 100]), np.array([2000, 1024, 600, 90]))
    assert [found.sizes[at] for at in found.bucket_N] == [(1024, 1024), (512, 512), (512, 512), (256, 256)]
    assert (found.scale_N > 1).tolist() == [False, False, False, True]


def test_squares_that_are_no_multiples_of_the_step_are_refused() -> None:
    with pytest.raises(ValidationError, match="squares 100 are no multiples of step 64"):
        Buckets(squares=(100, 128))


@given(
    buckets=st.lists(st.integers(0, 5), max_size=120),
    world_size=st.integers(1, 4),
    batch_size=st.integers(1, 5),
    seed=st.integers(0, 2**53),
)
@settings(deadline=None, max_examples=50)
def test_every_member_is_in_one_batch_of_one_rank_and_ranks_read_the_same_bucket_at_each_step(
    buckets: list[int], world_size: int, batch_size: int, seed: int
) -> None:
    bucket_N, order = np.array(buckets, np.int64), np.random.default_rng(seed).permutation(len(buckets))
    plans: list[Batches] = [
        plan_batches(order, bucket_N, Reader(rank, world_size, batch_size), seed=seed) for rank in range(world_size)
    ]
    assert sorted(np.concatenate([plan.number_M for plan in plans]).tolist()) == list(range(len(buckets)))
    steps = [[set(bucket_N[part].tolist()) for part in plan.parts()] for plan in plans]
    assert all(len(found) == 1 for plan in steps for found in plan)
    assert all(1 <= size <= batch_size for plan in plans for size in plan.size_S)
    for lengths in ([len(plan) for plan in plans], [len(plan.number_M) for plan in plans]):
        assert max(lengths) - min(lengths) <= 1
    # Buckets with fewer members left than ranks come last, and only there ranks can differ.
    n_few = sum(0 < int(n) % (world_size * batch_size) < world_size for n in np.bincount(bucket_N, minlength=1))
    n_aligned = min(map(len, steps)) - n_few
    assert all(len({tuple(plan[at]) for plan in steps}) == 1 for at in range(max(n_aligned, 0)))
    # Of each bucket, at most one batch is not full.
    assert all(int((plan.size_S < batch_size).sum()) <= len(set(buckets)) for plan in plans)


@pytest.fixture(scope="module")
def crawl(tar, record, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    for shard in range(3):
        entries = []
        for n in range(25 * shard, 25 * shard + 25):
            for name, data in record(f"key{n}", n):
                entries.append((name, image(SHAPES[n % len(SHAPES)], n) if name.endswith("png") else data))
        (root / f"{shard:06d}.tar").write_bytes(tar(entries))
    return root


def image(size: tuple[int, int], number: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, (number, 100, 200)).save(data, "png")
    return data.getvalue()


def located(crawl: Path, taken_down: tuple[int, ...] = ()) -> LocatedSubset:
    sources = sorted(find_sources(crawl), key=lambda source: source.pair_hash)
    manifest = Manifest(hash_rows([source.pair_hash for source in sources]), np.zeros(N), np.zeros(N))
    members = table_of(sources)
    members.table = members.table.filter(np.isin(np.arange(N), taken_down, invert=True))
    sizes = [SHAPES[int(source.key.removeprefix("key")) % len(SHAPES)] for source in sources]
    return LocatedSubset(manifest, members, np.array(sizes, np.int32))


def dataset_of(subset: LocatedSubset, rank: int = 0, world_size: int = 1, **options: Any) -> SubsetDataset:
    return SubsetDataset(subset, seed=7, reader=Reader(rank, world_size, BATCH), buckets=SMALL, **options)


def read(dataset: SubsetDataset, n_workers: int = 0) -> list[list[tuple[str, tuple[int, int]]]]:
    loader = DataLoader(dataset, batch_size=None, num_workers=n_workers, collate_fn=keys)
    assert len(loader) == len(dataset)
    return list(loader)


def keys(samples: list[dict[str, Any]]) -> list[tuple[str, tuple[int, int]]]:
    return [(sample["__key__"], sample["bucket"]) for sample in samples]


EVERY = sorted(f"key{n}" for n in range(N))


@pytest.mark.parametrize("n_workers", [0, 2])
def test_an_epoch_reads_each_sample_once_in_batches_of_one_bucket_with_any_number_of_workers(
    crawl: Path, n_workers: int
) -> None:
    dataset = dataset_of(located(crawl))
    batches = read(dataset, n_workers)
    assert sorted(key for batch in batches for key, _ in batch) == EVERY
    assert all(len({bucket for _, bucket in batch}) == 1 for batch in batches)
    # Images of 40 x 80 would be enlarged to 48 x 80.
    assert {bucket for batch in batches for _, bucket in batch} == {(64, 64), (80, 48), (32, 32)}
    assert batches == read(dataset_of(located(crawl)))
    dataset.set_epoch(1)
    assert read(dataset) != batches


def test_a_reader_that_gives_only_its_batch_size_has_the_rank_of_the_process_group(crawl: Path) -> None:
    distributed.init_process_group("fake", rank=1, world_size=3, store=FakeStore())
    try:
        of_group = SubsetDataset(located(crawl), buckets=SMALL, reader=Reader(batch_size=BATCH))
        assert of_group.reader == SubsetDataset(located(crawl), reader=Reader(1, 3, BATCH)).reader
        assert SubsetDataset(located(crawl)).reader == Reader(1, 3)
        assert SubsetDataset(located(crawl), reader=Reader(0, 1)).reader == Reader(0, 1)
    finally:
        distributed.destroy_process_group()
    assert SubsetDataset(located(crawl), reader=Reader(batch_size=BATCH)).reader == Reader(0, 1, BATCH)


@pytest.mark.parametrize("half", [{"rank": 0}, {"rank": 1}, {"world_size": 1}, {"world_size": 3}])
def test_a_reader_with_only_one_of_rank_and_number_of_ranks_is_refused(half: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(half))}={half[next(iter(half))]}.* Give both"):
        Reader(**half, batch_size=BATCH)


def test_ranks_share_an_epoch_without_loss(crawl: Path) -> None:
    shares = [read(dataset_of(located(crawl), rank, 3), rank % 2) for rank in range(3)]
    assert sorted(key for share in shares for batch in share for key, _ in batch) == EVERY
    assert sorted(sum(map(len, share)) for share in shares) == [25, 25, 25]


def test_a_loader_that_takes_several_batches_at_a_time_gets_them_in_the_order_of_the_epoch(crawl: Path) -> None:
    taken = DataLoader(dataset_of(located(crawl)), batch_size=3, num_workers=2, collate_fn=list)
    assert [keys(batch) for part in taken for batch in part] == read(dataset_of(located(crawl)))


@pytest.mark.parametrize("n_workers", [0, 2])
@pytest.mark.parametrize("n_batches", [0, 1, 7, 20])
def test_a_broken_off_epoch_resumes_after_its_last_batch(crawl: Path, n_batches: int, n_workers: int) -> None:
    whole = read(dataset_of(located(crawl, (3, 40))))
    dataset = dataset_of(located(crawl, (3, 40)))
    before = whole[:n_batches]
    state = json.loads(json.dumps(dataset.state_after(sum(map(len, before)))))
    resumed = dataset_of(located(crawl, (3, 40)))
    resumed.load_state_dict(state)
    assert len(resumed) == len(whole), "the length of the epoch, also in its middle"
    assert before + read(resumed, n_workers) == whole


def test_a_loader_with_states_resumes_within_a_workers_share(crawl: Path) -> None:
    dataset = dataset_of(located(crawl))
    iterator = iter(dataset)
    before = [keys(next(iterator)) for _ in range(5)]
    resumed = dataset_of(located(crawl))
    resumed.load_state_dict(json.loads(json.dumps(dataset.state_dict())))
    assert before + [keys(batch) for batch in resumed] == read(dataset_of(located(crawl)))


def test_a_takedown_in_mid_epoch_moves_no_other_sample_to_another_batch(crawl: Path) -> None:
    whole = read(dataset_of(located(crawl)))
    state = dataset_of(located(crawl)).state_after(sum(map(len, whole[:6])))
    gone = [sample for batch in whole[6:] for sample in batch][:5]
    subset = located(crawl)
    names = subset.members.table.column("key").to_pylist()
    resumed = dataset_of(located(crawl, tuple(names.index(key) for key, _ in gone)))
    resumed.load_state_dict(state)
    assert read(resumed) == [
        left for batch in whole[6:] if (left := [sample for sample in batch if sample not in gone])
    ]


@pytest.mark.parametrize("n_workers", [0, 2])
def test_a_batch_of_which_all_samples_were_taken_down_in_mid_epoch_is_no_workers_turn(
    crawl: Path, n_workers: int
) -> None:
    whole = read(dataset_of(located(crawl)))
    state = dataset_of(located(crawl)).state_after(sum(map(len, whole[:6])))
    names = located(crawl).members.table.column("key").to_pylist()
    subset = located(crawl, tuple(names.index(key) for at in (6, 8) for key, _ in whole[at]))
    for n_more in (0, 1, 2):
        resumed = dataset_of(subset)
        resumed.load_state_dict(state)
        left = whole[7:8] + whole[9:]
        assert read(resumed, n_workers) == left
        more = json.loads(json.dumps(resumed.state_after(sum(map(len, left[:n_more])))))
        again = dataset_of(subset)
        again.load_state_dict(more)
        assert read(again, n_workers) == left[n_more:]


def test_a_state_of_other_buckets_or_within_a_batch_is_refused(crawl: Path) -> None:
    state = dataset_of(located(crawl)).state_after(0)
    other = SubsetDataset(located(crawl), seed=7, reader=Reader(batch_size=BATCH), buckets=Buckets(squares=(64,)))
    with pytest.raises(DataError, match="its buckets is"):
        other.load_state_dict(state)
    with pytest.raises(DataError, match="not a number of whole batches"):
        other.state_after(1)


def test_the_images_stay_bytes_unless_the_transform_crops_them(crawl: Path) -> None:
    batch = next(iter(dataset_of(located(crawl))))
    assert "image" not in batch[0]
    assert batch[0]["png"].startswith(b"\x89PNG")
    for batch in dataset_of(located(crawl), transform=crop_to_bucket):
        (shape,) = {sample["image"].shape for sample in batch}
        assert shape == (batch[0]["bucket"][1], batch[0]["bucket"][0], 3)
        number = int(batch[0]["__key__"].removeprefix("key"))
        assert batch[0]["image"][0, 0].tolist() == [number, 100, 200]


def test_a_crop_is_of_the_middle_and_covers_the_bucket() -> None:
    pixels = np.zeros((100, 300, 3), np.uint8)
    pixels[:, 100:200] = 255
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "png")
    cropped = decode_covering(data.getvalue(), 50, 50)
    assert cropped.shape == (50, 50, 3)
    assert cropped.min() > 250 or cropped[:, 3:-3].min() > 250
