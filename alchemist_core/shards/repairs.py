"""Repairs of records that would be quarantined otherwise. Their names are stored with the location; every reader applies them.

The bytes in a shard and in a materialized dataset stay those of the source: a reader repairs each sample with the code that ingest
used.
"""

from collections.abc import Iterable, Iterator
from enum import StrEnum


class Repair(StrEnum):
    """One kind of repair."""

    FIRST_FRAME = "first_frame"
    """The image is animated; its first frame is read."""
    CAPTION_FROM_TXT = "caption_from_txt"
    """The .json is broken and ignored; the caption is in the .txt."""
    CONTROL_SIGNS = "control_signs_removed"
    """Control characters are removed from the caption or the .json."""
    JSON_NUMBERS = "json_nan_as_null"
    """The .json holds NaN or an infinity, which JSON does not allow; read as null."""
    JSON_PADDING = "json_nul_padding_removed"
    """NUL bytes after the .json are removed."""
    UTF_16 = "caption_from_utf_16"
    UTF_32 = "caption_from_utf_32"
    CP1252 = "caption_from_cp1252"
    CP1251 = "caption_from_cp1251"
    KOI8_R = "caption_from_koi8_r"
    CP932 = "caption_from_cp932"


_DECODED = "caption_from_"
ENCODING_OF: dict[Repair, str] = {
    repair: repair.value.removeprefix(_DECODED)
    for repair in (Repair.UTF_16, Repair.UTF_32, Repair.CP1252, Repair.CP1251, Repair.KOI8_R, Repair.CP932)
}
REPAIR_OF: dict[str, Repair] = {encoding: repair for repair, encoding in ENCODING_OF.items()}
Repairs = frozenset[Repair]
NO_REPAIRS: Repairs = frozenset()


def join_repairs(repairs: Iterable[Repair]) -> str | None:
    """Return the stored form; None without repairs.

    >>> join_repairs({Repair.FIRST_FRAME, Repair.CONTROL_SIGNS})
    'control_signs_removed+first_frame'
    """
    return "+".join(sorted(repairs)) or None


def split_repairs(text: str | None) -> Repairs:
    """Parse the stored form."""
    return frozenset(Repair(name) for name in text.split("+")) if text else NO_REPAIRS


def names_of(texts: Iterable[str | None]) -> Iterator[str]:
    """Yield the name of every repair in stored forms, for counting."""
    for text in texts:
        yield from sorted(split_repairs(text))
