"""Fitted regions of a rater's ranking: stored once, the newest for a retention is what strategy `auto` draws by."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, insert, select

from alchemist_core.selection.config import RATER_SCORE, SelectionPolicy, strategy_spec
from alchemist_core.selection.region import FittedRegion, Region
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
    statement = select(*COLUMNS).where(RegionProbe.rater_id == rater_id)
    with engine.connect() as connection:
        rows = [RegionRow(*row) for row in connection.execute(statement)]
    nearest = min(
        rows, key=lambda row: (abs(row.measurements["retention"] - retention), -row.region_probe_id), default=None
    )
    return nearest.fitted if nearest else None


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
