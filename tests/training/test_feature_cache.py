import hashlib
import os
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alchemist_core.store.manifests import hash_rows
from alchemist_core.training import feature_cache
from alchemist_core.training.feature_cache import FeatureCache, forget


def keys(*numbers: int) -> np.ndarray:
    return hash_rows([hashlib.sha256(bytes([number])).digest() for number in numbers])


def rows(numbers: list[int]) -> dict[str, np.ndarray]:
    return {"code": np.array([[n, n + 1] for n in numbers], np.int32), "pooled": np.array(numbers, np.float32)}


def found_in(cache: FeatureCache, *numbers: int) -> tuple[list[bool], list[int]]:
    """Which keys are stored, and the rows of those that are."""
    found = cache.find(keys(*numbers))
    return found.is_known_N.tolist(), found.read("pooled", np.arange(len(found))).tolist() if len(found) else []


def test_an_empty_cache_is_empty(tmp_path: Path) -> None:
    assert found_in(FeatureCache(tmp_path / "none"), 1) == ([False], [])
    assert found_in(FeatureCache(tmp_path / "none")) == ([], [])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    segments=st.lists(st.lists(st.integers(0, 255), min_size=1, max_size=8, unique=True), max_size=4),
    wanted=st.lists(st.integers(0, 255), max_size=12),
    order=st.randoms(),
)
def test_what_was_added_is_found_by_its_content_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, segments: list[list[int]], wanted: list[int], order: random.Random
) -> None:
    cache = FeatureCache(tmp_path_factory.mktemp("cache"))
    for numbers in segments:
        cache.add(keys(*numbers), rows(numbers))
    known = {n for numbers in segments for n in numbers}
    found = cache.find(keys(*wanted))
    assert found.is_known_N.tolist() == [n in known for n in wanted]
    assert len(found) == sum(found.is_known_N)
    if len(found):
        places = order.choices(range(len(found)), k=9)
        expected = rows([[n for n in wanted if n in known][place] for place in places])
        for name, values in expected.items():
            read = found.read(name, np.array(places))
            assert (read.dtype, read.tolist()) == (values.dtype, values.tolist())
        assert found.read("code", np.array(places), first=1).tolist() == expected["code"][:, :1].tolist()


def test_a_key_that_ends_in_zeros_is_itself(tmp_path: Path) -> None:
    almost = hash_rows([bytes([1] * 31 + [0]), bytes([1] * 32), bytes([1] * 30 + [0, 0])])
    FeatureCache(tmp_path).add(almost[:1], rows([5]))
    assert FeatureCache(tmp_path).find(almost).is_known_N.tolist() == [True, False, False]
    assert forget(tmp_path, [almost[1].tobytes(), almost[2].tobytes()]) == 0
    assert forget(tmp_path, [almost[0].tobytes()]) == 1


def test_rows_are_read_from_the_file_when_they_are_asked_for(tmp_path: Path) -> None:
    """The bytes are those of the file, not a copy that was made when it was found."""
    FeatureCache(tmp_path).add(keys(1, 2), rows([1, 2]))
    found = FeatureCache(tmp_path).find(keys(2, 1))
    (path,) = tmp_path.iterdir()
    with path.open("r+b") as file:
        file.seek(path.read_bytes().index(np.float32([1, 2]).tobytes()))
        file.write(np.float32([3, 4]).tobytes())
    assert found.read("pooled", np.arange(2)).tolist() == [4, 3]


def test_a_segment_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """It wrote the same layout, from keys that were strings of 32 bytes."""
    keys_of_then = np.frombuffer(keys(1, 2).tobytes(), "S32").view(np.uint8).reshape(-1, 32)
    np.savez(tmp_path / "0123456789abcdef01234567.npz", keys=keys_of_then, **rows([1, 2]))
    assert found_in(FeatureCache(tmp_path), 2, 3, 1) == ([True, False, True], [2, 1])


def test_what_is_forgotten_is_gone_from_every_cache_and_its_neighbours_stay(tmp_path: Path) -> None:
    FeatureCache(tmp_path / "a").add(keys(1, 2), rows([1, 2]))
    FeatureCache(tmp_path / "b").add(keys(2), rows([2]))
    assert forget(tmp_path, [keys(2).tobytes(), keys(9).tobytes()]) == 2
    assert found_in(FeatureCache(tmp_path / "a"), 1, 2) == ([True, False], [1])
    assert not list((tmp_path / "b").iterdir())


@pytest.mark.parametrize("gone", [[1], [1, 2, 3]])
def test_a_takedown_beside_a_run_gives_it_no_row_of_another(tmp_path: Path, gone: list[int]) -> None:
    """A run that has found its rows keeps reading them; a later look does not find what is gone."""
    cache, every = FeatureCache(tmp_path), [1, 2, 3, 4]
    cache.add(keys(1, 2, 3), rows([1, 2, 3]))
    cache.add(keys(4), rows([4]))
    found = cache.find(keys(*every))
    forget(tmp_path, [keys(number).tobytes() for number in gone])
    assert found.read("pooled", np.arange(4)).tolist() == every
    kept = [number for number in every if number not in gone]
    assert found_in(cache, *every) == ([number in kept for number in every], kept)


def test_a_takedown_while_segments_are_read_gives_no_row_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, read = FeatureCache(tmp_path), feature_cache._map_segment
    cache.add(keys(1, 2, 3), rows([1, 2, 3]))

    def take_down_first(path: Path) -> feature_cache.Segment:
        monkeypatch.setattr(feature_cache, "_map_segment", read)
        assert forget(tmp_path, [keys(2).tobytes()]) == 1
        return read(path)

    monkeypatch.setattr(feature_cache, "_map_segment", take_down_first)
    assert found_in(cache, 1, 2, 3) == ([True, False, True], [1, 3])


def test_a_segment_that_was_being_written_is_not_seen(tmp_path: Path) -> None:
    (tmp_path / ".half.npz.77").write_bytes(b"PK half a file")
    assert found_in(FeatureCache(tmp_path), 1) == ([False], [])


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """A segment that a disk has changed: cut short, or with a changed byte."""
    at = int(rng.integers(len(data)))
    return (
        data[:at] if rng.random() < 0.3 else data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :]
    )


def test_a_damaged_segment_never_stops_a_takedown_and_never_gives_a_wrong_row(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    cache.add(keys(1, 2), rows([1, 2]))
    (path,) = tmp_path.iterdir()
    whole, n_deleted = path.read_bytes(), 0
    for seed in range(200):
        path.write_bytes(damaged(whole, np.random.default_rng(seed)))
        # The clock of the file system may be too coarse to tell these files apart.
        feature_cache._check_once.cache_clear()
        cache.check(keys(1, 2))
        assert found_in(cache, 1, 2) in (([True, True], [1, 2]), ([False, False], []))
        n_deleted += not path.exists()
        path.write_bytes(damaged(whole, np.random.default_rng(seed)))
        forget(tmp_path, [keys(1).tobytes()])
        assert found_in(cache, 1)[0] == [False]
        for left in tmp_path.iterdir():
            left.unlink()
    assert n_deleted > 100


def test_a_process_compares_a_segment_once_until_its_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, checked = FeatureCache(tmp_path), list[Path]()
    cache.add(keys(1, 2), rows([1, 2]))
    (path,) = tmp_path.iterdir()
    monkeypatch.setattr(feature_cache, "_refuse_damage", checked.append)
    for _ in range(3):
        cache.check(keys(1, 2))
    os.utime(path, (1, 1))
    cache.check(keys(1, 2))
    assert checked == [path, path]


def test_processes_share_the_check(tmp_path: Path) -> None:
    cache, numbers = FeatureCache(tmp_path), list(range(40))
    for number in numbers:
        cache.add(keys(number), rows([number]))
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes().replace(b"pooled.npy", b"pooled.npX", 1))
    cache.check(keys(*numbers), index=0, count=2)
    n_left = len(list(tmp_path.iterdir()))
    assert 5 < n_left < 35
    cache.check(keys(*numbers), index=1, count=2)
    assert not list(tmp_path.iterdir())
