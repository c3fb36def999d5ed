"""Two jobs on one card: the second waits until the first releases the lease of the device, and then takes the same card."""

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from sqlalchemy import Engine

from alchemist_core.errors import AlchemistError
from alchemist_core.stages.devices import describe_held_devices
from tests.benchmarks.picture_store import own_store
from tests.benchmarks.rows import Row
from tests.device_jobs import USES, Forker, stray_uses
from tests.gpu.parts import Given, describe, unmeasured


def measure(given: Given) -> Iterator[Row]:
    """Start two jobs of a stage. The lease is a row of Postgres, so nothing can be measured without the embedded server."""
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        # A CPU has a limit only if one is set; a card always has.
        patch.setenv("ALCHEMIST_JOBS_PER_DEVICE", "1")
        try:
            engine = stack.enter_context(own_store())
        except (AlchemistError, ImportError, OSError) as error:
            yield unmeasured("second job waits", f"the lease is in Postgres, which did not start: {describe(error)}")
            return
        forker = Forker(given.place)
        stack.callback(forker.end)
        with engine.begin() as connection:
            connection.exec_driver_sql(USES)
        yield from _rows(given, forker, engine)


def _rows(given: Given, forker: Forker, engine: Engine) -> Iterator[Row]:
    first = forker.start(number=1, until=str(given.place / "end"))
    while not describe_held_devices(engine):
        time.sleep(0.05)
    second = forker.start(number=2)
    yield Row("second job waits", 1, "0 or 1", "= 1", True, second.wait_until_printed("Waiting for a device"))
    (given.place / "end").touch()
    results = first.result(), second.result()
    is_same = results[0].visible == results[1].visible
    yield Row(
        "same card for both", float(is_same), "0 or 1", "= 1", is_same, f"CUDA_VISIBLE_DEVICES={results[1].visible}"
    )
    n_stray = len(stray_uses(engine))
    yield Row("uses after a newer holder", n_stray, "uses", "= 0", n_stray == 0)
