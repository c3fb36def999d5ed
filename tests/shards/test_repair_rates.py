"""A small version of `make bench-repairs`: no repair is wrong, and each kind of repair recovers most of its records."""

import pytest

from tests.benchmarks.repairs import measure
from tests.benchmarks.rows import Row

LEAST = {"latin-1": 0.7, "cp1252": 0.7, "cp1251": 0.5, "koi8_r": 0.6, "shift_jis": 0.6, "animated": 0.95}


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return measure(60, seed=7)


def test_no_repair_makes_a_wrong_caption_or_image(rows: list[Row]) -> None:
    wrong = [row for row in rows if row.name.endswith("wrong") and row.target is not None]
    assert len(wrong) == 18
    assert {row.name: row.detail for row in wrong if row.value} == {}


def test_each_kind_recovers_most_of_what_it_is_for(rows: list[Row]) -> None:
    shares = [row for row in rows if row.name.endswith("recovered") and "on purpose" not in row.detail]
    assert len(shares) == 12
    for row in shares:
        least = next((share for name, share in LEAST.items() if name in row.name), 0.9)
        assert row.value >= least, row
