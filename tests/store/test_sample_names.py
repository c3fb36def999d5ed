"""A sample that a user names by digits: they may be its id, and they may begin its hash."""

import pytest
from sqlalchemy import Engine

from alchemist_core.errors import ConfigError
from alchemist_core.store.samples import find_sample
from tests.given import insert_rows

pytestmark = pytest.mark.db
DIGITS = "20394857"
HASH = bytes.fromhex(DIGITS.ljust(64, "0"))


def add(engine: Engine, **sample: object) -> None:
    with engine.begin() as connection:
        insert_rows(connection, {"samples": [sample]})


def test_decimal_digits_of_a_hash_name_its_sample(engine: Engine) -> None:
    add(engine, sample_id=7, pair_hash=HASH)
    assert find_sample(engine, DIGITS).sample_id == 7


def test_an_id_of_many_digits_names_its_sample(engine: Engine) -> None:
    add(engine, sample_id=int(DIGITS))
    assert find_sample(engine, DIGITS).sample_id == int(DIGITS)


def test_digits_that_are_an_id_and_begin_another_hash_are_refused(engine: Engine) -> None:
    add(engine, sample_id=7, pair_hash=HASH)
    add(engine, sample_id=int(DIGITS))
    with pytest.raises(ConfigError, match=rf"{DIGITS} matches more than one sample, .*Give more digits of the hash"):
        find_sample(engine, DIGITS)
    assert find_sample(engine, HASH.hex()).sample_id == 7
    assert find_sample(engine, f"id:{DIGITS}").sample_id == int(DIGITS)
