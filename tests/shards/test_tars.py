import io
import tarfile
import time
from pathlib import Path

import pytest

from alchemist_core.errors import DataError
from alchemist_core.shards.faults import Fault, Reason, make_fault
from alchemist_core.shards.tars import MAX_FILES, MAX_PADDING_BYTES, Record, index_tar, is_clutter

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
    assert (first.key, [member.ext for member in first.files]) == ("x/1", ["jpg", "txt"])
    assert (second.key, [member.ext for member in second.files]) == ("x/2", ["cls.txt"])
    assert [raw[member.offset : member.offset + member.size] for member in first.files] == [b"picture", b"caption"]


def test_a_tar_of_a_folder_reads_as_its_files(tar) -> None:
    folder = tarfile.TarInfo("./")
    folder.type = tarfile.DIRTYPE
    assert reasons(tar([folder, ("./a.jpg", b"1"), ("./a.txt", b"2")])) == {"a": "ok"}


def test_ordinals_count_good_and_bad_records(tar) -> None:
    found = index(tar([("a.jpg", b""), ("../b.jpg", b""), ("c.jpg", b"")]))
    assert [(record.ordinal, isinstance(record, Fault)) for record in found] == [(0, False), (1, True), (2, False)]


@pytest.mark.parametrize("raw", [b"", b"\xff\xd8\xff" + bytes(2000), b"\x1f\x8b" + b"x" * 2000, b"short"])
def test_a_file_that_is_not_a_tar_from_its_first_byte_is_refused(raw: bytes) -> None:
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


def test_a_header_with_a_false_size_does_not_hide_other_records(tar) -> None:
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


def test_a_cut_between_two_records_is_still_reported(tar) -> None:
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
def test_a_path_that_leads_out_of_its_folder_is_quarantined(tar, name: str) -> None:
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
    assert all(isinstance(record, Record) and len(record.files) == 3 for record in found)


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
    # A truncated file may have been irrelevant or not; the tar is truncated in both cases.
    assert reasons(bytes(raw[6 * BLOCK :] + raw[4 * BLOCK : 5 * BLOCK])) == {"b": "ok", "._b.jpg": "truncated_tar"}


@pytest.mark.parametrize("name", ["README", ".jpg", "x/.hidden"])
def test_a_name_without_key_or_extension_is_quarantined(tar, name: str) -> None:
    assert list(reasons(tar([("a.jpg", b"1"), (name, b"2")])).values()) == ["ok", "bad_name"]


def test_the_second_record_of_one_key_is_quarantined(tar) -> None:
    found = index(tar([("a.jpg", b"1"), ("b.jpg", b"2"), ("a.jpg", b"3")]))
    assert [getattr(record, "reason", "ok") for record in found] == ["ok", "ok", "duplicate_key"]


def test_two_members_of_one_extension_are_no_record(tar) -> None:
    assert reasons(tar([("a.jpg", b"1"), ("a.JPG", b"2"), ("b.jpg", b"3")])) == {"a": "duplicate_member", "b": "ok"}


@pytest.mark.slow
def test_a_record_of_too_many_members_is_quarantined_in_the_time_that_its_bytes_take(tar) -> None:
    crowd = [(f"b.e{number}", b"") for number in range(20_000)]
    began = time.process_time()
    found = reasons(tar([("a.jpg", b"1"), *crowd, ("c.jpg", b"2")]))
    # Comparing each with each took 20 seconds.
    assert time.process_time() - began < 10
    assert found == {"a": "ok", "b": "too_many_members", "c": "ok"}


def test_as_many_members_as_the_limit_are_a_record(tar) -> None:
    most = [(f"a.e{number}", b"") for number in range(MAX_FILES)]
    assert reasons(tar(most)) == {"a": "ok"}
    assert reasons(tar([*most, ("a.one", b"")])) == {"a": "too_many_members"}


def test_a_key_of_pax_length_is_read_and_one_too_long_for_an_index_is_quarantined(tar) -> None:
    long, too_long = "k" * 1024, "k" * 1025
    found = index(tar([(f"{long}.jpg", b"1"), (f"{too_long}.jpg", b"2"), ("c.jpg", b"3")]))
    assert [getattr(record, "reason", "ok") for record in found] == ["ok", "key_too_long", "ok"]
    assert found[0].key == long


def test_gnu_long_names_are_read(tar) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as file:
        file.addfile(tarfile.TarInfo("n" * 300 + ".jpg"))
    assert reasons(buffer.getvalue()) == {"n" * 300: "ok"}


def test_a_key_that_is_not_utf8_is_quarantined_under_a_name_that_can_be_stored(tar) -> None:
    found = index(tar([("a.jpg", b"1"), ("\udcff.jpg", b"2"), ("c.jpg", b"3")]))
    assert [getattr(record, "reason", "ok") for record in found] == ["ok", "unstorable_text", "ok"]
    assert found[1].key == "\\udcff"


def pax_tar(records: bytes) -> bytes:
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, len(records)
    blocks = [header.tobuf(tarfile.USTAR_FORMAT), records.ljust(BLOCK, b"\0")]
    blocks += [tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT) for name in ("a.jpg", "b.jpg")]
    return b"".join(blocks) + bytes(2 * BLOCK)


def test_nul_in_a_pax_name_is_quarantined() -> None:
    assert reasons(pax_tar(b"16 path=x\0y.jpg\n")) == {"x\\x00y": "unstorable_text", "b": "ok"}


@pytest.mark.parametrize("records", [b"garbage", b"99 path=x.jpg\n", b"12 size=-5x\n", b"0 path=x\n", b"9 nothing"])
def test_an_unreadable_pax_header_costs_its_own_record_only(records: bytes) -> None:
    assert reasons(pax_tar(records)) == {"a": "corrupt_header", "b": "ok"}


def test_the_real_corpus_reads_without_a_fault(real_corpus: Path) -> None:
    raw = (real_corpus / "000000.tar").read_bytes()
    found = index(raw)
    assert len(found) == 1000
    assert all(isinstance(record, Record) for record in found)


@pytest.mark.parametrize(
    ("name", "key", "ext"),
    [
        ("a.jpg", "a", "jpg"), ("./././a.jpg", "a", "jpg"), ("x.y/1.JPG", "x.y/1", "jpg"), ("x/1.cls.TXT", "x/1", "cls.txt"),
        ("a..jpg", "a", ".jpg"), ("x/..b/c.jpg", "x/..b/c", "jpg"), ("a b.jpg", "a b", "jpg"), ("1.5.jpg", "1", "5.jpg"),
    ],
)  # fmt: skip
def test_a_key_ends_at_the_first_dot_of_the_file_name(tar, name: str, key: str, ext: str) -> None:
    (record,) = index(tar([(name, b"1")]))
    assert isinstance(record, Record)
    assert (record.key, [member.ext for member in record.files]) == (key, [ext])


@pytest.mark.parametrize(
    ("name", "is_passed_over"),
    [
        ("desktop.ini", True), ("x/Thumbs.db", True), ("pax_global_header", True), ("PaxHeader/a.jpg", True), ("PaxHeaders/a.jpg", True),
        ("PaxHeaders.9/a.jpg", True), ("x/__MACOSX/y/a.jpg", True), ("._a.jpg", True), ("x/._a", True), ("a.jpg", False),
        ("x__MACOSX/a.jpg", False), ("PaxHeaders.x/a.jpg", False), ("a._b", False), ("DS_Store", False), ("x.DS_Store", False),
        ("._x/a.jpg", False), ("Thumbs.db.jpg", False), ("__MACOSX", False),
    ],
)  # fmt: skip
def test_clutter_is_known_by_its_whole_name(name: str, is_passed_over: bool) -> None:
    assert is_clutter(name) is is_passed_over


def test_the_first_fault_of_a_record_is_the_one_that_is_kept(tar) -> None:
    long = "k" * 1025
    entries = [("a.jpg", b"1"), ("b.jpg", b"2"), ("a.jpg", b"3"), ("a.JPG", b"4"), (f"../{long}.jpg", b"5")]
    found = index(tar([*entries, (f"{long}.jpg", b"6"), ("b.jpg", b"7"), (f"{long}.jpg", b"8")]))
    assert [getattr(record, "reason", "ok") for record in found] == [
        "ok", "ok", "duplicate_member", "unsafe_path", "key_too_long", "duplicate_key", "duplicate_key",
    ]  # fmt: skip


def test_a_record_that_was_quarantined_has_used_its_key(tar) -> None:
    found = index(tar([("a.jpg", b"1"), ("a.JPG", b"2"), ("b.jpg", b"3"), ("a.jpg", b"4")]))
    assert [getattr(record, "reason", "ok") for record in found] == ["duplicate_member", "ok", "duplicate_key"]


@pytest.mark.parametrize("ext", ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"])
def test_a_record_whose_image_has_another_extension_is_whole_beside_damage(tar, ext: str) -> None:
    raw = bytearray(
        tar([("a.jpg", b"1"), ("a.txt", b"2"), (f"b.{ext}", b"3"), ("b.txt", b"4"), ("c.jpg", b"5"), ("c.txt", b"6")])
    )
    raw[8 * BLOCK] ^= 0xFF
    assert reasons(bytes(raw)) == {"a": "ok", "b": "ok", "c": "corrupt_header"}


def test_more_files_than_a_neighbour_has_are_no_loss(tar) -> None:
    raw = bytearray(tar([("a.jpg", b"1"), ("b.jpg", b"2"), ("b.txt", b"3"), ("c.jpg", b"4"), ("d.jpg", b"5")]))
    raw[6 * BLOCK : 8 * BLOCK] = b"x" * (2 * BLOCK)
    assert reasons(bytes(raw)) == {"a": "ok", "b": "ok", f"offset-{6 * BLOCK}": "corrupt_header", "d": "ok"}


def test_a_record_alone_beside_damage_cannot_be_shown_to_be_whole_and_two_of_one_shape_can(tar) -> None:
    raw = bytearray(tar([("a.jpg", b"1"), ("a.txt", b"2")]))
    raw[2 * BLOCK] ^= 0xFF
    assert reasons(bytes(raw)) == {"a": "corrupt_header"}
    pair = bytearray(tar([("a.jpg", b"1"), ("b.jpg", b"2"), ("c.jpg", b"3")]))
    pair[2 * BLOCK] ^= 0xFF
    assert reasons(bytes(pair)) == {"a": "ok", f"offset-{2 * BLOCK}": "corrupt_header", "c": "ok"}


def test_one_block_of_zeros_ends_a_tar_and_a_block_of_anything_else_does_not(tar) -> None:
    whole, end = bytes(small(tar, "ab")[: 12 * BLOCK]), 13 * BLOCK - 1
    assert reasons(whole + bytes(BLOCK)) == {"a": "ok", "b": "ok"}
    assert reasons(whole + bytes(BLOCK - 1)) == {"a": "ok", "b": "ok", f"offset-{end}": "truncated_tar"}
    assert reasons(bytes(3 * BLOCK)) == {}


@pytest.mark.parametrize("n_written", [12 * BLOCK, 12 * BLOCK + 100, 13 * BLOCK, 13 * BLOCK + 1, 14 * BLOCK + 200])
def test_a_tar_whose_size_was_set_before_its_bytes_were_written_is_cut(tar, n_written: int) -> None:
    found = index(bytes(small(tar)[:n_written]) + bytes(2 * MAX_PADDING_BYTES))
    assert [record.key for record in found[:2]] == ["a", "b"]
    assert isinstance(found[-1], Fault)
    assert (found[-1].reason, found[-1].is_transient) == ("truncated_tar", True)


def test_zeros_that_a_program_may_have_put_at_the_end_or_that_a_file_holds_do_not_cut_a_tar(tar) -> None:
    whole = bytes(small(tar, "ab")[: 12 * BLOCK])
    assert reasons(whole + bytes(MAX_PADDING_BYTES)) == {"a": "ok", "b": "ok"}
    longer = len(whole) + MAX_PADDING_BYTES + BLOCK
    assert reasons(whole + bytes(MAX_PADDING_BYTES + BLOCK)) == {
        "a": "ok",
        "b": "ok",
        f"offset-{longer}": "truncated_tar",
    }
    assert reasons(tar([("a.bmp", bytes(2 * MAX_PADDING_BYTES))])) == {"a": "ok"}


def test_a_file_of_nothing_but_zeros_is_an_empty_tar_up_to_the_size_that_programs_write() -> None:
    assert reasons(bytes(tarfile.RECORDSIZE)) == {}
    assert reasons(bytes(2 * tarfile.RECORDSIZE)) == {f"offset-{2 * tarfile.RECORDSIZE}": "truncated_tar"}


@pytest.mark.parametrize("n_blocks", [1, 2047, 2048, 2049, 5000])
def test_a_header_is_found_behind_any_stretch_of_zeros_or_damage(tar, n_blocks: int) -> None:
    before, after = bytes(small(tar, "a")[: 6 * BLOCK]), bytes(small(tar, "b"))
    assert reasons(before + bytes(n_blocks * BLOCK) + after) == {"a": "ok", "b": "ok"}
    found = reasons(before + b"x" * (n_blocks * BLOCK) + after)
    assert found == {"a": "ok", f"offset-{6 * BLOCK}": "corrupt_header", "b": "ok"}


def test_a_file_may_end_where_the_tar_ends_and_one_byte_later_it_is_cut() -> None:
    header = tarfile.TarInfo("b.jpg")
    header.size = BLOCK
    raw = tarfile.TarInfo("a.jpg").tobuf(tarfile.USTAR_FORMAT) + header.tobuf(tarfile.USTAR_FORMAT) + b"x" * BLOCK
    _, record, end = index(raw)
    assert isinstance(record, Record)
    assert (record.files[0].size, end.key, end.reason) == (BLOCK, f"offset-{3 * BLOCK}", "truncated_tar")
    _, cut = index(raw[:-1])
    assert (cut.reason, cut.detail) == ("truncated_tar", "b.jpg: 512 bytes announced, 511 found")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "the file is empty"), (b"\x1f\x8b" + b"x" * 2000, "found gzip"), (b"<html>" + b"x" * 2000, "starts with b'<html>xx'"),
        (bytes(100), "expected an uncompressed tar"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_a_tar_is_named_by_its_kind(raw: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        index(raw)


def pax_records(**values: bytes) -> bytes:
    """Write records as pax has them: each begins with its own length."""
    lines = b""
    for name, value in values.items():
        body = b" %s=%s\n" % (name.encode(), value)
        length = next(n for n in range(len(body), len(body) + 9) if len(str(n)) + len(body) == n)
        lines += str(length).encode() + body
    return lines


def test_a_pax_size_replaces_the_headers_size_and_a_pax_path_its_name() -> None:
    header = tarfile.TarInfo("pax")
    records = pax_records(path=b"long.jpg", size=b"3")
    header.type, header.size = tarfile.XHDTYPE, len(records)
    blocks = [header.tobuf(tarfile.USTAR_FORMAT), records.ljust(BLOCK, b"\0")]
    blocks += [tarfile.TarInfo("a.jpg").tobuf(tarfile.USTAR_FORMAT), b"abc".ljust(BLOCK, b"\0")]
    blocks += [tarfile.TarInfo("b.jpg").tobuf(tarfile.USTAR_FORMAT)]
    first, second = index(b"".join(blocks) + bytes(2 * BLOCK))
    assert (first.key, first.files[0].size, first.files[0].offset) == ("long", 3, 3 * BLOCK)
    assert (second.key, second.files[0].size) == ("b", 0)


@pytest.mark.parametrize(("n_bytes", "reason"), [(1 << 16, "ok"), ((1 << 16) + 1, "corrupt_header")])
def test_a_pax_header_may_be_as_long_as_the_limit(n_bytes: int, reason: str) -> None:
    path = pax_records(path=b"x.jpg")
    records = path + pax_records(comment=b"c" * (n_bytes - len(path) - len(b"65521 comment=\n")))
    assert len(records) == n_bytes
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, len(records)
    blocks = [header.tobuf(tarfile.USTAR_FORMAT), records + bytes(-len(records) % BLOCK)]
    blocks += [tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT) for name in ("a.jpg", "b.jpg")]
    found = reasons(b"".join(blocks) + bytes(2 * BLOCK))
    assert found == ({"x": "ok", "b": "ok"} if reason == "ok" else {"a": reason, "b": "ok"})


@pytest.mark.parametrize("kind", [tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK])
def test_a_global_or_link_header_renames_no_file(kind: bytes) -> None:
    raw = bytearray(pax_tar(pax_records(path=b"x.jpg")))
    header = tarfile.TarInfo("pax")
    header.type, header.size = kind, len(pax_records(path=b"x.jpg"))
    raw[:BLOCK] = header.tobuf(tarfile.USTAR_FORMAT)
    assert reasons(bytes(raw)) == {"a": "ok", "b": "ok"}


@pytest.mark.parametrize(
    "records",
    [
        b"30 GNU.sparse.realsize=12345678\n",
        b"33 size=0000000000000000000000001\n",
        b"11 path=x.g",
        b"12 path=xxx ",
        b"x",
    ],
)
def test_an_extended_header_that_cannot_be_trusted_costs_its_record(records: bytes) -> None:
    assert reasons(pax_tar(records)) == {"a": "corrupt_header", "b": "ok"}


def test_a_file_system_s_padding_behind_pax_records_is_no_record() -> None:
    assert reasons(pax_tar(pax_records(path=b"x.jpg") + bytes(9))) == {"x": "ok", "b": "ok"}


@pytest.mark.parametrize("reason", Reason)
def test_a_cut_tar_a_dead_decoder_and_a_silent_scorer_alone_are_tried_again_and_codes_are_for_ever(
    reason: Reason,
) -> None:
    fault = make_fault(3, "k" * 300, reason, "d" * 600 + " at 0x7f00")
    assert reason.value == reason.name.lower() == fault.reason
    assert (fault.ordinal, len(fault.key), len(fault.detail)) == (3, 256, 500)
    assert fault.is_transient is (reason in {"truncated_tar", "decoder_died", "unanswered_by_scorer"})


def test_an_address_in_memory_is_not_part_of_a_fault() -> None:
    assert make_fault(0, "k", Reason.BAD_IMAGE, "<BytesIO object at 0x7f3AbC> broke").detail == "<BytesIO object> broke"
