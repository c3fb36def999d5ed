"""Tiny datasets in the published layouts."""

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from alchemist_core.shards.tar_writer import write_tar


def png(level: int = 0) -> bytes:
    buffer = io.BytesIO()
    image = (
        Image.linear_gradient("L").resize((24, 24)).rotate(37 * level).point(lambda value: (value + 11 * level) % 256)
    )
    image.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def write_flux_reason(folder: Path, n: int, first: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    places = range(first, first + n)
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {
        "id": [f"aesthetics-part01-{place:08d}" for place in places],
        "image": pa.array([{"bytes": png(place), "path": None} for place in places], struct),
        "caption_style": pa.array([None] * n, pa.string()),
        "caption_detail": [f"a detailed picture {place}" for place in places],
        "bool_caption_style": [False] * n,
        "score_style": [7.5] * n,
    }
    path = folder / "fluxdb-aesthetics-part01-00000-of-00415.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=2)


def write_hpdv3(folder: Path) -> None:
    """Two samples; the rejected image of the second one is missing."""
    (folder / "images").mkdir(parents=True)
    for k in range(3):
        (folder / "images" / f"{k}.jpg").write_bytes(png(k))
    shared = {"choice_dist": [12, 1], "confidence": 0.97}
    first = {
        "prompt": "a cat",
        "path1": "images/0.jpg",
        "path2": "images/1.jpg",
        "model1": "flux",
        "model2": "sd3",
    } | shared
    models = {"model1": "midjourney", "model2": "midjourney", "choice_dist": None, "confidence": None}
    second = {"prompt": "a dog", "path1": "images/2.jpg", "path2": "images/lost.jpg"} | models
    (folder / "train.json").write_text(json.dumps([first, second]))


def write_mjhq(folder: Path, below: str = "") -> None:
    described = {"1b2": {"category": "indoor", "prompt": "a house"}, "0a1": {"category": "animals", "prompt": "a fox"}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "meta_data.json").write_text(json.dumps(described))
    for key, level in (("0a1", 1), ("1b2", 2)):
        path = folder / below / described[key]["category"] / f"{key}.jpg"
        path.parent.mkdir(parents=True)
        path.write_bytes(png(level))


def write_img2dataset(folder: Path) -> None:
    """One shard in img2dataset's layout: three images, and one failure that only the Parquet file lists, with unordered keys."""
    fetched = {"000000002": "two", "000000000": "zero", "000000003": None}
    entries, rows = [], []
    for place, (key, caption) in enumerate(fetched.items()):
        about = {
            "punsafe": 0.01, "similarity": 0.33, "caption": caption, "url": f"https://example.org/{key}", "key": key,
            "status": "success", "error_message": None, "width": 24, "height": 24, "original_width": 24,
            "original_height": 24, "exif": "{}", "sha256": "0" * 64,
        }  # fmt: skip
        members = ((".jpg", png(place)), (".json", json.dumps(about).encode()), (".txt", (caption or "").encode()))
        entries += [(key + ext, data) for ext, data in members]
        rows.append(about)
    rows.append(
        rows[0] | {"key": "000000001", "status": "failed_to_download", "error_message": "HTTP Error 404: Not Found"}
    )
    write_tar(folder / "00000.tar", entries)
    pq.write_table(pa.Table.from_pylist(rows), folder / "00000.parquet")
    (folder / "00000_stats.json").write_text(json.dumps({"count": 4, "successes": 3, "failed_to_download": 1}))


def write_img2dataset_parquet(folder: Path) -> None:
    """img2dataset's Parquet output: images in a column, a failed one is null."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"key": f"{k:09d}", "caption": f"picture {k}", "url": f"https://example.org/{k}", "jpg": data, "status": status}
        for k, (data, status) in enumerate([(png(1), "success"), (None, "failed_to_download"), (png(2), "success")])
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "00000.parquet")
