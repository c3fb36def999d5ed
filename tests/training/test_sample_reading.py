import hashlib
from pathlib import Path

import numpy as np
import pytest

from alchemist_core.errors import ChangedShardError
from alchemist_core.store.sample_table import LocatedSample, SampleTable, spool_samples
from alchemist_core.training import sample_reading
from alchemist_core.training.sample_reading import StoredSamples, read_images
from tests.located_samples import located
from tests.shards.conftest import draw_image

SIDE = 16


def store_pictures(path: Path, pictures: list[bytes], shard_id: int) -> list[LocatedSample]:
    """Rows of the store for a file of concatenated images."""
    path.write_bytes(b"".join(pictures))
    offsets = np.cumsum([0, *map(len, pictures)]).tolist()
    return [
        located(
            number, root_uri=str(path.parent), uri=path.name, shard_id=shard_id, image_hash=hashlib.sha256(picture).digest(),
            caption=f"picture {number} of {path.name}", file_exts=["jpg"], file_offsets=[offset], file_sizes=[len(picture)],
        )
        for number, (offset, picture) in enumerate(zip(offsets, pictures, strict=False))
    ]  # fmt: skip


@pytest.fixture
def rows(tmp_path: Path) -> SampleTable:
    """Twenty samples of two shards in mixed order; one image cannot be decoded."""
    pictures = [draw_image(seed, kind="JPEG", size=(40, 30)) for seed in range(20)]
    pictures[7] = b"no picture"
    b, a = store_pictures(tmp_path / "b.tar", pictures[:10], 2), store_pictures(tmp_path / "a.tar", pictures[10:], 1)
    return spool_samples([[row for both in zip(b, a, strict=True) for row in both]])


def test_images_come_some_at_a_time_in_the_order_of_the_shards(
    rows: SampleTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_reading, "_CHUNK", 6)
    chunks = list(StoredSamples(rows, SIDE, lambda *_: None).read(np.arange(20)))
    assert [len(images) for _, images in chunks] == [6, 6, 6, 1]
    uris = [rows[place].uri for places, _ in chunks for place in places]
    assert uris == ["a.tar"] * 10 + ["b.tar"] * 9


def test_an_image_that_cannot_be_decoded_is_left_out_and_the_others_keep_their_captions(
    rows: SampleTable,
) -> None:
    found = read_images(rows, SIDE, lambda *_: None)
    kept = [place for place, row in enumerate(rows) if row.caption != "picture 7 of b.tar"]
    assert found.captions == [rows[place].caption for place in kept]
    one_by_one = [read_images(rows[place : place + 1], SIDE, lambda *_: None).images[0] for place in kept]
    assert np.array_equal(found.images, np.stack(one_by_one))


@pytest.mark.parametrize("is_costly", [False, True])
@pytest.mark.parametrize("damage", ["one byte", "no picture", "another picture"])
def test_an_image_with_other_bytes_than_registered_is_an_error(
    rows: SampleTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str, is_costly: bool
) -> None:
    """Its codes would be cached under the registered hash, and stay after the shard was restored."""
    monkeypatch.setattr(sample_reading, "is_costly", lambda _: is_costly)
    at = next(place for place, row in enumerate(rows) if row.uri == "a.tar" and row.file_offsets[0])
    start, size = rows[at].file_offsets[0], rows[at].file_sizes[0]
    whole = (tmp_path / "a.tar").read_bytes()
    image = whole[start : start + size]
    other = {
        "one byte": image[:-9] + bytes([image[-9] ^ 1]) + image[-8:],
        "no picture": bytes(size),
        "another picture": draw_image(99, kind="JPEG", size=(40, 30)).ljust(size, b"\0")[:size],
    }[damage]
    (tmp_path / "a.tar").write_bytes(whole[:start] + other + whole[start + size :])
    with pytest.raises(
        ChangedShardError, match=rf"a\.tar is not the tar .* bytes {start} to {start + size} has another"
    ):
        read_images(rows, SIDE, lambda *_: None)
    (tmp_path / "a.tar").write_bytes(whole)
    assert len(read_images(rows, SIDE, lambda *_: None).images) == 19


def test_only_what_is_asked_for_is_read(rows: SampleTable) -> None:
    seen: list[tuple[int, int, str]] = []
    ((places, images),) = StoredSamples(rows, SIDE, lambda *news: seen.append(news)).read(np.array([3, 2]))
    assert sorted(places.tolist()) == [2, 3]
    assert images.shape == (2, SIDE, SIDE, 3)
    assert seen[-1] == (2, 2, "read")
