"""numpy and pyarrow, loaded when a function first uses them.

Loading them takes longer than most commands work, and many modules of which a command uses a part name arrays in their annotations.
Such a module imports `np`, `NDArray`, `pa` and `pq` from here, and begins with `from __future__ import annotations`, so that defining
its functions evaluates no annotation. Modules that compute whenever they are used import the libraries themselves.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from numpy.typing import NDArray
else:
    from importlib import import_module
    from types import ModuleType

    class _Lazy(ModuleType):
        """Looks up each attribute in the library once."""

        def __getattr__(self, name):
            found = getattr(import_module(self.__name__), name)
            # A later access finds it without this call.
            setattr(self, name, found)
            return found

    class _NDArray:
        """Stands for `numpy.typing.NDArray` where an annotation is evaluated after all, as by a type checker at run time."""

        def __getitem__(self, kind):
            return import_module("numpy.typing").NDArray[kind]

    np, pa, pq = _Lazy("numpy"), _Lazy("pyarrow"), _Lazy("pyarrow.parquet")
    NDArray = _NDArray()


_is_frozen = False


def freeze() -> None:
    """Let collections of garbage pass over what there is now, and over what `importing` loads from now on."""
    global _is_frozen  # noqa: PLW0603  asking the collector takes a fifth of a second in a large process: it counts every frozen object
    _is_frozen = True
    gc.freeze()


@contextmanager
def importing() -> Iterator[None]:
    """Collect no garbage while modules are loaded: what they create stays.

    After `freeze`, which the command line calls, later collections do not visit these modules either.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if _is_frozen:
            gc.freeze()
        if was_enabled:
            gc.enable()


__all__ = ["NDArray", "freeze", "importing", "np", "pa", "pq"]
