import re
from pathlib import Path

import numpy as np
import pytest

from alchemist_core.selection import keys
from alchemist_core.selection.keys import Domain, uniform_noise

pytestmark = pytest.mark.db


@pytest.fixture
def noise_in_sql(connection):
    """The functions as the README prints them, in a schema of this test alone."""
    readme = Path(keys.__file__).with_name("README.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```sql\n(.*?)```", readme, re.DOTALL)
    connection.exec_driver_sql("CREATE SCHEMA noise")
    connection.exec_driver_sql("SET LOCAL search_path = noise")
    connection.exec_driver_sql(script)
    return connection


@pytest.mark.parametrize(
    ("domain", "seed"), [(Domain.SELECT, 0), (Domain.RANDOM_CONTROL, 7), (Domain.SHUFFLE, 2**53 - 1)]
)
def test_sql_gives_every_pair_the_same_noise_bit_for_bit(noise_in_sql, domain, seed):
    hashes = [-(2**63), -1, 0, 1, 2**63 - 1, *np.random.default_rng(seed).integers(-(2**63), 2**63, 3_000).tolist()]
    given = {"domain": int(domain), "seed": seed, "hashes": hashes}
    noise = noise_in_sql.exec_driver_sql(
        "SELECT array_agg(uniform_noise(%(domain)s, %(seed)s, pair_hash64) ORDER BY place)"
        " FROM unnest(%(hashes)s::bigint[]) WITH ORDINALITY AS given (pair_hash64, place)",
        given,
    ).scalar_one()
    assert noise == uniform_noise(domain, seed, np.array(hashes)).tolist()
