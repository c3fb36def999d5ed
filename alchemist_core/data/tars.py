"""Groups the members of a tar into records, as webdataset does: neighbours of one key. Never reads a member's bytes.

A record's key is its path up to the first dot of the file name; the rest, in lower case, is the member's extension.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from alchemist_core.data.faults import Fault, Reason, is_storable, make_fault
from alchemist_core.data.tar_headers import Damage, Entry, walk_tar

IMAGE_EXTS = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"})
# Keys are indexed: a B-tree entry of Postgres holds 2,704 bytes.
MAX_KEY_BYTES = 1024
# Of one record; a row of the store holds them all.
MAX_MEMBERS = 256
# What macOS, Windows and pax put beside a crawl's files; no file of a record has such a name.
_CLUTTER = re.compile(
    r"(?:.*/)?(?:\._[^/]*|\.DS_Store|Thumbs\.db|desktop\.ini|(?:__MACOSX|PaxHeaders?(?:\.\d+)?)/.*|pax_global_header)",
    re.DOTALL,
)
_NAME = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)", re.DOTALL)
_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a record: where its bytes lie in the shard."""

    ext: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Record:
    """The `ordinal`-th record of a shard, good and bad ones counted."""

    ordinal: int
    key: str
    members: tuple[Member, ...]


@dataclass(slots=True)
class _Group:
    key: str
    members: list[Member] = field(default_factory=list)
    reason: Reason | None = None
    detail: str = ""
    # Damage next to it: one of its members may be lost without a trace.
    suspicions: list[Damage] = field(default_factory=list)
    # Not a record but a stretch of damage, which stands for whatever was lost there.
    gap: Damage | None = None

    def accuse(self, reason: Reason, detail: str) -> None:
        """Keep the first reason found."""
        if self.reason is None:
            self.reason, self.detail = reason, detail

    @property
    def shape(self) -> frozenset[str]:
        return frozenset("image" if member.ext in IMAGE_EXTS else member.ext for member in self.members)


def index_tar(file: BinaryIO, size_bytes: int) -> Iterator[Record | Fault]:
    """Yield every record of a shard, or the fault that stands in its place.

    Raises:
        DataError: The file is no tar: no good header is found anywhere in it.
    """
    seen: set[str] = set()
    for ordinal, group in enumerate(_clear_suspects(_group_entries(walk_tar(file, size_bytes)))):
        _check_key(group, seen)
        seen.add(group.key)
        if group.reason is not None:
            yield make_fault(ordinal, group.key, group.reason, group.detail)
        else:
            yield Record(ordinal, group.key, tuple(group.members))


def _group_entries(steps: Iterable[Entry | Damage]) -> Iterator[_Group]:
    group: _Group | None = None
    damage: Damage | None = None
    # Files of no record, which end none: macOS puts some between the files of a record. They follow the group that they lie in.
    strays: list[_Group] = []
    for step in steps:
        if isinstance(step, Damage):
            if damage is not None:
                yield from _close(group, damage, strays)
                group = None
            damage = step
            continue
        key, ext, reason, detail = _split_name(step.name)
        if reason is Reason.BAD_NAME:
            strays += _stray_file(step, key, detail)
            continue
        is_next = group is None or key != group.key
        if damage is not None and group is not None and not is_next:
            group.accuse(damage.reason, damage.detail)
        elif is_next:
            yield from _close(group, damage, strays)
            group = _Group(key, suspicions=[damage] if damage else [])
        damage = None
        assert group is not None
        _add_member(group, step, ext)
        if reason is not None:
            group.accuse(reason, detail)
    yield from _close(group, damage, strays)


def _stray_file(entry: Entry, key: str, detail: str) -> list[_Group]:
    """Return the fault of a file that has no key; nothing for what a system wrote, unless the tar is damaged there."""
    if is_clutter(entry.name) and entry.reason in (None, Reason.NOT_A_FILE):
        return []
    stray = _Group(key)
    _add_member(stray, entry, "")
    stray.accuse(Reason.BAD_NAME, detail)
    return [stray]


def _close(group: _Group | None, damage: Damage | None, strays: list[_Group]) -> Iterator[_Group]:
    if group is not None:
        group.suspicions += [damage] if damage else []
        yield group
    yield from strays
    strays.clear()
    if damage is not None:
        yield _Group(f"offset-{damage.offset}", reason=damage.reason, detail=damage.detail, gap=damage)


def _add_member(group: _Group, entry: Entry, ext: str) -> None:
    if len(group.members) == MAX_MEMBERS:
        group.accuse(Reason.TOO_MANY_MEMBERS, f"more than {MAX_MEMBERS} members")
        return
    if any(member.ext == ext for member in group.members):
        group.accuse(Reason.DUPLICATE_MEMBER, f"two members {ext!r}")
    if entry.reason is not None:
        group.accuse(entry.reason, f"{entry.name}: {entry.detail}")
    group.members.append(Member(ext, entry.offset, entry.size))


def _clear_suspects(groups: Iterable[_Group]) -> Iterator[_Group]:
    """Accuse a suspect that has not the members that its undamaged neighbours have.

    Suspects wait, in order, for the next undamaged group: the first one shows what a record of this shard looks like.
    """
    expected: frozenset[str] | None = None
    waiting: list[_Group] = []
    for group in groups:
        waiting.append(group)
        if group.suspicions or group.gap:
            continue
        if expected is None and group.reason is None:
            expected = group.shape
        if expected is not None:
            yield from _judge(waiting, expected)
            waiting.clear()
    yield from _judge(waiting, expected or _joint_shape(waiting))


def _judge(groups: list[_Group], expected: frozenset[str]) -> list[_Group]:
    """Accuse the incomplete suspects; damage that has an accused neighbour is no further loss."""
    explained: list[Damage] = []
    for group in groups:
        # More members than a neighbour has are no loss; where nothing is expected, nothing is proved.
        if group.suspicions and not (expected and expected <= group.shape):
            damage = group.suspicions[0]
            group.accuse(damage.reason, f"a member is missing next to damage: {damage.detail}")
            explained += group.suspicions
    return [group for group in groups if group.gap is None or group.gap not in explained]


def _joint_shape(groups: list[_Group]) -> frozenset[str]:
    """Return every member that any of some suspects has; one alone proves nothing."""
    shapes = [group.shape for group in groups if group.gap is None]
    return frozenset().union(*shapes) if len(shapes) > 1 else frozenset()


def is_clutter(name: str) -> bool:
    """Tell whether a system wrote the file beside the crawl's own: it is passed over, and no record is lost with it.

    >>> is_clutter("./._000.jpg"), is_clutter("PaxHeaders.12/000.jpg"), is_clutter("000.jpg")
    (True, True, False)
    """
    return _CLUTTER.fullmatch(name) is not None


def _split_name(name: str) -> tuple[str, str, Reason | None, str]:
    """Split a member's name into key and extension, with what is wrong with it.

    >>> _split_name("./a/000.cls.TXT")
    ('a/000', 'cls.txt', None, '')
    """
    path = name
    while path.startswith("./"):
        path = path[2:]
    match = _NAME.fullmatch(path)
    key, ext = (match[1], match[2].lower()) if match else (path, "")
    parts = path.split("/")
    if path.startswith("/") or ".." in parts or "\\" in path or _DRIVE.match(path):
        return key, ext, Reason.UNSAFE_PATH, f"{name!r} leads out of its folder"
    if match is None or is_clutter(path):
        return path, "", Reason.BAD_NAME, f"{name!r} is not KEY.EXTENSION"
    if not is_storable(path):
        return key, ext, Reason.UNSTORABLE_TEXT, f"name {name!r} holds NUL or is not UTF-8"
    return key, ext, None, ""


def _check_key(group: _Group, seen: set[str]) -> None:
    if group.key in seen:
        group.accuse(Reason.DUPLICATE_KEY, "an earlier record of this shard has the same key")
    size_bytes = len(group.key.encode("utf-8", "surrogateescape"))
    if size_bytes > MAX_KEY_BYTES:
        group.accuse(Reason.KEY_TOO_LONG, f"{size_bytes} bytes; the limit is {MAX_KEY_BYTES}")
