"""For every change of a shard's bytes, each location is accounted for, and unchanged records read as before."""

import io
import tarfile

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from alchemist_core.errors import DataError
from alchemist_core.shards.faults import Fault, Reason, is_storable
from alchemist_core.shards.samples import Sample, read_samples

N_RECORDS = 6
BLOCK = 512


def read_all(raw: bytes) -> list[Sample | Fault]:
    return list(read_samples(io.BytesIO(raw), len(raw)))


class CleanShard:
    """No dataclass: hypothesis would print every byte of it."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.pairs = {pair.record.key: pair for pair in read_all(raw)}


@pytest.fixture(scope="module")
def clean(tar, record) -> CleanShard:
    return CleanShard(tar([entry for number in range(N_RECORDS) for entry in record(f"key{number}", number)]))


def check_accounting(found: list[Sample | Fault]) -> None:
    ordinals = [item.ordinal if isinstance(item, Fault) else item.record.ordinal for item in found]
    assert ordinals == list(range(len(found)))
    for fault in (item for item in found if isinstance(item, Fault)):
        assert fault.reason in set(Reason)
        assert is_storable(fault.key)
        assert is_storable(fault.detail)
    keys = [item.record.key for item in found if isinstance(item, Sample)]
    assert len(set(keys)) == len(keys)


def extent(pair: Sample) -> tuple[int, int]:
    """From the first header to the last byte of the last member."""
    members = pair.record.files
    return members[0].offset - BLOCK, members[-1].offset + members[-1].size


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=8))
@example([(259.5 / 30720, 1)])
@example([(0.0, 1), (0.5, 1), (0.015625, 1)])  # two flips that leave the checksum of a header as it was
def test_flipped_bytes_affect_only_the_records_that_contain_them(clean, flips) -> None:
    raw = bytearray(clean.raw)
    places = [int(place * len(raw)) for place, _ in flips]
    for place, (_, mask) in zip(places, flips, strict=True):
        raw[place] ^= mask
    found = read_all(bytes(raw))
    check_accounting(found)
    pairs = {item.record.key: item for item in found if isinstance(item, Sample)}
    for key, before in clean.pairs.items():
        start, end = extent(before)
        if not any(start <= place < end for place in places):
            assert pairs[key].pair_hash == before.pair_hash
            assert pairs[key].record.files == before.record.files


@settings(deadline=None, max_examples=100)
@given(st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_keeps_the_records_before_the_cut(clean, place) -> None:
    cut = int(place * len(clean.raw))
    if cut < BLOCK:
        with pytest.raises(DataError):
            read_all(clean.raw[:cut])
        return
    found = read_all(clean.raw[:cut])
    check_accounting(found)
    pairs = {item.record.key for item in found if isinstance(item, Sample)}
    whole = {key for key, pair in clean.pairs.items() if extent(pair)[1] <= cut}
    end = max(extent(pair)[1] for pair in clean.pairs.values())
    is_cut = cut < end + -end % BLOCK + BLOCK
    # A first record without a successor cannot be distinguished from a truncated one.
    assert pairs == (whole if len(found) > 1 else set())
    assert [item.is_transient for item in found if isinstance(item, Fault)] == [True] * is_cut


@settings(deadline=None, max_examples=100)
@given(st.floats(0, 1), st.floats(0, 1), st.binary(max_size=3000))
def test_replaced_stretches_are_accounted_for(clean, start, length, stuff) -> None:
    first = int(start * len(clean.raw))
    last = first + int(length * (len(clean.raw) - first))
    raw = clean.raw[:first] + stuff + clean.raw[last:]
    try:
        check_accounting(read_all(raw))
    except DataError:
        # No good header is left anywhere.
        assert first < BLOCK
        assert not any(has_good_header(raw[at : at + BLOCK]) for at in range(0, len(raw), BLOCK))


def has_good_header(block: bytes) -> bool:
    try:
        return bool(tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape"))
    except tarfile.HeaderError:
        return False


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=4096))
def test_noise_is_refused_or_accounted_for(noise) -> None:
    try:
        check_accounting(read_all(noise))
    except DataError:
        return


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.tuples(
            st.text("ab./\\:\0é\ud800", max_size=6),
            st.sampled_from(["jpg", "png", "txt", "json", "JPG", "npy", ""]),
            st.one_of(st.binary(max_size=40), st.just(b'{"caption": "x"}')),
        ),
        max_size=12,
    )
)
def test_any_names_and_contents_are_accounted_for(tar, members) -> None:
    entries = [(f"{key}.{ext}".encode("utf-8", "replace").decode(), data) for key, ext, data in members]
    found = read_all(tar(entries))
    check_accounting(found)
    assert len(found) <= len(entries)
    assert bool(found) == bool([name for name, _ in entries if not name.endswith("/")])
