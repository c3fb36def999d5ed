"""What is said about a picture: its caption, and the rest of its JSON. Knows no tar and no pixels."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from alchemist_core.data.faults import Reason, is_storable
from alchemist_core.errors import DataError

MAX_TEXT_BYTES = 1 << 16
MAX_JSON_BYTES = 1 << 20
MAX_JSON_DEPTH = 64
# Postgres stores numbers of jsonb as numeric; longer digits are no measurement of a picture.
_MAX_INTEGER = 10**100
_CAPTION_FIELDS = ("caption", "text")
_LICENCE_FIELDS = ("license", "licence")
_OWN_COLUMNS = frozenset({"caption", "url", "license", "licence", "width", "height"})


class BadTextError(DataError):
    """Refuse one record's text; `reason` is the code of its quarantine row."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Annotation:
    """Everything that a record says in words; all of it can be stored."""

    caption: str
    source_url: str | None
    licence: str | None
    metadata: dict[str, Any]


def read_annotation(text: bytes | None, document: bytes | None) -> Annotation:
    """Read the `.txt` and `.json` members of a record.

    The caption is the text, else the document's `caption` or `text`; white space around it is no part of it.

    Raises:
        BadTextError: No caption, or something in the members that cannot be stored.
    """
    fields = _parse_document(document) if document is not None else {}
    caption = _decode_caption(text) if text is not None else ""
    used = frozenset[str]()
    if not caption:
        used = frozenset(name for name in _CAPTION_FIELDS if isinstance(fields.get(name), str))
        caption = next((fields[name].strip() for name in _CAPTION_FIELDS if name in used and fields[name].strip()), "")
    if not caption:
        raise BadTextError(Reason.MISSING_CAPTION, "no text in .txt, and none under caption or text in .json")
    if not is_storable(caption):
        raise BadTextError(Reason.UNSTORABLE_TEXT, "the caption holds NUL or a lone surrogate")
    _require_short(caption.encode())
    metadata = {name: value for name, value in fields.items() if name not in _OWN_COLUMNS | used}
    return Annotation(caption, _find_text(fields, ("url",)), _find_text(fields, _LICENCE_FIELDS), metadata)


def _require_short(text: bytes) -> None:
    if len(text) > MAX_TEXT_BYTES:
        raise BadTextError(Reason.CAPTION_TOO_LONG, f"{len(text)} bytes; the limit is {MAX_TEXT_BYTES}")


def _decode_caption(text: bytes) -> str:
    # Before it is decoded: only so much of it was read.
    _require_short(text)
    try:
        return text.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise BadTextError(Reason.CAPTION_NOT_UTF8, str(error)) from error


def _find_text(fields: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next((fields[name] for name in names if isinstance(fields.get(name), str) and fields[name]), None)


def _parse_document(document: bytes) -> dict[str, Any]:
    if len(document) > MAX_JSON_BYTES:
        raise BadTextError(Reason.BAD_JSON, f"{len(document)} bytes; the limit is {MAX_JSON_BYTES}")
    try:
        fields = json.loads(document.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadTextError(Reason.BAD_JSON, f"{type(error).__name__}: {error}") from error
    if not isinstance(fields, dict):
        raise BadTextError(Reason.BAD_JSON, f"expected an object, found {type(fields).__name__}")
    _check_values(fields)
    return fields


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _check_values(document: dict[str, Any]) -> None:
    """Refuse what jsonb refuses, without recursion: the depth is the sender's choice."""
    stack: list[tuple[Any, int]] = [(document, 1)]
    while stack:
        value, depth = stack.pop()
        if depth > MAX_JSON_DEPTH:
            raise BadTextError(Reason.BAD_JSON, f"nested deeper than {MAX_JSON_DEPTH}")
        if isinstance(value, dict):
            stack += [(part, depth + 1) for pair in value.items() for part in pair]
        elif isinstance(value, list):
            stack += [(part, depth + 1) for part in value]
        else:
            _check_leaf(value)


def _check_leaf(value: object) -> None:
    if isinstance(value, str) and not is_storable(value):
        raise BadTextError(Reason.UNSTORABLE_TEXT, "the JSON holds NUL or a lone surrogate")
    if isinstance(value, float) and not math.isfinite(value):
        raise BadTextError(Reason.BAD_JSON, "a number overflows to infinity")
    if isinstance(value, int) and abs(value) > _MAX_INTEGER:
        raise BadTextError(Reason.BAD_JSON, "an integer of more than 100 digits")
