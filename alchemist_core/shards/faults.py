"""Faults of a record, each with a reason code. The codes are stored, and people query for them: do not change them."""

import re
from dataclasses import dataclass
from enum import StrEnum

_MAX_KEY_CHARS = 256
_MAX_DETAIL_CHARS = 500
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class Reason(StrEnum):
    """Why a record was quarantined."""

    # The tar.
    TRUNCATED_TAR = "truncated_tar"
    CORRUPT_HEADER = "corrupt_header"
    NOT_A_FILE = "not_a_file"
    # Names of its files.
    BAD_NAME = "bad_name"
    UNSAFE_PATH = "unsafe_path"
    KEY_TOO_LONG = "key_too_long"
    DUPLICATE_KEY = "duplicate_key"
    DUPLICATE_MEMBER = "duplicate_member"
    TOO_MANY_MEMBERS = "too_many_members"
    # Text.
    UNSTORABLE_TEXT = "unstorable_text"
    MISSING_CAPTION = "missing_caption"
    CAPTION_NOT_UTF8 = "caption_not_utf8"
    CAPTION_TOO_LONG = "caption_too_long"
    BAD_JSON = "bad_json"
    # Image.
    MISSING_IMAGE = "missing_image"
    SEVERAL_IMAGES = "several_images"
    EMPTY_IMAGE = "empty_image"
    WRONG_MAGIC = "wrong_magic"
    BAD_IMAGE = "bad_image"
    TRUNCATED_IMAGE = "truncated_image"
    ANIMATED_IMAGE = "animated_image"
    IMAGE_TOO_LARGE = "image_too_large"
    UNSUPPORTED_PIXELS = "unsupported_pixels"
    TOO_SLOW = "too_slow"
    DECODER_DIED = "decoder_died"
    # Score.
    SCORE_NOT_FINITE = "score_not_finite"
    REFUSED_BY_SCORER = "refused_by_scorer"
    UNANSWERED_BY_SCORER = "unanswered_by_scorer"
    TAKEN_DOWN = "taken_down"


# A truncated shard may still be uploaded, and complete the next night. A decoder may have been killed from outside. A server that gave no
# answer may give one later.
_TRANSIENT = frozenset({Reason.TRUNCATED_TAR, Reason.DECODER_DIED, Reason.UNANSWERED_BY_SCORER})


@dataclass(frozen=True, slots=True)
class Fault:
    """One bad record. `ordinal` is its number in the shard; Postgres can store key and detail."""

    ordinal: int
    key: str
    reason: str
    detail: str
    is_transient: bool


def make_fault(ordinal: int, key: str, reason: Reason, detail: str) -> Fault:
    r"""Return a fault with texts that Postgres can store.

    >>> make_fault(3, "a\x00b", Reason.UNSTORABLE_TEXT, "the key holds NUL").key
    'a\\x00b'
    """
    return Fault(
        ordinal,
        escape_unstorable(key)[:_MAX_KEY_CHARS],
        reason.value,
        escape_unstorable(_ADDRESS.sub("", detail))[:_MAX_DETAIL_CHARS],
        is_transient=reason in _TRANSIENT,
    )


def is_storable(text: str) -> bool:
    r"""Return whether Postgres accepts the text; it refuses NUL and lone surrogates.

    >>> is_storable("naïve"), is_storable("a\x00b"), is_storable("a\ud800")
    (True, False, False)
    """
    try:
        return b"\x00" not in text.encode()
    except UnicodeEncodeError:
        return False


def escape_unstorable(text: str) -> str:
    """Replace characters that Postgres refuses by their Python escapes."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")
