"""Rows of the benchmark `selection_value`, from the stored cells of experiments on the synthetic and the real corpus."""

from collections.abc import Callable, Mapping

from alchemist_core.experiments.results import MARGIN, ArmRow, LossOfSeed, compare_cells, losses_by_arm
from alchemist_core.experiments.trial import Cell
from alchemist_core.statistics import Estimate, estimate_gain
from alchemist_core.store.engine import open_store
from alchemist_core.store.experiments import find_experiment
from tests.benchmarks.rows import Row

AUTO = "alignment/auto"
LEARNABILITY = "learnability/auto"
JUDGED = (AUTO, LEARNABILITY)
Names = Mapping[str, str]


def scenes_rows(world: str, names: Names) -> list[Row]:
    """Judge points 1 (a) to (d)."""
    of = {part: losses_by_arm(_cells(name)) for part, name in names.items()}
    r20, r50 = of["r20"], of["r50"]
    return [
        *_gaps(world, names["r50"], {0.5: 0.95}),
        *_gaps(world, names["r20"], {0.2: 0.90}),
        *(row for arm in JUDGED for row in _of_arm(world, arm, of)),
        _better(f"{world}: learnability over alignment at 20 %", r20[LEARNABILITY], r20[AUTO]),
        _better(f"{world}: learnability over alignment at 50 %", r50[LEARNABILITY], r50[AUTO]),
        _better(
            f"{world}: loss, Shift-Gsample at the paper's place over Gsample", r20["loss/paper"], r20["loss/gsample"]
        ),
        _better(
            f"{world}: loss, Shift-Gsample where the probe puts it over Gsample", r20["loss/auto"], r20["loss/gsample"]
        ),
        _better(f"{world}: loss, Gsample over random", r20["loss/gsample"], r20["random"]),
        _better(f"{world}: random over loss, top-k", r20["random"], r20["loss/top_k"]),
        *_noninferior(world, names),
    ]


def _of_arm(world: str, arm: str, of: Mapping[str, dict[str, LossOfSeed]]) -> list[Row]:
    """Judge the fitted rank window of one ranking by steps and by training lengths."""
    r20, r50, long, title = of["r20"], of["r50"], of["r50-long"], f"{world}: {arm}"
    return [
        _information(f"{title} 50% over full, 10 epochs", r50[arm], r50["full"]),
        _information(f"{title} 50% over full, 30 epochs", long[arm], long["full"]),
        _better(f"{title} 50 % over full at equal steps", of["r50-steps"][arm], r50["full"]),
        _better(f"{title} 20 % in half the steps over random", of["r20-half"][arm], r20["random"]),
    ]


def damaged_rows(world: str, names: Names) -> list[Row]:
    """Judge point 2 with synthetic defects."""
    return [*_gaps(world, names["both"], {0.2: 1.0, 0.5: 0.95}), *_noninferior(world, names)]


def real_rows(world: str, names: Names) -> list[Row]:
    """Judge point 2 on the unchanged corpus, where no sample is known to be worse, so the oracle is another random subset."""
    rows = [row for row in compare_cells(_cells(names["both"])) if row.arm in JUDGED and row.gain is not None]
    gains = [_row(f"{world}: gain of {row.arm} at {row.retention:.0%}", row.gain) for row in rows if row.gain]
    return [*gains, *_noninferior(world, names)]


ROWS_OF_WORLD: dict[str, Callable[[str, Names], list[Row]]] = {
    "scenes": scenes_rows,
    "damaged": damaged_rows,
    "real": real_rows,
}


def _cells(name: str) -> list[Cell]:
    result = find_experiment(open_store(), name).result
    assert result is not None
    return [Cell(**cell) for cell in result["cells"]]


def _gaps(world: str, name: str, limits: Mapping[float, float]) -> list[Row]:
    found = []
    for row in compare_cells(_cells(name)):
        if row.arm in JUDGED and row.gap_closed is not None:
            limit = limits[row.retention]
            title = f"{world}: gap closed by {row.arm} at {row.retention:.0%}"
            found.append(
                _row(
                    title,
                    row.gap_closed,
                    unit="ratio",
                    target=f"lower end ≥ {limit:g}",
                    ok=_reaches(row.gap_closed, limit),
                )
            )
    return found


def _noninferior(world: str, names: Names) -> list[Row]:
    """Return the lower end of each gain as a share of random's loss."""
    rows: list[ArmRow] = [row for name in names.values() for row in compare_cells(_cells(name))]
    random = {row.retention: row.loss.mean for row in rows if row.arm == "random"}
    return [
        Row(
            f"{world}: lower end of the gain of {row.arm} at {row.retention:.0%}",
            round(row.gain.low / random[row.retention], 4), "of the loss",
            f"> {-MARGIN}", bool(row.is_noninferior), f"gain {row.gain.mean:.4f}, {row.gain.n} seeds",
        )
        for row in rows
        if row.arm in JUDGED and row.gain is not None and row.gain.low is not None
    ]  # fmt: skip


def _information(title: str, mine: LossOfSeed, full: LossOfSeed) -> Row:
    gain = estimate_gain(mine, full)
    assert gain is not None
    return _row(title, gain)


def _better(title: str, mine: LossOfSeed, other: LossOfSeed) -> Row:
    gain = estimate_gain(mine, other)
    assert gain is not None
    return _row(title, gain, target="lower end ≥ 0", ok=_reaches(gain, 0))


def _reaches(found: Estimate, limit: float) -> bool:
    """Return whether the whole interval reaches a limit; a mean alone would pass by chance."""
    return found.low is not None and found.low >= limit


def _row(title: str, found: Estimate, *, unit: str = "nats", target: str | None = None, ok: bool | None = None) -> Row:
    ends = f"[{found.low:.4f}, {found.high:.4f}]" if found.low is not None else "no interval"
    return Row(title, round(found.mean, 4), unit, target, ok, f"{ends}, {found.n} seeds")
