"""Alchemist selects training data for text-to-image models.

`Store` reads scores, samples and subsets as Arrow tables and runs the stages; `SubsetDataset` is a published subset as a torch
dataset, which `Buckets` batch by aspect ratio and `BlockShuffle` reads fast from an object store. All are imported on first use: `import
alchemist_core` loads no library and changes nothing in the process.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alchemist_core.interface import Store
    from alchemist_core.subsets.blocks import BlockShuffle
    from alchemist_core.subsets.buckets import Buckets
    from alchemist_core.subsets.dataset import SubsetDataset

__version__ = "0.2.0"
__all__ = ["BlockShuffle", "Buckets", "Store", "SubsetDataset"]
_HOMES = {
    "BlockShuffle": "alchemist_core.subsets.blocks",
    "Buckets": "alchemist_core.subsets.buckets",
    "Store": "alchemist_core.interface",
    "SubsetDataset": "alchemist_core.subsets.dataset",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415  only here

    return getattr(import_module(_HOMES[name]), name)
