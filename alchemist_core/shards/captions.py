"""The caption of a record and the rest of its JSON: reads, checks and repairs them."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from alchemist_core.errors import DataError
from alchemist_core.shards.crawl_attributes import CRAWL_ATTRIBUTES
from alchemist_core.shards.faults import Reason, is_storable
from alchemist_core.shards.legacy_text import find_encoding
from alchemist_core.shards.repairs import ENCODING_OF, NO_REPAIRS, REPAIR_OF, Repair, Repairs

MAX_TEXT_BYTES = 1 << 16
MAX_JSON_BYTES = 1 << 20
MAX_JSON_DEPTH = 64
# Postgres stores numbers of jsonb as numeric. A longer number is not a measurement of an image.
_MAX_DIGITS = 100
_MAX_INTEGER = 10**_MAX_DIGITS
_CAPTION_FIELDS = ("caption", "text")
# White space is excluded, vertical tab and form feed too, because it separates words. Control characters above 0x7f, which double
# decoding leaves, are kept.
_CONTROL_SIGNS = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
_CONTROL_BYTES = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")
_OWN_COLUMNS = frozenset({"caption", "width", "height"}).union(*(attribute.keys for attribute in CRAWL_ATTRIBUTES))


class BadTextError(DataError):
    """Refuses one record's text; `reason` is the code of its quarantine row."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Annotation:
    """The text of a record; all of it can be stored in Postgres."""

    caption: str
    attributes: dict[str, str | None]
    """The crawl's attributes by name; None where it does not give one."""
    metadata: dict[str, Any]


def read_annotation(
    text: bytes | None, document: bytes | None, repairs: Repairs = NO_REPAIRS, *, is_new: bool = False
) -> Annotation:
    """Read the `.txt` and `.json` files of a record.

    The caption is the text, else the document's `caption` or `text`; white space around it is removed.

    Args:
        text: The `.txt`, or None.
        document: The `.json`, or None.
        repairs: The repairs that `find_repairs` found at ingest.
        is_new: Whether the record is not registered yet, so that the digits of its numbers are limited.

    Raises:
        BadTextError: The caption is missing, or a text cannot be stored.
    """
    fields = read_document(document, repairs, is_new=is_new)
    caption = _decode_caption(text, repairs) if text is not None else ""
    used = frozenset[str]()
    if not caption:
        used = frozenset(name for name in _CAPTION_FIELDS if isinstance(fields.get(name), str))
        caption = next((fields[name].strip() for name in _CAPTION_FIELDS if name in used and fields[name].strip()), "")
    if not caption:
        raise BadTextError(Reason.MISSING_CAPTION, "no text in .txt, nor under caption or text in .json")
    if not is_storable(caption):
        raise BadTextError(Reason.UNSTORABLE_TEXT, "the caption contains NUL or a lone surrogate")
    _require_short(caption.encode())
    metadata = {name: value for name, value in fields.items() if name not in _OWN_COLUMNS | used}
    attributes = {attribute.name: _find_text(fields, attribute.keys) for attribute in CRAWL_ATTRIBUTES}
    return Annotation(caption, attributes, metadata)


def find_repairs(text: bytes | None, document: bytes | None) -> Repairs:
    """Return the repairs without which the files of a new record cannot be read; none for correct files.

    Raises:
        BadTextError: They cannot be read, and no repair is certain to be correct.
    """
    repairs, is_whole = NO_REPAIRS, False
    while not is_whole:
        try:
            caption, is_whole = read_annotation(text, document, repairs, is_new=True).caption, True
            coming = {Repair.CONTROL_SIGNS} if _CONTROL_SIGNS.search(caption) else set()
        except BadTextError as error:
            coming = set(_propose(error.reason, text, document)) - repairs
            if not coming:
                raise
        repairs, is_whole = repairs | coming, is_whole and not coming
    return repairs


def read_document(document: bytes | None, repairs: Repairs = NO_REPAIRS, *, is_new: bool = False) -> dict[str, Any]:
    """Return the fields of the `.json`; none if it is missing, or broken and ignored.

    Raises:
        BadTextError: It cannot be read or stored.
    """
    if document is None or Repair.CAPTION_FROM_TXT in repairs:
        return {}
    fields = _parse_document(document, repairs)
    if Repair.CONTROL_SIGNS in repairs:
        fields = _without_control_signs(fields)
    _check_values(fields, is_new=is_new)
    return fields


def walk_values(document: dict[str, Any]) -> Iterator[tuple[Any, int]]:
    """Yield the object, and every key and value below it, with its depth. Not recursive, because the sender chooses the depth.

    >>> max(depth for _, depth in walk_values({"a": [1]}))
    3
    """
    stack: list[tuple[Any, int]] = [(document, 1)]
    while stack:
        value, depth = stack.pop()
        yield value, depth
        if isinstance(value, dict):
            stack += [(part, depth + 1) for pair in value.items() for part in pair]
        elif isinstance(value, list):
            stack += [(part, depth + 1) for part in value]


def _propose(reason: Reason, text: bytes | None, document: bytes | None) -> Iterator[Repair]:
    """Yield the repair, if any, that would fix a fault."""
    if reason is Reason.CAPTION_NOT_UTF8 and text is not None:
        if encoding := find_encoding(text):
            yield REPAIR_OF[encoding]
    elif reason is Reason.UNSTORABLE_TEXT:
        if _is_stray(text or b"") and _is_stray(document or b""):
            yield Repair.CONTROL_SIGNS
    elif reason is Reason.BAD_JSON and document is not None:
        yield from _propose_for_document(text, document)


def _propose_for_document(text: bytes | None, document: bytes) -> Iterator[Repair]:
    for repair in (Repair.JSON_PADDING, Repair.JSON_NUMBERS):
        try:
            read_document(document, frozenset({repair}), is_new=True)
        except BadTextError:
            continue
        yield repair
        return
    if text is not None and text.strip():
        yield Repair.CAPTION_FROM_TXT


def _is_stray(data: bytes) -> bool:
    """Return whether control characters are rare: text in which every second byte is NUL is UTF-16 without a byte order mark."""
    return len(_CONTROL_BYTES.findall(data.strip(b"\0"))) <= len(data) // 8


def _without_control_signs(value: Any, depth: int = 0) -> Any:
    if isinstance(value, str):
        return _CONTROL_SIGNS.sub("", value)
    if depth > MAX_JSON_DEPTH:
        return value
    if isinstance(value, list):
        return [_without_control_signs(part, depth + 1) for part in value]
    if isinstance(value, dict):
        return {_CONTROL_SIGNS.sub("", key): _without_control_signs(part, depth + 1) for key, part in value.items()}
    return value


def _require_short(text: bytes) -> None:
    if len(text) > MAX_TEXT_BYTES:
        raise BadTextError(Reason.CAPTION_TOO_LONG, f"{len(text)} bytes; the limit is {MAX_TEXT_BYTES}")


def _decode_caption(text: bytes, repairs: Repairs) -> str:
    # Check the size before decoding: only this much was read.
    _require_short(text)
    encoding = next((name for repair, name in ENCODING_OF.items() if repair in repairs), "utf-8-sig")
    try:
        caption = text.decode(encoding)
    except UnicodeDecodeError as error:
        raise BadTextError(Reason.CAPTION_NOT_UTF8, str(error)) from error
    return (_CONTROL_SIGNS.sub("", caption) if Repair.CONTROL_SIGNS in repairs else caption).strip()


def _find_text(fields: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next((fields[name] for name in names if isinstance(fields.get(name), str) and fields[name]), None)


def _parse_document(document: bytes, repairs: Repairs) -> dict[str, Any]:
    if len(document) > MAX_JSON_BYTES:
        raise BadTextError(Reason.BAD_JSON, f"{len(document)} bytes; the limit is {MAX_JSON_BYTES}")
    if Repair.JSON_PADDING in repairs:
        document = document.rstrip(b"\0")
    constant = _as_null if Repair.JSON_NUMBERS in repairs else _refuse_constant
    try:
        fields = json.loads(document.decode("utf-8-sig"), parse_constant=constant, parse_int=_read_integer)
    except RecursionError as error:
        raise BadTextError(Reason.BAD_JSON, f"nested deeper than {MAX_JSON_DEPTH}") from error
    except ValueError as error:
        raise BadTextError(Reason.BAD_JSON, f"{type(error).__name__}: {error}") from error
    if not isinstance(fields, dict):
        raise BadTextError(Reason.BAD_JSON, f"expected an object, found {type(fields).__name__}")
    return fields


def _read_integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS + 2:
        raise BadTextError(Reason.BAD_JSON, f"an integer of more than {_MAX_DIGITS} digits")
    return int(digits)


def _as_null(_name: str) -> None:
    return None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not valid JSON")


def _check_values(document: dict[str, Any], *, is_new: bool) -> None:
    """Refuse values that jsonb refuses, and in a new record numbers that grow in it: Postgres prints 1e308 with 309 digits."""
    n_bits = 0
    for value, depth in walk_values(document):
        if depth > MAX_JSON_DEPTH:
            raise BadTextError(Reason.BAD_JSON, f"nested deeper than {MAX_JSON_DEPTH}")
        _check_leaf(value)
        if isinstance(value, float):
            n_bits += abs(math.frexp(value)[1])
    if is_new and (n_digits := round(n_bits / math.log2(10))) > MAX_JSON_BYTES:
        why = f"numbers of {n_digits} digits if written without exponents; the limit is {MAX_JSON_BYTES}"
        raise BadTextError(Reason.BAD_JSON, why)


def _check_leaf(value: object) -> None:
    if isinstance(value, str) and not is_storable(value):
        raise BadTextError(Reason.UNSTORABLE_TEXT, "the JSON contains NUL or a lone surrogate")
    if isinstance(value, float) and not math.isfinite(value):
        raise BadTextError(Reason.BAD_JSON, "a number overflows to infinity")
    if isinstance(value, int) and abs(value) >= _MAX_INTEGER:
        raise BadTextError(Reason.BAD_JSON, f"an integer of more than {_MAX_DIGITS} digits")
