"""Fitted regions of a rater's ranking: stored once, the newest for a retention is what strategy `auto` draws by."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, insert, select

from alchemist_core.evaluation.paired import Estimate
from alchemist_core.selection.config import RATER_SCORE, SelectionPolicy, strategy_spec
from alchemist_core.selection.region import FittedRegion, Region, predict_gain
from alchemist_core.selection.strategies import Random
from alchemist_core.store.tables import Rater, RegionProbe


@dataclass(frozen=True, slots=True)
class RegionRow:
    """A stored probe."""

    region_probe_id: int
    rater_id: int
    drop_top_ratio: float
    mean_rank: float
    std_rank: float
    gain: float
    gain_low: float
    gain_high: float
    measurements: dict[str, Any]

    @property
    def fitted(self) -> FittedRegion:
        """What strategy `auto` needs to know."""
        region = Region(self.drop_top_ratio, self.mean_rank, self.std_rank)
        return FittedRegion(region, self.measurements["retention"], self.gain, self.gain_low, self.gain_high)


COLUMNS = tuple(getattr(RegionProbe, name) for name in RegionRow.__slots__)


def find_region(engine: Engine, rater_id: int, retention: float) -> FittedRegion | None:
    """Return the rater's region for the nearest retention that was probed, the newest of equals; None without a probe."""
    nearest = _nearest_probe(engine, rater_id, retention)
    return nearest.fitted if nearest else None


def expected_gain(
    engine: Engine, rater_id: int, spec: Mapping[str, Any], n_kept_R: Sequence[int] | NDArray[np.int64]
) -> Estimate | None:
    """Return what the rater's newest probe says of a selection: the log of random's loss over its loss, positive is better.

    None where nothing was probed, and where no probe can tell: of a random selection, and of one that another score ranks.

    Args:
        engine: The store.
        rater_id: The rater that ranks the samples.
        spec: The selection's spec, for its retention, strategy and score.
        n_kept_R: Samples kept in equal bins of rank, the highest scores first.
    """
    if spec["strategy"] == Random.name or spec.get("score", RATER_SCORE) != RATER_SCORE or not sum(n_kept_R):
        return None
    probe = _nearest_probe(engine, rater_id, spec["retention"])
    gain_SB = _band_gains(probe.measurements.get("cells", ())) if probe else None
    return None if gain_SB is None else predict_gain(gain_SB, np.asarray(n_kept_R, np.int64))


def is_worse(gain: Estimate) -> bool:
    """Whether the whole interval of a gain lies below 0."""
    return gain.high is not None and gain.high < 0


def describe_worse(gain: Estimate) -> str:
    """Return the warning about a selection that is expected to be worse than random."""
    return (
        f"The rater's probe expects this selection to be worse than a random one of its size: gain {gain.mean:.4f} "
        f"[{gain.low:.4f}, {gain.high:.4f}] in the log of the loss. alchemist check --suite subset fails on it. "
        "Strategy auto takes the window that the probe found."
    )


def _band_gains(cells: Sequence[Mapping[str, Any]]) -> NDArray[np.float64] | None:
    """Return the log of random's loss over each band's, by seed; None of a probe that kept no cells."""
    start_of = {cell["arm"]: float(cell["arm"].partition("block@")[2]) for cell in cells if "block@" in cell["arm"]}
    bands = sorted(start_of, key=start_of.__getitem__)
    size = next((cell["retention"] for cell in cells if cell["arm"] in start_of), None)
    loss = {(cell["arm"], cell["seed"]): cell["loss"] for cell in cells if cell["retention"] == size}
    seeds = sorted({seed for arm, seed in loss if arm == Random.name})
    if not seeds or any((band, seed) not in loss for band in bands for seed in seeds):
        return None
    return np.array([[math.log(loss[Random.name, seed] / loss[band, seed]) for band in bands] for seed in seeds])


def _nearest_probe(engine: Engine, rater_id: int, retention: float) -> RegionRow | None:
    statement = select(*COLUMNS).where(RegionProbe.rater_id == rater_id)
    with engine.connect() as connection:
        rows = [RegionRow(*row) for row in connection.execute(statement)]
    return min(
        rows, key=lambda row: (abs(row.measurements["retention"] - retention), -row.region_probe_id), default=None
    )


def resolve_auto(engine: Engine, rater_id: int, policy: SelectionPolicy) -> tuple[SelectionPolicy, FittedRegion | None]:
    """Put what the rater's probe found in the place of strategy `auto`; without a probe, its rule decides as before.

    Parameters that are given beside `auto` are the user's own: the probe then has no say.
    """
    if policy.strategy != "auto" or policy.score != RATER_SCORE or policy.has_parameters:
        return policy, None
    fitted = find_region(engine, rater_id, policy.retention)
    return (policy, None) if fitted is None else (policy.model_copy(update=strategy_spec(fitted.strategy)), fitted)


def list_regions(engine: Engine) -> list[tuple[str, RegionRow]]:
    """Return every probe with its rater's name, newest first."""
    statement = (
        select(Rater.name, *COLUMNS)
        .join(Rater, Rater.rater_id == RegionProbe.rater_id)
        .order_by(RegionProbe.region_probe_id.desc())
    )
    with engine.connect() as connection:
        return [(row[0], RegionRow(*row[1:])) for row in connection.execute(statement)]


def store_region(engine: Engine, rater_id: int, fitted: FittedRegion, measurements: dict[str, Any]) -> bool:
    """Store a probe of a rater; False where one says the same."""
    region = fitted.region
    fields = {
        "rater_id": rater_id, "drop_top_ratio": region.drop_top_ratio, "mean_rank": region.mean_rank, "std_rank": region.std_rank,
        "gain": fitted.gain, "gain_low": fitted.gain_low, "gain_high": fitted.gain_high, "measurements": measurements,
    }  # fmt: skip
    same = [getattr(RegionProbe, name) == value for name, value in fields.items()]
    with engine.begin() as connection:
        if connection.execute(select(RegionProbe.region_probe_id).where(*same)).first() is not None:
            return False
        connection.execute(insert(RegionProbe).values(**fields))
    return True
