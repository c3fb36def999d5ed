import io
import tarfile
import time
from pathlib import Path

import pytest

from alchemist_core.data.faults import Fault
from alchemist_core.data.tars import MAX_MEMBERS, Record, index_tar
from alchemist_core.errors import DataError

BLOCK = 512


def index(raw: bytes) -> list[Record | Fault]:
    return list(index_tar(io.BytesIO(raw), len(raw)))


def reasons(raw: bytes) -> dict[str, str]:
    return {found.key: found.reason if isinstance(found, Fault) else "ok" for found in index(raw)}


def small(tar, keys="abcd"):
    """One block of header and one of data for each member: member n starts at block 2n."""
    return bytearray(tar([(f"{key}.{ext}", key.encode()) for key in keys for ext in ("jpg", "txt", "json")]))


def test_neighbours_of_one_key_are_a_record_and_offsets_lead_to_their_bytes(tar) -> None:
    raw = tar([("x/1.JPG", b"picture"), ("x/1.txt", b"caption"), ("x/2.cls.txt", b"other")])
    first, second = index(raw)
    assert isinstance(first, Record)
    assert isinstance(second, Record)
    assert (first.key, [member.ext for member in first.members]) == ("x/1", ["jpg", "txt"])
    assert (second.key, [member.ext for member in second.members]) == ("x/2", ["cls.txt"])
    assert [raw[member.offset : member.offset + member.size] for member in first.members] == [b"picture", b"caption"]


def test_a_tar_of_a_folder_reads_as_its_files(tar) -> None:
    folder = tarfile.TarInfo("./")
    folder.type = tarfile.DIRTYPE
    assert reasons(tar([folder, ("./a.jpg", b"1"), ("./a.txt", b"2")])) == {"a": "ok"}


def test_ordinals_count_good_and_bad_records(tar) -> None:
    found = index(tar([("a.jpg", b""), ("../b.jpg", b""), ("c.jpg", b"")]))
    assert [(record.ordinal, isinstance(record, Fault)) for record in found] == [(0, False), (1, True), (2, False)]


@pytest.mark.parametrize("raw", [b"", b"\xff\xd8\xff" + bytes(2000), b"\x1f\x8b" + b"x" * 2000, b"short"])
def test_a_file_that_is_no_tar_from_its_first_byte_is_refused(raw: bytes) -> None:
    with pytest.raises(DataError, match="tar"):
        index(raw)


@pytest.mark.parametrize("place", range(257, 262))
def test_a_damaged_first_header_costs_its_record_and_not_the_tar(tar, place: int) -> None:
    for bit in range(8):
        raw = small(tar)
        raw[place] ^= 1 << bit
        assert reasons(bytes(raw)) == {"a": "corrupt_header", "b": "ok", "c": "ok", "d": "ok"}


def test_an_old_tar_without_magic_reads_on_behind_its_damaged_first_header(tar) -> None:
    raw = small(tar)
    for start in range(0, 24 * BLOCK, 2 * BLOCK):
        header = raw[start : start + BLOCK]
        header[257:265] = bytes(8)
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        raw[start : start + BLOCK] = header
    assert set(reasons(bytes(raw)).values()) == {"ok"}
    raw[0] ^= 1
    assert reasons(bytes(raw)) == {"a": "corrupt_header", "b": "ok", "c": "ok", "d": "ok"}


def test_an_empty_shard_has_no_records(tar) -> None:
    assert index(tar([])) == []


@pytest.mark.parametrize("member", range(12))
def test_a_corrupt_header_costs_its_own_record_only(tar, member: int) -> None:
    raw = small(tar)
    raw[2 * member * BLOCK + 20] ^= 0xFF
    broken = "abcd"[member // 3]
    assert reasons(bytes(raw)) == {key: "corrupt_header" if key == broken else "ok" for key in "abcd"}


def test_a_header_that_lies_about_its_size_does_not_swallow_its_neighbours(tar) -> None:
    raw = small(tar)
    header = tarfile.TarInfo("b.jpg")
    header.size = 10**9
    raw[6 * BLOCK : 7 * BLOCK] = header.tobuf(tarfile.USTAR_FORMAT)
    assert reasons(bytes(raw)) == {"a": "ok", "b": "corrupt_header", "c": "ok", "d": "ok"}


def test_damage_that_swallows_a_whole_record_is_counted(tar) -> None:
    raw = small(tar)
    raw[6 * BLOCK : 12 * BLOCK] = b"x" * (6 * BLOCK)
    found = reasons(bytes(raw))
    assert found.pop(f"offset-{6 * BLOCK}") == "corrupt_header"
    assert found == {"a": "ok", "c": "ok", "d": "ok"}


@pytest.mark.parametrize("cut", [13 * BLOCK, 13 * BLOCK + 1, 14 * BLOCK, 14 * BLOCK + 100, 17 * BLOCK])
def test_a_cut_tar_keeps_its_whole_records_and_may_be_tried_again(tar, cut: int) -> None:
    found = index(bytes(small(tar)[:cut]))
    assert [record.key for record in found] == ["a", "b", "c"]
    assert [isinstance(record, Record) for record in found] == [True, True, False]
    assert isinstance(found[-1], Fault)
    assert (found[-1].reason, found[-1].is_transient) == ("truncated_tar", True)


def test_a_cut_between_two_records_is_still_told(tar) -> None:
    assert reasons(bytes(small(tar)[: 12 * BLOCK])) == {"a": "ok", "b": "ok", f"offset-{12 * BLOCK}": "truncated_tar"}


def test_tars_that_were_concatenated_read_to_the_end(tar) -> None:
    assert list(reasons(bytes(small(tar, "ab") + small(tar, "cd")))) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE, b"V"]
)
def test_links_and_devices_are_no_files(tar, kind: bytes) -> None:
    link = tarfile.TarInfo("b.jpg")
    link.type, link.linkname = kind, "a.jpg"
    raw = tar([("a.jpg", b"1"), link, ("c.jpg", b"3")])
    assert reasons(raw) == {"a": "ok", "b": "not_a_file", "c": "ok"}


@pytest.mark.parametrize("name", ["../b.jpg", "/etc/b.jpg", "x/../../b.jpg", "..\\b.jpg", "C:/b.jpg"])
def test_a_path_that_leads_out_of_its_folder_is_set_aside(tar, name: str) -> None:
    found = index(tar([("a.jpg", b"1"), (name, b"2"), ("c.jpg", b"3")]))
    assert [getattr(record, "reason", "ok") for record in found] == ["ok", "unsafe_path", "ok"]


CLUTTER = [
    "._{}",
    "./._{}",
    ".DS_Store",
    "x/.DS_Store",
    "__MACOSX/._{}",
    "PaxHeaders.123/{}",
    "./PaxHeader/{}",
    "Thumbs.db",
]


@pytest.mark.parametrize("clutter", CLUTTER)
def test_what_macos_and_others_write_between_the_files_of_a_record_loses_no_record(tar, clutter: str) -> None:
    names = [f"{key}.{ext}" for key in "abc" for ext in ("jpg", "txt", "json")]
    entries = [entry for name in names for entry in ((clutter.format(name), b"\0\5\x16\7"), (name, b"1"))]
    found = index(tar(entries))
    assert [(record.ordinal, record.key) for record in found] == [(0, "a"), (1, "b"), (2, "c")]
    assert all(isinstance(record, Record) and len(record.members) == 3 for record in found)


@pytest.mark.parametrize("name", ["README", ".hidden", "x/.jpg"])
def test_a_file_with_a_bad_name_between_the_files_of_a_record_does_not_end_the_record(tar, name: str) -> None:
    found = reasons(tar([("a.jpg", b"1"), (name, b"2"), ("a.txt", b"3"), ("b.jpg", b"4"), ("b.txt", b"5")]))
    assert found == {"a": "ok", name: "bad_name", "b": "ok"}


def test_damage_beside_clutter_is_still_counted(tar) -> None:
    raw = bytearray(tar([("a.jpg", b"1"), ("._a.txt", b"2"), ("a.txt", b"3"), ("b.jpg", b"4"), ("b.txt", b"5")]))
    raw[2 * BLOCK] ^= 1
    assert reasons(bytes(raw)) == {"a": "corrupt_header", "b": "ok"}
    raw = bytearray(tar([("a.jpg", b"1"), ("a.txt", b"2"), ("._b.jpg", b"3"), ("b.jpg", b"4"), ("b.txt", b"5")]))
    raw[2 * BLOCK] ^= 1
    assert reasons(bytes(raw[: 6 * BLOCK])) == {"a": "corrupt_header", f"offset-{6 * BLOCK}": "truncated_tar"}
    # A file that was cut may have been clutter or not: the tar is cut either way.
    assert reasons(bytes(raw[6 * BLOCK :] + raw[4 * BLOCK : 5 * BLOCK])) == {"b": "ok", "._b.jpg": "truncated_tar"}


@pytest.mark.parametrize("name", ["README", ".jpg", "x/.hidden"])
def test_a_name_without_key_or_extension_is_set_aside(tar, name: str) -> None:
    assert list(reasons(tar([("a.jpg", b"1"), (name, b"2")])).values()) == ["ok", "bad_name"]


def test_the_second_record_of_one_key_is_set_aside(tar) -> None:
    found = index(tar([("a.jpg", b"1"), ("b.jpg", b"2"), ("a.jpg", b"3")]))
    assert [getattr(record, "reason", "ok") for record in found] == ["ok", "ok", "duplicate_key"]


def test_two_members_of_one_extension_are_no_record(tar) -> None:
    assert reasons(tar([("a.jpg", b"1"), ("a.JPG", b"2"), ("b.jpg", b"3")])) == {"a": "duplicate_member", "b": "ok"}


def test_a_record_of_too_many_members_is_set_aside_in_the_time_that_its_bytes_take(tar) -> None:
    crowd = [(f"b.e{number}", b"") for number in range(20_000)]
    began = time.process_time()
    found = reasons(tar([("a.jpg", b"1"), *crowd, ("c.jpg", b"2")]))
    # Comparing each with each took 20 seconds.
    assert time.process_time() - began < 10
    assert found == {"a": "ok", "b": "too_many_members", "c": "ok"}


def test_as_many_members_as_the_limit_are_a_record(tar) -> None:
    most = [(f"a.e{number}", b"") for number in range(MAX_MEMBERS)]
    assert reasons(tar(most)) == {"a": "ok"}
    assert reasons(tar([*most, ("a.one", b"")])) == {"a": "too_many_members"}


def test_a_key_of_pax_length_is_read_and_one_too_long_for_an_index_is_set_aside(tar) -> None:
    long, too_long = "k" * 1024, "k" * 1025
    found = index(tar([(f"{long}.jpg", b"1"), (f"{too_long}.jpg", b"2"), ("c.jpg", b"3")]))
    assert [getattr(record, "reason", "ok") for record in found] == ["ok", "key_too_long", "ok"]
    assert found[0].key == long


def test_gnu_long_names_are_read(tar) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as file:
        file.addfile(tarfile.TarInfo("n" * 300 + ".jpg"))
    assert reasons(buffer.getvalue()) == {"n" * 300: "ok"}


def test_a_key_that_is_not_utf8_is_set_aside_under_a_name_that_can_be_stored(tar) -> None:
    found = index(tar([("a.jpg", b"1"), ("\udcff.jpg", b"2"), ("c.jpg", b"3")]))
    assert [getattr(record, "reason", "ok") for record in found] == ["ok", "unstorable_text", "ok"]
    assert found[1].key == "\\udcff"


def pax_tar(records: bytes) -> bytes:
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, len(records)
    blocks = [header.tobuf(tarfile.USTAR_FORMAT), records.ljust(BLOCK, b"\0")]
    blocks += [tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT) for name in ("a.jpg", "b.jpg")]
    return b"".join(blocks) + bytes(2 * BLOCK)


def test_nul_in_a_pax_name_is_set_aside() -> None:
    assert reasons(pax_tar(b"16 path=x\0y.jpg\n")) == {"x\\x00y": "unstorable_text", "b": "ok"}


@pytest.mark.parametrize("records", [b"garbage", b"99 path=x.jpg\n", b"12 size=-5x\n", b"0 path=x\n", b"9 nothing"])
def test_an_unreadable_pax_header_costs_its_own_record_only(records: bytes) -> None:
    assert reasons(pax_tar(records)) == {"a": "corrupt_header", "b": "ok"}


def test_the_real_corpus_reads_without_a_fault(real_corpus: Path) -> None:
    raw = (real_corpus / "000000.tar").read_bytes()
    found = index(raw)
    assert len(found) == 1000
    assert all(isinstance(record, Record) for record in found)
