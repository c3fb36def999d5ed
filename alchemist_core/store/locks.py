"""Locks by name, held until the transaction ends. Rows, not advisory locks: those can be taken by readers too."""

from sqlalchemy import Connection, text


def take_lock(connection: Connection, name: str) -> None:
    """Wait for a lock."""
    connection.execute(text("SELECT alchemist.take_lock(:name)"), {"name": name})


def try_lock(connection: Connection, name: str) -> bool:
    """Take a lock unless another session holds it."""
    return bool(connection.execute(text("SELECT alchemist.try_lock(:name)"), {"name": name}).scalar_one())
