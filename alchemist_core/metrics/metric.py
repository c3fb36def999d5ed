"""The interface of a metric: a class that pins the conditions of its values and measures models.

A further metric is one class that satisfies `Metric`, and one protocol file that names it; see the README of this folder.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from sqlalchemy import Engine

from alchemist_core.protocols.protocol import ProtocolFile
from alchemist_core.store.models import ModelRow
from alchemist_core.store.sample_table import SampleTable
from alchemist_core.store.samples import read_categories
from alchemist_core.store.subsets import SubsetRater
from alchemist_core.telemetry import OnProgress
from alchemist_core.training.sample_reading import Images, read_images

_CHUNK = 512
"""Number of images in memory at a time."""


class Measured(NamedTuple):
    """The values of one model by their names in the store, and the size of the whole set: also for the value of a category or task."""

    values: dict[str, float]
    n: int


class Metric(Protocol):
    """One metric under one evaluation protocol, made from a `Bench` and a `ProtocolFile`."""

    uses_device: bool
    """Whether measuring runs a network, so that the run must hold a device."""

    @property
    def title(self) -> str:
        """Name of the value in every table. If it begins with fid or kid, or contains loss, lower values are better."""
        ...

    @property
    def sampler(self) -> str:
        """Family of the models that it measures, star or flow; values of two families are never compared."""
        ...

    @property
    def protocol_name(self) -> str | None:
        """Name under which the pinned conditions must stay the same; None if the conditions alone identify the values."""
        ...

    def pin(self) -> dict[str, Any]:
        """Return everything that two values must share to be comparable, as JSON. It is called once, before `measure`."""
        ...

    def measure(self, model: ModelRow) -> Measured:
        """Measure one model. The returned values include one under `title`."""
        ...


class EvaluationSamples:
    """The samples of the evaluation dataset, read from the store when a metric first asks for them."""

    def __init__(self, engine: Engine, read_rows: Callable[[], SampleTable], on_progress: OnProgress) -> None:
        self._engine, self._read_rows, self._on_progress = engine, read_rows, on_progress

    @cached_property
    def rows(self) -> SampleTable:
        """Every sample with its hashes, caption and location, in the order of pair_hash."""
        return self._read_rows()

    def categories(self) -> list[str]:
        """Return each sample's category; `none` for a sample without one."""
        category_of = read_categories(self._engine, [row.sample_id for row in self.rows])
        return [category_of.get(row.sample_id, "none") for row in self.rows]

    def images(self, side: int) -> Iterator[Images]:
        """Yield the images at one size, some hundreds at a time."""
        for start in range(0, len(self.rows), _CHUNK):
            yield read_images(self.rows[start : start + _CHUNK], side, self._on_progress).images


@dataclass(frozen=True)
class Bench:
    """The objects that a metric can use."""

    engine: Engine
    rater: SubsetRater
    """The rater that ranked the subset: id, name, config and checkpoint."""
    samples: EvaluationSamples
    weights: Path | None
    """File or folder of the metric's network, if the user named one."""
    on_progress: OnProgress
    """Called with the number done, the number planned and a note."""
    hold: Callable[[str], AbstractContextManager[None]]
    """Locks a name, such as the images of a model, so that no other run generates them at the same time."""


MetricMaker = Callable[[Bench, ProtocolFile], Metric]
