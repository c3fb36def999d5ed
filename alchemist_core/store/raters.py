"""Rater versions: registered once, found by name, promoted in one transaction."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, func, insert, or_, select, text, update

from alchemist_core.errors import ConfigError
from alchemist_core.selection.config import RATER_SCORE, SelectionPolicy, strategy_spec
from alchemist_core.selection.rank_window import FittedWindow, RankWindow, predict_gain
from alchemist_core.selection.strategies import Random
from alchemist_core.statistics import Estimate
from alchemist_core.store.audit import record_event
from alchemist_core.store.tables import RankWindow as RankWindowTable
from alchemist_core.store.tables import Rater, Run


@dataclass(frozen=True, slots=True)
class RaterRow:
    """A registered rater version."""

    rater_id: int
    name: str
    rule: str
    state: str
    checkpoint_uri: str
    checkpoint_sha256: bytes
    acceptance_report: dict[str, Any]
    config: dict[str, Any]
    is_shadow: bool = False


NIGHTLY = "nightly"
COLUMNS = tuple(getattr(Rater, name) for name in RaterRow.__slots__)


def find_rater(engine: Engine, wanted: str) -> RaterRow | None:
    """Return a rater by name, or by a word: `production`, or `newest`, which the last training gave; None when there is none.

    Raises:
        ConfigError: If a rater of that name does not exist; the text lists those that do.
    """
    statement = select(*COLUMNS)
    if wanted == "production":
        statement = statement.where(Rater.state == "production")
    elif wanted == "newest":
        # Not the newest row: a training that found its rater again means that one, and so do the steps behind it.
        last = select(Run.result["rater"].as_string()).where(Run.stage == "train_rater", Run.state == "succeeded")
        trained = last.order_by(Run.run_id.desc()).limit(1).scalar_subquery()
        statement = statement.order_by((Rater.name == trained).desc().nulls_last(), Rater.rater_id.desc()).limit(1)
    else:
        statement = statement.where(Rater.name == wanted)
    with engine.connect() as connection:
        row = connection.execute(statement).one_or_none()
        if row is None and wanted not in ("production", "newest"):
            names = ", ".join(connection.execute(select(Rater.name).order_by(Rater.rater_id)).scalars()) or "none"
            raise ConfigError(f"There is no rater {wanted!r} (raters: {names}).")
    return None if row is None else RaterRow(*row)


def find_raters(engine: Engine, wanted: str) -> list[RaterRow]:
    """Return the raters that a word or a name means: `nightly` is the one in production and every shadow beside it.

    Raises:
        ConfigError: As `find_rater`.
    """
    if wanted != NIGHTLY:
        return [rater for rater in [find_rater(engine, wanted)] if rater is not None]
    statement = (
        select(*COLUMNS)
        .where(or_(Rater.state == "production", (Rater.state == "candidate") & Rater.is_shadow))
        .order_by(Rater.state.desc(), Rater.rater_id)
    )
    with engine.connect() as connection:
        return [RaterRow(*row) for row in connection.execute(statement)]


def find_trained(engine: Engine, identity_hash: str) -> RaterRow | None:
    """Return the rater of this config and training data, if it was trained before."""
    with engine.connect() as connection:
        row = connection.execute(select(*COLUMNS).where(Rater.identity_hash == identity_hash)).one_or_none()
    return None if row is None else RaterRow(*row)


def find_twin(engine: Engine, rater: RaterRow, present: Callable[[dict[str, Any]], dict[str, Any]]) -> RaterRow | None:
    """Return the newest other rater whose config differs in nothing but the seed.

    Args:
        engine: The store.
        rater: The rater whose twin is wanted.
        present: Gives the fields of a stored training their present names.
    """

    def recipe(config: dict[str, Any]) -> dict[str, Any]:
        return config | {"training": present(config["training"]) | {"seed": None}}

    statement = select(*COLUMNS).where(Rater.rater_id != rater.rater_id).order_by(Rater.rater_id.desc())
    with engine.connect() as connection:
        rows = [RaterRow(*row) for row in connection.execute(statement)]
    return next((row for row in rows if recipe(row.config) == recipe(rater.config)), None)


def record_certificate(
    engine: Engine, rater: RaterRow, checks: Sequence[dict[str, Any]], *, is_certified: bool, actor: str
) -> None:
    """Store what an examination of a rater found, beside the figures of its training."""
    acceptance_report = rater.acceptance_report | {"checks": list(checks), "is_certified": is_certified}
    with engine.begin() as connection:
        connection.execute(
            update(Rater).where(Rater.rater_id == rater.rater_id).values(acceptance_report=acceptance_report)
        )
        record_event(
            connection,
            actor,
            "certify",
            f"rater {rater.name}",
            after={"is_certified": is_certified, "checks": list(checks)},
        )


def register_rater(engine: Engine, **fields: Any) -> None:
    """Store a rater version and make its partition of scores, in one transaction."""
    with engine.begin() as connection:
        rater_id = connection.execute(insert(Rater).values(**fields).returning(Rater.rater_id)).scalar_one()
        connection.execute(text("SELECT alchemist.add_partition('scores', :rater_id)"), {"rater_id": rater_id})


def mark_shadow(engine: Engine, rater: RaterRow, *, is_shadow: bool, actor: str) -> None:
    """Let a candidate score every night beside the production rater, or no longer.

    Raises:
        ConfigError: If it is no candidate.
    """
    with engine.begin() as connection:
        statement = update(Rater).where(Rater.rater_id == rater.rater_id, Rater.state == "candidate")
        if connection.execute(statement.values(is_shadow=is_shadow)).rowcount == 0:
            raise ConfigError(f"Rater {rater.name} is {rater.state}: only a candidate can be a shadow.")
        if is_shadow != rater.is_shadow:
            record_event(
                connection, actor, "shadow", f"rater {rater.name}",
                before={"is_shadow": rater.is_shadow}, after={"is_shadow": is_shadow},
            )  # fmt: skip


def promote_rater(
    engine: Engine, rater: RaterRow, *, actor: str, reason: str | None = None, said: dict[str, str] | None = None
) -> None:
    """Put a rater into production and retire the one before: every reader switches at the commit.

    The audit event keeps `reason`, why one without a acceptance report is promoted, and `said`, who approved it.
    """
    with engine.begin() as connection:
        connection.execute(text("LOCK TABLE alchemist.raters IN SHARE ROW EXCLUSIVE MODE"))
        before = _production_name(connection)
        if before == rater.name:
            return
        now = func.clock_timestamp()
        connection.execute(update(Rater).where(Rater.state == "production").values(state="retired", retired_at=now))
        connection.execute(
            update(Rater)
            .where(Rater.rater_id == rater.rater_id)
            .values(state="production", is_shadow=False, promoted_at=now)
        )
        record_event(
            connection,
            actor,
            "promote",
            f"rater {rater.name}",
            before={"production": before},
            after={"production": rater.name} | ({"without_certificate": reason} if reason else {}) | (said or {}),
        )


def _production_name(connection: Connection) -> str | None:
    return connection.execute(select(Rater.name).where(Rater.state == "production")).scalar()


@dataclass(frozen=True, slots=True)
class WindowRow:
    """A stored probe."""

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
        """What strategy `auto` needs to know."""
        window = RankWindow(self.drop_top_ratio, self.mean_rank, self.std_rank)
        return FittedWindow(window, self.measurements["retention"], self.gain, self.gain_low, self.gain_high)


WINDOW_COLUMNS = tuple(getattr(RankWindowTable, name) for name in WindowRow.__slots__)


def find_window(engine: Engine, rater_id: int, retention: float) -> FittedWindow | None:
    """Return the rater's window for the nearest retention that was probed, the newest of equals; None without a probe."""
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
    if spec["strategy"] == Random.name or spec.get("rank_by", RATER_SCORE) != RATER_SCORE or not sum(n_kept_R):
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


def _nearest_probe(engine: Engine, rater_id: int, retention: float) -> WindowRow | None:
    statement = select(*WINDOW_COLUMNS).where(RankWindowTable.rater_id == rater_id)
    with engine.connect() as connection:
        rows = [WindowRow(*row) for row in connection.execute(statement)]
    return min(
        rows, key=lambda row: (abs(row.measurements["retention"] - retention), -row.rank_window_id), default=None
    )


def resolve_auto(engine: Engine, rater_id: int, policy: SelectionPolicy) -> tuple[SelectionPolicy, FittedWindow | None]:
    """Put what the rater's probe found in the place of strategy `auto`; without a probe, its rule decides as before.

    Parameters that are given beside `auto` are the user's own: the probe then has no say.
    """
    if policy.strategy != "auto" or policy.rank_by != RATER_SCORE or policy.has_parameters:
        return policy, None
    fitted = find_window(engine, rater_id, policy.retention)
    return (policy, None) if fitted is None else (policy.model_copy(update=strategy_spec(fitted.strategy)), fitted)


def list_windows(engine: Engine) -> list[tuple[str, WindowRow]]:
    """Return every probe with its rater's name, newest first."""
    statement = (
        select(Rater.name, *WINDOW_COLUMNS)
        .join(Rater, Rater.rater_id == RankWindowTable.rater_id)
        .order_by(RankWindowTable.rank_window_id.desc())
    )
    with engine.connect() as connection:
        return [(row[0], WindowRow(*row[1:])) for row in connection.execute(statement)]


def store_window(engine: Engine, rater_id: int, fitted: FittedWindow, measurements: dict[str, Any]) -> bool:
    """Store a probe of a rater; False where one says the same."""
    window = fitted.window
    fields = {
        "rater_id": rater_id, "drop_top_ratio": window.drop_top_ratio, "mean_rank": window.mean_rank, "std_rank": window.std_rank,
        "gain": fitted.gain, "gain_low": fitted.gain_low, "gain_high": fitted.gain_high, "measurements": measurements,
    }  # fmt: skip
    same = [getattr(RankWindowTable, name) == value for name, value in fields.items()]
    with engine.begin() as connection:
        if connection.execute(select(RankWindowTable.rank_window_id).where(*same)).first() is not None:
            return False
        connection.execute(insert(RankWindowTable).values(**fields))
    return True
