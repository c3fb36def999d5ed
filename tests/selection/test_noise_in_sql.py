import numpy as np
import pytest
from sqlalchemy import Connection, text

from alchemist_core.selection.keys import Domain, uniform_noise

pytestmark = pytest.mark.db


@pytest.mark.parametrize(
    ("domain", "seed"), [(Domain.SELECT, 0), (Domain.RANDOM_CONTROL, 7), (Domain.SHUFFLE, 2**53 - 1)]
)
def test_sql_gives_every_sample_the_same_noise_bit_for_bit(connection: Connection, domain: Domain, seed: int) -> None:
    hashes = [-(2**63), -1, 0, 1, 2**63 - 1, *np.random.default_rng(seed).integers(-(2**63), 2**63, 3_000).tolist()]
    statement = text("""
        SELECT array_agg(alchemist.uniform_noise(:domain, :seed, pair_hash64) ORDER BY place)
        FROM unnest(CAST(:hashes AS bigint[])) WITH ORDINALITY AS given (pair_hash64, place)
    """)
    noise = connection.execute(statement, {"domain": int(domain), "seed": seed, "hashes": hashes}).scalar_one()
    assert noise == uniform_noise(domain, seed, np.array(hashes)).tolist()
