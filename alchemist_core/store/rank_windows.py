"""Rank windows of raters: the part of the ranking that a tuning run found best, and the gain that it predicts for a selection.

Letters: S seeds · B bands of ranks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, func, insert, select

from alchemist_core.lazy import NDArray, np
from alchemist_core.rating.config import RATER_SCORE
from alchemist_core.selection.config import SelectionPolicy, strategy_of, strategy_spec
from alchemist_core.selection.curves import SelectionCurve
from alchemist_core.selection.rank_window import FittedWindow, RankWindow, predict_gain
from alchemist_core.selection.strategies import Random, Strategy, mixed_pairing_warning
from alchemist_core.statistics import Estimate
from alchemist_core.store.subsets import SubsetRow, ranking_rule, rater_of_subset
from alchemist_core.store.tables import RankWindow as RankWindowTable
from alchemist_core.store.tables import Rater


@dataclass(frozen=True, slots=True)
class WindowRow:
    """A stored rank window."""

    rank_window_id: int
    rater_id: int
    drop_top_ratio: float
    mean_rank: float
    std_rank: float
    gain: float
    gain_low: float
    gain_high: float
    measurements: dict[str, Any]

    @property
    def fitted(self) -> FittedWindow:
        """The rank window, as strategy `auto` needs it."""
        window = RankWindow(self.drop_top_ratio, self.mean_rank, self.std_rank)
        return FittedWindow(window, self.measurements["retention"], self.gain, self.gain_low, self.gain_high)


WINDOW_COLUMNS = tuple(getattr(RankWindowTable, name) for name in WindowRow.__slots__)


def find_window(engine: Engine, rater_id: int, retention: float) -> FittedWindow | None:
    """Return the rater's rank window for the nearest retention, the newest if several are equally near; None without a window."""
    nearest = _nearest_window(engine, rater_id, retention)
    return nearest.fitted if nearest else None


def expected_gain(engine: Engine, rater_id: int, spec: Mapping[str, Any], curve: SelectionCurve) -> Estimate | None:
    """Return the predicted gain of a selection: log(loss of a random subset / loss of the selection); positive is better.

    The random subset is one of the same eligible samples.
    None without a rank window, for a random selection, for one that is ranked by another score, and with repeats or weights.

    Args:
        engine: The store.
        rater_id: The rater that ranks the samples.
        spec: The selection's spec, for its retention, strategy and score.
        curve: The ranks of the eligible and of the selected samples.
    """
    is_rated = spec["strategy"] != Random.name and spec.get("rank_by", RATER_SCORE) == RATER_SCORE
    # Tuning measures subsets whose members are read equally often.
    if (
        not is_rated
        or spec.get("weight_by", "none") != "none"
        or spec.get("fill", "none") != "none"
        or not curve.n_kept.any()
    ):
        return None
    nearest = _nearest_window(engine, rater_id, spec["retention"])
    gain_SB = _band_gains(nearest.measurements.get("cells", ())) if nearest else None
    return None if gain_SB is None else predict_gain(gain_SB, curve.n_kept, curve.n_pool)


def is_worse(gain: Estimate) -> bool:
    """Return whether the whole interval of a gain is below 0."""
    return gain.high is not None and gain.high < 0


def describe_worse(gain: Estimate, *, is_auto: bool) -> str:
    """Return the warning about a selection that is predicted to be worse than a random one."""
    remedy = (
        "Ask for fewer samples, or for random ones (--strategy random)."
        if is_auto
        else "Use strategy auto, which selects from the fitted rank window."
    )
    return (
        f"This selection is predicted to be worse than a random one of its size: gain {gain.mean:.4f} "
        f"[{gain.low:.4f}, {gain.high:.4f}] in log(loss of random / loss of the subset). alchemist check --suite subset fails if the upper "
        f"end is below min_expected_gain, which is 0 unless the project file has another one in [checks]. {remedy}"
    )


def _band_gains(cells: Sequence[Mapping[str, Any]]) -> NDArray[np.float64] | None:
    """Return log(loss of random / loss of a band) by seed and band; None if the rank window was stored without measurements."""
    start_of = {cell["arm"]: float(cell["arm"].partition("block@")[2]) for cell in cells if "block@" in cell["arm"]}
    bands = sorted(start_of, key=start_of.__getitem__)
    size = next((cell["retention"] for cell in cells if cell["arm"] in start_of), None)
    loss = {(cell["arm"], cell["seed"]): cell["loss"] for cell in cells if cell["retention"] == size}
    seeds = sorted({seed for arm, seed in loss if arm == Random.name})
    if not seeds or any((band, seed) not in loss for band in bands for seed in seeds):
        return None
    return np.array([[math.log(loss[Random.name, seed] / loss[band, seed]) for band in bands] for seed in seeds])


def _nearest_window(engine: Engine, rater_id: int, retention: float) -> WindowRow | None:
    return min(
        _windows_of(engine, rater_id),
        key=lambda row: (abs(row.measurements["retention"] - retention), -row.rank_window_id),
        default=None,
    )


def _windows_of(engine: Engine, rater_id: int) -> list[WindowRow]:
    """Return the rank windows of a rater, the newest last."""
    statement = (
        select(*WINDOW_COLUMNS).where(RankWindowTable.rater_id == rater_id).order_by(RankWindowTable.rank_window_id)
    )
    with engine.connect() as connection:
        return [WindowRow(*row) for row in connection.execute(statement)]


def resolve_auto(engine: Engine, rater_id: int, policy: SelectionPolicy) -> tuple[SelectionPolicy, FittedWindow | None]:
    """Replace strategy `auto` by the rater's rank window; without one, keep it: the scoring rule then decides.

    If the user gives parameters beside `auto`, the rank window is not used.
    """
    if policy.strategy != "auto" or policy.rank_by != RATER_SCORE or policy.has_parameters:
        return policy, None
    fitted = find_window(engine, rater_id, policy.retention)
    return (policy, None) if fitted is None else (policy.model_copy(update=strategy_spec(fitted.strategy)), fitted)


def is_tuned(engine: Engine, rater_id: int, strategy: Strategy) -> bool:
    """Return whether the strategy is a rank window that tuning found for the rater."""
    return any(row.fitted.strategy == strategy for row in _windows_of(engine, rater_id))


def describe_pairing(engine: Engine, subset: SubsetRow) -> str | None:
    """Return the warning about a version whose strategy does not suit its rater's rule; None if tuning measured the strategy."""
    strategy = strategy_of(subset.strategy, subset.spec)
    warning = mixed_pairing_warning(strategy, ranking_rule(engine, subset), keeps_accepted="asked" in subset.spec)
    if warning is None or is_tuned(engine, rater_of_subset(engine, subset).rater_id, strategy):
        return None
    return warning


def other_windows(engine: Engine, rater_id: int, used: FittedWindow) -> list[float]:
    """Return the measured retentions whose tuned strategy is not the one that was used: `auto` takes it near those retentions."""
    # The newest of a retention counts.
    newest = {row.fitted.retention: row.fitted.strategy for row in _windows_of(engine, rater_id)}
    return sorted(retention for retention, strategy in newest.items() if strategy != used.strategy)


def list_windows(engine: Engine) -> list[tuple[str, WindowRow]]:
    """Return every rank window with its rater's name, newest first."""
    statement = (
        select(Rater.name, *WINDOW_COLUMNS)
        .join(Rater, Rater.rater_id == RankWindowTable.rater_id)
        .order_by(RankWindowTable.rank_window_id.desc())
    )
    with engine.connect() as connection:
        return [(row[0], WindowRow(*row[1:])) for row in connection.execute(statement)]


def store_window(engine: Engine, rater_id: int, fitted: FittedWindow, measurements: dict[str, Any]) -> bool:
    """Store a rank window of a rater; return False if an equal one is the newest of its retention, which strategy `auto` takes."""
    window = fitted.window
    fields = {
        "rater_id": rater_id, "drop_top_ratio": window.drop_top_ratio, "mean_rank": window.mean_rank, "std_rank": window.std_rank,
        "gain": fitted.gain, "gain_low": fitted.gain_low, "gain_high": fitted.gain_high, "measurements": measurements,
    }  # fmt: skip
    of_retention = RankWindowTable.measurements["retention"].as_float() == measurements["retention"]
    newest = select(func.max(RankWindowTable.rank_window_id)).where(RankWindowTable.rater_id == rater_id, of_retention)
    same = [getattr(RankWindowTable, name) == value for name, value in fields.items()]
    is_newest = RankWindowTable.rank_window_id == newest.scalar_subquery()
    with engine.begin() as connection:
        if connection.execute(select(RankWindowTable.rank_window_id).where(*same, is_newest)).first() is not None:
            return False
        connection.execute(insert(RankWindowTable).values(**fields))
    return True
