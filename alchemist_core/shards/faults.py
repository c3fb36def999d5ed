"""What can be wrong with one record of a shard: a reason code each, stable because people query for it."""

import re
from dataclasses import dataclass
from enum import StrEnum

_MAX_KEY_CHARS = 256
_MAX_DETAIL_CHARS = 500
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class Reason(StrEnum):
    """Why a record was set aside."""

    # The tar around it.
    TRUNCATED_TAR = "truncated_tar"
    CORRUPT_HEADER = "corrupt_header"
    NOT_A_FILE = "not_a_file"
    # Its names.
    BAD_NAME = "bad_name"
    UNSAFE_PATH = "unsafe_path"
    KEY_TOO_LONG = "key_too_long"
    DUPLICATE_KEY = "duplicate_key"
    DUPLICATE_MEMBER = "duplicate_member"
    TOO_MANY_MEMBERS = "too_many_members"
    # Its text.
    UNSTORABLE_TEXT = "unstorable_text"
    MISSING_CAPTION = "missing_caption"
    CAPTION_NOT_UTF8 = "caption_not_utf8"
    CAPTION_TOO_LONG = "caption_too_long"
    BAD_JSON = "bad_json"
    # Its picture.
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
    # Its score.
    SCORE_NOT_FINITE = "score_not_finite"


# A cut shard may be an upload under way: the next night may find it whole. A decoder may have been killed from outside.
_TRANSIENT = frozenset({Reason.TRUNCATED_TAR, Reason.DECODER_DIED})


@dataclass(frozen=True, slots=True)
class Fault:
    """One bad record: the `ordinal`-th of its shard. Key and detail are text that Postgres can store."""

    ordinal: int
    key: str
    reason: str
    detail: str
    is_transient: bool


def make_fault(ordinal: int, key: str, reason: Reason, detail: str) -> Fault:
    r"""Build a fault whose texts can be stored whatever was in them.

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
    r"""Tell whether Postgres takes the text: it refuses NUL and lone surrogates.

    >>> is_storable("naïve"), is_storable("a\x00b"), is_storable("a\ud800")
    (True, False, False)
    """
    try:
        return b"\x00" not in text.encode()
    except UnicodeEncodeError:
        return False


def escape_unstorable(text: str) -> str:
    """Replace what cannot be stored by its Python escape; other text comes back as it is."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")
