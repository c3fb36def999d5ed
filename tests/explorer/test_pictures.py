"""Pictures: read from the tar, verified, made again; a hostile image costs its own place and nothing else."""

import hashlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import Engine
from starlette.testclient import TestClient

from alchemist_core.explorer.app import make_app
from alchemist_core.shards.images import encode_picture
from alchemist_core.shards.pictures import PictureCache
from tests.explorer.conftest import Admits, jpeg_of, run, write_records
from tests.given import insert_rows

pytestmark = pytest.mark.db
HTML = b"<html><script>alert(1)</script></html>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'


def test_a_thumbnail_is_a_new_small_jpeg_without_metadata(client: TestClient) -> None:
    answer = client.get("/pictures/3/thumbnail")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    assert b"secret" in jpeg_of(2)
    assert b"secret" not in answer.content
    image = Image.open(io.BytesIO(answer.content))
    assert (image.format, image.size) == ("JPEG", (80, 40))
    assert np.abs(np.asarray(image, int) - (74, 182, 128)).max() < 8, "the colour of the third image"


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [((3000, 1500), 256, (256, 128)), ((20, 5000), 1600, (6, 1600)), ((9, 9), 256, (9, 9))],
)
def test_a_picture_fits_its_side_and_keeps_its_shape(
    size: tuple[int, int], side: int, expected: tuple[int, int]
) -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", size, (255, 0, 0, 0)).save(buffer, "PNG")
    picture = Image.open(io.BytesIO(encode_picture(buffer.getvalue(), side)))
    assert picture.size == expected
    assert picture.getpixel((0, 0)) == (255, 255, 255), "transparent parts are white, as a rater sees them"


def test_the_browser_asks_again_and_keeps_what_has_not_changed(client: TestClient) -> None:
    first = client.get("/pictures/4/thumbnail")
    assert first.headers["cache-control"] == "private, no-cache"
    again = client.get("/pictures/4/thumbnail", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/pictures/4/thumbnail").content == first.content, "from the cache"
    assert client.get("/pictures/4").headers["etag"] != first.headers["etag"]


def test_a_picture_that_was_taken_down_is_gone_from_the_cache_too(own_store: Engine) -> None:
    app = make_app(Admits())
    client = TestClient(app)
    assert client.get("/pictures/4/thumbnail").status_code == 200
    run(own_store, "INSERT INTO alchemist.takedowns (image_hash, reason, requested_by) SELECT image_hash, 'asked <b>', 'a' "
                   "FROM alchemist.samples WHERE sample_id = 4")  # fmt: skip
    answer = client.get("/pictures/4/thumbnail")
    assert (answer.status_code, answer.headers["content-type"]) == (410, "image/svg+xml")
    assert "asked &lt;b&gt;" in answer.text
    assert not list(app.state.pictures.cache._folder.glob("*/*.jpg"))
    app.state.pictures.close()


def test_there_is_no_picture_of_nothing(client: TestClient) -> None:
    for path in ("/pictures/1000", f"/pictures/{10**18 - 1}/thumbnail"):
        answer = client.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (404, "image/svg+xml")


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IEND", b"")
    )


HOSTILE = [
    HTML, SVG, b"GIF89a" + HTML, b"\xff\xd8\xff" + HTML, jpeg_of(1)[:200], png_of(60_000, 60_000), png_of(10, 10), b"BM" + bytes(60),
    b"RIFF\0\0\0\0WEBPVP8 " + bytes(30), b"II*\0" + bytes(100), bytes(1000),
]  # fmt: skip


def add_images(engine: Engine, images: list[bytes], root: Path, first_id: int = 1001) -> list[int]:
    given = write_records(
        root / "2026-01-03" / "c.tar", images, ["a caption"] * len(images), dataset_id=1, shard_id=3, first_id=first_id,
        crawl_date="2026-01-03",
    )  # fmt: skip
    with engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE alchemist.datasets SET root_uri = '{root}' WHERE dataset_id = 1")
        insert_rows(connection, given)
    return [sample["sample_id"] for sample in given["samples"]]


def test_hostile_images_cost_their_own_places_and_nothing_else(own_store: Engine, tmp_path: Path) -> None:
    # Their hashes are those of the samples, so that they are decoded.
    images = [image + b"%d" % number for number in range(9) for image in HOSTILE]
    good = [jpeg_of(number) for number in range(200, 204)]
    added = add_images(own_store, [*images, *good], tmp_path)
    app = make_app(Admits())
    client = TestClient(app)
    page = client.get("/samples?dataset=web&night=2026-01-03").text
    assert page.count("<img") == 48
    answers = [client.get(f"/pictures/{sample_id}/thumbnail") for sample_id in added]
    shown = [answer.headers["content-type"] == "image/jpeg" for answer in answers]
    assert shown == [False] * len(images) + [True] * len(good)
    for answer in answers[: len(images)]:
        assert (answer.status_code, answer.headers["content-type"]) == (422, "image/svg+xml")
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "alert" not in answer.text
    app.state.pictures.close()


def test_an_image_that_takes_too_long_ends_its_worker_and_is_not_tried_again(
    own_store: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (3000, 3000, 3), np.uint8)).save(buffer, "PNG")
    slow, other = add_images(own_store, [buffer.getvalue(), jpeg_of(1)], tmp_path)
    monkeypatch.setattr("alchemist_core.explorer.pictures.LIMIT_S", 0.01)
    app = make_app(Admits())
    client = TestClient(app)
    answer = client.get(f"/pictures/{slow}/thumbnail")
    assert (answer.status_code, "too_slow" in answer.text) == (422, True)
    assert app.state.pictures._refused
    monkeypatch.setattr("alchemist_core.explorer.pictures.LIMIT_S", 2.0)
    assert client.get(f"/pictures/{other}/thumbnail").status_code == 200
    app.state.pictures.close()


def test_a_tar_that_was_replaced_shows_no_picture_of_another_sample(own_store: Engine, tmp_path: Path) -> None:
    first, second = add_images(own_store, [jpeg_of(300), jpeg_of(300)[:-2] + b"\xff\xd9"], tmp_path)
    path = tmp_path / "2026-01-03" / "c.tar"
    path.write_bytes(path.read_bytes().replace(jpeg_of(300)[-60:], jpeg_of(7)[-60:], 1))
    app = make_app(Admits())
    client = TestClient(app)
    answer = client.get(f"/pictures/{first}")
    assert (answer.status_code, "another" in answer.text) == (502, True)
    path.unlink()
    assert client.get(f"/pictures/{second}").status_code == 502
    app.state.pictures.close()


def test_the_cache_keeps_what_was_shown_last_within_its_size(tmp_path: Path) -> None:
    cache = PictureCache(tmp_path / "pictures", most_bytes=10_000)
    keys = [hashlib.sha256(b"%d" % number).digest() for number in range(30)]
    for key in keys:
        cache.add(key, 256, bytes(1_000))
        assert cache.find(keys[0], 256) == bytes(1_000), "shown all the time"
    kept = list((tmp_path / "pictures").glob("*/*"))
    assert sum(path.stat().st_size for path in kept) <= 10_000
    assert cache.find(keys[-1], 256) is not None
    assert cache.find(keys[1], 256) is None
    assert cache.forget(keys[-1:]) == 1
    assert cache.find(keys[-1], 256) is None


def test_a_full_disk_costs_the_cache_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = PictureCache(tmp_path / "file" / "pictures")
    cache.add(bytes(32), 256, b"x")
    assert cache.find(bytes(32), 256) is None
