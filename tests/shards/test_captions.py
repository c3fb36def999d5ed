import json

import pytest

from alchemist_core.shards.captions import BadTextError, find_repairs, read_annotation
from alchemist_core.shards.repairs import Repair


def reason_of(text: bytes | None, document: bytes | None = None) -> str:
    with pytest.raises(BadTextError) as caught:
        read_annotation(text, document, is_new=True)
    return caught.value.reason


def test_the_text_member_wins_over_the_document() -> None:
    assert read_annotation(b"from text", b'{"caption": "from json"}').caption == "from text"


@pytest.mark.parametrize("text", [None, b"", b" \n"])
@pytest.mark.parametrize(
    "document", [b'{"caption": "a cat"}', b'{"text": "a cat"}', b'{"caption": null, "text": "a cat"}']
)
def test_the_document_speaks_where_the_text_does_not(text: bytes | None, document: bytes) -> None:
    assert read_annotation(text, document).caption == "a cat"


def test_white_space_and_byte_order_marks_are_not_part_of_a_caption() -> None:
    assert read_annotation(b"\xef\xbb\xbf a cat \r\n", None).caption == "a cat"


@pytest.mark.parametrize("document", [None, b"{}", b'{"caption": null}', b'{"caption": 5}', b'{"caption": " "}'])
def test_no_caption_is_a_fault(document: bytes | None) -> None:
    assert reason_of(None, document) == "missing_caption"
    assert reason_of(b" ", document) == "missing_caption"


def test_address_and_licence_have_their_columns_and_the_rest_is_metadata() -> None:
    annotation = read_annotation(
        b"a cat",
        b'{"caption": "a cat", "url": "https://x.org/1", "license": "MIT", "width": 4, "height": 3, "tags": ["x"], "punsafe": 0.1}',
    )
    assert annotation.attributes == {"source_url": "https://x.org/1", "licence": "MIT"}
    assert annotation.metadata == {"tags": ["x"], "punsafe": 0.1}


def test_licence_is_read_in_both_spellings() -> None:
    assert read_annotation(b"x", b'{"licence": "CC0-1.0"}').attributes["licence"] == "CC0-1.0"


def test_a_caption_that_is_not_utf8_is_a_fault() -> None:
    assert reason_of(b"caf\xe9") == "caption_not_utf8"
    assert reason_of("lone \ud800".encode("utf-8", "surrogatepass")) == "caption_not_utf8"


def test_what_postgres_cannot_store_is_a_fault() -> None:
    assert reason_of(b"a\0b") == "unstorable_text"
    assert reason_of(None, b'{"caption": "a\\u0000b"}') == "unstorable_text"
    assert reason_of(None, b'{"caption": "a\\ud800b"}') == "unstorable_text"
    assert reason_of(b"x", b'{"deep": [{"a\\u0000": 1}]}') == "unstorable_text"
    assert reason_of(b"x", b'{"deep": [["\\udfff"]]}') == "unstorable_text"


@pytest.mark.parametrize(
    "document",
    [
        b"{", b"[]", b'"x"', b"\xff", b'{"a": NaN}', b'{"a": -Infinity}', b'{"a": 1e999}', b'{"a": 1' + b"0" * 200 + b"}",
        b'{"a": 1' + b"0" * 5000 + b"}", b'{"a": ' + b"[" * 70 + b"]" * 70 + b"}",
        b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", b'{"a": "' + b"x" * (1 << 20) + b'"}',
    ],
)  # fmt: skip
def test_json_that_cannot_be_kept_is_a_fault(document: bytes) -> None:
    assert reason_of(b"a cat", document) == "bad_json"


def test_a_surrogate_pair_is_a_character() -> None:
    assert read_annotation(None, b'{"caption": "\\ud83d\\ude00"}').caption == "😀"


def test_a_caption_beyond_the_limit_is_a_fault() -> None:
    assert read_annotation(b"x" * 65536, None).caption == "x" * 65536
    assert reason_of(b"x" * 65537) == "caption_too_long"


@pytest.mark.parametrize("letter", ["x", "é"])
def test_the_limit_of_a_caption_is_one_wherever_it_is(letter: str) -> None:
    n_letters = 65536 // len(letter.encode())
    longest, longer = (f'{{"caption": "{letter * n}"}}'.encode() for n in (n_letters, n_letters + 1))
    assert read_annotation(None, longest).caption == letter * n_letters
    assert reason_of(None, longer) == "caption_too_long"


@pytest.mark.parametrize(
    ("text", "document", "metadata"),
    [
        # The field that became the caption is not metadata; the other fields are.
        (b"x", b'{"text": "y", "caption": "z"}', {"text": "y"}), (None, b'{"text": "y", "caption": "z"}', {}),
        (None, b'{"caption": null, "text": "y", "n": 1}', {"n": 1}), (None, b'{"caption": "z", "text": 5}', {"text": 5}),
        (b"x", b'{"url": 5, "license": 6, "width": 7, "height": 8, "licence": 9, "caption": 1}', {}),
    ],
)  # fmt: skip
def test_what_is_used_as_the_caption_is_no_metadata(text: bytes | None, document: bytes, metadata: dict) -> None:
    assert read_annotation(text, document).metadata == metadata


@pytest.mark.parametrize(
    ("document", "address", "licence"),
    [
        (b'{"url": "u", "license": "A", "licence": "B"}', "u", "A"), (b'{"license": "", "licence": "B"}', None, "B"),
        (b'{"url": "", "license": null}', None, None), (b'{"url": 5, "license": ["A"]}', None, None), (b"{}", None, None),
    ],
)  # fmt: skip
def test_an_address_and_a_licence_are_non_empty_texts(
    document: bytes, address: str | None, licence: str | None
) -> None:
    found = read_annotation(b"x", document)
    assert found.attributes == {"source_url": address, "licence": licence}


def test_a_caption_field_of_white_space_gives_way_to_the_other() -> None:
    assert read_annotation(None, b'{"caption": " ", "text": " a cat "}').caption == "a cat"
    assert read_annotation(None, b'{"caption": "first", "text": "second"}').caption == "first"


def test_json_may_be_as_deep_as_the_limit() -> None:
    def nested(depth: int) -> bytes:
        return b'{"a": ' + b"[" * depth + b"1" + b"]" * depth + b"}"

    # The object is one level, the number another.
    assert read_annotation(b"x", nested(62)).metadata.keys() == {"a"}
    assert reason_of(b"x", nested(63)) == "bad_json"
    keys = b'{"a": ' * 63 + b"1" + b"}" * 63
    assert read_annotation(b"x", keys).metadata.keys() == {"a"}
    assert reason_of(b"x", b'{"a": ' + keys + b"}") == "bad_json"


@pytest.mark.parametrize("sign", [b"", b"-"])
def test_an_integer_may_have_a_hundred_digits(sign: bytes) -> None:
    most = sign + b"9" * 100
    assert read_annotation(b"x", b'{"a": ' + most + b"}").metadata == {"a": int(most)}
    assert reason_of(b"x", b'{"a": ' + sign + b"1" + b"0" * 100 + b"}") == "bad_json"


@pytest.mark.parametrize("number", [b"1e308", b"-1e308", b"1e-308", b"1.5e300"])
def test_numbers_that_grow_in_jsonb_are_a_fault_where_there_are_many(number: bytes) -> None:
    # Postgres prints 309 digits for each of them.
    few, many = (b'{"a": [' + b",".join([number] * n) + b"]}" for n in (3000, 4000))
    assert read_annotation(b"x", few).metadata == {"a": [float(number)] * 3000}
    assert reason_of(b"x", many) == "bad_json"
    assert find_repairs(b"x", many) == {Repair.CAPTION_FROM_TXT}
    # Records that are registered already stay readable.
    assert read_annotation(b"x", many).metadata == {"a": [float(number)] * 4000}


def test_measurements_do_not_grow_in_jsonb() -> None:
    numbers = [0.0, 1e-30, 3.1415926535, 1234567.5] * 10_000
    assert read_annotation(b"x", json.dumps({"a": numbers}).encode()).metadata == {"a": numbers}


def test_a_document_may_be_as_long_as_the_limit() -> None:
    frame = len(b'{"a": ""}')
    assert read_annotation(b"x", b'{"a": "' + b"y" * ((1 << 20) - frame) + b'"}').metadata.keys() == {"a"}
    assert reason_of(b"x", b'{"a": "' + b"y" * ((1 << 20) - frame + 1) + b'"}') == "bad_json"


@pytest.mark.parametrize("text", [None, b"", b" "])
def test_a_byte_order_mark_before_json_is_read_over(text: bytes | None) -> None:
    assert read_annotation(text, b'\xef\xbb\xbf{"caption": "a cat"}').caption == "a cat"
