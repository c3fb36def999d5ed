"""Tar shards and where they lie: index, read, decode, write. Knows no stage; only `subset_members` asks the database.

`SubsetDataset` is here for those who train with other code; torch is imported when it is asked for.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "SubsetDataset":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from alchemist_core.data.subset_dataset import SubsetDataset  # noqa: PLC0415  two seconds that nobody else pays

    return SubsetDataset
