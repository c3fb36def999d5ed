"""What a report says, as plain values: the stage `report` fills them, the page shows them.

Every part may be empty: a page can be made at any moment, also before the first rater, and says what is missing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

import numpy as np
from numpy.typing import NDArray

from alchemist_core.selection.curves import SelectionCurve


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of "what": a label and its value, such as the dataset, the rater or the code version."""

    label: str
    value: str


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts between edges; one edge more than counts."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(
        cls, scores: NDArray[np.floating], n_bins: int = 60, bounds: tuple[float, float] | None = None
    ) -> "Histogram":
        """Bin scores evenly between the lowest and the highest, or between given bounds.

        >>> Histogram.of(np.array([0.0, 1.0, 4.0]), n_bins=2).counts
        (2, 1)
        """
        counts, edges = np.histogram(scores, n_bins, bounds)
        return cls(tuple(edges.tolist()), tuple(counts.tolist()))


@dataclass(frozen=True, slots=True)
class LineageStep:
    """One thing that a subset was made from: its kind (snapshot, rater, shards…), its name, and a detail."""

    kind: str
    name: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class VersionChange:
    """What left and what joined since the version that was published before, by reason; each side adds up."""

    from_version: int
    n_before: int
    n_both: int
    leavers: dict[str, int]
    joiners: dict[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class SubsetContent:
    """One subset version: what was asked for, what was drawn, and where it comes from."""

    name: str
    version: int
    state: str
    retention: float
    strategy: str  # With its parameters, in words.
    seed: int
    n_samples: int
    curve: SelectionCurve
    lineage: tuple[LineageStep, ...]
    warning: str | None = None
    change: VersionChange | None = None  # None: no version was published before it.


@dataclass(frozen=True, slots=True)
class WithdrawnRow:
    """A subset version that somebody withdrew: it is kept as history, and compared with nothing."""

    subset: str  # Name and version.
    withdrawn_on: date
    withdrawn_by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Tile:
    """One real image of a contact sheet: its thumbnail (JPEG bytes), caption, rank and score."""

    jpeg: bytes
    caption: str
    rank: float
    score: float


@dataclass(frozen=True, slots=True)
class ContactSheet:
    """Images of one band of ranks; 0 = highest score."""

    low_rank: float
    high_rank: float
    tiles: tuple[Tile, ...]


@dataclass(frozen=True, slots=True)
class ArmRun:
    """One trained model's result: one arm (subset, random, planted, full) of a subset's comparison, with one seed."""

    subset: str  # Name and version of the subset that the arm is compared with; the full corpus's runs stand in each.
    retention: float  # The subset's.
    arm: str
    seed: int
    n_samples: int
    n_steps: int
    heldout_loss: float


@dataclass(frozen=True, slots=True)
class MetricRun:
    """One metric of the images that one trained model draws, under a contract with a name."""

    subset: str  # As in ArmRun.
    contract: str
    metric: str
    arm: str
    seed: int
    value: float


@dataclass(frozen=True, slots=True)
class NightRow:
    """One crawl date of a dataset: a row of the view `nightly_overview`, whose words `status` has."""

    dataset: str
    crawl_date: date
    n_shards: int
    n_locations: int
    n_scored: int
    n_quarantined: int
    status: str

    @property
    def n_missing(self) -> int:
        """Return the locations that are neither scored nor set aside."""
        return self.n_locations - self.n_scored - self.n_quarantined

    @property
    def is_open(self) -> bool:
        """Tell whether the night itself says that it is not wholly scored, so that missing locations are no fault."""
        return self.status.startswith(("nothing scored", "partly scored", "empty"))


@dataclass(frozen=True, slots=True)
class QuarantineRow:
    """How many locations were set aside for one reason, with the detail of one of them."""

    reason: str
    stage: str
    n_locations: int
    example: str = ""


@dataclass(frozen=True, slots=True)
class DriftRow:
    """One night's scores beside the accepted nights': a row of `score_distributions`."""

    dataset: str
    crawl_date: date
    n_tested: int
    psi: float | None
    ks_distance: float | None
    verdict: str


@dataclass(frozen=True, slots=True)
class CostRow:
    """What one thing cost: a night or a subset version, in seconds of work of one device."""

    kind: str
    name: str
    device: str
    seconds: float


@dataclass(frozen=True, slots=True)
class ExperimentContent:
    """A finished experiment: what was asked and expected, its table as texts, its figures as SVG."""

    name: str
    notes: tuple[str, ...]
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    figures: tuple[tuple[str, str], ...]  # Title and SVG.


@dataclass(frozen=True, slots=True, eq=False)
class ReportContent:
    """Everything that a page shows."""

    title: str
    made_at: datetime
    facts: Sequence[Fact] = ()
    scores: Histogram | None = None
    ranks: Histogram | None = None
    subsets: Sequence[SubsetContent] = ()
    withdrawn: Sequence[WithdrawnRow] = ()
    sheets: Sequence[ContactSheet] = ()
    arms: Sequence[ArmRun] = ()
    metrics: Sequence[MetricRun] = ()
    experiments: Sequence[ExperimentContent] = ()
    nights: Sequence[NightRow] = ()
    quarantine: Sequence[QuarantineRow] = ()
    drift: Sequence[DriftRow] = ()
    costs: Sequence[CostRow] = ()
