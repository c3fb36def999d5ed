"""What pax and GNU headers say about the next entry of a tar: a longer name, a larger size. Reads no file."""

import tarfile
from dataclasses import dataclass

# Longer names and attributes are an attack, not a name.
MAX_EXTENSION_BYTES = 1 << 16
PASSED_OVER_TYPES = (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK)
EXTENSION_TYPES = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, *PASSED_OVER_TYPES)


@dataclass(slots=True)
class Extension:
    """Overrides of the next header; `flaw` says why they cannot be trusted."""

    path: str | None = None
    size: int | None = None
    flaw: str | None = None


def apply_extension(extension: Extension, kind: bytes, data: bytes) -> None:
    """Read one extended header into the overrides of the next entry."""
    if kind == tarfile.GNUTYPE_LONGNAME:
        extension.path = data.rstrip(b"\0").decode("utf-8", "surrogateescape")
        return
    try:
        records = _parse_pax(data)
        if b"path" in records:
            extension.path = records[b"path"].decode("utf-8", "surrogateescape")
        if b"size" in records:
            extension.size = _parse_count(records[b"size"])
        if any(keyword.startswith(b"GNU.sparse") for keyword in records):
            extension.flaw = "sparse file; only plain files are read"
    except ValueError as error:
        extension.flaw = f"unreadable extended header: {error}"


def _parse_pax(data: bytes) -> dict[bytes, bytes]:
    """Parse "LENGTH KEYWORD=VALUE NEWLINE" records."""
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(data) and data[position]:
        digits = data[position : position + 20].partition(b" ")[0]
        length = _parse_count(digits)
        record = data[position : position + length]
        keyword, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if not equals or not record.endswith(b"\n") or len(record) < length:
            raise ValueError(f"record {record[:40]!r}")
        records[keyword] = value
        position += length
    return records


def _parse_count(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > 20:
        raise ValueError(f"{digits!r} is no count")
    return int(digits)
