"""The content of a report as plain values: `gathering` reads them, `page` renders them.

Every part may be empty: a report can be made before the first rater exists, and the page then names the missing step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from alchemist_core.lazy import NDArray, np
from alchemist_core.selection.curves import SelectionCurve
from alchemist_core.selection.differences import describe_reason
from alchemist_core.store.overviews import MeasuredDrift, NightOverview, QuarantineReason, SubsetCost


@dataclass(frozen=True, slots=True)
class Fact:
    """A label and its value, such as the dataset, the rater or the code version."""

    label: str
    value: str


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts between edges; one edge more than counts."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, scores: NDArray[np.floating], n_bins: int = 60, bounds: tuple[float, float] | None = None) -> Histogram:
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
    """Samples that left and joined since the version that was published before, by reason; each side adds up."""

    from_version: int
    n_before: int
    n_both: int
    leavers: dict[str, int]
    joiners: dict[str, int]

    @property
    def reasons(self) -> list[tuple[str, int, int]]:
        """Each reason in words with the samples that left and joined for it, the most frequent first."""
        counts = [
            (describe_reason(reason), self.leavers.get(reason, 0), self.joiners.get(reason, 0))
            for reason in self.leavers.keys() | self.joiners.keys()
        ]
        return sorted(counts, key=lambda row: (-row[1] - row[2], row[0]))


@dataclass(frozen=True, slots=True, eq=False)
class SubsetContent:
    """One subset version: its strategy, the curve of its selection, and its lineage."""

    name: str
    version: int
    state: str
    retention: float
    strategy: str  # The strategy with its parameters, in words.
    seed: int
    n_samples: int
    curve: SelectionCurve
    lineage: tuple[LineageStep, ...]
    warning: str | None = None
    change: VersionChange | None = None  # None: no version was published before it.


@dataclass(frozen=True, slots=True)
class WithdrawnRow:
    """A withdrawn subset version: kept as history, and left out of comparisons."""

    subset: str  # Name and version.
    withdrawn_on: date
    withdrawn_by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Tile:
    """One image of a contact sheet: its thumbnail (JPEG bytes), caption, rank and score, and how to find the sample again."""

    jpeg: bytes
    caption: str
    rank: float
    score: float
    sample_id: int | None = None
    place: str = ""
    """Shard and record, as SHARD/KEY."""
    page: str | None = None
    """URL of its page in the explorer; None: no address of the explorer is set."""


@dataclass(frozen=True, slots=True)
class ContactSheet:
    """Images of eligible samples in one band of ranks; 0 = highest score."""

    low_rank: float
    high_rank: float
    tiles: tuple[Tile, ...]
    subset: str = ""  # The subset of which most samples lie in this band; empty: of none.


@dataclass(frozen=True, slots=True)
class ArmRun:
    """One trained model's result: one arm (subset, random, oracle, full) of a subset's comparison, with one seed."""

    # Name and version of the subset that the arm is compared with; runs on the full corpus are repeated for each.
    subset: str
    retention: float  # Retention of the subset.
    arm: str
    seed: int
    n_samples: int
    n_steps: int
    heldout_loss: float
    metric: str = "heldout_loss"  # Which loss it is.


@dataclass(frozen=True, slots=True)
class MetricRun:
    """One metric of the images that one trained model generates, under a named evaluation protocol."""

    subset: str  # Name and version of the subset, as in ArmRun.
    protocol: str
    metric: str
    arm: str
    seed: int
    value: float


@dataclass(frozen=True, slots=True)
class ExperimentContent:
    """A finished experiment: its notes (the title first), its table as texts, its figures as SVG."""

    name: str
    notes: tuple[str, ...]
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    figures: tuple[tuple[str, str], ...]  # Title and SVG.


@dataclass(frozen=True, slots=True)
class SubsetVerdict:
    """Whether a published version is better than random: better, worse or not shown, and the sentence that says why."""

    subset: str
    verdict: str
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class ReportContent:
    """The content of a report page."""

    title: str
    made_at: datetime
    verdicts: Sequence[SubsetVerdict] = ()
    facts: Sequence[Fact] = ()
    warnings: Sequence[str] = ()
    """Of the production rater; without a full stop."""
    scores: Histogram | None = None
    ranks: Histogram | None = None
    subsets: Sequence[SubsetContent] = ()
    withdrawn: Sequence[WithdrawnRow] = ()
    sheets: Sequence[ContactSheet] = ()
    arms: Sequence[ArmRun] = ()
    metrics: Sequence[MetricRun] = ()
    experiments: Sequence[ExperimentContent] = ()
    nights: Sequence[NightOverview] = ()
    quarantine: Sequence[QuarantineReason] = ()
    drift: Sequence[MeasuredDrift] = ()
    costs: Sequence[SubsetCost] = ()
