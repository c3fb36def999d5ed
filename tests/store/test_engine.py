"""Options of a given database URL are kept; a server that stops answering is given up within a minute."""

import pytest
from sqlalchemy import text

from alchemist_core.store.engine import make_engine

pytestmark = pytest.mark.db


def ask(url: str, *names: str) -> list[str]:
    engine = make_engine(url)
    with engine.connect() as connection:
        found = [connection.execute(text(f"SHOW {name}")).scalar_one() for name in names]
    engine.dispose()
    return found


def test_options_of_the_url_are_kept_beside_ours(database_url: str) -> None:
    given = f"{database_url}?options=-c%20statement_timeout%3D5s%20-c%20timezone%3DAsia/Tokyo"
    assert ask(given, "statement_timeout", "timezone") == ["5s", "UTC"]


def test_a_connection_whose_server_is_gone_ends_after_half_a_minute_or_as_the_url_says(database_url: str) -> None:
    for query, expected in (("", "30000"), ("?tcp_user_timeout=7000", "7000")):
        engine = make_engine(database_url + query)
        with engine.connect() as connection:
            parameters = connection.connection.dbapi_connection.get_dsn_parameters()  # type: ignore[union-attr]
        engine.dispose()
        assert parameters["tcp_user_timeout"] == expected
