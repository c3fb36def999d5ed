"""The problems of the operator's worst week: every kind of bad data, how it is reported, and what solves it.

A problem is added to a dataset on one of its nights. It must be reported in one line, and the test follows that line: by hand if the line
says what to do with files, or by running the command that it gives. Does not use Airflow.
"""

import gzip
import io
import json
import os
import random
import re
import shlex
import shutil
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.shards.conftest import make_tar

Entry = tuple[str, bytes]
Alchemist = Callable[..., str]
"""Runs a command and returns what it printed."""

FILES, PICTURES, UPLOADS, MOUNT, JUDGED = "files", "pictures", "uploads", "mount", "judged"
DIRTY = (FILES, PICTURES, UPLOADS, MOUNT, JUDGED)
WHY = "the operator has looked at it"


class Supply:
    """Good tars, each handed out once."""

    def __init__(self, folder: Path) -> None:
        self._tars = iter(sorted(folder.rglob("*.tar")))

    def tar(self) -> bytes:
        return next(self._tars).read_bytes()

    def entries(self) -> list[Entry]:
        with tarfile.open(fileobj=io.BytesIO(self.tar())) as tar:
            return [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]


@dataclass(frozen=True)
class Place:
    """Where a problem is created: a dataset's root, and the folder of its night."""

    root: Path
    day: str
    supply: Supply

    @property
    def folder(self) -> Path:
        return self.root / self.day

    @property
    def aside(self) -> Path:
        """A folder outside the root, for files that are restored later."""
        folder = self.root.parent / "aside" / self.root.name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def write(self, name: str, data: bytes) -> Path:
        path = self.root / name if "/" in name else self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path


@dataclass(frozen=True)
class Mending:
    """The operator's means: the place, the line that reported the problem, and the command line."""

    place: Place
    line: str
    alchemist: Alchemist

    def obey(self, verb: str) -> None:
        """Run the command that the line names, as it is written there."""
        found = re.search(rf"alchemist {verb} (.*?--reason) WHY", self.line)
        assert found, f"no {verb!r} in {self.line!r}"
        self.alchemist(*verb.split(), *shlex.split(found[1]), WHY)


Bring = Callable[[Place], None]
Mend = Callable[[Mending], None]


@dataclass(frozen=True)
class Trouble:
    """One problem. `told` is a pattern for one line of the night's output; `when`: before the night, or between ingest and score."""

    name: str
    dataset: str
    night: int
    bring: Bring
    told: str
    mend: Mend
    when: str = "before"


def good(name: str) -> Bring:
    return lambda place: place.write(name, place.supply.tar()) and None


def write_bytes(name: str, data: bytes) -> Bring:
    return lambda place: place.write(name, data) and None


def write_zipped(name: str) -> Bring:
    return lambda place: place.write(name, gzip.compress(place.supply.tar())) and None


def remove(name: str) -> Mend:
    def mend(mending: Mending) -> None:
        path = mending.place.folder / name
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    return mend


def rename(name: str, to: str) -> Mend:
    def mend(mending: Mending) -> None:
        place = mending.place
        (place.root / to.format(day=place.day)).parent.mkdir(parents=True, exist_ok=True)
        (place.root / name.format(day=place.day)).rename(place.root / to.format(day=place.day))

    return mend


def upload(name: str) -> Mend:
    return lambda mending: mending.place.write(name, mending.place.supply.tar()) and None


def obey(verb: str) -> Mend:
    return lambda mending: mending.obey(verb)


def nothing(_mending: Mending) -> None:
    """The line reports that no action is needed."""


# ---------------------------------------------------------------------------------------------------------------------------- files


def _link(name: str, target: str) -> Bring:
    return lambda place: (place.folder / name).symlink_to(target)


def _device(place: Place) -> None:
    if os.geteuid() == 0:
        os.mknod(place.folder / "null.tar", 0o20600, os.makedev(1, 3))
    else:
        os.mkfifo(place.folder / "null.tar")


def _unpacked(place: Place) -> None:
    (place.folder / "unpacked.tar").mkdir()
    for name, data in place.supply.entries()[:6]:
        (place.folder / "unpacked.tar" / name).write_bytes(data)


def _pack(mending: Mending) -> None:
    folder = mending.place.folder / "unpacked.tar"
    entries = [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
    shutil.rmtree(folder)
    folder.write_bytes(make_tar(entries))


def _unpack(mending: Mending) -> None:
    path = mending.place.folder / "squeezed.tar.gz"
    (mending.place.folder / "squeezed.tar").write_bytes(gzip.decompress(path.read_bytes()))
    path.unlink()


def _sparse(place: Place) -> None:
    with (place.folder / "terabyte.tar").open("wb") as file:
        file.write(place.supply.tar()[:2048])
        file.truncate(1 << 40)


def _not_utf8(place: Place) -> None:
    Path(os.fsdecode(os.fsencode(place.folder) + b"/caf\xe9.tar")).write_bytes(place.supply.tar())


def _to_utf8(mending: Mending) -> None:
    Path(os.fsdecode(os.fsencode(mending.place.folder) + b"/caf\xe9.tar")).rename(mending.place.folder / "café.tar")


def _ingest_that_day(mending: Mending) -> None:
    found = re.search(r"alchemist (ingest --dataset files --crawl-date \S+?)\.? ", mending.line)
    assert found
    mending.alchemist(*found[1].split())


ODD_NAMES = (
    "two\nlines.tar", "\x1b]0;title\x07\x1b[2J.tar", "🦄🦄.tar", "gnp\u202erat..tar", f"{'x' * 246}.tar",
    "$(touch OWNED) `id` {{ 7 * 7 }}.tar", "it's \"quoted\".tar", "-rf.tar", "a,b;c.tar", "=1+1.tar", "Same.tar", "same.tar",
)  # fmt: skip


def _odd_names(place: Place) -> None:
    for name in ODD_NAMES:
        place.write(name, place.supply.tar())


def bring_harmless(place: Place) -> None:
    """Shards that look like problems but are correct: all of them must be in their night."""
    if (place.root.name, place.day[-1]) == (FILES, "4"):
        _odd_names(place)
        place.write(
            "alike.tar", make_tar([entry for n in range(12) for entry in _record(f"r{n}", picture(), b"one caption")])
        )


def refused(roots: Path) -> list[tuple[str, ...]]:
    """Commands that must change nothing: names that no dataset may have, and roots that are not the dataset's."""
    names = ("", "a,b", "two\nlines", "x" * 10_000, "../up", "a b", "\x1b[2J", "{{ 7 * 7 }}", "-rf", "ａ")
    wrong = (str(roots / FILES), "/nowhere", str(roots / MOUNT / "absent"), "/etc/passwd", "")
    return [
        *(("ingest", f"--dataset={name}", "--root", str(roots / FILES)) for name in names),
        *(("ingest", "--dataset", UPLOADS, "--root", root) for root in wrong),
        ("ingest", "--dataset", "new", "--root", "/nowhere"),
        ("ingest", "--dataset", UPLOADS, "--root", str(roots / JUDGED), "--move-root"),
        ("ingest", "--dataset", UPLOADS, "--role", "validation"),
        ("shard", "retire", "nowhere.tar", "--reason", WHY),
        ("shard", "reread", "0", "--reason", WHY),
        ("night", "release", "--dataset", JUDGED, "--crawl-date", "2026-02-30", "--reason", WHY),
        ("night", "release", "--dataset", "a", "--crawl-date", "2026-01-01", "--reason", WHY),
    ]


def _lose(name: str) -> Bring:
    """Remove a shard of an earlier night."""
    return lambda place: next(place.root.rglob(name)).rename(place.aside / "lost.tar") and None


def _put_back(name: str) -> Mend:
    def mend(mending: Mending) -> None:
        aside = mending.place.aside / name.replace("/", "_")
        aside.rename(mending.place.folder / name)

    return mend


# Night, name, how it is made, the line that reports it, what solves it.
OF_FILES: list[tuple[int, str, Bring, str, Mend]] = [
    (1, "a compressed tar", write_zipped("squeezed.tar.gz"), r"squeezed\.tar\.gz: is compressed\. Unpack", _unpack),
    (1, "a pipe", lambda p: os.mkfifo(p.folder / "pipe.tar"), r"pipe\.tar.*not a regular file.*Remove", remove("pipe.tar")),
    (1, "a device", _device, r"null\.tar.*not a regular file.*Remove", remove("null.tar")),
    (1, "an unpacked tar", _unpacked, r"unpacked\.tar: is a folder.*Pack its files", _pack),
    (1, "a link that leads nowhere", _link("nowhere.tar", "gone"), r"nowhere\.tar.*broken link.*Remove", remove("nowhere.tar")),
    (1, "a link to itself", _link("loop.tar", "loop.tar"), r"loop\.tar.*broken link.*Remove", remove("loop.tar")),
    (1, "a link to its parent", _link("parent", ".."), r"parent: is a symbolic link.*Put the folder itself there", remove("parent")),
    (1, "capitals", good("LOUD.TAR"), r"LOUD\.TAR.*small letters.*Rename", rename("{day}/LOUD.TAR", "{day}/loud.tar")),
    (1, "a name that is not UTF-8", _not_utf8, r"caf\\udce9\.tar: has a name that is not UTF-8.*Rename", _to_utf8),
    (1, "no day", good("2026-02-30/a.tar"), r"2026-02-30.*Rename the folder", rename("2026-02-30/a.tar", "{day}/leap.tar")),
    (1, "a terabyte that nobody wrote", _sparse, r"terabyte\.tar.*never written.*remove it", remove("terabyte.tar")),
    (1, "a future day", good("2099-01-01/a.tar"), r"1 of 2099-01-01.*rename the folder", rename("2099-01-01/a.tar", "{day}/f.tar")),
    (1, "a day before the week", good("2025-12-31/a.tar"), r"shards 1 of 2025-12-31.*alchemist ingest", _ingest_that_day),
    (1, "a write under way by its folder", good(".part/hidden.tar"), r"hidden\.tar.*is hidden: an unfinished write", nothing),
    (1, "a write by its name", good("slow.tar.part"), r"slow.*unfinished write", rename("{day}/slow.tar.part", "{day}/s.tar")),
    (3, "a gzip called tar", write_zipped("gz.tar"), r"gz\.tar: rejected.*gzip.*next: upload a readable tar", upload("gz.tar")),
    (3, "an error page", write_bytes("page.tar", b"<html>404</html>" * 99), r"page\.tar: rejected.*shard retire", obey("shard retire")),
    (3, "a tar of no bytes", write_bytes("empty.tar", b""), r"empty\.tar: growing.*next: nothing to do", upload("empty.tar")),
    (3, "dice", write_bytes("noise.tar", random.Random(0).randbytes(9_000)), r"noise.*rejected.*retire", obey("shard retire")),
    (3, "a file that cannot be read", _link("memory.tar", "/proc/self/mem"), r"memory.*(cannot be read|growing)", remove("memory.tar")),
    (5, "two lines", _lose("two?lines.tar"), r"two\\nlines\.tar: missing.*shard retire \d+", obey("shard retire")),
    (5, "a command", _lose("$(touch*"), r"\$\(touch OWNED\).*: missing.*shard retire", obey("shard retire")),
    (5, "quotes", _lose("it's*"), r"it's .*: missing.*shard retire", obey("shard retire")),
]  # fmt: skip


# ------------------------------------------------------------------------------------------------------------------------- pictures


def picture(seed: int = 0, kind: str = "PNG", size: tuple[int, int] = (32, 32), **options: Any) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def _png(width: int, height: int, *, bits: int = 8, n_rows: int | None = None) -> bytes:
    """A PNG of one grey whose pixels are thousands of times its size."""
    deflate = zlib.compressobj(9)
    row = b"\0" * (1 + width * bits // 8)
    data = b"".join(deflate.compress(row) for _ in range(height if n_rows is None else n_rows)) + deflate.flush()
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    )


def _jpeg_of_scans(n: int) -> bytes:
    data = picture(3, "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * n + data[-2:]


def _tiff(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "float":
        Image.fromarray(np.ones((8, 8), np.float32)).save(buffer, "TIFF")
    else:
        pages = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
        pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:])
    return buffer.getvalue()


def _record(
    key: str, image: bytes | None = None, text: bytes | None = b"", ext: str = "png", **more: bytes
) -> list[Entry]:
    """A record of a noise image and its caption, or of the given image or text; None omits it."""
    seed = zlib.crc32(key.encode())
    found = [(f"{key}.{ext}", picture(seed) if image is None else image)]
    found += [] if text is None else [(f"{key}.txt", text or f"a picture called {key}".encode())]
    return found + [(f"{key}.{name}", data) for name, data in more.items()]


def _special(name: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


BAD_IMAGES: dict[str, tuple[str, list[Any]]] = {
    "bomb": ("image_too_large", _record("bomb", _png(60_000, 60_000, n_rows=9))),
    "scans": ("too_slow", _record("scans", _jpeg_of_scans(3_000), ext="jpg")),
    "cut": ("(truncated|bad)_image", _record("cut", picture(1, "JPEG")[:400], ext="jpg")),
    "nothing": ("empty_image", _record("nothing", b"") ),
    "page": ("wrong_magic", _record("page", b"<html>404</html>")),
    "svg": ("missing_image", _record("svg", b"<svg/>", ext="svg")),
    "both": ("several_images", _record("both", jpg=picture(2, "JPEG"))),
    "float": ("unsupported_pixels", _record("float", _tiff("float"), ext="tif")),
    "pages": ("animated_image", _record("pages", _tiff("pages"), ext="tif")),
    "inner": ("missing_caption", [("inner.tar", make_tar(_record("x")))]),
    "link": ("not_a_file", [_special("link.png", tarfile.SYMTYPE), ("link.txt", b"a link")]),
    "fifo": ("not_a_file", [_special("fifo.png", tarfile.FIFOTYPE), ("fifo.txt", b"a pipe")]),
}  # fmt: skip
BAD_TEXTS: dict[str, tuple[str, list[Any]]] = {
    "long": ("caption_too_long", _record("long", text=b"word " * 210_000)),
    "silent": ("missing_caption", _record("silent", text=None)),
    "deep": ("bad_json", _record("deep", text=None, json=b"[" * 200_000)),
    "nan": ("missing_caption", _record("nan", text=None, json=b'{"caption": NaN}')),
    "digits": ("bad_json", _record("digits", text=None, json=b'{"width": ' + b"9" * 100_000 + b"}")),
    "nul": ("unstorable_text|bad_json|missing_caption", _record("nul", text=b"a\0b\0")),
    r"\.\./up": ("unsafe_path", _record("../up")),
    "/etc/passwd": ("unsafe_path", _record("/etc/passwd")),
    "k{200}": ("key_too_long", _record("k" * 1_500)),
    "twice": ("duplicate_key", [*_record("twice"), *_record("between"), *_record("twice")]),
    "many": ("too_many_members", [*_record("many"), *((f"many.{n}", b"x") for n in range(300))]),
}  # fmt: skip
HARMLESS = [
    *_record("row", _png(65_535, 1)), *_record("column", _png(1, 65_535)), *_record("deep-grey", _png(8_192, 8_192, bits=16)),
    *_record("mac"), ("._mac.png", b"\0\5\x16\7"), (".DS_Store", b"x"), ("__MACOSX/._mac.txt", b"x"),
    *_record("unicode", text="نص \u202eعربي 🦄".encode()), *_record("formula", text=b"=1+1"), *_record("{{ 7 * 7 }}"),
]  # fmt: skip


def _mixed(name: str, bad: dict[str, tuple[str, list[Any]]], more: list[Any]) -> Bring:
    """One shard in which the bad records lie between good ones."""

    def bring(place: Place) -> None:
        clean = [entry for _ in range(8) for entry in place.supply.entries()]
        clean = [(f"{number // 3:04d}{Path(entry[0]).suffix}", entry[1]) for number, entry in enumerate(clean)]
        entries: list[Any] = []
        for number, (_, record) in enumerate(bad.values()):
            entries += [*clean[3 * number : 3 * number + 3], *record]
        place.write(name, make_tar([*entries, *clean[3 * len(bad) :], *more]))
        (place.aside / name).write_bytes(make_tar([*clean, *more]))

    return bring


def _repair(name: str) -> Mend:
    """Replace the tar by the repaired one and read it again, once for all its records."""

    def mend(mending: Mending) -> None:
        repaired = mending.place.aside / name
        if repaired.exists():
            repaired.replace(mending.place.folder / name)
            mending.alchemist("shard", "reread", f"{mending.place.day}/{name}", "--reason", WHY)

    return mend


def _flipped(place: Place) -> None:
    data = bytearray(place.supply.tar())
    (place.aside / "flipped.tar").write_bytes(data)
    data[259] ^= 1
    place.write("flipped.tar", bytes(data))


def _pictures() -> Iterator[Trouble]:
    for night, name, bad in ((2, "images.tar", BAD_IMAGES), (4, "texts.tar", BAD_TEXTS)):
        mend = _repair(name)
        for number, (key, (reason, _)) in enumerate(bad.items()):
            bring = _mixed(name, bad, HARMLESS if night == 2 else []) if number == 0 else (lambda _place: None)
            yield Trouble(
                f"a record of {reason}: {key}",
                PICTURES,
                night,
                bring,
                rf"(^|\s){key}\S*: ({reason}) \(ingest\), ",
                mend,
            )
    yield Trouble(
        "a bit that flipped in the first header",
        PICTURES,
        6,
        _flipped,
        r"offset-0: corrupt_header|corrupt_header 1",
        _repair("flipped.tar"),
    )


# -------------------------------------------------------------------------------------------------------------------------- uploads


def _begun(name: str, n_bytes: int) -> Bring:
    def bring(place: Place) -> None:
        whole = place.supply.tar()
        (place.aside / name).write_bytes(whole)
        place.write(name, whole[:n_bytes])

    return bring


def _take(name: str, *, put: Callable[[Place, bytes], bytes] | None = None) -> Bring:
    """Remove a shard while the night runs, or replace it by another one."""

    def bring(place: Place) -> None:
        path = place.folder / name
        data = path.read_bytes()
        (place.aside / name).write_bytes(data)
        path.unlink() if put is None else path.write_bytes(put(place, data))

    return bring


def _other(place: Place, _data: bytes) -> bytes:
    return place.supply.tar()


def _patched(_place: Place, data: bytes) -> bytes:
    changed = bytearray(data)
    changed[-20_000:] = bytes(20_000)
    changed[600] ^= 1
    return bytes(changed)


def _uploads() -> Iterator[Trouble]:
    def between(night: int, name: str, bring: Bring, told: str, mend: Mend) -> Trouble:
        return Trouble(name, UPLOADS, night, bring, told, mend, when="between")

    growing = r"growing.*next: nothing to do, it is read when its upload is complete"
    yield Trouble(
        "an upload under way", UPLOADS, 1, _begun("up.tar", 20_000), rf"up\.tar: {growing}", _put_back("up.tar")
    )
    yield Trouble(
        "an upload that has only begun",
        UPLOADS,
        1,
        _begun("begun.tar", 100),
        rf"begun\.tar: {growing}",
        _put_back("begun.tar"),
    )
    yield between(
        3,
        "a shard that goes before it is scored",
        _take("0.tar"),
        r"0\.tar: missing.*next: restore the file",
        _put_back("0.tar"),
    )
    yield between(
        3,
        "a shard that goes for good",
        _take("1.tar"),
        r"1\.tar: missing.*alchemist shard retire",
        obey("shard retire"),
    )
    yield between(
        5,
        "a shard that is replaced on purpose",
        _take("0.tar", put=_other),
        r"0\.tar: changed.*alchemist shard reread",
        obey("shard reread"),
    )
    yield between(
        5,
        "a shard that is damaged and comes back",
        _take("1.tar", put=_patched),
        r"1\.tar: changed.*next: restore the old bytes",
        _put_back("1.tar"),
    )
    yield Trouble(
        "an undated shard that is replaced",
        UPLOADS,
        5,
        _replace_undated,
        r"undated\.tar: .*(replaced|changed).*shard reread",
        obey("shard reread"),
    )
    yield Trouble(
        "a shard of an earlier night that is gone",
        UPLOADS,
        5,
        _lose("up.tar"),
        r"up\.tar: missing.*shard retire",
        obey("shard retire"),
    )


def _replace_undated(place: Place) -> None:
    (place.root / "undated.tar").write_bytes(place.supply.tar())


# --------------------------------------------------------------------------------------------------------------- roots and verdicts


def _unmount(put: Callable[[Path], object]) -> Bring:
    def bring(place: Place) -> None:
        place.root.rename(place.root.with_name("mount-away"))
        put(place.root)

    return bring


def _mount(mending: Mending) -> None:
    root = mending.place.root
    if root.is_dir():
        root.rmdir()
    else:
        root.unlink(missing_ok=True)
    root.with_name("mount-away").rename(root)


def _mounts() -> Iterator[Trouble]:
    told = r"root \S*mount is unreachable.*[Mm]ount it"
    yield Trouble("a root that is not there", MOUNT, 2, _unmount(Path.as_posix), told, _mount)
    yield Trouble("a mount point without its disk", MOUNT, 4, _unmount(Path.mkdir), told, _mount)
    yield Trouble("a root that is a file", MOUNT, 6, _unmount(lambda root: root.write_bytes(b"x")), told, _mount)


SUITE = {
    "name": "stock", "meta": {"alchemist": {"datasets": [JUDGED]}},
    "expectations": [{"type": "expect_column_values_to_not_match_regex", "kwargs": {"column": "caption", "regex": "stock photo"}}],
}  # fmt: skip
PROJECT = f"""
[datasets.{JUDGED}.drift]
min_scores = 50
"""


def write_project(folder: Path) -> Path:
    """The installation's own bounds and suites."""
    (folder / "suites").mkdir(parents=True)
    (folder / "suites" / "samples_stock.json").write_text(json.dumps(SUITE))
    (folder / "alchemist.toml").write_text(PROJECT)
    return folder / "alchemist.toml"


def _stock(place: Place) -> None:
    place.write(
        "stock.tar", make_tar([entry for n in range(3) for entry in _record(f"s{n}", text=b"a stock photo of %d" % n)])
    )


def _many_bad(place: Place) -> None:
    place.write("bad.tar", make_tar([entry for n in range(40) for entry in _record(f"b{n}", b"<html>")]))


def _moved(place: Place) -> None:
    for path in place.folder.glob("*.tar"):
        path.unlink()
    noise = [entry for n in range(90) for entry in _record(f"n{n}", text=b"x" * 5 + b"%d" % n)]
    place.write("noise.tar", make_tar(noise))


def _judged() -> Iterator[Trouble]:
    release = obey("night release")

    def on(night: int, name: str, bring: Bring) -> Trouble:
        return Trouble(name, JUDGED, night, bring, r"next: .*alchemist night release --dataset judged", release)

    yield on(2, "a night that fails a suite of one's own", _stock)
    yield on(4, "a night with too much in quarantine", _many_bad)
    yield on(6, "a night whose scores have moved", _moved)


TROUBLES = [
    *(Trouble(name, FILES, night, bring, told, mend) for night, name, bring, told, mend in OF_FILES),
    *_pictures(),
    *_uploads(),
    *_mounts(),
    *_judged(),
]
