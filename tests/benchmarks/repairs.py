"""Share of damaged records that repairs recover; no repair may give a wrong caption. Good records are damaged, so the truth is known.

`python -m tests.benchmarks.repairs [--records 1000]`, about a minute; writes `.alchemist/bench/repairs.json`. Captions are one to three
names of emoji from Unicode in each language, as short as those of a crawl. A repair is wrong if the record reads as another caption
or image than before. A quarantined record is not recovered, but not wrong.
"""

import argparse
import io
import json
import random
import tarfile
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import emoji
import numpy as np
from PIL import Image

from alchemist_core.shards.images import decode_image
from alchemist_core.shards.samples import Sample, read_samples, repair_sample
from tests.benchmarks.rows import Row, write_rows

WESTERN = ("fr", "de", "es", "it", "pt")
# What a caption is written in, its encoding, and whether it is one of those that are repaired.
ENCODINGS: tuple[tuple[tuple[str, ...], str, bool], ...] = (
    (WESTERN, "latin-1", True), (WESTERN, "cp1252", True), (("ru",), "cp1251", True), (("ru",), "koi8_r", True),
    (("ja",), "shift_jis", True), (("ru", "ja", "fr", "ko"), "utf-16", True), (("tr",), "cp1254", False), (("ru",), "cp866", False),
    (("ja",), "euc_jp", False), (("ko",), "euc_kr", False), (("zh",), "gbk", False), (("ar",), "cp1256", False),
    (WESTERN, "mac_roman", False), (WESTERN, "cp850", False),
)  # fmt: skip
CONTROL_SIGNS = "\x00\x01\x07\x08\x1b\x1f\x7f"
Files = dict[str, bytes]


class Damaged(NamedTuple):
    """The files of a record after the damage, and what it is to read as."""

    files: Files
    caption: str
    image: bytes


class Tally(NamedTuple):
    """What became of the records of one kind of damage."""

    n_records: int
    n_recovered: int
    wrong: list[str]


@cache
def names(language: str) -> list[str]:
    """Return the names of all emoji in a language."""
    emoji.config.load_language(language)
    found = {entry[language].strip(":").replace("_", " ") for entry in emoji.EMOJI_DATA.values() if entry.get(language)}
    return sorted(found)


def caption_of(rng: random.Random, language: str) -> str:
    """Join one to three names."""
    return " ".join(rng.sample(names(language), rng.choice((1, 1, 2, 3))))


def is_utf8(data: bytes) -> bool:
    """Tell whether the bytes are no damage at all."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def encoded_in(languages: Sequence[str], encoding: str) -> Callable[[random.Random, bytes], Damaged]:
    """Write captions of some languages in an encoding."""

    def damage(rng: random.Random, image: bytes) -> Damaged:
        while True:
            caption = caption_of(rng, rng.choice(languages))
            try:
                data = caption.encode(encoding)
            except UnicodeEncodeError:
                continue
            if not is_utf8(data):
                return Damaged({"png": image, "txt": data}, caption, image)

    return damage


def any_caption(rng: random.Random) -> str:
    """Return a caption of any language."""
    return caption_of(rng, rng.choice(("en", *WESTERN, "ru", "ja", "ko", "zh", "ar")))


def with_control_signs(rng: random.Random, image: bytes) -> Damaged:
    """Put control signs between the letters."""
    caption = any_caption(rng)
    letters = list(caption)
    for _ in range(rng.randint(1, 3)):
        letters.insert(rng.randint(0, len(letters)), rng.choice(CONTROL_SIGNS))
    return Damaged({"png": image, "txt": "".join(letters).encode()}, caption, image)


def with_broken_json(rng: random.Random, image: bytes) -> Damaged:
    """Cut the .json anywhere."""
    caption = any_caption(rng)
    whole = json.dumps({"url": "https://example.org", "caption": caption, "tags": ["a"]}, ensure_ascii=False).encode()
    return Damaged({"png": image, "txt": caption.encode(), "json": whole[: rng.randrange(len(whole))]}, caption, image)


def with_nan(rng: random.Random, image: bytes) -> Damaged:
    """Write numbers into the .json that no JSON has."""
    caption = any_caption(rng)
    about = {"caption": caption, "aesthetic": rng.choice((float("nan"), float("inf"), -float("inf")))}
    return Damaged({"png": image, "json": json.dumps(about).encode()}, caption, image)


def with_padding(rng: random.Random, image: bytes) -> Damaged:
    """Pad the .json with NUL."""
    caption = any_caption(rng)
    return Damaged(
        {"png": image, "json": json.dumps({"caption": caption}).encode() + bytes(rng.randint(1, 9))}, caption, image
    )


def animated(rng: random.Random, image: bytes) -> Damaged:
    """Put further frames behind the image."""
    caption, kind = any_caption(rng), rng.choice(("PNG", "WEBP", "GIF"))
    options = {"lossless": True} if kind == "WEBP" else {}
    frames = [Image.open(io.BytesIO(data)).convert("RGB") for data in (image, drawn_image(rng))]
    still, moving = io.BytesIO(), io.BytesIO()
    frames[0].save(still, kind, **options)
    frames[0].save(moving, kind, save_all=True, append_images=frames[1:], **options)
    return Damaged({"png": moving.getvalue(), "txt": caption.encode()}, caption, still.getvalue())


def undamaged(rng: random.Random, image: bytes) -> Damaged:
    """Leave the record as it is."""
    caption = any_caption(rng)
    return Damaged({"png": image, "txt": caption.encode(), "json": b'{"url": "https://example.org"}'}, caption, image)


def drawn_image(rng: random.Random) -> bytes:
    """Draw a small image of few colours, which every format keeps."""
    pixels = np.random.default_rng(rng.getrandbits(32)).choice(np.array([0, 128, 255], np.uint8), (12, 12, 3))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def try_out(damage: Callable[[random.Random, bytes], Damaged], n_records: int, seed: int) -> Tally:
    """Damage records, read them as ingest does, and hand them on as a reader of a subset does."""
    rng = random.Random(seed)
    records = [damage(rng, drawn_image(rng)) for _ in range(n_records)]
    raw = make_tar(records)
    n_recovered, wrong = 0, []
    for pair in read_samples(io.BytesIO(raw), len(raw)):
        if not isinstance(pair, Sample):
            continue
        record = records[int(pair.record.key)]
        if (problem := what_is_wrong(pair, record)) is None:
            n_recovered += 1
        else:
            wrong.append(problem)
    return Tally(n_records, n_recovered, wrong)


def what_is_wrong(pair: Sample, record: Damaged) -> str | None:
    """Compare what ingest stores, and what a reader gets, with the truth."""
    sample = repair_sample(dict(record.files), pair.repair)
    read = [pair.caption, *([sample["txt"].decode("utf-8-sig").strip()] if "txt" in sample else [])]
    read += [json.loads(sample["json"])["caption"]] if "txt" not in sample else []
    if any(caption != record.caption for caption in read):
        return f"{record.caption!r} reads as {read!r}"
    truth = decode_image(record.image, 12)
    if not all((decode_image(data, 12) == truth).all() for data in (record.files["png"], sample["png"])):
        return f"another image for {record.caption!r}"
    return None


def make_tar(records: Sequence[Damaged]) -> bytes:
    """Put the records into a tar, their numbers as keys."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number, record in enumerate(records):
            for ext, data in record.files.items():
                info = tarfile.TarInfo(f"{number:06d}.{ext}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def measure(n_records: int, seed: int = 0) -> list[Row]:
    """Try every kind of damage on so many records."""
    rows: list[Row] = []
    for languages, encoding, is_repaired in ENCODINGS:
        tally = try_out(encoded_in(languages, encoding), n_records, seed)
        rows += rows_of(f"caption in {encoding} ({', '.join(languages)})", tally, is_repaired=is_repaired)
    kinds = (with_control_signs, with_broken_json, with_nan, with_padding, animated, undamaged)
    for damage in kinds:
        rows += rows_of(damage.__name__.replace("_", " "), try_out(damage, n_records, seed), is_repaired=True)
    return rows


def rows_of(name: str, tally: Tally, *, is_repaired: bool) -> list[Row]:
    """Return the recovered share, and the number of wrong repairs, which must be 0."""
    detail = f"of {tally.n_records}" if is_repaired else f"of {tally.n_records}; not repaired on purpose"
    share = Row(f"{name}: recovered", round(tally.n_recovered / tally.n_records, 4), "share", None, None, detail)
    examples = "; ".join(tally.wrong[:3])
    # Code pages of DOS and old Macs are rare, so errors there are reported for information only.
    is_aim = is_repaired or not name.startswith(("caption in cp850", "caption in mac"))
    return [
        share,
        Row(
            f"{name}: wrong",
            len(tally.wrong),
            "records",
            "0" if is_aim else None,
            not tally.wrong if is_aim else None,
            examples,
        ),
    ]


def main() -> None:
    """Measure and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = measure(options.records, options.seed)
    write_rows("repairs", rows)
    if any(row.ok is False for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
