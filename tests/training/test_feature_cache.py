import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alchemist_core.training.feature_cache import FeatureCache, forget


def key(number: int) -> bytes:
    return hashlib.sha256(bytes([number])).digest()


def rows(numbers: list[int]) -> dict[str, np.ndarray]:
    return {"code": np.array([[n, n + 1] for n in numbers], np.int32), "pooled": np.array(numbers, np.float32)}


def test_an_empty_cache_is_empty(tmp_path: Path) -> None:
    is_known, found = FeatureCache(tmp_path / "none").find([key(1)])
    assert (is_known.tolist(), found) == ([False], {})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    segments=st.lists(st.lists(st.integers(0, 255), min_size=1, max_size=8, unique=True), max_size=4),
    wanted=st.lists(st.integers(0, 255), max_size=12),
)
def test_what_was_added_is_found_by_its_content_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, segments: list[list[int]], wanted: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    for numbers in segments:
        FeatureCache(folder).add([key(n) for n in numbers], rows(numbers))
    known = {n for numbers in segments for n in numbers}
    is_known, found = FeatureCache(folder).find([key(n) for n in wanted])
    assert is_known.tolist() == [n in known for n in wanted]
    expected = rows([n for n in wanted if n in known])
    for name in found:
        assert (found[name] == expected[name]).all()
    assert (found != {}) == any(is_known)


def test_a_key_that_ends_in_zeros_is_itself(tmp_path: Path) -> None:
    almost = bytes([1] * 31 + [0]), bytes([1] * 32)
    FeatureCache(tmp_path).add([almost[0]], rows([5]))
    assert FeatureCache(tmp_path).find(almost)[0].tolist() == [True, False]


def test_what_is_forgotten_is_gone_from_every_cache_and_its_neighbours_stay(tmp_path: Path) -> None:
    FeatureCache(tmp_path / "a").add([key(1), key(2)], rows([1, 2]))
    FeatureCache(tmp_path / "b").add([key(2)], rows([2]))
    assert forget(tmp_path, [key(2), key(9)]) == 2
    is_known, found = FeatureCache(tmp_path / "a").find([key(1), key(2)])
    assert (is_known.tolist(), found["pooled"].tolist()) == ([True, False], [1])
    assert not list((tmp_path / "b").iterdir())


@pytest.mark.parametrize("gone", [[1], [1, 2, 3]])
def test_a_cache_that_was_open_while_a_takedown_forgot_gives_no_row_of_another(tmp_path: Path, gone: list[int]) -> None:
    FeatureCache(tmp_path).add([key(1), key(2), key(3)], rows([1, 2, 3]))
    FeatureCache(tmp_path).add([key(4)], rows([4]))
    is_open = FeatureCache(tmp_path)
    forget(tmp_path, [key(number) for number in gone])
    kept = [number for number in (1, 2, 3, 4) if number not in gone]
    is_known, found = is_open.find([key(number) for number in (1, 2, 3, 4)])
    assert is_known.tolist() == [number in kept for number in (1, 2, 3, 4)]
    assert found["pooled"].tolist() == kept


def test_a_segment_that_was_being_written_is_not_seen(tmp_path: Path) -> None:
    (tmp_path / ".half.npz.77").write_bytes(b"PK half a file")
    assert not FeatureCache(tmp_path).find([key(1)])[0].any()


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """A segment that a disk has changed: cut short, or with a changed byte."""
    at = int(rng.integers(len(data)))
    return (
        data[:at] if rng.random() < 0.3 else data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :]
    )


def test_a_damaged_segment_never_stops_a_takedown_and_never_gives_a_wrong_row(tmp_path: Path) -> None:
    FeatureCache(tmp_path).add([key(1), key(2)], rows([1, 2]))
    (path,) = tmp_path.iterdir()
    whole, n_deleted = path.read_bytes(), 0
    for seed in range(200):
        path.write_bytes(damaged(whole, np.random.default_rng(seed)))
        is_known, found = FeatureCache(tmp_path).find([key(1), key(2)])
        assert (
            found["pooled"].tolist() == [n for n, known in zip((1, 2), is_known, strict=True) if known]
            if found
            else True
        )
        n_deleted += not path.exists()
        path.write_bytes(damaged(whole, np.random.default_rng(seed)))
        forget(tmp_path, [key(1)])
        assert not FeatureCache(tmp_path).find([key(1)])[0].any()
        for left in tmp_path.iterdir():
            left.unlink()
    assert n_deleted > 100
